"""Sweeps: `python run.py -m ...` enters, jobs leave in an order that lets them share stages, each job once.

A table's sweep (`sweeps/NAME.yaml`) lists products of choices, and their union is run. A value from the command line
replaces a product's own choice. Equal jobs run once, and finished jobs do not run again. A failed or impossible job
does not stop the others. Hydra finds the sweeper through `hydra_plugins/`.
"""

import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig

from rkd.config import REFUSALS, plain_values
from rkd.errors import JobError, UserError
from rkd.jobs.search import Search

# Groups whose choices decide the result of a stage, in the order of the stages. Jobs with equal choices in the first
# entry share the teacher's responses, in the first two the SFT student, in all three the reward model.
SHARED = (
    ("dataset", "teacher", "teacher_samples", "labels", "sampling_seed"),
    ("student", "sft", "seed"),
    ("student_samples", "pairs", "reward_model", "dpo"),
)
TRAINED = ("sft", "dpo", "reward_model", "rl")
STAGE_VALUE = re.compile(rf"\+{{0,2}}({'|'.join(TRAINED)})[./]")
NOT_CHOSEN = ("sweeps", "artifacts.root", "output_root", "table_root")  # paths and sweeps are not choices of a job
PART = re.compile(r"[./]")  # separators of keys and of a group's folders
PLAIN = re.compile(r"[\w./+-]+")
OWN_GROUP = re.compile(r"(?!hydra/)[\w/]+")  # neither Hydra's groups nor a group with another package (`@`)


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its overrides, its folder and its choices.

    An impossible job has no folder, but a reason.
    """

    overrides: tuple[str, ...]
    folder: Path | None
    choices: Mapping[str, Any]
    is_finished: bool = False
    refusal: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A named sweep, or without a name the product of the command line's lists."""

    name: str | None
    table: Mapping[str, Any] | None
    products: Sequence[Mapping[str, Any]]


