"""Small changes to the code, one at a time, each of which a test has to notice.

    python tests/mutants.py                              # all of tests/mutants.yaml; the survivors at the end
    python tests/mutants.py --only losses --only GAE     # those whose file or description contains one of these

Each change is made in a copy of the project. The tests that belong to the changed file run in a process of their own,
forked from one that has imported the libraries and nothing of `rkd`. The exit status is 1 if a change survives.
"""

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".yaml")
COPIED = ("rkd", "hydra_plugins", "tests", "conf", "experiments", "sweeps", "pyproject.toml", "run.py")
LIBRARIES = ("hydra", "matplotlib.pyplot", "pandas", "pytest", "pytorch_lightning", "safetensors.torch", "scipy.stats")
OF_TRANSFORMERS = ("AutoModelForCausalLM", "AutoTokenizer", "LlamaForCausalLM", "PreTrainedTokenizerFast")
LIMIT_CPU_SECONDS, LIMIT_SECONDS = 120, 1800  # of one run of tests; a change can make a loop endless


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change.

    Args:
        file: its path in the repository.
        breaks: what is wrong with the changed code.
        before, after: the changed text; `before` occurs once in the file.
        tests: files or tests to run, in this order.
        equivalent: why no test can notice the change; None if one has to.
    """

    file: str
    breaks: str
    before: str
    after: str
    tests: tuple[str, ...]
    equivalent: str | None = None

    def mutated(self, text: str) -> str:
        """`text`, that of the file, with the change.

        Raises:
            ValueError: `before` does not occur exactly once, or the change is none.
        """
        if (found := text.count(self.before)) != 1:
            raise ValueError(f"{self.file}: {self.before!r} occurs {found} times, not once. Correct {LIST.name}.")
        if self.before == self.after:
            raise ValueError(f"{self.file}: {self.before!r} is changed to itself. Correct {LIST.name}.")
        return text.replace(self.before, self.after)


def mutants() -> list[Mutant]:
    """The changes of tests/mutants.yaml, in its order; `tests` is by default the test file that mirrors the file."""
    listed = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return [
        Mutant(file=file, **{"tests": _mirror(file)} | own | ({"tests": tuple(own["tests"])} if "tests" in own else {}))
        for file, of_file in listed.items()
        for own in of_file
    ]


def _mirror(file: str) -> tuple[str, ...]:
    path = Path("tests", *Path(file).parts[1:])
    return (str(path.with_name(f"test_{path.name}")),)


def run_tests(tree: Path, tests: Sequence[str], seen: Path) -> int:
    """Run tests of the project in `tree` in this process; what they print goes to `seen`. Returns pytest's status."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT_CPU_SECONDS)  # a busy machine must not look like an endless loop
    signal.alarm(LIMIT_SECONDS)
    os.chdir(tree)
    with seen.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.path[0] = str(tree)
    sys.dont_write_bytecode = True  # a cached file of a change could be taken for the next one's
    import pytest

    import rkd

    assert Path(rkd.__file__).is_relative_to(tree), f"{rkd.__file__} is not the copy in {tree}"
    return int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]))


@dataclass(frozen=True)
class Run:
    """Tests to run on a tree that `prepared` has changed; None leaves it unchanged."""

    tests: Sequence[str]
    mutant: Mutant | None = None

    @contextlib.contextmanager
    def prepared(self, tree: Path) -> Iterator[None]:
        """The tree with the change, for as long as the tests run."""
        if self.mutant is None:
            yield
            return
        path = tree / self.mutant.file
        text = path.read_text(encoding="utf-8")
        path.write_text(self.mutant.mutated(text), encoding="utf-8")
        yield
        path.write_text(text, encoding="utf-8")


