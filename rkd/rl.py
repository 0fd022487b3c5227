"""Reinforcement learning of the student (METHOD 2.7): a policy, queries and a reward enter, a better policy leaves.

PPO and GRPO are one `PolicyModule` given different parts: how advantages are estimated, whether there is a value head,
and where the KL term stands. One training step is one rollout (`rkd.rollouts`): it is collected, then trained on for
several epochs of minibatches. Shapes: B responses of T tokens.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rkd.advantages import AdvantageEstimator, GroupRelative
from rkd.batches import in_parts
from rkd.files import write_rows
from rkd.generation import LocalGenerator
from rkd.loading import ModelOptions, copy_model, load_causal_lm, load_tokenizer
from rkd.lora import save_merged
from rkd.losses import clipped_surrogate_loss, masked_mean, value_loss
from rkd.models import AdaptersOff, Policy, without_dropout
from rkd.parallel import count, mean_over_processes, own_share, share_of_weight
from rkd.progress import Progress
from rkd.prompts import PromptTemplate
from rkd.protocols import RewardFunction
from rkd.records import Checkpoint, Query
from rkd.resuming import HISTORY_FILE, Batches, KeepBest, fit, state_of
from rkd.rollouts import Collector, KLPenalty, RewardScaling, Rollout, Rollouts, queries_of_rollouts
from rkd.settings import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, SHARE, check_ranges
from rkd.side_by_side import is_small, mean_loss, part_count
from rkd.training import Training, Validate, one_validation, seeded

# Responses in a batch at most, by whether the model is small.
SAMPLED_AT_ONCE = {True: 512, False: 128}
OPTIMISATION_RANGES = {
    "learning_rate": ABOVE_0,
    "final_learning_rate_fraction": SHARE,
    "warmup_rollouts": NOT_NEGATIVE,
    "epochs_per_rollout": AT_LEAST_1,
    "minibatches_per_epoch": AT_LEAST_1,
    "clip_range": ABOVE_0,
    "value_clip_range": ABOVE_0,
    "value_coefficient": NOT_NEGATIVE,
    "gradient_clip": ABOVE_0,
    "weight_decay": NOT_NEGATIVE,
}
SAMPLES_FILE = "samples.jsonl"
SAMPLES_SHOWN = 4  # sampled responses kept of each rollout, to be read by a person


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a rollout is trained on."""

    learning_rate: float
    final_learning_rate_fraction: float = 1.0  # the rate falls linearly to this share of itself
    warmup_rollouts: int = 0
    epochs_per_rollout: int = 4
    minibatches_per_epoch: int = 4
    clip_range: float = 0.2  # ε of Eq. 12
    value_clip_range: float | None = 0.2
    value_coefficient: float = 0.1
    gradient_clip: float | None = 1.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_ranges("rl.optimisation", self, OPTIMISATION_RANGES)


