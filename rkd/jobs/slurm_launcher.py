"""Jobs of a sweep on Slurm: overrides enter, what each job returned leaves; what the cluster ended is submitted again.

A job goes on where it was, so that a time limit, a preemption or a lost node costs minutes. The plugin of submitit asks
Slurm itself to put a job back into the queue that reaches its limit or is preempted. It gives the whole sweep up if one
job ends otherwise, for instance by `scancel`; this launcher does not.
"""

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

from rkd.errors import JobError
from rkd.processes import TERMINATED

ATTEMPTS = 5  # of a job, before it counts as failed
LOOKS_UNTIL_GONE = 2  # a job may be missing for a moment while Slurm puts it back into the queue
SECONDS_BETWEEN_LOOKS = 3.0
OF_ALL = {field.name for field in dataclasses.fields(BaseQueueConf)}  # options that submitit has for all clusters


@dataclasses.dataclass
class Submitted:
    """A job of the sweep and its present attempt."""

    place: int
    job: Any
    attempts: int = 1
    missing: int = 0  # looks in a row at which Slurm did not know it


class ResumingLauncher(SlurmLauncher):
    """The launcher of submitit, which submits a job again that Slurm has ended, `ATTEMPTS` times in all."""

    def __call__(self, *arguments: Any, **named: Any) -> JobReturn:
        """Run a job on its node.

        Slurm announces its end to each process of the job. Here the job ends without a result. submitit would go on, to
        see the processes that the job has started die, and take that for a failure of the job.
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
        returned: JobReturn = super().__call__(*arguments, **named)
        return returned

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """See Hydra's `Launcher`."""
        executor, state = self._executor(), Singleton.get_state()
        arguments = [
            (list(own), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
            for number, own in enumerate(job_overrides, initial_job_idx)
        ]
        jobs = executor.map_array(self, *zip(*arguments, strict=True))
        waiting = [Submitted(place, job) for place, job in enumerate(jobs)]
        returned: dict[int, JobReturn] = {}
        for one in waiting:
            print(f"job {one.job.job_id}: {_named(job_overrides[one.place])}", flush=True)
        while waiting:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            known = _known_jobs()
            for one in list(waiting):
                if one.job.paths.result_pickle.exists():
                    returned[one.place] = _result(one.job, job_overrides[one.place])
                    waiting.remove(one)
                    continue
                one.missing = 0 if one.job.job_id in known else one.missing + 1
                if one.missing < LOOKS_UNTIL_GONE:
                    continue
                ended = f"Slurm ended job {one.job.job_id} without a result; its log: {one.job.paths.stderr}"
                if one.attempts == ATTEMPTS:
                    reason = JobError(f"{ended}. It was submitted {ATTEMPTS} times.")
                    returned[one.place] = _failed(job_overrides[one.place], reason)
                    waiting.remove(one)
                    continue
                print(
                    f"{ended}. It is submitted again: {_named(job_overrides[one.place])}", file=sys.stderr, flush=True
                )
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    one.job.cancel(check=False)
                one.job = executor.submit(self, *arguments[one.place])
                one.attempts, one.missing = one.attempts + 1, 0
        return [returned[place] for place in range(len(job_overrides))]

    def _executor(self) -> Any:
        import submitit  # here, not above: Hydra imports the plugins of every command

        own = dict(self.params)
        folder, timeouts = own.pop("submitit_folder"), own.pop("max_num_timeout")
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
        executor.update_parameters(
            **{name if name in OF_ALL else f"slurm_{name}": value for name, value in own.items()}
        )
        return executor


def _known_jobs() -> set[str]:
    """The names of all jobs that wait or run; tasks of an array are listed one by one."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%A %F_%K"]
    while True:
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
        if listed.returncode == 0:
            return {name for line in listed.stdout.splitlines() for name in line.split()}
        time.sleep(SECONDS_BETWEEN_LOOKS)  # its controller is away for a moment


def _result(job: Any, overrides: Sequence[str]) -> JobReturn:
    """What a job returned; what kept it from beginning is a failure."""
    try:
        returned: JobReturn = job.results()[0]
    except Exception as error:
        return _failed(overrides, JobError(str(error)))
    return returned


def _failed(overrides: Sequence[str], reason: JobError) -> JobReturn:
    failed = JobReturn(overrides, status=JobStatus.FAILED)
    failed.return_value = reason
    return failed


def _named(overrides: Sequence[str]) -> str:
    named: str = " ".join(filter_overrides(overrides))
    return named
