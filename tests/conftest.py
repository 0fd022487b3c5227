"""What every test shares: no network, one thread, the tiny world, and the public data where they are."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
from hypothesis import settings

from tests.support.made_once import made_once

# The same examples in each run.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")

# What takes seconds to import is imported by the fixtures: the process that hands out the tests needs none of it.


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each core; where files or tests are named, this process alone, which begins at once."""
    named = [argument for argument in config.invocation_params.args if ".py" in argument]
    return 0 if named else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The tests share the cores, and results do not depend on their number."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def wandb_files(tmp_path_factory) -> None:
    """What W&B keeps for a later upload stays out of the user's home."""
    os.environ["WANDB_DATA_DIR"] = str(tmp_path_factory.mktemp("wandb"))


@pytest.fixture(scope="session", autouse=True)
def config_files_parsed_once():
    """Whatever composes configs parses each file once."""
    from omegaconf import OmegaConf

    from tests.support.config_files import parsing_once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", parsing_once(OmegaConf.load))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the public datasets: the environment variable RKD_DATA, or `../shared/data` of the repository."""
    folder = Path(os.environ.get("RKD_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no public data in {folder}: set RKD_DATA to the folder that holds gsm8k/, svamp/, …")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Models `teacher`, `student` and `random`, datasets `data` and `poisoned`. No test writes in this folder."""
    from tests.support import tiny_world

    def make(folder: Path) -> None:
        tiny_world.make_world(folder)
        tiny_world.write_dataset(folder / "poisoned", random_gold=True)

    return made_once(tmp_path_factory, "world", make)


@pytest.fixture(scope="session")
def guessing_student(world):
    """The student of the tiny world, which guesses one of two answers."""
    from rkd.records import Checkpoint

    return Checkpoint(world / "student", "taught-True")


@pytest.fixture(scope="session")
def tokenizer():
    """A tokenizer of 290 tokens."""
    from rkd.mini.tokenizer import train_tokenizer

    return train_tokenizer(["What is two and two? The answer is 4.", "Q: 1 2 3 A: 4 5 6"] * 4, vocabulary_size=290)


@pytest.fixture(scope="session")
def calculating_student(tmp_path_factory):
    """A model that writes calculations with wrong results."""
    from rkd.records import Checkpoint
    from tests.support.tiny_calculations import make_student

    return Checkpoint(made_once(tmp_path_factory, "calculating", make_student), "calculating")