class PolicyModule(LightningModule):
    """PPO or GRPO over rollouts, by the parts it is given."""

    def __init__(self, collector: Collector, optimisation: Optimisation, validate: Validate | None, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = collector.policy  # the one part that is trained and kept: the collector is no module
        self.collector, self.optimisation = collector, optimisation
        self.validate, self.seed = validate, seed
        self.rollouts_done = 0
        self.history: list[dict[str, float]] = []
        self.samples: list[dict[str, Any]] = []

    @property
    def episodes(self) -> int:
        """Responses sampled so far: the x-axis of every curve."""
        return self.rollouts_done * self.collector.rollouts.responses_per_rollout

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its rate is set for each rollout in `training_step`."""
        options = self.optimisation
        return torch.optim.AdamW(
            _trained(self.policy), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.95)
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ARG002
        """A batch is queries, not tensors: it stays where it is."""
        return batch

    def training_step(self, queries: list[Query], batch_idx: int) -> None:  # noqa: ARG002
        """One rollout: collect it, then train on it."""
        self._set_learning_rate()
        rollout = self.collector.collect(queries, self._rollout_seed)
        self.samples += [{"episodes": self.episodes, **sample} for sample in rollout.samples(SAMPLES_SHOWN)]
        controller = self.collector.kl.controller
        measured = mean_over_processes({**rollout.metrics(), **self.train_on(rollout)}, self.device)
        if not math.isfinite(measured.get("explained_variance", 0.0)):
            del measured["explained_variance"]  # rewards all alike leave no variance to explain: no divergence
        metrics = {**measured, "kl_coefficient": controller.coefficient}
        controller.update(metrics["kl"], len(rollout.responses) * count())
        self.rollouts_done += 1
        metrics["episodes"] = float(self.episodes)
        self.history.append(metrics)
        self.log_dict(metrics, batch_size=1)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        """Greedy accuracy on the validation queries, against the labels that the training may see."""
        accuracy = self.validate(self.policy.lm)
        self.history.append({"episodes": float(self.episodes), "validation_accuracy": accuracy})
        self.log("validation_accuracy", accuracy, batch_size=1, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know of."""
        state = {"rollouts_done": self.rollouts_done, "history": self.history, "samples": self.samples}
        checkpoint["rollouts"] = state | {"kl_controller": self.collector.kl.controller.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on behind the last rollout."""
        state = checkpoint["rollouts"]
        self.rollouts_done, self.history, self.samples = state["rollouts_done"], state["history"], state["samples"]
        self.collector.kl.controller.load_state_dict(state["kl_controller"])

    def train_on(self, rollout: Rollout) -> dict[str, float]:
        """Epochs of minibatches over one rollout; the means of what they measured."""
        # Gradient checkpoints are only made in training mode; dropout is off in both, or the ratio would be noise.
        self.policy.train(self.policy.lm.is_activation_checkpointing)
        options, optimizer = self.optimisation, self.optimizers()
        order = torch.Generator().manual_seed(self._rollout_seed)
        totals: dict[str, float] = {}
        updates = 0
        for _ in range(options.epochs_per_rollout):
            shuffled = torch.randperm(len(rollout.batch.prompt_ids), generator=order)
            for indices in shuffled.tensor_split(options.minibatches_per_epoch):
                parts = in_parts(rollout.select_prompts(indices), part_count(self.policy))
                loss, measured = mean_loss(self.policy, self.loss, parts)
                share = share_of_weight(sum(part.weight for _, part in parts), self.device)
                optimizer.zero_grad()
                self.manual_backward(share * loss)
                norm = torch.nn.utils.clip_grad_norm_(_trained(self.policy), options.gradient_clip or float("inf"))
                optimizer.step()
                updates += 1
                shares = {name: share * float(value) for name, value in measured.items()}
                for name, value in {**shares, "gradient_norm": float(norm)}.items():
                    totals[name] = totals.get(name, 0.0) + value
        return {name: total / updates for name, total in totals.items()}

    def loss(self, part: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 12 on one minibatch: clipped surrogate, value loss, and the KL term where it stands in the loss."""
        options, kl, mask = self.optimisation, self.collector.kl, part.batch.response_mask
        output = self.policy(part.batch)
        policy_loss = clipped_surrogate_loss(
            output.logprobs, part.old_logprobs, part.advantages, mask, clip_range=options.clip_range
        )
        loss = policy_loss
        ratio = torch.exp(output.logprobs.detach() - part.old_logprobs)
        measured = {
            "policy_loss": policy_loss.detach(),
            "ratio": masked_mean(ratio, mask),
            "clip_fraction": masked_mean(((ratio - 1).abs() > options.clip_range).float(), mask),
        }
        if output.values is not None:
            of_values = value_loss(
                output.values, part.values, part.returns, mask, value_clip_range=options.value_clip_range
            )
            loss = loss + options.value_coefficient * of_values
            measured["value_loss"] = of_values.detach()
        if kl.place == "loss":
            target = part.old_logprobs if kl.target == "old" else part.reference_logprobs
            kl_loss = masked_mean(kl.per_token(output.logprobs, target, mask), mask)
            loss = loss + kl.controller.coefficient * kl_loss
            measured["kl_trained_on"] = kl_loss.detach()
        return loss, measured

    @property
    def _rollout_seed(self) -> int:
        return self.seed * 1_000_003 + self.rollouts_done

    def _set_learning_rate(self) -> None:
        options = self.optimisation
        progress = min(1.0, self.rollouts_done / self.collector.rollouts.count)
        factor = 1 - progress * (1 - options.final_learning_rate_fraction)
        if self.rollouts_done < options.warmup_rollouts:
            factor *= (self.rollouts_done + 1) / options.warmup_rollouts
        for group in self.optimizers().param_groups:
            group["lr"] = options.learning_rate * factor


@dataclass(frozen=True, slots=True)
class RLReport:
    """What a fit did: rollouts and episodes until it stopped, updates, and the validation accuracy of what is kept."""

    rollouts: int
    episodes: int
    best_validation: float | None


@dataclass(frozen=True, kw_only=True)
class RL:
    """Reinforcement learning of a student under a reward.

    Args:
        advantages: GAE needs a value head on the policy, which it then gets; group-relative estimates do without.
        rollouts_between_validations: the best of these, the start included, is the policy that is kept.
        patience: validations without a better one before training stops; None never stops early.
    """

    rollouts: Rollouts
    optimisation: Optimisation
    kl: KLPenalty
    advantages: AdvantageEstimator
    scaling: RewardScaling = field(default_factory=RewardScaling)
    rollouts_between_validations: int = 10
    patience: int | None = None

    def __post_init__(self) -> None:
        check_ranges("rl", self, {"rollouts_between_validations": AT_LEAST_1, "patience": AT_LEAST_1})
        if self.rollouts.queries_per_rollout < self.optimisation.minibatches_per_epoch:
            raise ValueError(
                f"rl.optimisation.minibatches_per_epoch={self.optimisation.minibatches_per_epoch}: a minibatch holds "
                f"whole queries, and a rollout has only rl.rollouts.queries_per_rollout="
                f"{self.rollouts.queries_per_rollout}. Take fewer minibatches or more queries."
            )
        per_query = self.rollouts.responses_per_query
        if isinstance(self.advantages, GroupRelative) and self.advantages.group_size != per_query:
            raise ValueError(
                f"rl.advantages.group_size={self.advantages.group_size} would mix the responses to different queries: "
                f"set it to rl.rollouts.responses_per_query={per_query}."
            )

    def fit(
        self,
        student: Checkpoint,
        queries: Sequence[Query],
        build_reward: Callable[[], RewardFunction],
        *,
        prompt: PromptTemplate,
        validate: Validate,
        training: Training,
        logger: Logger | bool,
        folder: Path,
        progress: Progress,
        seed: int,
        options: ModelOptions = ModelOptions(),
    ) -> RLReport:
        """Train on `queries` and write the best policy, `history.jsonl` and `samples.jsonl` to `folder`.

        Args:
            build_reward: makes the reward function; a function, so that a row without this stage needs no reward.
            progress: where an interrupted fit goes on from.
            options: how the student is loaded and trained. With adapters the reference is the policy without them.

        Raises:
            ValueError: there are no queries, or they do not fall to the processes evenly.
        """
        if not queries:
            raise ValueError(
                "rl has no queries to train on: no query kept both right and wrong student samples (Eq. 4). "
                "Raise student_samples.samples_per_query or dataset.max_training_queries."
            )
        self.check_processes(count())
        tokenizer = load_tokenizer(student.folder)
        with seeded(seed):
            reference = load_causal_lm(student.folder, options)
            lm = options.prepare(reference if options.lora else copy.deepcopy(reference))
            module = self.module(lm, reference, tokenizer, prompt, build_reward(), validate=validate, seed=seed)
            best = KeepBest("validation_accuracy", "max", progress, self.patience)
            trainer = self._trainer(best, training, logger, folder, seed)
            if progress.find(state_of(trainer)) is None:
                trainer.validate(module, one_validation(), verbose=False)
            loader = Batches(queries_of_rollouts(queries, self.rollouts, seed), own_share, seed=None)
            fit(trainer, module, loader, one_validation(), progress)
        of_rollouts = sum(row.get("response_tokens", 0.0) for row in module.history)  # means over their responses
        progress.tokens = round(of_rollouts * self.rollouts.responses_per_rollout)
        if trainer.is_global_zero:
            best.restore(module)
            save_merged(lm, tokenizer, folder)
            write_rows(folder / HISTORY_FILE, module.history)
            write_rows(folder / SAMPLES_FILE, module.samples)
        return RLReport(module.rollouts_done, module.episodes, best.best)

    def check_processes(self, processes: int) -> None:
        """Refuse what so many processes cannot share out.

        Raises:
            ValueError: a rollout's queries do not fall to them evenly, or are fewer than their minibatches.
        """
        queries, minibatches = self.rollouts.queries_per_rollout, self.optimisation.minibatches_per_epoch
        if queries % processes or queries // processes < minibatches:
            raise ValueError(
                f"rl.rollouts.queries_per_rollout={queries} must be a multiple of the {processes} processes, with at "
                f"least one query for each process and each of rl.optimisation.minibatches_per_epoch={minibatches}."
            )

    def module(
        self,
        lm: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptTemplate,
        reward: RewardFunction,
        *,
        validate: Validate | None,
        seed: int,
    ) -> PolicyModule:
        """The parts put together; `lm` is trained, and gets a value head if the advantages need one.

        Where `reference` is `lm` itself, the reference policy is the one without adapters.
        """
        temperature, at_once = self.rollouts.temperature, SAMPLED_AT_ONCE[is_small(lm.num_parameters())]
        without_dropout(lm)
        policy = Policy(lm, has_value_head=self.advantages.needs_values, temperature=temperature)
        collector = Collector(
            policy=policy,
            reference=(AdaptersOff if reference is lm else Policy)(reference, temperature=temperature).eval(),
            generator=LocalGenerator("policy", lm, tokenizer, prompt, batch_responses=at_once),
            reward=reward,
            estimate_advantages=self.advantages,
            rollouts=self.rollouts,
            kl=copy.deepcopy(self.kl),  # its controller moves, and the next row starts from this one
            scaling=self.scaling,
            prompts_per_pass=math.ceil(
                self.rollouts.queries_per_rollout / count() / self.optimisation.minibatches_per_epoch
            ),
        )
        return PolicyModule(collector, self.optimisation, validate, seed)

    def _trainer(self, best: KeepBest, training: Training, logger: Logger | bool, folder: Path, seed: int) -> Trainer:
        return training.trainer(
            "rl",
            logger=logger,
            folder=folder,
            max_epochs=1,
            callbacks=[best],
            val_check_interval=min(self.rollouts_between_validations, self.rollouts.count),
            shown_metrics=("reward", "kl", "validation_accuracy"),
            learning_rate_key="rl.optimisation.learning_rate",
            log_every_n_steps=1,  # a batch is a whole rollout
            progress=best.progress,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class NoRL:
    """The stage left out: the student stays as it is."""

    def fit(self, student: Checkpoint, *_: Any, folder: Path, **__: Any) -> RLReport:
        """Copy the student."""
        copy_model(student.folder, folder)
        return RLReport(0, 0, None)


def _trained(policy: Policy) -> list[torch.nn.Parameter]:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]
