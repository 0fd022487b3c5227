"""What the store needs of its disk: a folder enters, an error or a warning leaves.

Two jobs may want one artifact. A lock on a file beside it (`flock`) lets one make it and the other wait. Where hosts
share a disk, the lock must hold among hosts. NFS does this by default, and so do CephFS, GPFS, BeeGFS and Lustre with
`flock`; options of a mount can keep locks within a host, which no host can notice by trying.
"""

import contextlib
import errno
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rkd.errors import ArtifactError

MOUNTS = Path("/proc/self/mountinfo")
# Options of mounts by which locks hold within one host only, by kind of file system.
WITHIN_A_HOST = {
    "nfs": {"nolock", "local_lock=all", "local_lock=flock"},
    "nfs4": {"local_lock=all", "local_lock=flock"},
    "lustre": {"localflock"},
}


def check_disk(folder: Path) -> str | None:
    """A warning if locks in the folder, which is made if it is missing, hold on this host alone; None if they hold.

    Raises:
        ArtifactError: the folder cannot be written, or locks in it do not hold at all.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".lock-", dir=folder)
    except OSError as error:
        raise ArtifactError(f"artifacts.root={folder} cannot be written: {error.strerror}.") from error
    os.close(descriptor)
    try:
        holds = _holds(Path(name))
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        raise ArtifactError(
            f"artifacts.root={folder}: its file system has no locks ({error.strerror}), and without them two jobs "
            "could write one artifact. Mount it with locks (NFS: without `nolock`; Lustre: with `flock`), or name a "
            "folder on another disk."
        ) from error
    finally:
        Path(name).unlink()
    if not holds:
        raise ArtifactError(
            f"artifacts.root={folder}: its file system grants one lock twice, so that two jobs could write one "
            "artifact. Name a folder on another disk."
        )
    if (option := _option_within_a_host(folder)) is None:
        return None
    return (
        f"artifacts.root={folder} is mounted with `{option}`: its locks hold on this host alone. Jobs of several hosts "
        "must not share it. Mount it without that option if they do."
    )


def _holds(path: Path) -> bool:
    """Whether a second lock on the file is refused while the first is held."""
    if sys.platform == "win32":
        return True  # its locks are others, and have not been tried
    import fcntl  # here, not above: not on Windows

    with _opened(path) as first, _opened(path) as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _option_within_a_host(folder: Path) -> str | None:
    """The option of the folder's mount that keeps locks within this host."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None  # no Linux
    own, found, length = folder.resolve(), None, -1
    for line in lines:
        before, _, after = line.partition(" - ")
        _, _, _, _, point, options, *_ = before.split(" ")
        kind, _, more = after.split(" ", 2)
        path = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point))
        if own.is_relative_to(path) and len(path.parts) >= length:  # of mounts over each other the last one counts
            length = len(path.parts)
            found = next(iter(sorted({*options.split(","), *more.split(",")} & WITHIN_A_HOST.get(kind, set()))), None)
    return found