class UnionSweeper(Sweeper):
    """Unions of products, each job once.

    Args:
        products: mappings from a key to a value or a list of values.
        sweeps: further sweeps that belong to it, by name.
        search: a study whose trials are run instead of products.
        max_batch_size: largest number of jobs that the launcher gets at once, for a launcher that starts all of them
            together; None gives it all jobs.
    """

    # `setup` sets these before the first use.
    config: DictConfig
    context: HydraContext
    launcher: Launcher

    def __init__(
        self,
        products: Sequence[Mapping[str, Any]] = (),
        sweeps: Sequence[str] = (),
        search: Search | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.products, self.sweeps, self.search, self.max_batch_size = products, sweeps, search, max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's `Sweeper`."""
        self.config, self.context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Plan all jobs, write the manifests of their tables, and run the unfinished jobs.

        Raises:
            JobError: a job failed or is impossible; the others ran.
        """
        if self.search is not None:
            return self.search.run(arguments, self.config, self.context.config_loader, self.launcher)
        given = OverridesParser.create(config_loader=self.context.config_loader).parse_overrides(arguments)
        jobs: dict[Any, Job] = {}
        for sweep in list(self._sweeps(given)):  # a refused sweep raises before any file is written
            own = self._jobs(sweep, given)
            if sweep.name is not None and sweep.table is not None:
                self._write_manifest(sweep.name, sweep.table, own)
            for job in own:
                jobs.setdefault(job.folder or job.overrides, job)
        refused = Counter(job.refusal for job in jobs.values() if job.refusal is not None)
        for reason, count in refused.items():
            print(f"{count} of {len(jobs)} jobs cannot be run: {reason}", file=sys.stderr)
        missing = [job for job in jobs.values() if job.refusal is None and not job.is_finished]
        finished = sum(job.is_finished for job in jobs.values())
        print(f"{len(jobs)} jobs, {finished} of them finished before.", flush=True)
        returned = self._launch(missing)
        failed = [one for one in zip(missing, returned, strict=True) if one[1].status is not JobStatus.COMPLETED]
        for job, one in failed:  # where a cluster runs them, their own messages stand in its logs
            reason = str(one._return_value).strip() or type(one._return_value).__name__
            print(f"failed: {' '.join(job.overrides)}: {reason}", file=sys.stderr)
        if failed or refused:
            raise JobError(f"Of {len(jobs)} jobs {len(failed)} failed and {refused.total()} could not be run.")
        return returned

    def _write_manifest(self, name: str, table: Mapping[str, Any], jobs: Sequence[Job]) -> None:
        """Write a table's manifest; if all its jobs are impossible, write none."""
        from rkd.reporting.paper_settings import notes
        from rkd.reporting.table_files import write_manifest

        choices = {str(job.folder): job.choices for job in jobs if job.folder is not None}
        if not choices:
            return
        described = {**table, "notes": notes(name, list(choices.values()))}
        try:
            print(f"{write_manifest(Path(self.config.table_root), described, choices)}: {len(jobs)} jobs")
        except ValueError as error:
            raise HydraException(str(error)) from error

    def _launch(self, jobs: Sequence[Job]) -> list[JobReturn]:
        """Run the jobs, batch by batch.

        Raises:
            JobError: the launcher gave up, for instance because one of its processes was killed.
        """
        size = self.max_batch_size or max(len(jobs), 1)
        returned: list[JobReturn] = []
        for first in range(0, len(jobs), size):
            batch = [job.overrides for job in jobs[first : first + size]]
            try:
                returned += self.launcher.launch(batch, initial_job_idx=first)
            except (*REFUSALS, UserError, ValueError, OSError):
                raise
            except Exception as error:  # each library has its own; those of the jobs are in what they returned
                told = f"The launcher gave up before its jobs were finished: {type(error).__name__}: {error}"
                print(told.strip(), file=sys.stderr)
                raise JobError(told) from error
        return returned

    def _sweeps(self, given: Sequence[Override]) -> Iterator[Sweep]:
        """The sweeps to run: the named ones and those that belong to them, each once, in order."""
        named = [value for one in given if one.key_or_group == "sweeps" for value in _values(one)]
        if not named:
            yield Sweep(None, None, self.products or [{}])
        done: set[str] = set()
        while named:
            name = named.pop(0)
            if name not in done:
                done.add(name)
                config = self._config_of(name, given)
                sweeper = instantiate(config.hydra.sweeper, _convert_="all")
                if sweeper.search is not None:
                    raise HydraException(f"sweeps={name} is a search: run it alone, `python run.py -m sweeps={name}`.")
                named = [*sweeper.sweeps, *named]
                if sweeper.products:
                    table = plain_values(config.table) if config.get("table") else None
                    yield Sweep(name, table, sweeper.products)

    def _config_of(self, name: str, given: Sequence[Override]) -> DictConfig:
        """The config with this sweep and the other settings of the command line, except lists."""
        others = (one for one in given if one.key_or_group != "sweeps" and not one.is_sweep_override())
        plain = [line for one in others if (line := one.input_line) is not None]
        return self.context.config_loader.load_configuration(
            config_name=self.config.hydra.job.config_name,
            overrides=[*self.config.hydra.overrides.hydra, f"sweeps={name}", *plain],
            run_mode=RunMode.MULTIRUN,
        )

    def _jobs(self, sweep: Sweep, given: Sequence[Override]) -> list[Job]:
        """The distinct jobs of a sweep, in running order."""
        chosen = [[f"sweeps={sweep.name}"]] if sweep.name else []
        on_command_line = {one.get_key_element(): list(_values(one)) for one in given if one.key_or_group != "sweeps"}
        lines: dict[tuple[str, ...], None] = {}
        for product in sweep.products:
            axes = {key: _listed(value) for key, value in product.items()} | on_command_line
            settings = [[f"{key}={value}" for value in values] for key, values in axes.items()]
            lines |= dict.fromkeys(itertools.product(*chosen, *settings))
        jobs = {job.folder or job.overrides: job for job in map(self._planned, lines)}
        return shared_first(list(jobs.values()))

    def _planned(self, overrides: tuple[str, ...]) -> Job:
        from rkd.jobs.job import place_of

        overrides = self._without_left_out_stages(overrides)
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        options = {key: value for key, value in config.hydra.runtime.choices.items() if OWN_GROUP.fullmatch(key)}
        set_values = {one.get_key_element().lstrip("+"): one.value() for one in parsed}
        choices = {**options, "seed": config.seed, **set_values}
        for name in NOT_CHOSEN:
            choices.pop(name, None)
        try:
            place = place_of(config)
        except JobError as error:
            return Job(overrides, None, choices, refusal=str(error))
        return Job(overrides, place.folder, choices, place.is_finished)

    def _without_left_out_stages(self, overrides: tuple[str, ...]) -> tuple[str, ...]:
        """The overrides without those of skipped stages; for instance, ICL does not use `sft.epochs=2`."""
        of_stages = {one: match[1] for one in overrides if (match := STAGE_VALUE.match(one))}
        if not of_stages:
            return overrides
        others = [one for one in overrides if one not in of_stages]
        choices = self.context.config_loader.load_sweep_config(self.config, others).hydra.runtime.choices
        return tuple(one for one in overrides if one not in of_stages or choices.get(of_stages[one]) != "none")


def shared_first(jobs: Sequence[Job]) -> list[Job]:
    """Jobs in an order in which parallel workers seldom wait for a stage that another one is making.

    The order is: one job for each teacher's responses, one for each SFT student, one for each reward model, then the
    others. Of several candidates the job with the fewest training stages is taken.
    """
    seen: set[tuple[Any, ...]] = set()
    depths = {}
    for job in sorted(jobs, key=lambda job: sum(job.choices.get(stage) != "none" for stage in TRAINED)):
        prefixes = _prefixes(job.choices)
        depths[job.overrides] = next((d for d, prefix in enumerate(prefixes) if prefix not in seen), len(prefixes))
        seen.update(prefixes)
    return sorted(jobs, key=lambda job: depths[job.overrides])


def _prefixes(choices: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The choices that a job shares with others of the same teacher, SFT student and reward model, in turn."""
    prefix: tuple[Any, ...] = ()
    prefixes = []
    for groups in SHARED:
        prefix += tuple((key, str(value)) for key, value in sorted(choices.items()) if PART.split(key)[0] in groups)
        prefixes.append(prefix)
    return prefixes


def _values(override: Override) -> Iterator[str]:
    """The values that an override lists, in command-line syntax."""
    if not override.is_sweep_override():
        yield override.get_value_element_as_str()
    elif override.is_discrete_sweep():
        yield from override.sweep_string_iterator()
    else:
        raise HydraException(
            f"{override.input_line}: list the values, as in `seed=0,1,2`; intervals are for sweepers that search."
        )


def _listed(value: Any) -> list[str]:
    return [_written(one) for one in (value if isinstance(value, list | tuple) else [value])]


def _written(value: Any) -> str:
    """A value in the syntax of an override."""
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
