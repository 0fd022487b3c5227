"""Run one job, or with -m a whole table: `python run.py`, `python run.py -m sweeps=table3`, `python run.py --help`."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Build the stages that the config names, run them, leave the result behind."""
    from rkd.job import JobError, run_job  # after Hydra has parsed, so that --help and a typo answer at once

    hydra_config = HydraConfig.get()
    is_multirun = hydra_config.mode == RunMode.MULTIRUN
    sweep = hydra_config.runtime.choices.get("sweeps")
    if sweep and not is_multirun:
        sys.exit(f"sweeps={sweep} is a table of many jobs: run it with `python run.py -m sweeps={sweep}`.")
    try:
        return run_job(config)
    except JobError as error:
        if is_multirun:
            raise
        sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
