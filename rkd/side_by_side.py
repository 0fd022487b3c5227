"""Small models at work side by side on a CPU, each copy on one thread.

Their operations are too small for several threads to share: two threads on one of them gain little, and lose much as
soon as another process wants a core, since each operation then waits for the slower one.
"""

import contextlib
import copy
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
Item = TypeVar("Item")
Result = TypeVar("Result")

SMALL = 50_000_000  # parameters up to which a model is copied


_cores = torch.get_num_threads()  # as torch found them, or as OMP_NUM_THREADS says


@contextlib.contextmanager
def cores(count: int | None, *, small_models: bool) -> Iterator[None]:
    """Use so many cores, None for all: small models one in each operation, as their copies share out the others."""
    global _cores
    before = _cores, torch.get_num_threads()
    _cores = count or _cores
    torch.set_num_threads(1 if small_models else _cores)
    try:
        yield
    finally:
        _cores = before[0]
        torch.set_num_threads(before[1])


def is_small(parameters: int) -> bool:
    """Whether a model of so many parameters is copied."""
    return parameters <= SMALL


def map_over_copies(work: Callable[[Model, Item], Result], model: Model, items: Sequence[Item]) -> Iterator[Result]:
    """`work(copy of the model, item)` for each item, in their order; it may not change the model."""
    workers = min(_worker_count(model), len(items))
    if workers < 2:
        yield from (work(model, item) for item in items)
        return
    copies: queue.SimpleQueue[Model] = queue.SimpleQueue()
    for _ in range(workers):
        copies.put(copy.deepcopy(model))

    def run(item: Item) -> Result:
        torch.set_num_threads(1)  # of this worker, and of threads that start later
        own = copies.get()
        try:
            return work(own, item)
        finally:
            copies.put(own)

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(run, items)
    finally:
        torch.set_num_threads(threads)


def _worker_count(model: nn.Module) -> int:
    parameters = list(model.parameters())
    on_cpu = parameters[0].device.type == "cpu"
    return _cores if on_cpu and is_small(sum(parameter.numel() for parameter in parameters)) else 1
