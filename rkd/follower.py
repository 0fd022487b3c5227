"""A process that takes part in the training of a job: `rkd.parallel` starts it with the job's resolved config."""

import sys

from omegaconf import OmegaConf

from rkd.job import follow_job


def main() -> None:
    """The process."""
    follow_job(OmegaConf.load(sys.argv[1]))


if __name__ == "__main__":
    main()
