"""The stage store: what a stage makes lies in a folder named by the digest of everything that decides its content.

In: a stage's name, its recipe (configuration and the digests of its inputs) and a function that fills a folder.
Out: an `Artifact`, made now or found from an earlier run. Rows with the same teacher thus share its responses.
A folder under its final name is complete: made beside, its manifest written last, put in place by one rename.

    python -m rkd.artifacts list                 what lies in the store
    python -m rkd.artifacts verify [--repair]    compare every checksum; --repair removes what is damaged
"""

import argparse
import contextlib
import dataclasses
import enum
import errno
import functools
import hashlib
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

from filelock import FileLock, Timeout

FORMAT_VERSION = 1  # part of every digest: raising it makes every stage anew
MANIFEST = "manifest.json"
PACKAGES = ("torch", "transformers", "pytorch-lightning")

log = logging.getLogger(__name__)


class ArtifactError(RuntimeError):
    """An artifact is damaged, or its folder cannot be written; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A complete folder, the digest of its recipe, and its manifest (recipe, files, seconds, versions, revision)."""

    folder: Path
    digest: str
    manifest: dict[str, Any]

    def recipe(self) -> dict[str, str]:
        """What an artifact is in the recipe of a later stage: its digest, never its place on this disk."""
        return {"name": self.manifest["name"], "digest": self.digest}

    def verify(self) -> None:
        """Compare the checksum of every file.

        Raises:
            ArtifactError: a file is missing, truncated, altered or not in the manifest.
        """
        _check_sizes(self.folder, self.manifest["files"])
        for name, expected in self.manifest["files"].items():
            if _sha256(self.folder / name) != expected["sha256"]:
                raise _damaged(self.folder, f"{name} was altered: its SHA-256 is not the manifest's")
        if unknown := sorted(set(_file_names(self.folder)) - set(self.manifest["files"]) - {MANIFEST}):
            raise _damaged(self.folder, f"{unknown[0]} is not in the manifest")


class Store:
    """Artifacts under `root/<stage name>/<digest>`, each made once, whatever number of processes ask for it."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def get_or_make(self, name: str, recipe: Mapping[str, Any], make: Callable[[Path], None]) -> Artifact:
        """The artifact of this recipe; `make(folder)` fills an empty folder if there is none yet.

        Args:
            name: the stage's name, one folder level (`teacher`, `sft`).
            recipe: everything that decides the content, in values that `as_recipe` takes.
            make: writes files into the folder given; whatever it raises reaches the caller, and nothing is kept.

        Raises:
            TypeError: the recipe holds a value that has no JSON form; the message names its key.
            ArtifactError: the artifact is there but damaged, or its folder cannot be written.
        """
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"name={name!r}: an artifact's name is one folder name of letters, digits, '_', '-', '.'.")
        plain = as_recipe(recipe)
        digest = recipe_digest(name, plain)
        folder = self.root / name / digest
        if folder.exists():
            return open_artifact(folder)
        with _explained_storage_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _lock(folder):
                if folder.exists():  # another process made it while this one waited
                    return open_artifact(folder)
                _remove_leftovers(folder)
                _make(name, plain, folder, make)
        return open_artifact(folder)

    def folders(self) -> list[Path]:
        """Folders of all artifacts, damaged ones too, by name and digest."""
        return sorted(path for path in self.root.glob("[!.]*/[!.]*") if path.is_dir())

    def remove(self, folder: Path) -> None:
        """Remove one artifact, under its lock; the next run that needs it makes it again."""
        with _explained_storage_errors(folder), _lock(folder):
            # Renamed first: a folder that is half removed must not stand under a final name.
            os.rename(folder, _working_folder(folder))
            _remove_leftovers(folder)


def as_recipe(value: Any, where: str = "recipe") -> Any:
    """Plain JSON for a value, by explicit rules.

    A frozen dataclass becomes its fields, an object with a method `recipe()` what that returns, each with the class's
    qualified name under `_target_`; a module's function becomes its dotted name, tuples become lists, paths text, enums
    their value. `where` is the key path so far.

    Raises:
        TypeError: any other type, a key that is no text, or a number that is not finite; the message names the key.
    """
    if isinstance(value, enum.Enum):
        return as_recipe(value.value, where)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}={value} has no JSON form: a recipe holds finite numbers only.")
        return value
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, list | tuple):
        return [as_recipe(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        if unnamed := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{where} has the key {unnamed[0]!r}: keys of a recipe are text.")
        return {str(key): as_recipe(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, type):
        raise TypeError(f"{where} is the class {_qualified_name(value)}: a recipe takes objects, or the name as text.")
    if isinstance(value, types.FunctionType):
        if "<" in value.__qualname__:
            raise TypeError(
                f"{where} is {value.__qualname__}: a recipe names functions, so give one defined in a module."
            )
        return f"{value.__module__}.{value.__qualname__}"
    if callable(getattr(value, "recipe", None)):
        return {"_target_": _qualified_name(type(value))} | as_recipe(value.recipe(), where)
    if dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"_target_": _qualified_name(type(value))} | as_recipe(fields, where)
    raise TypeError(
        f"{where} is a {_qualified_name(type(value))}, which has no JSON form. Make it a frozen dataclass, or give it "
        "a method `recipe()` that returns a mapping of what decides its results."
    )


def recipe_digest(name: str, recipe: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of {name, recipe, format version} as canonical JSON."""
    content = {"name": name, "recipe": as_recipe(recipe), "format_version": FORMAT_VERSION}
    return hashlib.sha256(_canonical_json(content).encode()).hexdigest()[:16]


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


