"""Reinforcement learning of the student (METHOD 2.7): a policy, queries and a reward enter, a better policy leaves.

PPO and GRPO are one `PolicyModule` given different parts: how advantages are estimated, whether there is a value head,
and where the KL term stands. One training step is one rollout batch: sample, score, estimate, then several epochs of
minibatches. Shapes: Q queries of a rollout, B = Q × G responses of T tokens.
"""

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rkd.advantages import AdvantageEstimator, GroupRelative
from rkd.answers import extract_answer
from rkd.batches import ResponseBatch, encode
from rkd.generation import LocalGenerator
from rkd.kl_control import KLController
from rkd.losses import (
    KLEstimator,
    clipped_surrogate_loss,
    explained_variance,
    kl_estimate,
    masked_mean,
    scale,
    value_loss,
)
from rkd.models import Policy, PolicyOutput, copy_model, load_causal_lm, load_tokenizer
from rkd.prompts import PromptTemplate
from rkd.protocols import RewardFunction, Rewards, Sampling
from rkd.records import Checkpoint, Query, Response
from rkd.training import KeepBest, Training, one_validation, seeded

Validate = Callable[[PreTrainedModel], float]
"""A policy to its greedy accuracy on validation queries, in [0, 1]."""

SAMPLES_SHOWN = 4  # sampled responses kept of each rollout, to be read by a person


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """How much is sampled. An episode is one response."""

    episodes: int
    queries_per_rollout: int
    responses_per_query: int
    max_response_tokens: int
    missing_end_penalty: float = 0.0  # taken off the reward of a response cut at the limit

    def __post_init__(self) -> None:
        if self.episodes < self.responses_per_rollout:
            raise ValueError(
                f"rl.rollouts: {self.episodes} episodes are fewer than one rollout of {self.queries_per_rollout} × "
                f"{self.responses_per_query}. Raise episodes, or make the rollout smaller."
            )

    @property
    def responses_per_rollout(self) -> int:
        """B."""
        return self.queries_per_rollout * self.responses_per_query

    @property
    def count(self) -> int:
        """Rollouts in the whole training."""
        return self.episodes // self.responses_per_rollout

    @property
    def sampling(self) -> Sampling:
        """Temperature 1 and the whole vocabulary: anything else would bias the ratio."""
        return Sampling(1.0, self.responses_per_query, self.max_response_tokens)


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


@dataclass(frozen=True, kw_only=True)
class KLPenalty:
    """What holds the policy near another one: target, place and estimator of the KL term (METHOD 5.1)."""

    controller: KLController
    target: Literal["reference", "old"] = "reference"
    place: Literal["reward", "loss"] = "reward"
    estimator: KLEstimator = "k1"

    def __post_init__(self) -> None:
        if self.target == "old" and self.place == "reward":
            raise ValueError("rl.kl: a KL to the sampling policy is 0 while sampling; use place=loss with target=old.")
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError("rl.kl: k1 in the loss has a gradient of mean zero; use estimator=k2 or k3 there.")


@dataclass(frozen=True, kw_only=True)
class RewardScaling:
    """What is done to the reward before advantages are estimated; all off by default."""

    clip: float | None = None  # rewards beyond ± this are cut
    whiten: bool = False  # divide token rewards by their deviation, the mean kept


@dataclass(frozen=True)
class Rollout:
    """What one batch of sampled responses is trained on; (B, T) unless said otherwise."""

    batch: ResponseBatch
    old_logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor | None
    rewards: Rewards  # (B,)
    advantages: Tensor
    returns: Tensor

    def select_prompts(self, indices: Tensor) -> "Rollout":
        """The part that belongs to the prompts at `indices`, padded no longer than it needs."""
        batch = self.batch.select_prompts(indices)
        rows, width = self.batch.rows_of(indices), batch.response_ids.shape[1]
        rewards = Rewards(self.rewards.total[rows], {k: v[rows] for k, v in self.rewards.components.items()})
        cut = [
            None if value is None else value[rows, :width]
            for value in (self.old_logprobs, self.reference_logprobs, self.values, self.advantages, self.returns)
        ]
        return Rollout(batch, cut[0], cut[1], cut[2], rewards, cut[3], cut[4])


