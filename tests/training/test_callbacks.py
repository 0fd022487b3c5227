"""The callbacks: a stage that diverges stops with advice, and a stage that goes well takes one line."""

import io

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from rkd.errors import TrainingDivergedError
from rkd.training.callbacks import LogLearningRate, ShowChange, StageProgress, StopOnNaN


class ScriptedModule(pl.LightningModule):
    """Logs the given rewards, one a batch; the loss is that reward where `reward_is_loss`."""

    def __init__(self, rewards, *, reward_is_loss=False, manual=False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.rewards = rewards
        self.reward_is_loss = reward_is_loss
        self.automatic_optimization = not manual

    def training_step(self, batch, batch_idx):
        reward = self.rewards[batch_idx]
        if not self.reward_is_loss:
            self.log("reward", reward)
        loss = (self.weight * batch).mean() * (reward if self.reward_is_loss else 1.0)
        if self.automatic_optimization:
            return loss
        self.optimizers().step()
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(module, callback, batches, logger=False):
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=1,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(batches, 1), batch_size=1))


@pytest.mark.parametrize("manual", [False, True])
def test_metric_that_becomes_nan_stops_the_stage_at_that_step_with_advice(manual):
    module = ScriptedModule([1.0, 2.0, float("nan"), 3.0], manual=manual)
    with pytest.raises(TrainingDivergedError, match=r"rl: reward is nan at step 2\. Lower `rl\.learning_rate`"):
        fit(module, StopOnNaN("rl", "rl.learning_rate"), batches=4)


def test_infinite_loss_stops_the_stage_even_if_nothing_is_logged():
    module = ScriptedModule([1.0, float("inf"), 1.0], reward_is_loss=True)
    with pytest.raises(TrainingDivergedError, match=r"sft: loss is inf at step 1\. Lower `sft\.learning_rate`"):
        fit(module, StopOnNaN("sft"), batches=3)


def test_finite_stage_runs_to_its_end():
    fit(ScriptedModule([1.0, -2.0, 0.0]), StopOnNaN("rl"), batches=3)


def test_without_a_terminal_a_short_stage_prints_one_line():
    output = io.StringIO()
    partial = StageProgress("rl", shown_metrics=("reward",), console=Console(file=output, width=200))
    fit(ScriptedModule([1.0, 2.0, 2.5]), partial, batches=3)
    assert output.getvalue().splitlines() == ["rl: step 3/3, 0 s, reward 2.5"]


def test_without_a_terminal_lines_come_no_faster_than_asked():
    output = io.StringIO()
    partial = StageProgress("rl", seconds_between_lines=0, console=Console(file=output, width=200))
    fit(ScriptedModule([1.0, 2.0, 2.5]), partial, batches=3)
    # One for each of three batches, and the last one.
    assert [line.split(",")[0] for line in output.getvalue().splitlines()] == [
        "rl: step 1/3",
        "rl: step 2/3",
        "rl: step 3/3",
        "rl: step 3/3",
    ]


def test_on_a_terminal_there_is_one_bar_that_is_closed_when_the_stage_fails():
    output = io.StringIO()
    console = Console(file=output, width=120, force_terminal=True)
    partial = StageProgress("sft", console=console)
    with pytest.raises(IndexError):
        fit(ScriptedModule([1.0, 2.0]), partial, batches=3)
    assert "sft" in output.getvalue()
    assert "2/3" in output.getvalue()
    assert output.getvalue().endswith("\x1b[?25h")  # the cursor is shown again: the bar is closed


class RememberingLogger(pl.loggers.CSVLogger):
    """Keeps what is logged, step by step."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.seen = []

    def log_metrics(self, metrics, step=None):
        self.seen.append((step, dict(metrics)))


@pytest.mark.parametrize("manual", [False, True])
def test_learning_rate_is_that_of_the_step_that_was_taken(tmp_path, manual):
    class Falling(ScriptedModule):
        """Steps with the rates 0.5 and 0.25, set before each."""

        def training_step(self, batch, batch_idx):
            self.optimizers().param_groups[0]["lr"] = 0.5 / (batch_idx + 1)
            return super().training_step(batch, batch_idx)

    logger = RememberingLogger(tmp_path)
    fit(Falling([1.0, 1.0], manual=manual), LogLearningRate(), batches=2, logger=logger)
    assert [metrics["learning_rate"] for _, metrics in logger.seen] == [0.5, 0.25]


def test_change_names_the_first_and_the_last_value_of_the_metric_that_is_logged():
    output = io.StringIO()
    shown = ShowChange(("loss of another stage", "reward"), console=Console(file=output, width=200))
    fit(ScriptedModule([1.0, 5.0, 2.5]), shown, batches=3)
    assert output.getvalue() == "    reward 1 → 2.5 in 3 steps\n"
