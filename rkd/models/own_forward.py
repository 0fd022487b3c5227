"""A model's own forward: hidden states enter, the logits that the model itself makes of them leave.

After the output embedding, families of models scale logits (Granite, Cohere, FalconH1), cap them (Gemma 2) or apply
layers of their own (BERT). So no step is written here a second time: the model's own `forward` is run on states that
its backbone has already computed. A model whose `forward` needs more than the states is refused before it is used.
Shapes: T states, D their width, V vocabulary.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from rkd.errors import ModelError
from rkd.models.hidden_states import last_states

# The largest difference of a log-probability, in nats: of rows that are read one by one, and of rows that are read
# together, whose sums are rounded in another order. In formats that are not listed each logit has an error of that
# size, so that the mean over the vocabulary counts.
LARGEST_DIFFERENCES = {torch.float64: (1e-5, 1e-5), torch.float32: (1e-3, 1e-2)}
LARGEST_MEAN_DIFFERENCES = (0.1, 0.25)

# Parts of the names of settings that concern logits, for the message of a refusal.
OF_LOGITS = ("logit", "lm_head", "mup", "output_multiplier", "is_decoder")

_state_widths: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()  # of models that were compared


def own_logits(lm: PreTrainedModel, states: Tensor) -> Tensor:
    """The logits that the model's own forward makes of hidden states of its backbone; (T, D) to (T, V).

    The model is not changed, so several threads may call this at once. Hooks of the whole model are not called.
    """
    # The same model, modules and weights included, but for its backbone. `object.__new__` makes it without `__init__`.
    reading: PreTrainedModel = object.__new__(type(lm))
    already_read = _AlreadyRead(lm.base_model, states[None])
    reading.__dict__ |= {**lm.__dict__, "_modules": {**lm._modules, lm.base_model_prefix: already_read}}
    ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    logits: Tensor = type(lm).forward(reading, input_ids=ids).logits
    return logits[0]


def state_width(lm: PreTrainedModel) -> int:
    """D, after a comparison of `own_logits` with the model's own forward, made once for each model.

    Two short rows of tokens that differ in their last one are read alone and together. Their log-probabilities must be
    those of the model's own forward, and the last token must not change the others. The comparison draws no random
    number.

    Raises:
        ModelError: the log-probabilities differ, or the model cannot be read in this way.
    """
    if lm not in _state_widths:
        _state_widths[lm] = _compare(lm, own_logits, lambda logits: logits.double().log_softmax(-1))
    return _state_widths[lm]


def check_rewards(model: PreTrainedModel, head: Callable[[PreTrainedModel, Tensor], Tensor]) -> None:
    """Compare the scores of a classifier's last states by `head` with its own forward, as `state_width` does.

    Args:
        head: gives the scores, (T, 1), of the last states of T rows, (T, D).

    Raises:
        ModelError: the scores differ, or the model cannot be read in this way.
    """
    if model not in _state_widths:
        # By asinh, small scores may differ by as much as log-probabilities, and large ones in proportion to their size.
        _state_widths[model] = _compare(model, head, lambda scores: scores.double().asinh())


class _AlreadyRead:
    """In the place of a backbone, or of a part of it: a call returns the given states. It reads no tokens."""

    def __init__(self, backbone: nn.Module, states: Tensor) -> None:
        self._backbone, self._states = backbone, states

    def __call__(self, *_: object, **__: object) -> BaseModelOutput:
        return _States(last_hidden_state=self._states)

    def __getattr__(self, name: str) -> Any:
        """Some models call a part of their backbone, such as `decoder`, or use a multiplier that it keeps."""
        own = getattr(self._backbone, name)
        return _AlreadyRead(own, self._states) if isinstance(own, nn.Module) else own


class _States(BaseModelOutput):
    """The output of a backbone: nothing but its last states. Every other field that a family may read is None."""

    def __getattr__(self, _name: str) -> None:
        return None


def _compare(
    model: PreTrainedModel, head: Callable[[PreTrainedModel, Tensor], Tensor], compared: Callable[[Tensor], Tensor]
) -> int:
    """Raise a `ModelError` if `head` on states is not what the model's own forward gives; else the states' width D."""
    first = model.config.get_text_config().vocab_size // 2  # special tokens are the first or the last ones
    beginning = [first, first + 1, first + 1]
    rows = [[*beginning, first], [*beginning, first + 1]]
    try:
        with torch.no_grad(), _evaluated(model):
            ids = [torch.tensor([row], device=model.device) for row in rows]
            own = [compared(model(input_ids=row, use_cache=False).logits.flatten(0, -2)) for row in ids]
            states = [model.base_model(input_ids=row, use_cache=False).last_hidden_state[0] for row in ids]
            # In reverse order, which shows a step that depends on the place of a token.
            one, other = (compared(head(model, of_row.flip(0))).flip(0) for of_row in states)
            together = compared(head(model, last_states(model.base_model, [*rows, beginning[:2]])))
            alone = [
                _apart(one[-len(own[0]) :], own[0]),
                _apart(other[-len(own[1]) :], own[1]),
                _apart(one[:-1], other[:-1]),
            ]
            apart = torch.cat(alone), _apart(together, torch.stack([one[-1], other[-1], one[1]]))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the code of any family, or of the user, runs here
        raise _refusal(model, f"could not be compared ({type(error).__name__}: {error})") from error
    largest = LARGEST_DIFFERENCES.get(model.dtype)
    for of_rows, most in zip(apart, largest or LARGEST_MEAN_DIFFERENCES, strict=True):
        difference = float((of_rows.amax(-1) if largest else of_rows.mean(-1)).max())
        if not difference <= most:
            raise _refusal(model, f"differ by {difference:.3g}")
    width: int = states[0].shape[-1]
    return width


def _apart(ours: Tensor, theirs: Tensor) -> Tensor:
    """The absolute differences; equal infinities, or NaN in both, are no difference."""
    return (ours - theirs).abs().masked_fill(ours.isclose(theirs, rtol=0, atol=0, equal_nan=True), 0)


@contextlib.contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode within the block: no dropout, so no random number."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def _refusal(model: PreTrainedModel, what: str) -> ModelError:
    config = model.config
    settings = [
        f"{name}={value}"
        for name, value in config.get_text_config().to_dict().items()
        if any(part in name for part in OF_LOGITS)
    ]
    return ModelError(
        f"{type(model).__name__} (family {config.model_type}) is not supported: the log-probabilities, or scores, that "
        f"are computed from its hidden states and those of its own forward {what}. Its training and its verdicts would "
        "be those of another model than the one that is sampled. Either its forward needs more than the states of its "
        "backbone, or a token changes the states before it. Settings that concern its logits: "
        f"{', '.join(settings) or 'none'}. Choose a model of another family: docs/scaling.md names those that are "
        "supported."
    )
