"""Memory of large models: freed blocks stay with the process, and are given back at the end."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from rkd.models.cpu_memory import give_back, kept_memory

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can give memory back")
def test_free_memory_is_given_back_within_the_block_too():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()

    with kept_memory():
        blocks = [torch.empty(64 * MB, dtype=torch.uint8).fill_(1) for _ in range(8)]
        del blocks
        kept = resident()
        give_back()
        assert kept - resident() > 4 * 64 * MB
