"""All private parts of Lightning that trainings rely on: one function for each, the trainer enters.

They hold for `VERSION`, and tests/training/test_lightning_private.py tests each. No public interface gives these values
while the callbacks of a batch are called.
"""

from typing import Any

import pytorch_lightning
from pytorch_lightning import Trainer
from torch import Tensor

VERSION = "2.6.6"  # of pytorch-lightning, as requirements.txt pins it


def metrics_to_log(trainer: Trainer) -> dict[str, Tensor]:
    """The metrics that Lightning is about to log for the batch that ends; empty if it logs none.

    `trainer.logged_metrics` also holds older values, those of the last validation among them.
    """
    connector = _private(trainer, "_logger_connector")
    return connector.metrics["log"] if connector.should_update_logs else {}


def logged_step(trainer: Trainer) -> int:
    """The step under which Lightning logs the batch: how many batches before it ended with an optimiser step."""
    step: int = _private(trainer.fit_loop.epoch_loop, "_batches_that_stepped")
    return step


def is_validated_next(trainer: Trainer) -> bool:
    """Whether a validation follows the batch that ends."""
    loop = trainer.fit_loop
    return bool(_private(loop.epoch_loop, "_should_check_val_fx")(_private(loop, "_data_fetcher")))


def _private(owner: object, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise RuntimeError(
            f"pytorch-lightning {pytorch_lightning.__version__} has no {type(owner).__name__}.{name}, which "
            f"rkd/training/lightning_private.py needs. Install the version that it was written for: "
            f"`pip install pytorch-lightning=={VERSION}`."
        ) from error
