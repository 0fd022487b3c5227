"""Jobs of a sweep on Slurm: overrides enter, what each job returned leaves; what the cluster ended is submitted again.

A job goes on where it was, so that a time limit, a preemption or a lost node costs minutes. The plugin of submitit asks
Slurm itself to put a job back into the queue that reaches its limit or is preempted. It gives the whole sweep up if one
job ends otherwise, for instance by `scancel`; this launcher does not.
"""

import dataclasses
import logging
from collections.abc import Sequence

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

from rkd.errors import JobError

ATTEMPTS = 5
OF_ALL = {field.name for field in dataclasses.fields(BaseQueueConf)}  # options that submitit has for all clusters
log = logging.getLogger(__name__)


class ResumingLauncher(SlurmLauncher):
    """The launcher of submitit, which submits a job again that Slurm has ended, `ATTEMPTS` times in all."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """See Hydra's `Launcher`."""
        executor, state = self._executor(), Singleton.get_state()
        waiting = dict(enumerate(job_overrides))
        returned: dict[int, JobReturn] = {}
        for _ in range(ATTEMPTS):
            arguments = []
            for place, own in waiting.items():
                number = initial_job_idx + place
                arguments.append((list(own), "hydra.sweep.dir", number, f"job_id_for_{number}", state))
            submitted = dict(zip(waiting, executor.map_array(self, *zip(*arguments, strict=True)), strict=True))
            for place, job in submitted.items():
                log.info("#%d is job %s: %s", initial_job_idx + place, job.job_id, _named(waiting[place]))
            for place, job in submitted.items():
                try:
                    returned[place] = job.results()[0]
                    del waiting[place]
                except submitit.core.utils.UncompletedJobError:  # a failure of the job itself is a result
                    ended = f"Slurm ended job {job.job_id} (state {job.state}; its log: {job.paths.stderr})"
                    log.warning("%s: %s", _named(waiting[place]), ended)
                    returned[place] = JobReturn(waiting[place], status=JobStatus.FAILED)
                    returned[place].return_value = JobError(f"{ended}, as it had {ATTEMPTS - 1} times before.")
            if not waiting:
                break
        return [returned[place] for place in range(len(job_overrides))]

    def _executor(self) -> submitit.AutoExecutor:
        own = dict(self.params)
        folder, timeouts = own.pop("submitit_folder"), own.pop("max_num_timeout")
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
        executor.update_parameters(
            **{name if name in OF_ALL else f"slurm_{name}": value for name, value in own.items()}
        )
        return executor


def _named(overrides: Sequence[str]) -> str:
    return " ".join(filter_overrides(overrides))
