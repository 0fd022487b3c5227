"""Reinforcement learning of the student (docs/method.md 2.7): a policy and loss terms enter, a better policy leaves.

PPO and GRPO are one stage with different parts. `rkd.rl.policy_module` trains on a rollout.
"""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Literal

from pytorch_lightning import Trainer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rkd.config import AT_LEAST_1, check_ranges
from rkd.data.prompts import PromptTemplate
from rkd.distributed import count, own_share
from rkd.generation.engines import Engine, LocalEngine
from rkd.generation.local import LocalGenerator, LocalModel
from rkd.io import write_rows
from rkd.models.cpu_workers import is_small
from rkd.models.loading import copy_model, load_causal_lm, load_teacher, load_tokenizer
from rkd.models.lora import save_merged
from rkd.models.policy import AdaptersOff, Policy, without_dropout
from rkd.rl.advantages import RLOO, AdvantageEstimator, GroupRelative
from rkd.rl.collapse_guard import Guard, NoGuard
from rkd.rl.policy_module import LossTerm, PolicyModule
from rkd.rl.query_schedule import queries_of_rollouts, shares
from rkd.rl.reward_mix import Term
from rkd.rl.rollout import Collector
from rkd.rl.settings import KLPenalty, Optimisation, ResponseLog, RewardScaling, Rollouts
from rkd.store.partial_results import PartialResults
from rkd.training.checkpointing import HISTORY_FILE, Batches, KeepBest, fit, state_of
from rkd.training.stage import LogRows, TrainingContext, log_nothing
from rkd.training.trainer import Validate, one_validation, seeded
from rkd.work import FORWARD, STUDENT, Sizes, Work

# Largest number of responses in a batch, by whether the model is small.
SAMPLED_AT_ONCE = {True: 512, False: 128}
SAMPLES_FILE = "samples.jsonl"

BuildTerms = Callable[[PartialResults], Sequence[Term]]
"""Makes the terms of the loss; the partial results keep the paid replies of a judge behind a server."""


@dataclass(frozen=True, kw_only=True)
class RLInputs:
    """What a training needs besides its context.

    Args:
        build_terms: makes the terms of the loss; a function, so that a row without this stage needs no reward.
        engine: samples the rollouts if it can take over the policy's weights; else the policy samples them itself.
        teacher: the target of the KL term, where that is the teacher.
    """

    build_terms: BuildTerms
    engine: Engine = field(default_factory=LocalEngine)
    teacher: LocalModel | None = None


@dataclass(frozen=True, slots=True)
class RLReport:
    """The outcome of a fit: rollouts and episodes until it stopped, and the validation accuracy of the kept policy.

    `stopped` is the guard's reason for ending it early, or None.
    """

    rollouts: int
    episodes: int
    best_validation: float | None
    stopped: str | None = None


