"""The reward model R (docs/method.md 2.6): a backbone with one linear head; a batch of B responses enters, B rewards
leave."""

from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from transformers import PreTrainedModel

from rkd.models.batches import ResponseBatch
from rkd.models.hidden_states import head_values, last_states, response_states
from rkd.models.loading import ModelOptions, load_classifier
from rkd.models.own_forward import check_rewards

Pooling = Literal["last", "mean"]
"""The states of a response that a reward is read from."""


class RewardModel(nn.Module):
    """A backbone and one linear head on a response's states (docs/method.md 2.6); a batch to (B,).

    Args:
        model: an `AutoModelForSequenceClassification`. Its configuration's `reward_pooling` says which state is read:
            that of the "last" token, as in other libraries, or the "mean" over all tokens of the response.

    Raises:
        ModelError: the "last" reward would differ from that of the model's own forward.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        check_rewards(model, _scores)

    def forward(self, batch: ResponseBatch) -> Tensor:
        """R(q, a) of each response, (B,), never read at padding."""
        if getattr(self.model.config, "reward_pooling", "last") == "mean":
            states, mask = response_states(self.model.base_model, batch)[:, 1:], batch.response_mask
            pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            pooled = last_states(self.model.base_model, batch.rows())
        return _scores(self.model, pooled).float().squeeze(-1)

    @property
    def head(self) -> nn.Linear:
        """The linear head."""
        return _head(self.model)

    def save_pretrained(self, folder: Path) -> None:
        """Write it as a plain `AutoModelForSequenceClassification`."""
        self.model.save_pretrained(folder)


def load_reward_model(
    folder: str | Path, options: ModelOptions = ModelOptions(), *, placed: bool = False
) -> "RewardModel":
    """A reward model saved by `RewardModel.save_pretrained`, or a backbone that gets a new head."""
    return RewardModel(load_classifier(folder, options, placed=placed))


def new_reward_model(
    student_folder: str | Path, pooling: Pooling = "last", options: ModelOptions = ModelOptions()
) -> RewardModel:
    """A reward model on the student's backbone, its head at zero: all responses start at R = 0."""
    reward_model = load_reward_model(student_folder, options)
    reward_model.model.config.reward_pooling = pooling
    nn.init.zeros_(reward_model.head.weight)
    return reward_model


def _scores(model: PreTrainedModel, states: Tensor) -> Tensor:
    """The score of each state, (B, D) to (B, 1)."""
    return head_values(_head(model), states)


def _head(model: PreTrainedModel) -> nn.Linear:
    head = model.get_submodule("score")
    assert isinstance(head, nn.Linear)
    return head
