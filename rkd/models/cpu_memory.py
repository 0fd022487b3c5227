"""Memory of large models on a CPU: what one operation frees is kept for the next.

The C library of Linux returns every large block to the system at once, and the system clears each new page before it
lends it again. A training step of 135 M weights spends a quarter of its time on this.
"""

import contextlib
import ctypes
import platform
import time
from collections.abc import Iterator

# Parameters of `mallopt`, by their numbers in glibc's malloc.h, with the value that keeps memory and the usual one.
MALLOPT = {
    "M_MMAP_MAX": (-4, 0, 65536),  # blocks that are mapped one by one
    "M_TRIM_THRESHOLD": (-1, -1, 128 * 1024),  # free bytes above which the heap shrinks; -1: never
    "M_TOP_PAD": (-2, 64 * 2**20, 128 * 1024),  # bytes by which the heap grows beyond what is asked
}
# What is given back is cleared again when it is needed, so this is not done at each step. Training steps need nearly
# all of it again; batches of sampling and of scoring are of many sizes.
SECONDS_BETWEEN_STEPS, SECONDS_BETWEEN_BATCHES = 60.0, 10.0

_last = time.monotonic()  # when memory was given back


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
        give_back()


def give_back() -> None:
    """Return all free memory to the system now. Free places that fit no later block would otherwise add up.

    That happens where blocks of many sizes follow each other, as in sampling, or where another work begins.
    """
    global _last
    _last = time.monotonic()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def give_back_at_times(seconds: float) -> None:
    """As `give_back`, if that was not done in the last `seconds`; to be called often in long work."""
    if time.monotonic() - _last >= seconds:
        give_back()
