"""Run one job, or with -m a whole table: `python run.py`, `python run.py -m sweeps=table3`, `python run.py --help`."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import rkd.config  # noqa: F401, what `${published:…}` in a config stands for
from rkd.errors import JobError

# Hydra then hands its errors on instead of printing them, and `run` below says what to do about them.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")
FOLDER = Path(__file__).parent
PLUGINS = FOLDER / "rkd" / "plugins"
sys.path.append(str(PLUGINS))  # what `-m` runs, where Hydra looks for it
# The workers of a launcher, whose path is not ours, import the same.
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, filter(None, (FOLDER, PLUGINS, os.environ.get("PYTHONPATH")))))


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Build the stages that the config names, run them, leave the result behind."""
    from rkd.jobs.job import run_job  # here: it loads PyTorch, which a typo in a key need not wait for

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
        print(f"\n{error}\n", file=sys.stderr)  # now: the other jobs go on, and Hydra raises the first error alone
        raise


def run() -> None:
    """`main`, its failures told in one message each; the exit code is not 0 then."""
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        said = f"{error}\n{error.__cause__ or ''}".splitlines()
        # Appending an unknown key would only be refused later, and OmegaConf's inner names help nobody.
        noise = ("To append to your config", "    full_key:", "    object_type=", "Config search path", "\tprovider=")
        lines = [line for line in dict.fromkeys(said) if line and not line.startswith(noise)]
        if "hydra/launcher" in said[0]:
            lines.append(
                "Jobs side by side need a plugin: `pip install -r requirements-joblib.txt` for joblib, "
                "requirements-submitit.txt for submitit_…, requirements-ray.txt for ray_…."
            )
        lines.append("`python run.py --help` lists groups and options, `python run.py --cfg job` all values.")
        sys.exit("\n".join(lines))
    except JobError:
        sys.exit("Not every job finished; what is above says why. The same command makes the rest once that is mended.")


if __name__ == "__main__":
    run()
