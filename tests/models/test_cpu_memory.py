"""Memory of large models: freed blocks stay with the process, and are given back at the end."""

import platform
import resource
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from rkd.models import cpu_workers
from rkd.models.cpu_memory import give_back, kept_memory
from rkd.training import callbacks

MB = 2**20
BLOCKS = 40


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns large blocks at once")
def test_a_freed_block_is_lent_again_without_new_pages():
    def pages_of_repeated_blocks() -> int:
        torch.empty(64 * MB, dtype=torch.uint8).fill_(1)  # the first one is new in any case
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for place in range(1, BLOCKS + 1):  # each a little smaller: an aligned block needs some room beside it
            torch.empty(64 * MB - place * MB // 4, dtype=torch.uint8).fill_(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    outside = pages_of_repeated_blocks()
    with kept_memory():
        within = pages_of_repeated_blocks()
    after = pages_of_repeated_blocks()
    assert within < BLOCKS  # less than one for each block
    assert min(outside, after) >= BLOCKS  # one for each block at least, however large a page is


class Weight(LightningModule):
    """One weight, trained and validated."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch):
        return self.layer(batch).sum()

    def validation_step(self, batch):
        self.layer(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can give memory back")
def test_free_memory_is_given_back_within_the_block_too():
    with kept_memory():
        blocks = [torch.empty(64 * MB, dtype=torch.uint8).fill_(1) for _ in range(8)]
        del blocks
        kept = resident()
        give_back()
        assert kept - resident() > 4 * 64 * MB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can give memory back")
@pytest.mark.parametrize(("seconds", "returns"), [(0.0, True), (3600.0, False)])
def test_work_on_many_items_gives_memory_back_between_them_but_not_each_time(monkeypatch, seconds, returns):
    monkeypatch.setattr(cpu_workers, "SECONDS_BETWEEN_BATCHES", seconds)
    monkeypatch.setattr(cpu_workers, "worker_count", lambda _: 1)  # as of a large model

    def work(_, blocks: int) -> int:
        torch.stack([torch.empty(64 * MB, dtype=torch.uint8).fill_(1) for _ in range(blocks)])
        return resident()

    with kept_memory():
        give_back()
        before = resident()
        *_, last = cpu_workers.map_over_copies(work, torch.nn.Linear(1, 1), [6, 1])
        assert (last - before < 6 * 64 * MB) is returns


def test_a_training_gives_memory_back_before_and_after_other_work(monkeypatch):
    given = []
    monkeypatch.setattr(callbacks, "give_back", lambda: given.append("now"))
    monkeypatch.setattr(callbacks, "give_back_at_times", lambda seconds: given.append(seconds))
    data = DataLoader(torch.ones(2, 1), batch_size=1)
    trainer = Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        callbacks=[callbacks.GiveBackMemory()], num_sanity_val_steps=0, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Weight(), data, data)
    assert given == [60.0, 60.0, "now", 10.0, 10.0, "now", "now"]
