"""Run one job, or with -m a whole table: `python run.py`, `python run.py -m sweeps=table3`, `python run.py --help`."""

import os
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rkd.config import REFUSALS, refusal
from rkd.errors import JobError
from rkd.processes import INTERRUPTED, lasting_streams, with_import_path

# Hydra then raises its errors instead of printing them, and `run` below says what to do about them.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Build the stages that the config names, run them and write the result."""
    from rkd.jobs.job import run_job  # here: a typo in a key is reported before PyTorch is loaded

    lasting_streams()  # in the worker of a launcher
    hydra_config = HydraConfig.get()
    is_multirun = hydra_config.mode == RunMode.MULTIRUN
    sweep = hydra_config.runtime.choices.get("sweeps")
    if sweep and not is_multirun:
        sys.exit(f"sweeps={sweep} is a table of many jobs: run it with `python run.py -m sweeps={sweep}`.")
    try:
        return run_job(config)
    except JobError as error:
        if not is_multirun:
            sys.exit(f"\n{error}")
        print(f"\n{error}\n", file=sys.stderr)  # now: the other jobs go on, and the sweeper only counts failures
        raise
    except Exception:
        if is_multirun:
            traceback.print_exc()
        raise


def run() -> None:
    """Run `main`; a failure ends it with one message and a nonzero exit code."""
    lasting_streams()
    os.environ |= with_import_path(os.environ)  # for the workers of a launcher
    try:
        main()
    except (
        *REFUSALS,
        ValueError,
        OSError,
    ) as error:  # those of a job are job errors
        sys.exit(refusal(error, "python run.py"))
    except JobError:
        sys.exit("Not every job finished; what is above says why. The same command makes the rest once that is mended.")
    except KeyboardInterrupt:
        print("\nInterrupted. What is complete is kept, and the same command makes the rest.", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run()
