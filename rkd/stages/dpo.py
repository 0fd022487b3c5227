"""Direct preference optimisation, arXiv:2305.18290: SFT student and preference pairs enter, a policy's folder leaves.

The row DPO of paper D trains the student itself on the pairs of the reward model. The reward is implicit:
r(q, a) = β log π(a | q) / π_ref(a | q). The reference policy is the student that training starts from. Shapes: B pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from rkd.config import ABOVE_0, check_ranges
from rkd.distributed import share_of_weight, sum_over_processes
from rkd.losses import dpo_loss, sequence_logprobs
from rkd.models.batches import in_parts
from rkd.models.cpu_workers import map_over_copies, mean_loss, part_count
from rkd.models.loading import copy_model, load_causal_lm, load_tokenizer
from rkd.models.policy import Policy, without_dropout
from rkd.records import PreferencePair
from rkd.stages.preference_batches import NO_PAIR, PairBatch, collate_pairs, tokenize_pairs
from rkd.training.checkpointing import KeepBest, batches_of
from rkd.training.fsdp import ShardableModule
from rkd.training.stage import TrainingContext
from rkd.training.supervised import SupervisedTraining
from rkd.training.trainer import Validate
from rkd.work import FORWARD, STUDENT, Sizes, Work, about, epochs_said


@dataclass(frozen=True, slots=True)
class DPOReport:
    """The outcome of a fit: optimiser steps, pairs used and left out as too long, score of the kept weights."""

    steps: int
    pairs: int
    dropped_too_long: int
    best_validation: float | None


class DPOModule(ShardableModule):
    """The student under the loss of DPO; a validation is one call of `validate`.

    Args:
        pairs: their number; their log-probabilities under the reference policy are stored by pair number.
    """

    part, saved = "policy", "policy.lm"

    def __init__(self, policy: Policy, settings: "DPO", validate: Validate | None, pairs: int) -> None:
        super().__init__()
        self.policy = policy
        self.settings = settings
        self.validate = validate
        self.pairs = pairs
        self.reference_logprobs: Tensor | None = None  # of chosen and rejected responses, (pairs, 2)

    def on_train_start(self) -> None:
        """Compute once the reference's log-probabilities of all responses; at the start the policy is the reference."""
        if self.reference_logprobs is not None:
            return  # the fit is resumed: its policy is no longer the reference
        loader, own = batches_of(self.trainer), torch.zeros(self.pairs, 2, device=self.device)
        batches = [loader.collate(batch) for batch in loader.batches]

        @torch.no_grad()
        def measure(policy: Policy, batch: PairBatch) -> Tensor:
            with self.trainer.precision_plugin.forward_context():
                return pair_logprobs(policy, batch.to(self.device))

        for batch, logprobs in zip(batches, map_over_copies(measure, self.whole_part(Policy), batches), strict=True):
            own[batch.numbers] = logprobs.float()
        self.reference_logprobs = sum_over_processes(own)  # each process has read its share

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        loss, measured = mean_loss(self.policy, self.loss, in_parts(batch, part_count(self.policy, batch.tokens)))
        share = share_of_weight(batch.weight, self.device)
        self.log_dict({f"train/{name}": share * value for name, value in measured.items()}, sync_dist=True)
        return share * loss

    def loss(self, part: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on some pairs, and their metrics; log-probabilities are sums over a response's tokens."""
        chosen, rejected = pair_logprobs(self.policy, part).T  # (B,), (B,)
        assert self.reference_logprobs is not None  # `on_train_start` measured them
        reference = self.reference_logprobs.to(chosen.device)[part.numbers]
        loss = dpo_loss(chosen, rejected, *reference.T, beta=self.settings.beta)
        margins = self.settings.beta * ((chosen - rejected).detach() - (reference[:, 0] - reference[:, 1]))
        return loss, {
            "loss": loss.detach(),
            "reward_margin": margins.mean(),
            "pair_accuracy": (margins > 0).float().mean(),
            "chosen_logprobs": chosen.detach().mean(),
            "rejected_logprobs": rejected.detach().mean(),
        }

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        assert self.validate is not None  # without it there is no validation
        self.log("validation/accuracy", self.validate(self.whole_part(Policy).lm), batch_size=1, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the reference's log-probabilities: the trained weights can no longer give them."""
        checkpoint["reference_logprobs"] = self.reference_logprobs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the reference's log-probabilities."""
        self.reference_logprobs = checkpoint["reference_logprobs"]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.settings.adamw(self)


@dataclass(frozen=True, kw_only=True)
class DPO(SupervisedTraining):
    """Direct preference optimisation of the student; an example is a pair.

    The policy with the best validation, the start included, is kept, as in reinforcement learning.

    Args:
        beta: β, the strength of the regularisation towards the reference policy.
    """

    stage = "dpo"

    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self.stage, self, {"beta": ABOVE_0})

    def fit(self, pairs: Sequence[PreferencePair], context: TrainingContext) -> DPOReport:
        """Train the student on the pairs; write model and tokenizer of the best validation to the folder.

        The model that training starts from is the reference policy.

        Raises:
            ValueError: no pair is left to train on.
        """
        tokenizer = load_tokenizer(context.start.folder)
        kept, dropped = tokenize_pairs(tokenizer, context.prompt, pairs, self.max_tokens)
        self.check_left(kept, len(pairs), "pair", NO_PAIR)
        best = KeepBest("validation/accuracy", "max", context.partial, self.patience)

        def build() -> DPOModule:
            lm = context.options.prepare(load_causal_lm(context.start.folder, context.options))
            without_dropout(lm)  # so that the first loss, of a policy equal to its reference, is log 2
            return DPOModule(Policy(lm), self, context.validate, len(kept)).train()

        steps = self.train(
            build,
            kept,
            lambda pair: pair.longest_part,
            partial(collate_pairs, calculator=context.prompt.calculator_tokens(tokenizer)),
            best,
            context,
            has_validation=context.validate is not None,
            validates_start=True,
            shown_metrics=("train/loss", "train/reward_margin"),
        )
        return DPOReport(steps, len(kept), dropped, best.best)

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The pairs, with one pass of the reference policy before, and the validations, the start included."""
        passes = sizes.pairs * (self.epochs + FORWARD)
        asked = [((1 + self.epochs * self.validations_per_epoch) * sizes.validated, sizes.greedy)]
        amount = f"{about(sizes.pairs)} pairs, {epochs_said(self.epochs)}"
        return [Work("dpo", amount, STUDENT, sizes.pair_tokens, asked, trained=2 * passes, group_size=2)]


@dataclass(frozen=True, kw_only=True)
class NoDPO:
    """No direct preference optimisation: the student stays unchanged."""

    is_left_out: ClassVar[Literal[True]] = True

    def planned_work(self, sizes: Sizes) -> list[Work]:  # noqa: ARG002
        """Return no work."""
        return []

    def fit(self, pairs: Sequence[PreferencePair], context: TrainingContext) -> DPOReport:  # noqa: ARG002
        """Copy the student."""
        copy_model(context.start.folder, context.folder)
        return DPOReport(steps=0, pairs=0, dropped_too_long=0, best_validation=None)


def pair_logprobs(policy: Policy, batch: PairBatch) -> Tensor:
    """log π of chosen and rejected responses, (B, 2)."""
    return sequence_logprobs(policy(batch.responses).logprobs, batch.responses.chosen_mask).view(-1, 2)