@dataclass(frozen=True, kw_only=True)
class RL:
    """Reinforcement learning of a student under a reward.

    Args:
        advantages: the estimator. GAE gives the policy one value head per term; the others need none.
        rollouts_between_validations: rollouts from one validation to the next. The policy with the best validation,
            the start included, is kept.
        patience: validations without improvement before training stops; None never stops early.
        guard: ends a training whose policy collapses.
        log_responses: which responses are logged.
    """

    is_left_out: ClassVar[Literal[False]] = False

    rollouts: Rollouts
    optimisation: Optimisation
    kl: KLPenalty
    advantages: AdvantageEstimator
    scaling: RewardScaling = field(default_factory=RewardScaling)
    rollouts_between_validations: int = 10
    patience: int | None = None
    guard: Guard | NoGuard = field(default_factory=NoGuard)
    log_responses: ResponseLog = field(default_factory=ResponseLog)

    def fingerprint(self) -> dict[str, Any]:
        """Its fields but `log_responses`, which decides nothing."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "log_responses"}

    def __post_init__(self) -> None:
        check_ranges("rl", self, {"rollouts_between_validations": AT_LEAST_1, "patience": AT_LEAST_1})
        if self.rollouts.queries_per_rollout < self.optimisation.minibatches_per_epoch:
            raise ValueError(
                f"rl.optimisation.minibatches_per_epoch={self.optimisation.minibatches_per_epoch}: a minibatch holds "
                f"whole queries, and a rollout has only rl.rollouts.queries_per_rollout="
                f"{self.rollouts.queries_per_rollout}. Take fewer minibatches or more queries."
            )
        per_query = self.rollouts.responses_per_query
        if isinstance(self.advantages, GroupRelative | RLOO) and self.advantages.group_size != per_query:
            raise ValueError(
                f"rl.advantages.group_size={self.advantages.group_size} would mix the responses to different queries: "
                f"set it to rl.rollouts.responses_per_query={per_query}."
            )

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher's probabilities are read: it must be a local model with the student's vocabulary."""
        return self.kl.target == "teacher"

    def fit(self, data: RLInputs, context: TrainingContext) -> RLReport:
        """Train under the terms; write the best policy, `history.jsonl` and `samples.jsonl` to the folder.

        Raises:
            ValueError: processes, terms and minibatches do not divide the queries of a rollout evenly.
            ModelError: the teacher is read, and has another vocabulary.
        """
        partial, folder, seed, options = context.partial, context.folder, context.seed, context.options
        terms = data.build_terms(partial)
        self.check_processes(count(), len(terms))
        tokenizer = load_tokenizer(context.start.folder)
        with seeded(seed), ExitStack() as stack:
            reference = load_causal_lm(context.start.folder, options)
            # With adapters, the reference is the policy without them.
            lm = options.prepare(reference if options.lora else copy.deepcopy(reference))
            if self.reads_teacher:
                assert data.teacher is not None  # `Stages` refuses a teacher that is no model on this machine
                reference = load_teacher(data.teacher.source().folder, context.start.folder, data.teacher.options)
            sampler = stack.enter_context(data.engine.over(self.sampler(lm, tokenizer, context.prompt)))
            module = self.module(
                sampler, reference, terms, validate=context.validate, seed=seed, log_rows=context.log_rows
            )
            best = KeepBest("validation_accuracy", "max", partial, self.patience)
            trainer = self._trainer(best, context)
            if partial.find(state_of(trainer)) is None:
                trainer.validate(module, one_validation(), verbose=False)
            of_rollouts = queries_of_rollouts(terms, self.rollouts, seed, count())
            loader = Batches(of_rollouts, lambda of_terms: list(map(own_share, of_terms)), seed=None)
            fit(trainer, module, loader, one_validation(), partial)
        rows = [row for row in module.history if "response_tokens" in row]  # means over the responses
        partial.tokens = round(sum(row["response_tokens"] * row["responses_sampled"] for row in rows) * count())
        if trainer.is_global_zero:
            best.restore(module)
            save_merged(lm, tokenizer, folder)
            write_rows(folder / HISTORY_FILE, module.history)
            write_rows(folder / SAMPLES_FILE, module.samples)
        return RLReport(module.rollouts_done, module.episodes, best.best, module.stopped)

    def check_processes(self, processes: int, terms: int = 1) -> None:
        """Check that the queries of a rollout suffice for the processes, the terms and the minibatches.

        Raises:
            ValueError: the processes do not divide the queries evenly, or there are fewer queries than minibatches.
        """
        queries, minibatches = self.rollouts.queries_per_rollout, self.optimisation.minibatches_per_epoch
        if queries % processes or min(shares(self.rollouts, terms, processes)) // processes < minibatches:
            of_terms = f", each of the {terms} terms of the reward mix" if terms > 1 else ""
            raise ValueError(
                f"rl.rollouts.queries_per_rollout={queries} must be a multiple of the {processes} processes, with at "
                f"least one query for each process{of_terms} and each of "
                f"rl.optimisation.minibatches_per_epoch={minibatches}."
            )

    @property
    def validations(self) -> int:
        """Number of validations in the whole training, with the one at the start."""
        return 1 + self.rollouts.count // min(self.rollouts_between_validations, self.rollouts.count)

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The rollouts, and the validations between them."""
        rollouts = self.rollouts
        episodes = rollouts.count * rollouts.responses_per_rollout
        # Besides the epochs, policy and reference run once for their log-probabilities, and the reward model runs once.
        passes = self.optimisation.epochs_per_rollout + FORWARD * (3 if sizes.has_reward_model else 2)
        shape = f"{rollouts.count:,} rollouts × {rollouts.queries_per_rollout} queries × {rollouts.responses_per_query}"
        asked = [
            (rollouts.count * rollouts.queries_per_rollout, rollouts.sampling),
            (self.validations * sizes.validated, sizes.greedy),
        ]
        return [
            Work(
                "rl", f"{episodes:,} episodes: {shape}", STUDENT, rollouts.max_response_tokens, asked,
                trained=passes * episodes, group_size=rollouts.responses_per_query,
            )
        ]  # fmt: skip

    def sampler(
        self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: PromptTemplate
    ) -> LocalGenerator:
        """The policy's own sampler of rollouts."""
        at_once = SAMPLED_AT_ONCE[is_small(lm.num_parameters())]
        return LocalGenerator("policy", lm, tokenizer, prompt, batch_responses=at_once)

    def module(
        self,
        sampler: LocalGenerator,
        reference: PreTrainedModel,
        terms: Sequence[Term],
        *,
        validate: Validate | None,
        seed: int,
        log_rows: LogRows = log_nothing,
    ) -> PolicyModule:
        """The module with all its parts. It trains the model of the sampler, which draws the rollouts.

        The policy gets one value head per term if the advantages need them. If `reference` is the same model, the
        reference policy is the model without its adapters.
        """
        lm, temperature = sampler.model, self.rollouts.temperature
        without_dropout(lm)
        heads = len(terms) if self.advantages.needs_values else 0
        policy = Policy(lm, value_heads=heads, temperature=temperature)
        collector_of = partial(
            Collector,
            policy=policy,
            reference=(AdaptersOff if reference is lm else Policy)(reference, temperature=temperature).eval(),
            generator=sampler,
            estimate_advantages=self.advantages,
            rollouts=self.rollouts,
            kl=copy.deepcopy(self.kl),  # its controller changes, and the next row must start from the initial one
            scaling=self.scaling,
            reduction=self.optimisation.reduction,
        )
        minibatches = self.optimisation.minibatches_per_epoch
        loss_terms = []
        for place, (term, size) in enumerate(zip(terms, shares(self.rollouts, len(terms), count()), strict=True)):
            per_pass = math.ceil(size / count() / minibatches)
            own = collector_of(reward=term.reward, value_head=place, prompts_per_pass=per_pass)
            loss_terms.append(LossTerm(name=term.name, weight=term.weight, collector=own, labels=term.labels))
        return PolicyModule(loss_terms, self.optimisation, validate, seed, self.guard, self.log_responses, log_rows)

    def _trainer(self, best: KeepBest, context: TrainingContext) -> Trainer:
        return context.training.trainer(
            "rl",
            logger=context.logger,
            folder=context.folder,
            max_epochs=1,
            callbacks=[best],
            val_check_interval=min(self.rollouts_between_validations, self.rollouts.count),
            shown_metrics=("reward", "kl", "validation_accuracy"),
            learning_rate_key="rl.optimisation.learning_rate",
            log_every_n_steps=1,  # a batch is a whole rollout
            partial=context.partial,
            seed=context.seed,
        )


@dataclass(frozen=True, kw_only=True)
class NoRL:
    """The stage left out: the student stays as it is."""

    is_left_out: ClassVar[Literal[True]] = True
    reads_teacher: ClassVar[Literal[False]] = False

    def planned_work(self, sizes: Sizes) -> list[Work]:  # noqa: ARG002
        """Return no work."""
        return []

    def fit(self, data: RLInputs, context: TrainingContext) -> RLReport:  # noqa: ARG002
        """Copy the student."""
        copy_model(context.start.folder, context.folder)
        return RLReport(0, 0, None)
