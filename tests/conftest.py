"""What every test shares: no network, one thread, and the public data where they are."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def wandb_files(tmp_path_factory) -> None:
    """What W&B keeps for a later upload stays out of the user's home."""
    os.environ["WANDB_DATA_DIR"] = str(tmp_path_factory.mktemp("wandb"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the public datasets: the environment variable RKD_DATA, or `../shared/data` of the repository."""
    folder = Path(os.environ.get("RKD_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no public data in {folder}: set RKD_DATA to the folder that holds gsm8k/, svamp/, …")
    return folder
