"""Memory of large models on a CPU: what one operation frees is kept for the next.

The C library of Linux returns every large block to the system at once, and the system clears each new page before it
lends it again. A training step of 135 M weights spends a quarter of its time on this.
"""

import contextlib
import ctypes
import platform
from collections.abc import Iterator

# Parameters of `mallopt`, by their numbers in glibc's malloc.h, with the value that keeps memory and the usual one.
# Blocks above the largest threshold that glibc takes are still mapped one by one: in a heap of blocks of every size, a
# training of 135 M weights was seen to grow from 8 to 15 GB, since few free places fit the next batch.
MALLOPT = {
    "M_MMAP_THRESHOLD": (-3, 32 * 2**20, 128 * 1024),  # bytes of a block above which it is mapped alone
    "M_TRIM_THRESHOLD": (-1, 2**30, 128 * 1024),  # free bytes at the end of the heap above which it shrinks
    "M_TOP_PAD": (-2, 64 * 2**20, 128 * 1024),  # bytes by which the heap grows beyond what is asked
}


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory in this process within the block; no effect without glibc (macOS, Windows, musl)."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for parameter, keeping, _ in MALLOPT.values():
        libc.mallopt(parameter, keeping)
    try:
        yield
    finally:
        for parameter, _, usual in MALLOPT.values():
            libc.mallopt(parameter, usual)
        libc.malloc_trim(0)