def outcomes(runs: Sequence[Run], trees: Sequence[Path]) -> Iterator[tuple[Run, int, float, str]]:
    """Make each run in a process of its own, as many at once as there are trees.

    Yields:
        The run, its status (0 if the tests passed, negative if a signal ended them), its seconds, and what it printed.
    """
    waiting, free = list(reversed(runs)), list(trees)
    at_work: dict[int, tuple[Run, Path, float, contextlib.ExitStack]] = {}
    while waiting or at_work:
        while waiting and free:
            run, tree, stack = waiting.pop(), free.pop(), contextlib.ExitStack()
            stack.enter_context(run.prepared(tree))
            process = os.fork()
            if not process:
                os._exit(_status(lambda run=run, tree=tree: run_tests(tree, run.tests, tree / "seen.txt")))
            at_work[process] = (run, tree, time.monotonic(), stack)
        process, status = os.wait()
        run, tree, started, stack = at_work.pop(process)
        stack.close()
        free.append(tree)
        printed = (tree / "seen.txt").read_text(errors="replace")
        yield run, os.waitstatus_to_exitcode(status), time.monotonic() - started, printed


def _status(run: Callable[[], int]) -> int:
    try:
        return run()
    except BaseException:
        import traceback

        traceback.print_exc()
        return 70


def _copies(folder: Path, count: int) -> list[Path]:
    trees = [folder / str(place) for place in range(count)]
    for tree in trees:
        tree.mkdir()
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
            else:
                shutil.copy2(source, tree / name)
    return trees


def _import_libraries() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    os.environ.setdefault("RKD_DATA", str(REPOSITORY.parent / "shared" / "data"))
    for name in LIBRARIES:
        importlib.import_module(name)
    transformers = importlib.import_module("transformers")
    for name in OF_TRANSFORMERS:
        getattr(transformers, name)


def check(chosen: Sequence[Mutant], jobs: int) -> dict[str, Any]:
    """Try the changes; print each outcome and return a summary.

    Raises:
        SystemExit: tests fail without any change.
    """
    started = time.monotonic()
    for mutant in chosen:
        compile(mutant.mutated((REPOSITORY / mutant.file).read_text(encoding="utf-8")), mutant.file, "exec")
    _import_libraries()
    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory() as name:
        trees = _copies(Path(name), jobs)
        seconds_of: dict[str, float] = {}
        files = sorted({test for mutant in chosen for test in mutant.tests})
        for run, status, seconds, printed in outcomes([Run([test]) for test in files], trees):
            if status:
                raise SystemExit(f"{printed}\n{run.tests[0]} fails without any change: mend that first.")
            seconds_of[run.tests[0]] = seconds
        # The longest first, so that the processes end together.
        in_order = sorted(chosen, key=lambda mutant: -sum(seconds_of[test] for test in mutant.tests))
        for run, status, seconds, _ in outcomes([Run(mutant.tests, mutant) for mutant in in_order], trees):
            mutant = run.mutant
            assert mutant is not None
            survivors += [] if status else [mutant]
            said = "killed" if status > 0 else "timeout" if status else "SURVIVES"
            print(f"{said:8} {seconds:5.1f} s  {mutant.file}: {mutant.breaks}", flush=True)
    unexplained = [mutant for mutant in survivors if mutant.equivalent is None]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "revision": _revision(),
        "mutants": len(chosen),
        "killed": len(chosen) - len(survivors),
        "survivors": [f"{mutant.file}: {mutant.breaks}" for mutant in unexplained],
        "equivalent": {f"{one.file}: {one.breaks}": one.equivalent for one in survivors if one.equivalent is not None},
        "jobs": jobs,
        "seconds": round(time.monotonic() - started),
    }


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="part of a file or description")
    parser.add_argument("--results", type=Path, metavar="FILE", help="where to write the summary, as JSON")
    arguments = parser.parse_args()
    chosen = [
        one for one in mutants()
        if not arguments.only or any(text in f"{one.file}: {one.breaks}" for text in arguments.only)
    ]  # fmt: skip
    if not chosen:
        parser.error(f"--only {' '.join(arguments.only)}: no change of {LIST.name} has this in its file or description")
    summary = check(chosen, arguments.jobs)
    written = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    print(written, end="")
    if arguments.results:
        arguments.results.write_text(written, encoding="utf-8")
    sys.exit(1 if summary["survivors"] else 0)


if __name__ == "__main__":
    main()
