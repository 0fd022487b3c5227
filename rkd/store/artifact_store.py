"""The stage store: a stage's output lies in a folder named by the digest of everything that decides its content.

In: a stage's name, its fingerprint (configuration and the digests of its inputs) and a function that fills a folder.
Out: an `Artifact`, made now or found from an earlier run. Rows with the same teacher thus share its responses.
A folder under its final name is complete: it is filled under another name, its manifest is written last, and one rename
puts it in place. The partial results of an interrupted stage are kept apart; its next attempt continues from them.
"""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rkd.distributed import leader, leader_lives
from rkd.errors import ArtifactError
from rkd.io import checksum
from rkd.store.fingerprint import FORMAT_VERSION, as_fingerprint, fingerprint_digest
from rkd.store.partial_results import PartialResults
from rkd.store.provenance import code_revision, package_versions

MANIFEST = "manifest.json"
ARTIFACTS_FILE = "artifacts.json"  # in a job's folder; holds the labels of the artifacts that the job uses
DIGEST = "[0-9a-f]" * 16  # a pattern of folder names
SECONDS_BETWEEN_LOOKS = 0.05  # between two checks of a process that waits for its leader

Make = Callable[[Path, PartialResults], object]
"""Fills an empty folder; after an interruption its next attempt finds what it saved in the partial results."""


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A complete folder, the digest of its fingerprint, and its manifest (fingerprint, files, seconds, tokens,
    revision, …)."""

    folder: Path
    digest: str
    manifest: dict[str, Any]

    @property
    def label(self) -> str:
        """Its name in a store: its stage's name and its digest."""
        return label_of(self.folder)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file["size"] for file in self.manifest["files"].values())

    def fingerprint(self) -> dict[str, str]:
        """Its part in the fingerprint of a later stage: its digest, not its path."""
        return {"name": self.manifest["name"], "digest": self.digest}

    def verify(self) -> None:
        """Compare the checksum of every file.

        Raises:
            ArtifactError: a file is missing, truncated, altered or not in the manifest.
        """
        _check_sizes(self.folder, self.manifest["files"])
        for name, expected in self.manifest["files"].items():
            if checksum(self.folder / name) != expected["sha256"]:
                raise _damaged(self.folder, f"{name} was altered: its SHA-256 is not the manifest's")
        if unknown := sorted(set(_file_names(self.folder)) - set(self.manifest["files"]) - {MANIFEST}):
            raise _damaged(self.folder, f"{unknown[0]} is not in the manifest")


class Store:
    """Artifacts under `root/<stage name>/<digest>`, each made once, even if several processes ask for it.

    Args:
        say: gets a line when this process has to wait for another, or continues where an earlier one ended.
    """

    def __init__(self, root: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.root, self.say = Path(root), say

    def folder_of(self, name: str, fingerprint: Mapping[str, Any]) -> Path:
        """Where the artifact of this fingerprint lies, or would lie.

        Raises:
            ValueError: the name is no folder name.
            TypeError: the fingerprint holds a value that has no JSON form; the message names its key.
        """
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"name={name!r}: an artifact's name is one folder name of letters, digits, '_', '-', '.'.")
        return self.root / name / fingerprint_digest(name, fingerprint)

    def get_or_make(self, name: str, fingerprint: Mapping[str, Any], make: Make) -> Artifact:
        """The artifact of this fingerprint; `make(folder, partial)` fills an empty folder if there is none yet.

        Args:
            name: the stage's name, one folder level (`teacher`, `sft`).
            fingerprint: everything that decides the content, in values that `as_fingerprint` takes.
            make: writes files into the given folder. If it raises an error, the error reaches the caller, and only the
                partial results are kept.

        Raises:
            ValueError, TypeError: as `folder_of`.
            ArtifactError: the artifact is there but damaged, or its folder cannot be written.
        """
        folder = self.folder_of(name, fingerprint)
        if folder.exists() and not os.access(folder.parent, os.W_OK):
            return _whole(folder)  # the store is read-only
        with _explained_storage_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _lock(folder, self.say):  # also to look: no process removes it meanwhile
                partial = PartialResults(partial_folder(folder))
                if folder.exists():
                    partial.remove()  # left by a process that was killed before it removed them
                    return _whole(folder)
                _remove_working_folders(folder)
                if partial.folder.exists():
                    self.say(f"{name}: going on where an earlier job ended, {partial.seconds():.0f} s were kept.")
                _make(name, as_fingerprint(fingerprint), folder, make, partial)
        return _whole(folder)

    def follow(self, name: str, fingerprint: Mapping[str, Any], make: Make | None) -> Artifact:
        """The artifact of this fingerprint, made by the leader that this process follows (`rkd.distributed`).

        Args:
            make: run by this process once the leader has begun; None only waits. It gets a temporary folder of its own
                and the leader's partial results.

        Raises:
            SystemExit: the leader is gone.
        """
        folder = self.folder_of(name, fingerprint)
        while not folder.exists():
            if not leader_lives():
                raise SystemExit(f"The process that makes {folder} is gone.")
            if make is not None and _working_folder(folder, leader()).exists():
                with tempfile.TemporaryDirectory() as own:
                    make(Path(own), PartialResults(partial_folder(folder)))
                make = None
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return _whole(folder)

    def folders(self) -> list[Path]:
        """Folders of all artifacts, damaged ones too, sorted by name and digest; other folders are ignored."""
        return sorted(path for path in self.root.glob(f"[!.]*/{DIGEST}") if path.is_dir())

    def unfinished(self) -> list[Path]:
        """The final folders of artifacts that are being made, or whose making was interrupted."""
        left = (*self.root.glob(f"[!.]*/.{DIGEST}.progress"), *self.root.glob(f"[!.]*/.{DIGEST}.making-*"))
        folders = {path.with_name(path.name.split(".")[1]) for path in left}
        return sorted(folder for folder in folders if not folder.exists())

    def remove(self, folder: Path, is_needed: Callable[[], bool] = lambda: False) -> bool:
        """Remove one artifact and the files of unfinished attempts; returns whether it was removed.

        It stays if a process is making it now, or if `is_needed()`, which is called while the artifact is locked.
        """
        with _explained_storage_errors(folder), contextlib.ExitStack() as held:
            try:
                held.enter_context(_lock(folder, wait=False))
            except Timeout:
                return False
            if is_needed():
                return False
            if folder.exists():
                # Renamed first: a folder that is half removed must not stand under a final name.
                os.rename(folder, _working_folder(folder))
            _remove_working_folders(folder)
            PartialResults(partial_folder(folder)).remove()
        return True