def code_revision() -> str | None:
    """The commit of this code, with `-dirty` where files differ from it; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def digest_of_files(paths: Iterable[Path]) -> str:
    """A digest of the files' names and contents, in the order of their paths: 16 hexadecimal digits.

    Many recipes name the same files, and they are large: each is read once while size and time of change stay.
    """
    stats = [(path, path.stat()) for path in sorted(path.absolute() for path in paths)]
    return _digest_of_unchanged_files(*((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@functools.cache
def _digest_of_unchanged_files(*files: tuple[Path, int, int]) -> str:
    sha = hashlib.sha256()
    for path, _, _ in files:
        sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def _make(name: str, recipe: dict[str, Any], folder: Path, make: Callable[[Path], None]) -> None:
    working = _working_folder(folder)
    working.mkdir()
    try:
        start = time.monotonic()
        make(working)
        seconds = time.monotonic() - start
        if (working / MANIFEST).exists():
            raise ArtifactError(f"{name}: make() wrote {MANIFEST}, the store's own file; give it another name.")
        content = {
            "name": name,
            "digest": folder.name,
            "format_version": FORMAT_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "revision": code_revision(),
            "versions": package_versions(),
            "files": {
                file: {"size": (working / file).stat().st_size, "sha256": _sha256(working / file)}
                for file in _file_names(working)
            },
            "recipe": recipe,
        }
        with (working / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.rename(working, folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _working_folder(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.making-{os.getpid()}"


def _remove_leftovers(folder: Path) -> None:
    # Whoever made them is dead: it would hold the lock that we hold.
    for leftover in folder.parent.glob(f".{folder.name}.making-*"):
        shutil.rmtree(leftover)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the artifact's lock; the system frees it when its process dies."""
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("Waiting for another process that is making %s.", folder)
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
        # safetensors reports a full disk by an exception of its own that carries the system's words only.
        if os.strerror(errno.ENOSPC) in str(error) and not isinstance(error, ArtifactError):
            raise _disk_full(folder, error) from error
        raise


def _disk_full(folder: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"The disk was full while making {folder} ({error}); nothing was kept. Free space (`python -m rkd.artifacts "
        f"list --root {folder.parent.parent}` shows what lies there), or set `artifacts.root` to a larger disk."
    )


def _damaged(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{folder} is damaged: {what}. Remove it with `python -m rkd.artifacts verify --root {folder.parent.parent} "
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _qualified_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _list(store: Store) -> int:
    for folder in store.folders():
        label = folder.relative_to(store.root).as_posix()
        try:
            manifest = open_artifact(folder).manifest
        except ArtifactError as error:
            print(f"{label:40} {error}")
            continue
        megabytes = sum(file["size"] for file in manifest["files"].values()) / 1e6
        print(f"{label:40} {megabytes:10.1f} MB {manifest['seconds']:10.1f} s   {manifest['created']}")
    return 0


def _verify(store: Store, *, repair: bool) -> int:
    damaged = 0
    folders = store.folders()
    for folder in folders:
        try:
            open_artifact(folder).verify()
        except ArtifactError as error:
            damaged += 1
            print(error)
            if repair:
                store.remove(folder)
                print(f"Removed {folder}; the next run makes it again.")
    print(f"{len(folders) - damaged} of {len(folders)} artifacts in {store.root} are whole.")
    return int(damaged > 0 and not repair)


def main() -> int:
    """The command: `list` or `verify` the artifacts under `--root`."""
    parser = argparse.ArgumentParser(prog="python -m rkd.artifacts", description="Look after the stage store.")
    parser.add_argument("command", choices=["list", "verify"])
    parser.add_argument("--root", type=Path, default=Path("artifacts"), help="the store (the config's artifacts.root)")
    parser.add_argument("--repair", action="store_true", help="verify: remove damaged artifacts")
    arguments = parser.parse_args()
    if not arguments.root.is_dir():
        parser.error(f"--root {arguments.root} is no folder; give the config's artifacts.root.")
    store = Store(arguments.root)
    return _list(store) if arguments.command == "list" else _verify(store, repair=arguments.repair)


if __name__ == "__main__":
    sys.exit(main())
