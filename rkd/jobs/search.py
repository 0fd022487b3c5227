"""Searches: a space of settings enters, a stored study and its best setting leave (`-m sweeps=search_rl`).

A trial is a job. Its objective is the validation accuracy of its row's model; no test set is used. Optuna chooses the
settings. The study lies in FOLDER/DIGEST; the digest is of the space and of the job's fixed settings. The same command
resumes the study, and a command with other settings has another study.

    study.journal   Optuna's journal: all trials; `optuna-dashboard` shows it
    best.txt        the best setting, as overrides: `python run.py $(cat best.txt)`
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from rkd.errors import JobError
from rkd.io import write_whole
from rkd.store.fingerprint import fingerprint_digest

if TYPE_CHECKING:
    from optuna import Study, Trial


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between `low` and `high`, uniform or, with `log`, log-uniform."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search for the best setting.

    Args:
        space: the searched settings, by key: the fields of a `Range`, or a list of choices. A key that the command line
            sets is not searched.
        trials: number of finished trials at which the study ends.
        folder: the folder of the studies.
        trials_at_once: number of trials that the launcher gets together; they do not see each other's outcome.
        seed: seed of the sampler; trial i draws with seed + i, so that a resumed study repeats no draw.
    """

    space: Mapping[str, Mapping[str, Any] | Sequence[Any]]
    trials: int
    folder: str
    trials_at_once: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for values in self.space.values():
            if isinstance(values, Mapping):
                Range(**values)
        if min(self.trials, self.trials_at_once) < 1:
            raise ValueError(f"trials={self.trials}, trials_at_once={self.trials_at_once}: must be at least 1.")

    def run(self, arguments: Sequence[str], config: DictConfig, loader: ConfigLoader, launcher: Launcher) -> float:
        """Run the study until it has its trials; print and write the best setting, and return its value.

        Args:
            arguments: the overrides of the command line, for every trial.
            config: the config of the multirun.

        Raises:
            HydraException: Optuna is missing; the command line lists values or sets all searched keys; the job is
                impossible or returned no validation accuracy; or another process works on the study.
            JobError: trials failed; the others are kept.
        """
        if find_spec("optuna") is None:
            raise HydraException("A search needs Optuna: `pip install -r requirements-optuna.txt`.")
        space = self._open_space(arguments)
        folder = Path(self.folder) / self._digest(space, loader.load_sweep_config(config, list(arguments)))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                return self._go_on(folder, space, arguments, launcher)
        except Timeout as error:
            raise HydraException(f"{folder}: another process works on this study; wait for it, or end it.") from error

    def _open_space(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The space without the keys that the command line sets."""
        given = OverridesParser.create().parse_overrides(list(arguments))
        if lists := [one.input_line for one in given if one.is_sweep_override()]:
            raise HydraException(
                f"{lists[0]}: a search gives each trial one value; `sweeps=…` with products runs lists."
            )
        fixed = {one.get_key_element() for one in given}
        space = {key: values for key, values in self.space.items() if key not in fixed}
        if not space:
            raise HydraException(f"Nothing is left to search: the command line sets {', '.join(self.space)}.")
        return space

    def _digest(self, space: Mapping[str, Any], config: DictConfig) -> str:
        from rkd.jobs.job import place_of

        try:
            return fingerprint_digest("search", {"job": place_of(config).digest, "space": space, "seed": self.seed})
        except JobError as error:
            raise HydraException(str(error)) from error

    def _go_on(self, folder: Path, space: Mapping[str, Any], arguments: Sequence[str], launcher: Launcher) -> float:
        study = _stored_study(folder / "study.journal")
        again = _unfinished(study)
        missing = self.trials - len(_finished(study))
        print(f"{folder}: {len(_finished(study))} of {self.trials} trials finished before.", flush=True)
        failed = 0
        for first in range(0, missing, self.trials_at_once):
            trials = [self._ask(study, again) for _ in range(min(self.trials_at_once, missing - first))]
            settings = [_setting(trial, space) for trial in trials]
            returned = launcher.launch([(*arguments, *own) for own in settings], initial_job_idx=trials[0].number)
            failed += sum(not _tell(study, trial, one) for trial, one in zip(trials, returned, strict=True))
        if not _finished(study):
            raise JobError(f"None of the {failed} trials finished.")
        best = " ".join(_overrides(study.best_params))
        write_whole(folder / "best.txt", best + "\n")
        print(f"Best of {len(_finished(study))} trials: validation accuracy {study.best_value:.1%} with\n  {best}")
        print(f"These overrides are in {folder / 'best.txt'}.")
        if failed:
            raise JobError(f"{failed} of {missing} trials failed.")
        best_value: float = study.best_value
        return best_value

    def _ask(self, study: "Study", again: list[dict[str, Any]]) -> "Trial":
        from optuna.samplers import TPESampler

        if again:
            study.enqueue_trial(again.pop(0))
        study.sampler = TPESampler(seed=self.seed + len(study.trials))
        return study.ask()


def _stored_study(path: Path) -> "Study":
    import optuna  # imported here because it is an optional requirement
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(storage=storage, study_name="rkd", direction="maximize", load_if_exists=True)


def _finished(study: "Study") -> list[Any]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _unfinished(study: "Study") -> list[dict[str, Any]]:
    """Settings whose jobs failed or were interrupted; they run first, since their finished stages are kept."""
    from optuna.trial import TrialState

    left = {}
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:  # its process has ended
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.state != TrialState.COMPLETE and trial.params:
            left[json.dumps(trial.params)] = trial.params
    for trial in _finished(study):
        left.pop(json.dumps(trial.params), None)
    return list(left.values())


def _setting(trial: "Trial", space: Mapping[str, Any]) -> list[str]:
    """Optuna's proposal for a trial, as overrides."""
    for key, values in space.items():
        if isinstance(values, Mapping):
            bounds = Range(**values)
            trial.suggest_float(key, bounds.low, bounds.high, log=bounds.log)
        else:
            trial.suggest_categorical(key, list(values))
    return _overrides(trial.params)


def _overrides(params: Mapping[str, Any]) -> list[str]:
    # Three digits are enough, and keep the overrides short.
    return [f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()]


def _tell(study: "Study", trial: "Trial", returned: JobReturn) -> bool:
    """Record and print the outcome of a trial; return False if it failed."""
    from optuna.trial import TrialState

    if returned.status is not JobStatus.COMPLETED:
        study.tell(trial, state=TrialState.FAIL)
        return False
    if returned.return_value is None:
        study.tell(trial, state=TrialState.FAIL)
        raise HydraException("The job returned no validation accuracy: search over a row that trains its student.")
    study.tell(trial, returned.return_value)
    said = f"validation accuracy {returned.return_value:.1%}, best so far {study.best_value:.1%}"
    print(f"trial {trial.number}: {said}, {' '.join(_overrides(trial.params))}", flush=True)
    return True
