"""Management of the stage store: a store and the folders of its jobs enter, a list or fewer files leave.

    python -m rkd artifacts list                    list the artifacts: size, seconds, and the jobs that use them
    python -m rkd artifacts show sft/DIGEST         show the inputs and settings of one artifact
    python -m rkd artifacts verify [--repair]       compare every checksum; --repair removes damaged artifacts
    python -m rkd artifacts gc [--dry-run]          remove the artifacts that no job under --outputs uses

A job records in `artifacts.json` which artifacts it uses, before it uses them. So running, failed and interrupted jobs
count as users too.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import yaml

from rkd.errors import ArtifactError, UsageError
from rkd.evaluation.results import RESULT_FILE
from rkd.store.artifact_store import ARTIFACTS_FILE, Store, label_of, open_artifact, partial_folder

Jobs = Mapping[str, Sequence[str]]
"""Maps an artifact's label to the names of the jobs that use it."""


def open_store(root: Path) -> Store:
    """The store in an existing folder.

    Raises:
        UsageError: the folder does not exist.
    """
    if not root.is_dir():
        raise UsageError(f"--root {root} is no folder; give the config's artifacts.root.")
    return Store(root)


def jobs_of(outputs: Path) -> dict[str, list[str]]:
    """The artifacts that the jobs with folders under `outputs` use; see `Jobs`.

    Raises:
        ValueError: a job's record of its artifacts is missing or unreadable.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for folder in sorted({path.parent for name in (ARTIFACTS_FILE, RESULT_FILE) for path in outputs.rglob(name)}):
        try:
            labels = json.loads((folder / ARTIFACTS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{folder} does not say which artifacts its job uses ({error}). Remove the folder and run the job "
                "again, which notes them and reuses what is stored; or remove the folder alone, if nobody needs it."
            ) from error
        for label in labels:
            found[label].append(folder.name)
    return found


def list_artifacts(store: Store, jobs: Jobs) -> None:
    """Print a line for each artifact and for each interrupted stage."""
    total, spent = 0, 0.0
    print(f"{'artifact':44} {'MB':>9} {'seconds':>9}   {'made':16}   used by")
    for folder in store.folders():
        try:
            artifact = open_artifact(folder)
        except ArtifactError as error:
            print(error)
            continue
        total += artifact.size
        spent += artifact.manifest["seconds"]
        seconds, made = artifact.manifest["seconds"], artifact.manifest["created"][:16].replace("T", " ")
        print(f"{artifact.label:44} {artifact.size / 1e6:9.1f} {seconds:9.1f}   {made:16}   {_users(folder, jobs)}")
    for folder in store.unfinished():
        size = _size(partial_folder(folder))
        total += size
        print(f"{label_of(folder):44} {size / 1e6:9.1f} {'unfinished':>9}   {'':15}   {_users(folder, jobs)}")
    print(f"{total / 1e6:.1f} MB in {store.root}, made in {spent / 3600:.2f} h, one stage after the other.")


def show(store: Store, label: str) -> None:
    """Print the inputs and settings of an artifact.

    Raises:
        ArtifactError: the artifact is damaged.
        UsageError: no artifact has this label.
    """
    folder = store.root / label
    if folder not in store.folders():
        raise UsageError(f"{store.root} holds no artifact {label!r}; `python -m rkd artifacts list` names them.")
    print(yaml.safe_dump(open_artifact(folder).manifest, sort_keys=False, allow_unicode=True, width=120), end="")


def verify(store: Store, *, repair: bool) -> int:
    """Compare all checksums; print damaged artifacts, or remove them with `repair`; return how many are left."""
    damaged = removed = 0
    folders = store.folders()
    for folder in folders:
        try:
            open_artifact(folder).verify()
        except ArtifactError as error:
            damaged += 1
            print(error)
            if repair and store.remove(folder):
                removed += 1
                print(f"Removed {folder}; the next run makes it again.")
    print(f"{len(folders) - damaged} of {len(folders)} artifacts in {store.root} are whole.")
    return damaged - removed


def collect_garbage(store: Store, outputs: Path, *, dry_run: bool) -> None:
    """Remove artifacts and unfinished stages that no job under `outputs` uses; keep those being made now.

    Raises:
        UsageError: there is no job, so everything would be removed.
        ValueError: a job's record of its artifacts is missing or unreadable.
    """
    if not outputs.is_dir():
        raise UsageError(f"--outputs {outputs} is no folder: without the jobs, every artifact would be removed.")
    jobs, freed = jobs_of(outputs), 0
    if not jobs:
        raise UsageError(
            f"{outputs} holds no job, so everything in {store.root} would be removed. Give the config's output_root "
            f"with --outputs, or remove {store.root} yourself."
        )
    for folder in sorted({*store.folders(), *store.unfinished()}):
        label = label_of(folder)
        if label in jobs:
            continue
        size = _size(folder) + _size(partial_folder(folder))
        # A job may have started in the meantime.
        if dry_run or store.remove(folder, is_needed=partial(_is_used, label, outputs)):
            freed += size
            print(f"{'would remove' if dry_run else 'removed'} {label}, {size / 1e6:.1f} MB")
        else:
            print(f"{label} is in use and stays")
    print(f"{freed / 1e6:.1f} MB {'would be ' if dry_run else ''}freed in {store.root}.")


def _is_used(label: str, outputs: Path) -> bool:
    return label in jobs_of(outputs)


def _users(folder: Path, jobs: Jobs) -> str:
    return ", ".join(jobs.get(label_of(folder), ["no job"]))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
