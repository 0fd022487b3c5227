"""The Slurm launcher under the name that Hydra looks for plugins by; submitit's plugin is optional."""

from importlib.util import find_spec

if find_spec("hydra_plugins.hydra_submitit_launcher") is not None:
    from rkd.jobs.slurm_launcher import ResumingLauncher

    class SlurmLauncher(ResumingLauncher):
        """See `rkd.jobs.slurm_launcher`."""