def queries_of_rollouts(queries: Sequence[Query], rollouts: Rollouts, seed: int) -> list[list[Query]]:
    """The queries of each rollout: all of them in a new order, pass after pass."""
    rng = random.Random(f"rl {seed}")
    needed = rollouts.count * rollouts.queries_per_rollout
    order: list[Query] = []
    while len(order) < needed:
        order += rng.sample(list(queries), len(queries))
    return [order[at : at + rollouts.queries_per_rollout] for at in range(0, needed, rollouts.queries_per_rollout)]


class PolicyModule(LightningModule):
    """PPO or GRPO over rollouts, by the parts it is given."""

    def __init__(
        self,
        policy: Policy,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptTemplate,
        reward: RewardFunction,
        advantages: AdvantageEstimator,
        rollouts: Rollouts,
        optimisation: Optimisation,
        kl: KLPenalty,
        scaling: RewardScaling,
        validate: Validate | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        # In a tuple, so that neither is registered: no gradient, no place in the checkpoint.
        self._frozen = (Policy(reference).eval(),)
        self.generator = LocalGenerator("policy", policy.lm, tokenizer, prompt)
        self.reward, self.estimate_advantages = reward, advantages
        self.rollouts, self.optimisation, self.kl, self.scaling = rollouts, optimisation, kl, scaling
        self.validate, self.seed = validate, seed
        self.rollouts_done = 0
        self.history: list[dict[str, float]] = []
        self.samples: list[dict[str, Any]] = []

    @property
    def episodes(self) -> int:
        """Responses sampled so far: the x-axis of every curve."""
        return self.rollouts_done * self.rollouts.responses_per_rollout

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its rate is set for each rollout in `training_step`."""
        options = self.optimisation
        return torch.optim.AdamW(
            self.policy.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.95)
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ARG002
        """A batch is queries, not tensors: it stays where it is."""
        return batch

    def training_step(self, queries: list[Query], batch_idx: int) -> None:  # noqa: ARG002
        """One rollout: sample it, then train on it."""
        self._set_learning_rate()
        rollout, metrics = self.collect(queries)
        metrics |= self.train_on(rollout)
        self.kl.controller.update(metrics["kl"], len(rollout.rewards.total))
        self.rollouts_done += 1
        metrics["episodes"] = float(self.episodes)
        self.history.append(metrics)
        self.log_dict(metrics, batch_size=1)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        """Greedy accuracy on the validation queries, against the labels that the training may see."""
        accuracy = self.validate(self.policy.lm)
        self.history.append({"episodes": float(self.episodes), "validation_accuracy": accuracy})
        self.log("validation_accuracy", accuracy, batch_size=1)

    @torch.no_grad()
    def collect(self, queries: Sequence[Query]) -> tuple[Rollout, dict[str, float]]:
        """Sample responses to the queries, score them and estimate their advantages."""
        prompts = encode(self.generator.tokenizer, [self.generator.prompt.render(query) for query in queries])
        seed = self.seed * 1_000_003 + self.rollouts_done
        batch = self.generator.sample(queries, prompts, self.rollouts.sampling, seed)
        repeated = [query for query in queries for _ in range(self.rollouts.responses_per_query)]
        responses = self._responses(repeated, batch)
        rewards = self.reward(repeated, responses)
        mask = batch.response_mask
        self.policy.eval()
        # Made by the pass that is trained, not by the sampler: at the first minibatch only the order of sums differs.
        old = in_minibatches(self.policy, batch, self._prompts_per_pass, with_entropy=True)
        reference = in_minibatches(self._frozen[0].to(mask.device), batch, self._prompts_per_pass)
        token_rewards = self._token_rewards(rewards, responses, old.logprobs, reference.logprobs, mask)
        advantages, returns = self.estimate_advantages(token_rewards, old.values, mask)
        rollout = Rollout(batch, old.logprobs, reference.logprobs, old.values, rewards, advantages, returns)
        answers = [extract_answer(one.text, query.dataset) for query, one in zip(repeated, responses, strict=True)]
        without_answer = answers.count(None)
        measured_kl = ((old.logprobs - reference.logprobs) * mask).sum(1)
        metrics = {f"reward/{name}": float(part.mean()) for name, part in rewards.components.items()}
        metrics |= {
            "reward": float(rewards.total.mean()),
            "reward_deviation": float(rewards.total.std()),
            "kl": float(measured_kl.mean()),
            "kl_coefficient": self.kl.controller.coefficient,
            "entropy": float(masked_mean(old.entropy, mask)),
            "response_tokens": float(mask.sum(1).float().mean()),
            "share_without_answer": without_answer / len(responses),
            "share_truncated": 1 - sum(response.is_finished for response in responses) / len(responses),
        }
        self._keep_samples(repeated, responses, rewards)
        if old.values is not None:
            metrics["explained_variance"] = float(explained_variance(old.values, returns, mask))
        return rollout, metrics

    def train_on(self, rollout: Rollout) -> dict[str, float]:
        """Epochs of minibatches over one rollout; the means of what they measured."""
        self.policy.eval()  # dropout stays off, or the ratio would be noise
        options, optimizer = self.optimisation, self.optimizers()
        order = torch.Generator().manual_seed(self.seed * 1_000_003 + self.rollouts_done)
        totals: dict[str, float] = {}
        updates = 0
        for _ in range(options.epochs_per_rollout):
            shuffled = torch.randperm(len(rollout.batch.prompt_ids), generator=order)
            for indices in shuffled.tensor_split(options.minibatches_per_epoch):
                loss, measured = self.loss(rollout.select_prompts(indices))
                optimizer.zero_grad()
                self.manual_backward(loss)
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), options.gradient_clip or float("inf"))
                optimizer.step()
                updates += 1
                for name, value in {**measured, "gradient_norm": norm}.items():
                    totals[name] = totals.get(name, 0.0) + float(value)
        return {name: total / updates for name, total in totals.items()}

    def loss(self, part: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 12 on one minibatch: clipped surrogate, value loss, and the KL term where it stands in the loss."""
        options, mask = self.optimisation, part.batch.response_mask
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
        if self.kl.place == "loss":
            target = part.old_logprobs if self.kl.target == "old" else part.reference_logprobs
            # Padding is set to 0 on both sides: k3's exponential of what stands there could overflow.
            kl = kl_estimate(output.logprobs * mask, target * mask, estimator=self.kl.estimator)
            kl_loss = masked_mean(kl, mask)
            loss = loss + self.kl.controller.coefficient * kl_loss
            measured["kl_trained_on"] = kl_loss.detach()
        return loss, measured

    @property
    def _prompts_per_pass(self) -> int:
        return max(1, -(-self.rollouts.queries_per_rollout // self.optimisation.minibatches_per_epoch))

    def _responses(self, queries: Sequence[Query], batch: ResponseBatch) -> list[Response]:
        texts, finished = self.generator.texts(batch), self.generator.is_finished(batch)
        group = self.rollouts.responses_per_query
        return [
            Response(query.id, "policy", row % group, texts[row], finished[row]) for row, query in enumerate(queries)
        ]

    def _token_rewards(
        self, rewards: Rewards, responses: Sequence[Response], logprobs: Tensor, reference: Tensor, mask: Tensor
    ) -> Tensor:
        """r_t, (B, T): the reward on the last response token, and the KL penalty on every token."""
        scores = rewards.total.to(mask.device)
        if self.scaling.clip is not None:
            scores = scores.clamp(-self.scaling.clip, self.scaling.clip)
        cut = torch.tensor([not response.is_finished for response in responses], device=mask.device)
        scores = scores - self.rollouts.missing_end_penalty * cut
        token_rewards = torch.zeros_like(logprobs)
        token_rewards[torch.arange(len(scores)), mask.sum(1) - 1] = scores.to(logprobs.dtype)
        if self.kl.place == "reward":
            penalty = kl_estimate(logprobs * mask, reference * mask, estimator=self.kl.estimator)
            token_rewards = token_rewards - self.kl.controller.coefficient * penalty * mask
        return scale(token_rewards, mask) if self.scaling.whiten else token_rewards

    def _keep_samples(self, queries: Sequence[Query], responses: Sequence[Response], rewards: Rewards) -> None:
        for row in range(0, len(responses), max(1, len(responses) // SAMPLES_SHOWN)):
            shown = {"episodes": self.episodes, "question": queries[row].question, "response": responses[row].text}
            self.samples.append({**shown, "reward": round(float(rewards.total[row]), 4)})

    def _set_learning_rate(self) -> None:
        options = self.optimisation
        progress = self.rollouts_done / max(1, self.rollouts.count)
        factor = 1 - progress * (1 - options.final_learning_rate_fraction)
        if self.rollouts_done < options.warmup_rollouts:
            factor *= (self.rollouts_done + 1) / options.warmup_rollouts
        for group in self.optimizers().param_groups:
            group["lr"] = options.learning_rate * factor


def in_minibatches(
    policy: Policy, batch: ResponseBatch, prompts_per_pass: int, *, with_entropy: bool = False
) -> PolicyOutput:
    """The policy's output on a whole rollout, made a few prompts at a time; padded with zeros to (B, T)."""
    width = batch.response_ids.shape[1]
    parts = []
    for indices in torch.arange(len(batch.prompt_ids)).split(prompts_per_pass):
        output = policy(batch.select_prompts(indices), with_entropy=with_entropy)
        fields = (output.logprobs, output.values, output.entropy)
        parts.append([None if f is None else torch.nn.functional.pad(f, (0, width - f.shape[1])) for f in fields])
    joined = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
    return PolicyOutput(*joined)


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
        seed: int,
    ) -> RLReport:
        """Train on `queries` and write the best policy, `history.jsonl` and `samples.jsonl` to `folder`.

        Args:
            build_reward: makes the reward function; a function, so that a row without this stage needs no reward.

        Raises:
            ValueError: there are no queries.
        """
        if not queries:
            raise ValueError(
                "rl has no queries to train on: no query kept both right and wrong student samples (Eq. 4). "
                "Raise student_samples.samples_per_query or dataset.max_training_queries."
            )
        with seeded(seed):
            tokenizer = load_tokenizer(student.folder)
            lm = load_causal_lm(student.folder)
            policy = Policy(copy.deepcopy(lm).float(), has_value_head=self.advantages.needs_values)
            module = PolicyModule(
                policy,
                lm,
                tokenizer,
                prompt,
                build_reward(),
                self.advantages,
                self.rollouts,
                self.optimisation,
                copy.deepcopy(self.kl),
                self.scaling,
                validate,
                seed,
            )
            best = KeepBest("validation_accuracy", "max", folder, self.patience)
            trainer = training.trainer(
                "rl",
                logger=logger,
                folder=folder,
                max_epochs=1,
                callbacks=[best],
                val_check_interval=min(self.rollouts_between_validations, self.rollouts.count),
                shown_metrics=("reward", "kl", "validation_accuracy"),
                learning_rate_key="rl.optimisation.learning_rate",
            )
            trainer.validate(module, one_validation(), verbose=False)
            per_rollout = queries_of_rollouts(queries, self.rollouts, seed)
            trainer.fit(
                module, DataLoader(per_rollout, batch_size=None, collate_fn=lambda batch: batch), one_validation()
            )
            best.restore(module)
        module.policy.lm.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for name, rows in (("history", module.history), ("samples", module.samples)):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        return RLReport(module.rollouts_done, module.episodes, best.best)


@dataclass(frozen=True, kw_only=True)
class NoRL:
    """The stage left out: the student stays as it is."""

    def fit(self, student: Checkpoint, *_: Any, folder: Path, **__: Any) -> RLReport:
        """Copy the student."""
        copy_model(student.folder, folder)
        return RLReport(0, 0, None)
