"""Small models on several CPU cores, one core each: copies for inference, or parts of a batch in training.

Their operations are too small to be split over threads. Two threads on one operation gain little, and lose much when
another process needs a core, since each operation then waits for the slower thread.
"""

import contextlib
import copy
import ctypes
import functools
import math
import multiprocessing
import os
import pickle
import queue
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rkd.models.cpu_memory import SECONDS_BETWEEN_BATCHES, give_back_at_times, kept_memory

Model = TypeVar("Model", bound=nn.Module)
Item = TypeVar("Item")
Result = TypeVar("Result")

Measured = Mapping[str, Tensor]
"""Means over a part of a batch, by name."""

SMALL = 50_000_000  # parameters up to which a model is copied
PARTS = 2  # parts of a small model's batch on any number of cores: how a sum is split decides its last digits
LARGE_PART_TOKENS = 2**11  # in a part of a large model's batch; with fewer, products take longer for each token
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies


_cores = torch.get_num_threads()  # as torch found them, or as OMP_NUM_THREADS says


@contextlib.contextmanager
def cores(count: int | None, *, small_models: bool, processes: int = 1) -> Iterator[None]:
    """Use `count` cores, None for all. Small models use one core in each operation: their copies use the others.

    Large models keep the memory that they free (`rkd.models.cpu_memory`).

    Args:
        processes: number of processes that train together, this one included; they share the cores.
    """
    global _cores
    before = _cores, torch.get_num_threads()
    _cores = max(1, (count or _cores) // processes)
    torch.set_num_threads(1 if small_models else _cores)
    try:
        with contextlib.nullcontext() if small_models else kept_memory():
            yield
    finally:
        _cores = before[0]
        torch.set_num_threads(before[1])


def core_count() -> int:
    """How many cores this process uses."""
    return _cores


def is_small(parameters: int) -> bool:
    """Whether a model with this number of parameters is copied."""
    return parameters <= SMALL


def map_over_copies(work: Callable[[Model, Item], Result], model: Model, items: Sequence[Item]) -> Iterator[Result]:
    """`work(copy of the model, item)` for each item, in order; `work` must not change the model."""
    workers = min(worker_count(model), len(items))
    if workers < 2:
        for item in items:
            yield work(model, item)
            give_back_at_times(SECONDS_BETWEEN_BATCHES)
        return
    copies: queue.SimpleQueue[Model] = queue.SimpleQueue()
    for _ in range(workers):
        copies.put(copy.deepcopy(model))

    def run(item: Item) -> Result:
        own = copies.get()
        try:
            return work(own, item)
        finally:
            copies.put(own)

    yield from _on_threads(run, items, workers)


def map_over_forks(work: Callable[[Model, Item], Result], model: Model, items: Sequence[Item]) -> Iterator[Result]:
    """As `map_over_copies`, in forked processes: for operations so small that the Python interpreter limits the speed.

    Threads share one interpreter; the decode loop is no faster on two threads than on one. A process with threads can
    safely be forked on Linux only; elsewhere, threads are used. `pickle` must be able to store the results.
    """
    workers = min(worker_count(model), len(items))
    if workers < 2 or sys.platform != "linux":
        yield from map_over_copies(work, model, items)
        return
    begin = (lambda item: work(model, item), items, os.getpid())  # inherited by the fork, never pickled
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, initializer=_begin_fork, initargs=begin) as pool:
        try:
            yield from map(pickle.loads, pool.map(_work_in_fork, range(len(items))))
        finally:
            pool.shutdown(cancel_futures=True)


_forked: tuple[Callable[[Any], Any], Sequence[Any]] | None = None  # in a forked process: its work and the items


def _begin_fork(work: Callable[[Any], Any], items: Sequence[Any], parent: int) -> None:
    global _forked
    _forked = work, items
    torch.set_num_threads(1)
    # Only the first process handles interrupts by the user; its forks end when it is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # by which a cluster announces the end to all processes of a job
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _work_in_fork(index: int) -> bytes:
    assert _forked is not None  # `_begin_fork` set it
    work, items = _forked
    return pickle.dumps(work(items[index]))  # by value: torch would pass tensors as open files


def mean_loss(
    model: nn.Module, loss: Callable[[Item], tuple[Tensor, Measured]], parts: Sequence[tuple[float, Item]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted means of the losses and the metrics of a batch's parts.

    The parts of a small model are computed at the same time, on a thread each.

    The mean loss is differentiable by the model's parameters, as if it were computed in one piece.

    Args:
        loss: gives the loss of one part and its metrics, which carry no gradient.
        parts: each with its weight; the weights sum to 1.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def run(weighted: tuple[float, Item]) -> _Loss:
        weight, part = weighted
        with torch.enable_grad():  # set for each thread
            value, measured = loss(part)
            # `backward` on two threads would add to the same gradients at once.
            gradients = torch.autograd.grad(weight * value, parameters, materialize_grads=True)
        return weight * value.detach(), {name: weight * each for name, each in measured.items()}, list(gradients)

    if len(parts) == 1:
        value, measured_whole = loss(parts[0][1])
        return value, dict(measured_whole)
    workers = min(worker_count(model), len(parts))
    done = _on_threads(run, parts, workers) if workers > 1 else map(run, parts)
    total, means, gradients = functools.reduce(_sum, done)
    return _KnownGradients.apply(total, gradients, *parameters), means


_Loss = tuple[Tensor, dict[str, Tensor], list[Tensor]]
"""The loss of a part, its metrics and its gradients, by its share of the weight."""


def _sum(one: _Loss, other: _Loss) -> _Loss:
    (value, measured, gradients), (other_value, others, added) = one, other
    for place, gradient in enumerate(added):  # one by one, so that no third set of gradients exists
        gradients[place] = gradients[place] + gradient
    return value + other_value, {name: each + others[name] for name, each in measured.items()}, gradients


class _KnownGradients(torch.autograd.Function):
    """A value whose gradients by the parameters are already known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *_: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(factor * gradient for gradient in ctx.saved_tensors)


def worker_count(model: nn.Module) -> int:
    """How many threads share the work of the model: all cores for a small model on the CPU, otherwise 1."""
    return _cores if _is_shared_out(model) else 1


def part_count(model: nn.Module, tokens: int = 0) -> int:
    """In how many parts a batch of `tokens` tokens is processed; neither this nor the result depends on the cores.

    A small model's parts share out its cores. A large model on a CPU trains on one part after the other, whose
    activations need less memory: those of 135 M weights take about 1.5 MB a token.
    """
    if _is_shared_out(model):
        return PARTS
    first = next(model.parameters())
    is_whole_on_cpu = first.device.type == "cpu" and not isinstance(first, DTensor)
    return max(1, math.ceil(tokens / LARGE_PART_TOKENS)) if is_whole_on_cpu else 1


def _is_shared_out(model: nn.Module) -> bool:
    parameters = list(model.parameters())
    on_cpu, is_sharded = parameters[0].device.type == "cpu", isinstance(parameters[0], DTensor)
    is_alone = is_sharded or not on_cpu or torch.is_autocast_enabled("cpu")  # autocast is set for each thread as well
    return not is_alone and is_small(sum(parameter.numel() for parameter in parameters))


def _on_threads(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    def run(item: Item) -> Result:
        torch.set_num_threads(1)  # for this worker, and for threads that start later
        return work(item)

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(run, items)
    finally:
        torch.set_num_threads(threads)