def open_artifact(folder: Path) -> Artifact:
    """Read a finished artifact and compare the sizes of its files (`Artifact.verify` compares their content).

    Raises:
        ArtifactError: the manifest is missing or cannot be read, or a file is missing or has another size.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        _check_sizes(folder, manifest["files"])
    except FileNotFoundError as error:
        raise _damaged(folder, f"{MANIFEST} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error!r})") from error
    return Artifact(folder=folder, digest=folder.name, manifest=manifest)


def _whole(folder: Path) -> Artifact:
    """The artifact in a folder, after every checksum was compared: later reads find unaltered files."""
    artifact = open_artifact(folder)
    artifact.verify()
    return artifact


def label_of(folder: Path) -> str:
    """An artifact's stage and digest, as `sft/0123456789abcdef`."""
    return f"{folder.parent.name}/{folder.name}"


def partial_folder(folder: Path) -> Path:
    """Where the partial results of an artifact lie until it is finished."""
    return folder.with_name(f".{folder.name}.progress")


def _make(name: str, fingerprint: dict[str, Any], folder: Path, make: Make, partial: PartialResults) -> None:
    working = _working_folder(folder)
    working.mkdir()
    try:
        make(working, partial)
        if (working / MANIFEST).exists():
            raise ArtifactError(f"{name}: make() wrote {MANIFEST}, the store's own file; give it another name.")
        content = {
            "name": name,
            "digest": folder.name,
            "format_version": FORMAT_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(partial.seconds(), 3),
            "attempts": partial.attempts,
            "tokens": partial.tokens,
            "revision": code_revision(),
            "versions": package_versions(),
            "files": {
                file: {"size": (working / file).stat().st_size, "sha256": checksum(working / file)}
                for file in _file_names(working)
            },
            "fingerprint": fingerprint,
        }
        with (working / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.rename(working, folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    partial.remove()


def _working_folder(folder: Path, process: int | None = None) -> Path:
    return folder.parent / f".{folder.name}.making-{process or os.getpid()}"


def _remove_working_folders(folder: Path) -> None:
    # The process that made them is dead: otherwise it would hold the lock, which this process holds.
    for leftover in folder.parent.glob(f".{folder.name}.making-*"):
        shutil.rmtree(leftover)


@contextlib.contextmanager
def _lock(folder: Path, say: Callable[[str], None] = lambda _: None, *, wait: bool = True) -> Iterator[None]:
    """Hold the artifact's lock; the system frees it when its process dies."""
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        say(f"Waiting for another process that is making {folder}.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _explained_storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = Path(str(error.filename or os.devnull))
        is_ours = place.is_relative_to(folder.parent) or folder.is_relative_to(place)
        if is_ours and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
            raise ArtifactError(
                f"{folder} cannot be written ({error.strerror}). "
                "Give this user write access to it, or set `artifacts.root` to a folder that can be written."
            ) from error
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _disk_full(folder, error) from error
        raise
    except Exception as error:
        # safetensors and torch report a full disk by their own exceptions, which hold only the system's message.
        if os.strerror(errno.ENOSPC) in str(error) and not isinstance(error, ArtifactError):
            raise _disk_full(folder, error) from error
        raise


def _disk_full(folder: Path, error: Exception) -> ArtifactError:
    root = folder.parent.parent
    return ArtifactError(
        f"The disk was full while making {folder} ({error}). Free space (`python -m rkd artifacts list --root {root}` "
        f"shows what lies there, `gc` removes what no job needs), or set `artifacts.root` to a larger disk. What the "
        "stage had saved until then is kept, and the next run goes on from there."
    )


def _damaged(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{folder} is damaged: {what}. Remove it with `python -m rkd artifacts verify --root {folder.parent.parent} "
        "--repair`, and the next run makes it again; or put the file back from a copy."
    )


def _check_sizes(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"{name} is missing")
        if (size := path.stat().st_size) != expected["size"]:
            raise _damaged(folder, f"{name} has {size} bytes where the manifest says {expected['size']}")


def _file_names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
