"""Copies of a small model work side by side: each item once, in order, on a copy, and torch's threads come back."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from torch import nn

from rkd.models import cpu_workers
from rkd.models.cpu_workers import (
    SMALL,
    cores,
    is_small,
    map_over_copies,
    map_over_forks,
    mean_loss,
    part_count,
    worker_count,
)


@pytest.fixture
def model():
    return nn.Linear(3, 1)


def test_items_are_worked_on_in_order_whatever_the_number_of_cores(model):
    items = [torch.full((2, 3), float(value)) for value in range(20)]
    expected = [model(item) for item in items]
    for count in (1, 2, 3):
        with cores(count, small_models=True):
            assert all(map(torch.equal, map_over_copies(nn.Module.__call__, model, items), expected))


def test_a_small_model_is_copied_for_each_core(model):
    together = threading.Barrier(2, timeout=20)  # passed only if two items are worked on at once

    def work(own: nn.Module, _: int) -> int:
        together.wait()
        assert torch.get_num_threads() == 1
        return id(own)

    with cores(2, small_models=True):
        used = set(map_over_copies(work, model, range(4)))
    assert len(used) == 2
    assert id(model) not in used


def test_on_one_core_the_model_itself_works(model):
    with cores(1, small_models=True):
        assert set(map_over_copies(lambda own, _: id(own), model, range(4))) == {id(model)}


def test_small_models_have_one_thread_and_large_ones_all(model):
    before = torch.get_num_threads()
    with cores(3, small_models=True):
        assert torch.get_num_threads() == 1
        list(map_over_copies(nn.Module.__call__, model, [torch.ones(3)] * 4))
        assert torch.get_num_threads() == 1
    with cores(3, small_models=False):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    assert is_small(SMALL)
    assert not is_small(SMALL + 1)


def test_an_error_of_one_item_is_told(model):
    def work(_: nn.Module, item: int) -> int:
        return 1 // item

    with cores(2, small_models=True), pytest.raises(ZeroDivisionError):
        list(map_over_copies(work, model, [1, 0, 1]))


def test_forks_work_on_items_in_order_and_on_models_of_their_own(model):
    before = [parameter.clone() for parameter in model.parameters()]

    def work(own: nn.Module, item: float) -> tuple[float, int, int]:
        with torch.no_grad():
            own.weight.fill_(item)
        return float(own(torch.ones(3)) - own.bias), torch.get_num_threads(), os.getpid()

    with cores(2, small_models=True):
        found = list(map_over_forks(work, model, [1.0, 2.0, 3.0]))
    assert [value for value, _, _ in found] == [3.0, 6.0, 9.0]
    assert {threads for _, threads, _ in found} == {1}
    if sys.platform == "linux":  # threads elsewhere
        assert os.getpid() not in {process for _, _, process in found}
        assert all(map(torch.equal, before, model.parameters()))


def test_an_error_in_a_fork_is_told(model):
    with cores(2, small_models=True), pytest.raises(ZeroDivisionError):
        list(map_over_forks(lambda _, item: 1 // item, model, [1, 0, 1]))


@pytest.mark.skipif(sys.platform != "linux", reason="threads elsewhere, and a thread is not killed")
def test_a_fork_that_is_killed_ends_the_work_with_an_error(model):
    with cores(2, small_models=True), pytest.raises(BrokenProcessPool):
        list(map_over_forks(lambda *_: os.kill(os.getpid(), signal.SIGKILL), model, [1, 2]))


@pytest.mark.skipif(sys.platform != "linux", reason="threads elsewhere, which end with their process")
def test_no_fork_outlives_a_killed_process(tmp_path):
    script = f"""
import os, time
from pathlib import Path
from torch import nn
from rkd.models.cpu_workers import cores, map_over_forks

def work(_, item):
    Path({str(tmp_path)!r}, str(item)).write_text(str(os.getpid()))
    time.sleep(60)

with cores(2, small_models=True):
    list(map_over_forks(work, nn.Linear(1, 1), [0, 1]))
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    files = [tmp_path / "0", tmp_path / "1"]
    wait_until(lambda: all(file.is_file() and file.read_text() for file in files))
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_running(int(file.read_text())) for file in files))


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


@pytest.fixture
def batch():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def squares(model):
    def loss(rows):
        errors = model(rows).square()
        return errors.mean(), {"largest": errors.detach().max()}

    return loss


def test_mean_loss_and_its_gradient_are_those_of_one_piece(batch):
    model, rows = batch
    whole, _ = mean_loss(model, squares(model), [(1.0, rows)])
    expected = torch.autograd.grad(whole, list(model.parameters()))
    parts = [(1 / 6, rows[:1]), (2 / 6, rows[1:3]), (3 / 6, rows[3:])]
    with cores(3, small_models=True):
        loss, measured = mean_loss(model, squares(model), parts)
    torch.testing.assert_close(loss, whole)
    (2 * loss).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)
    of_parts = [float(model(part).detach().square().max()) * weight for weight, part in parts]
    assert float(measured["largest"]) == pytest.approx(sum(of_parts))


def test_a_parameter_that_the_loss_does_not_use_gets_no_change(batch):
    model, rows = batch
    unused = nn.ModuleList([model, nn.Linear(2, 2)])
    loss, _ = mean_loss(unused, squares(model), [(0.5, rows[:3]), (0.5, rows[3:])])
    loss.backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in unused[1].parameters())


def test_parts_of_a_loss_are_made_at_once(batch):
    model, rows = batch
    together = threading.Barrier(2, timeout=20)

    def loss(part):
        together.wait()
        assert torch.get_num_threads() == 1
        return squares(model)(part)

    with cores(2, small_models=True):
        mean_loss(model, loss, [(0.5, rows[:3]), (0.5, rows[3:])])


def test_work_under_autocast_is_not_shared_out(model):
    with cores(2, small_models=True):
        assert (worker_count(model), part_count(model)) == (2, 2)
        with torch.autocast("cpu", torch.bfloat16):
            assert (worker_count(model), part_count(model)) == (1, 1)


def test_a_large_model_on_a_cpu_trains_on_parts_of_its_batch_one_after_the_other(batch, monkeypatch):
    model, rows = batch
    monkeypatch.setattr(cpu_workers, "is_small", lambda _: False)
    assert [part_count(model, tokens) for tokens in (0, 2048, 2049, 6000)] == [1, 1, 2, 3]
    assert part_count(model.to("meta"), 6000) == 1
    model, running = nn.Linear(3, 2), []

    def loss(part):
        running.append(threading.current_thread())
        return squares(model)(part)

    with cores(2, small_models=False), torch.autocast("cpu", torch.bfloat16):
        whole, _ = mean_loss(model, squares(model), [(1.0, rows)])
        own, _ = mean_loss(model, loss, [(0.5, rows[:3]), (0.5, rows[3:])])
    torch.testing.assert_close(own, whole)
    expected, found = (torch.autograd.grad(of, list(model.parameters())) for of in (whole, own))
    for gradient, right in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=0.02, atol=0.02)
    assert running == [threading.current_thread()] * 2


def test_the_parts_of_a_batch_are_as_many_on_one_core_as_on_eight(model):
    for count in (1, 8):
        with cores(count, small_models=True):
            assert (worker_count(model), part_count(model)) == (count, 2)
