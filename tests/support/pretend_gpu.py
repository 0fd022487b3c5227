"""Tensors that say that they lie on a GPU, on a machine without one: their numbers lie on the CPU.

An operation that mixes them with tensors of the CPU is refused as on a GPU, and autocast treats them as on a GPU. So a
test can run a step of a stage, and finds a tensor that was made on the wrong device.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten._index_put_impl_.default)


class OnGPU(Tensor):
    """A tensor whose device is `GPU`; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGPU":
        """Wrap a tensor of the CPU."""
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=GPU, requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner.detach()
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation on the numbers; its result lies on the GPU if that is asked for, or if something there went in."""
    target = kwargs.get("device")
    is_for_gpu = target is not None and torch.device(target).type == GPU.type
    if not is_for_gpu and not any(isinstance(one, OnGPU) for one in tree_leaves([args, kwargs])):
        return func(*args, **kwargs)
    if func is torch.ops.aten._fused_sdp_choice.default:
        return 0  # attention by its definition: the kernels for a GPU are not here
    _check_devices(func, args, kwargs)
    inner_args, inner_kwargs = tree_map_only(OnGPU, lambda own: own.inner, (args, kwargs))
    if target is not None:
        inner_kwargs = {**inner_kwargs, "device": torch.device("cpu")}
    out = func(*inner_args, **inner_kwargs)
    if target is not None and not is_for_gpu:
        return out
    return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, OnGPU, out))


def _check_devices(func: Any, args: Any, kwargs: Any) -> None:
    """Refuse tensors of the CPU where a GPU refuses them: but for copies, single numbers and indices."""
    if func in COPIES:
        return
    checked = [args[0], args[2:]] if func in INDEXING else [args, kwargs]
    strangers = [one for one in tree_leaves(checked) if isinstance(one, Tensor) and not isinstance(one, OnGPU)]
    if any(one.dim() for one in strangers):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found a GPU and cpu")


class _Operations(TorchDispatchMode):
    """Sees the operations that make tensors, and those that move them to the GPU."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Data(TorchFunctionMode):
    """Makes tensors of Python's data, and data of tensors, as a GPU does; `_Operations` does not see either."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist and isinstance(args[0], OnGPU):
            return args[0].inner.tolist()
        if func is Tensor.numpy and isinstance(args[0], OnGPU):
            raise TypeError("can't convert a tensor of a GPU to numpy: use Tensor.cpu() first")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnGPU):
            index = tree_map_only(list, torch.tensor, args[1], is_leaf=lambda own: isinstance(own, list))
            return func(args[0], index, *args[2:])
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        return func(*args, **kwargs)


@contextlib.contextmanager
def pretended_gpu() -> Iterator[None]:
    """A GPU in the block."""
    # Another thread would run the backward pass without the modes.
    with _Data(), _Operations(), torch.autograd.set_multithreading_enabled(False):
        yield


class _Backend:
    """What torch asks of a kind of device: one is there, and draws no random numbers."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: int) -> Tensor:  # noqa: ARG002
        return torch.zeros(0)

    def set_rng_state(self, state: Tensor, device: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("pretended", _Backend())
GPU = torch.device("pretended:0")
