"""Jobs that are killed at random moments, again and again, and have to end as one that was left alone.

    python tests/interruptions.py --kills 200 --results FILE    # a long run; tells in which stages the kills struck

Every attempt is a process of its own, ended by SIGKILL. The job is that of the tiny world, its stages made longer, with
a checkpoint behind every batch and a shard for every few responses.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as a command, where pytest does not set it

from rkd.evaluation.results import read_result
from rkd.jobs.job import run_job
from rkd.store.artifact_store import MANIFEST, Store, open_artifact
from rkd.store.provenance import code_revision
from tests.support import tiny_world

LONGER = [
    "sft.epochs=6", "sft.learning_rate=1e-4", "sft.batch_size=4", "sft.validations_per_epoch=2",
    "reward_model.epochs=4", "reward_model.batch_size=4", "reward_model.pooling=last",
    "rl.rollouts.episodes=320", "rl.rollouts.queries_per_rollout=4", "rl.rollouts.responses_per_query=8",
    "rl.rollouts.max_response_tokens=16", "rl.rollouts_between_validations=2",
    "trainer.seconds_between_checkpoints=0", "artifacts.responses_per_shard=16",
    "rl/kl/controller=adaptive",
]  # fmt: skip


@dataclass
class Struck:
    """What became of the kills.

    Args:
        stages: how many struck while each stage was being made; "between stages" where none was.
        resumed: attempts that found the progress of a stage.
        unequal: files of finished artifacts that differ from those of the job that was left alone.
    """

    stages: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    unequal: list[str] = field(default_factory=list)


def kill_again_and_again(world: Path, folder: Path, kills: int, seed: int) -> Struck:
    """Kill jobs so many times, and let each finish once its stages were struck; what became of it.

    Raises:
        AssertionError: an attempt failed by itself, or something incomplete looked complete.
    """
    rng, struck = random.Random(seed), Struck()
    alone = attempt(world, folder / "whole")
    alone.join()
    assert alone.exitcode == 0, (folder / "whole" / "seen.txt").read_text()
    whole = contents(folder / "whole")
    seconds = durations(folder / "whole")
    job = 0
    while struck.stages.total() < kills:
        root = folder / f"killed{job}"
        job += 1
        for stage in seconds:
            if struck.stages.total() == kills or not strike(world, root, stage, seconds[stage], rng, struck):
                break
        last = attempt(world, root)
        last.join()
        assert last.exitcode == 0, (root / "seen.txt").read_text()
        struck.resumed += (root / "seen.txt").read_text().count("going on where an earlier job ended")
        ended = contents(root)
        assert set(ended) == set(whole)
        struck.unequal += [f"{root.name}: {name}" for name in whole if whole[name] != ended[name]]
        assert not Store(root / "artifacts").unfinished()
    return struck


def strike(world: Path, root: Path, stage: str, seconds: float, rng: random.Random, struck: Struck) -> bool:
    """Kill an attempt at some moment of a stage; False where the job ended before."""
    process = attempt(world, root)
    while process.is_alive() and not (is_made(root, stage) or in_the_making(root) == stage):
        time.sleep(0.002)
    time.sleep(rng.uniform(0, seconds))
    if not process.is_alive():
        assert process.exitcode == 0, (root / "seen.txt").read_text()
        return False
    process.kill()
    process.join()
    for folder in Store(root / "artifacts").folders():
        open_artifact(folder).verify()  # what looks complete is complete
    if results := list((root / "outputs").rglob("result.json")):
        assert read_result(results[0]).failure is None
        return False  # it had just ended
    struck.stages[in_the_making(root) or "between stages"] += 1
    return True


def attempt(world: Path, root: Path) -> multiprocessing.Process:
    """Start the job in a process of its own; what it prints is added to `seen.txt`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["rkd.jobs.job", "tests.support.tiny_world"]
    )  # a fork of what is imported starts at once
    process = context.Process(target=_run, args=(world, root))
    process.start()
    return process


def in_the_making(root: Path) -> str | None:
    """The stage that is being made, or was when its process died."""
    found = list((root / "artifacts").glob("*/.*.making-*"))
    return found[0].parent.name if found else None


def is_made(root: Path, stage: str) -> bool:
    """Whether an artifact of the stage is there."""
    return any((root / "artifacts" / stage).glob("[!.]*"))


def contents(root: Path) -> dict[str, str]:
    """The checksum of every stored file, what the result says besides times, and what else a job leaves."""
    store = Store(root / "artifacts")
    found = {}
    for folder in store.folders():
        artifact = open_artifact(folder)
        artifact.verify()
        found |= {f"{artifact.label}/{name}": file["sha256"] for name, file in artifact.manifest["files"].items()}
    (result,) = (root / "outputs").rglob("result.json")
    read = read_result(result)
    found |= {name: (result.parent / name).read_text() for name in ("splits.json", "table.md")}
    found["result"] = json.dumps([read.notes.counts, [str(model) for model in read.models]])
    return found


def durations(root: Path) -> dict[str, float]:
    """The seconds of each stage, in the order in which the first of it was made."""
    folders = sorted(Store(root / "artifacts").folders(), key=lambda folder: (folder / MANIFEST).stat().st_mtime_ns)
    seconds: dict[str, float] = {}
    for manifest in (open_artifact(folder).manifest for folder in folders):
        seconds[manifest["name"]] = seconds.get(manifest["name"], 0.0) + manifest["seconds"]
    return seconds


def _run(world: Path, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "seen.txt").open("a", buffering=1) as seen:
        os.dup2(seen.fileno(), sys.stdout.fileno())
        os.dup2(seen.fileno(), sys.stderr.fileno())
        run_job(tiny_world.composed(tiny_world.overrides(world, root, *LONGER, stages=[])))


def main() -> None:
    """The long run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, metavar="FILE", help="where to write the summary, as JSON")
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        struck = kill_again_and_again(tiny_world.make_world(folder / "world"), folder, arguments.kills, arguments.seed)
    unequal = struck.unequal or "none"
    print(f"{struck.stages.total()} kills, {struck.resumed} stages gone on with, unequal: {unequal}")
    for stage, count in struck.stages.most_common():
        print(f"{count:5} {stage}")
    summary = {
        "date": datetime.now(UTC).date().isoformat(), "revision": code_revision(), "seed": arguments.seed,
        "seconds": round(time.monotonic() - start), "kills": struck.stages.total(), "resumed": struck.resumed,
        "unequal": struck.unequal, "stages": dict(struck.stages.most_common()),
    }  # fmt: skip
    if arguments.results:
        arguments.results.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
