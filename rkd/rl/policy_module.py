"""The training of a policy on rollouts: PPO or GRPO, depending on the parts, over the terms of the loss.

    L(θ) = Σ_k w_k L_k(θ),    L_k: Eq. 12 under the reward of term k, on its own rollouts (`rkd.rl.reward_mix`)

One training step collects one rollout for each term, then trains on them for several epochs of minibatches.
PPO and GRPO differ in the advantage estimator, in the value heads, and in the place of the KL term.
Shapes: B responses of T tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from rkd.distributed import count, mean_over_processes, share_of_weight
from rkd.losses import (
    Reduce,
    clipped_surrogate_loss,
    masked_mean,
    mean_of_response_means,
    mean_of_response_sums,
    value_loss,
)
from rkd.models.batches import in_parts
from rkd.models.cpu_workers import mean_loss, part_count
from rkd.models.policy import Policy
from rkd.records import Query
from rkd.rl.collapse_guard import Guard, NoGuard
from rkd.rl.refreshed_reward import RefreshedReward
from rkd.rl.rollout import Collector, Rollout
from rkd.rl.settings import Optimisation
from rkd.training.trainer import Validate, adamw

SAMPLES_SHOWN = 4  # sampled responses kept of each rollout, for people to read


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """A term of the loss: its name, its weight and the collector of its rollouts."""

    name: str
    weight: float
    collector: Collector


class PolicyModule(LightningModule):
    """PPO or GRPO over rollouts, depending on the parts.

    Args:
        terms: the terms of the loss; they share policy, reference and KL controller.
        guard: decides whether to stop before the end.
    """

    def __init__(
        self,
        terms: Sequence[LossTerm],
        optimisation: Optimisation,
        validate: Validate | None,
        seed: int,
        guard: Guard | NoGuard,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        first = terms[0].collector
        self.policy = first.policy  # the only part that is trained and saved: a collector is not a module
        self.terms, self.optimisation = terms, optimisation
        self.rollouts, self.kl = first.rollouts, first.kl
        self.validate, self.seed, self.guard = validate, seed, guard
        self.rollouts_done = 0
        self.stopped: str | None = None
        self.history: list[dict[str, float]] = []
        self.samples: list[dict[str, Any]] = []

    @property
    def episodes(self) -> int:
        """Number of responses trained on so far, the x-axis of every curve."""
        return self.rollouts_done * self.rollouts.responses_per_rollout

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; `training_step` sets its learning rate for each rollout."""
        options = self.optimisation
        first, second = options.adam_betas
        trained, head, rate = _trained(self.policy), self.policy.value_head, options.value_learning_rate
        own = set() if head is None or rate is None else set(head.parameters())
        groups = [{"params": [one for one in trained if one not in own], "peak": options.learning_rate}]
        if own:
            groups.append({"params": [one for one in trained if one in own], "peak": rate})
        return adamw(groups, lr=options.learning_rate, weight_decay=options.weight_decay, betas=(first, second))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Return the batch unchanged: it holds queries, not tensors."""
        return batch

    def training_step(self, queries: list[list[Query]], batch_idx: int) -> None:  # noqa: ARG002
        """Collect one rollout for each term, on the queries of the term, then train on them."""
        self._set_learning_rate()
        rollouts = [
            term.collector.collect(own, rollout_seed(self.seed, self.rollouts_done, place))
            for place, (term, own) in enumerate(zip(self.terms, queries, strict=True))
        ]
        for rollout in rollouts:
            shown = rollout.samples(math.ceil(SAMPLES_SHOWN / len(rollouts)))
            self.samples += [{"episodes": self.episodes, **sample} for sample in shown]
        of_terms = {term.name: one.metrics() for term, one in zip(self.terms, rollouts, strict=True)}
        weights = {term.name: term.weight for term in self.terms}
        measured = mean_over_processes({**joined_metrics(of_terms, weights), **self.train_on(rollouts)}, self.device)
        # The explained variance is not finite where all rewards are equal; that is no divergence.
        not_finite = [name for name, value in measured.items() if not math.isfinite(value)]
        for name in not_finite:
            if name.endswith("explained_variance"):
                del measured[name]
        metrics = {**measured, "kl_coefficient": self.kl.controller.coefficient}
        self.kl.controller.update(metrics["kl"], sum(len(one.responses) for one in rollouts) * count())
        self.rollouts_done += 1
        for term, rollout in zip(self.terms, rollouts, strict=True):
            if isinstance(reward := term.collector.reward, RefreshedReward):
                metrics |= reward.after_rollout(self.rollouts_done, rollout.queries, rollout.responses)
        metrics["episodes"] = float(self.episodes)
        self.history.append(metrics)
        self.log_dict(metrics, batch_size=1)
        self._stop_if_collapsed()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        """Log the greedy accuracy on the validation queries, against the labels that the training may see."""
        assert self.validate is not None
        accuracy = self.validate(self.policy.lm)
        self.history.append({"episodes": float(self.episodes), "validation_accuracy": accuracy})
        self.log("validation_accuracy", accuracy, batch_size=1, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state that Lightning does not save."""
        state = {"rollouts_done": self.rollouts_done, "history": self.history, "samples": self.samples}
        checkpoint["rollouts"] = state | {"kl_controller": self.kl.controller.state_dict(), "stopped": self.stopped}
        checkpoint["refreshed"] = [reward.state_dict() for reward in self._refreshed]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state after the last rollout."""
        state = checkpoint["rollouts"]
        self.rollouts_done, self.history, self.samples = state["rollouts_done"], state["history"], state["samples"]
        self.kl.controller.load_state_dict(state["kl_controller"])
        self.stopped = state["stopped"]
        for reward, own in zip(self._refreshed, checkpoint.get("refreshed", []), strict=True):
            reward.load_state_dict(own)

    @property
    def _refreshed(self) -> list[RefreshedReward]:
        """The rewards that the rollouts train."""
        rewards = [term.collector.reward for term in self.terms]
        return [reward for reward in rewards if isinstance(reward, RefreshedReward)]

    def on_fit_start(self) -> None:
        """Stop at once if the guard had stopped the training before an interruption."""
        self.trainer.should_stop |= self.stopped is not None

    def train_on(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Train epochs of minibatches over a rollout of each term; return mean metrics, weighted by the terms."""
        # Gradient checkpointing needs training mode. Dropout is off in both modes: it would add noise to the ratio.
        self.policy.train(self.policy.lm.is_activation_checkpointing)
        options, optimizer = self.optimisation, self._optimizer
        order = torch.Generator().manual_seed(rollout_seed(self.seed, self.rollouts_done))
        totals: dict[str, float] = {}
        updates = 0
        for _ in range(options.epochs_per_rollout):
            shuffled = [torch.randperm(one.prompt_count, generator=order) for one in rollouts]
            for of_terms in zip(*(one.tensor_split(options.minibatches_per_epoch) for one in shuffled), strict=True):
                optimizer.zero_grad()
                for term, rollout, indices in zip(self.terms, rollouts, of_terms, strict=True):
                    for name, value in self._add_gradient(term.weight, rollout.select_prompts(indices)).items():
                        totals[name] = totals.get(name, 0.0) + value
                norm = torch.nn.utils.clip_grad_norm_(_trained(self.policy), options.gradient_clip or float("inf"))
                optimizer.step()
                updates += 1
                totals["gradient_norm"] = totals.get("gradient_norm", 0.0) + float(norm)
        return {name: total / updates for name, total in totals.items()}

    def _add_gradient(self, weight: float, part: Rollout) -> dict[str, float]:
        """Add the gradient of a term's weighted loss on a minibatch; return its metrics, weighted alike."""
        parts = in_parts(part, part_count(self.policy, part.tokens))
        loss, measured = mean_loss(self.policy, self.loss, parts)
        share = weight * share_of_weight(sum(one.weight for _, one in parts), self.device)
        self.manual_backward(share * loss)
        return {name: share * float(value) for name, value in measured.items()}

    def loss(self, part: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 12 on one minibatch: clipped surrogate, value loss, and the KL term if its place is the loss."""
        options, kl, mask = self.optimisation, self.kl, part.batch.chosen_mask
        reduce = self._reduce
        output = self.policy(part.batch, value_head=part.value_head)
        policy_loss = clipped_surrogate_loss(
            output.logprobs,
            part.old_logprobs,
            part.advantages,
            mask,
            clip_range=options.clip_range,
            clip_range_high=options.clip_range_high,
            reduce=reduce,
        )
        loss = policy_loss
        ratio = torch.exp(output.logprobs.detach() - part.old_logprobs)
        high = options.clip_range if options.clip_range_high is None else options.clip_range_high
        clipped = (ratio < 1 - options.clip_range) | (ratio > 1 + high)
        measured = {
            "policy_loss": policy_loss.detach(),
            "ratio": masked_mean(ratio, mask),
            "clip_fraction": masked_mean(clipped.float(), mask),
        }
        if output.values is not None and part.values is not None:
            clip = options.value_clip_range
            of_values = value_loss(output.values, part.values, part.returns, mask, value_clip_range=clip, reduce=reduce)
            loss = loss + options.value_coefficient * of_values
            measured["value_loss"] = of_values.detach()
        if kl.place == "loss":
            target = part.old_logprobs if kl.target == "old" else part.reference_logprobs
            kl_loss = reduce(kl.per_token(output.logprobs, target, mask), mask)
            loss = loss + kl.controller.coefficient * kl_loss
            measured["kl_trained_on"] = kl_loss.detach()
        return loss, measured

    @property
    def _reduce(self) -> Reduce:
        match self.optimisation.reduction:
            case "responses":
                return mean_of_response_means
            case "constant":
                return partial(mean_of_response_sums, divisor=self.rollouts.max_response_tokens)
            case _:
                return masked_mean

    def _stop_if_collapsed(self) -> None:
        if self.stopped is None and (reason := self.guard.reason(self.history)):
            self.stopped = reason
            self.trainer.should_stop = True

    @property
    def _optimizer(self) -> LightningOptimizer:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    def _set_learning_rate(self) -> None:
        options = self.optimisation
        partial = min(1.0, self.rollouts_done / self.rollouts.count)
        factor = 1 - partial * (1 - options.final_learning_rate_fraction)
        if self.rollouts_done < options.warmup_rollouts:
            factor *= (self.rollouts_done + 1) / options.warmup_rollouts
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def rollout_seed(seed: int, rollout: int, term: int = 0) -> int:
    """The seed of a term's rollout, from the training's seed, the number of rollouts before it and the term's place.

    The first term has seed × 1,000,003 + rollout, which no other training shares before rollout 1,000,003. A further
    term has 63 bits of NumPy's `SeedSequence`.
    """
    if term == 0:
        return seed * 1_000_003 + rollout
    return int(np.random.SeedSequence([seed, rollout, term]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def joined_metrics(of_terms: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a rollout of several terms: each term's under its name, and their weighted means.

    `responses_sampled` is a sum. The mean `reward` is the objective without the KL.
    """
    if len(of_terms) == 1:
        return dict(next(iter(of_terms.values())))
    names = set.intersection(*(set(own) for own in of_terms.values()))
    joined = {name: sum(weights[term] * own[name] for term, own in of_terms.items()) for name in sorted(names)}
    joined["responses_sampled"] = sum(own["responses_sampled"] for own in of_terms.values())
    return joined | {f"{term}/{name}": value for term, own in of_terms.items() for name, value in own.items()}


def _trained(policy: Policy) -> list[torch.nn.Parameter]:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]
