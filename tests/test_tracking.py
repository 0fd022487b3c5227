"""Tracking: one run per job, one x-axis per stage, and nothing that leaks from one job of a process to the next."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import pytorch_lightning as pl
import torch
import yaml
from matplotlib.image import imsave

from rkd.tracking import CsvTracker, NoTracker, RunDescription, TensorBoardTracker, WandbTracker, wandb_mode

TRACKING_CONFIGS = sorted((Path(__file__).parent.parent / "conf" / "tracking").glob("*.yaml"))


class CountingModule(pl.LightningModule):
    """Logs 10, 11, 12, … under `reward`; trains nothing that matters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        self.log("reward", 10.0 + batch_idx)
        return (self.weight * batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(logger, folder: Path, steps: int) -> None:
    trainer = pl.Trainer(
        logger=logger,
        max_steps=steps,
        log_every_n_steps=1,
        accelerator="cpu",
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(CountingModule(), torch.utils.data.DataLoader(torch.ones(8, 1), batch_size=1))


RUN = RunDescription(name="Ours", group="table3", job_type="Ours")


def inspect_run(folder: Path) -> dict:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def logged_out(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_two_jobs_of_one_process_give_two_wandb_runs_with_their_own_config(tmp_path, offline):  # noqa: ARG001
    for seed in (0, 1):
        tracker = WandbTracker(project="rkd-test")
        described = RunDescription(name=f"row{seed}", group="table3", job_type="Ours", tags=["mini"])
        config = {"seed": seed, f"only_in_{seed}": True}
        tracker.start(config, described, tmp_path / f"job{seed}", run_id=f"digest{seed}")
        tracker.log_summary({"accuracy": 0.25 + seed / 2})
        tracker.finish()
    runs = [offline_runs(tmp_path / f"job{seed}") for seed in (0, 1)]
    assert [len(folders) for folders in runs] == [1, 1]
    contents = [inspect_run(folders[0]) for folders in runs]
    assert [run["config"] for run in contents] == [
        {"seed": 0, "only_in_0": True},
        {"seed": 1, "only_in_1": True},
    ]
    assert [run["name"] for run in contents] == ["row0", "row1"]
    assert [run["summary"]["accuracy"] for run in contents] == [0.25, 0.75]
    assert [run["run_id"] for run in contents] == ["digest0", "digest1"]


def test_job_that_never_finished_its_run_does_not_receive_the_next_jobs_metrics(tmp_path, offline):  # noqa: ARG001
    forgetful, next_job = WandbTracker(project="rkd-test"), WandbTracker(project="rkd-test")
    forgetful.start({"seed": 0}, RUN, tmp_path / "first", run_id="first")
    next_job.start({"seed": 1}, RUN, tmp_path / "second", run_id="second")
    next_job.log_summary({"accuracy": 0.5})
    next_job.finish()
    forgetful.finish(exit_code=1)
    first, second = (inspect_run(offline_runs(tmp_path / name)[0]) for name in ("first", "second"))
    assert "accuracy" not in first["summary"]
    assert second["summary"]["accuracy"] == 0.5
    assert (first["exit_code"], second["exit_code"]) == (1, 0)


def test_stages_of_one_job_share_a_wandb_run_and_keep_their_own_steps(tmp_path, offline):  # noqa: ARG001
    tracker = WandbTracker(project="rkd-test")
    tracker.start({}, RUN, tmp_path, run_id="0")
    train(tracker.logger_for("sft"), tmp_path, steps=4)
    train(tracker.logger_for("rl"), tmp_path, steps=2)
    tracker.log_table("answers", ["question", "answer"], [["q0", None], ["q1", 7]])
    imsave(tmp_path / "curve.png", torch.zeros(4, 4, 3).numpy())
    tracker.log_image("curve", tmp_path / "curve.png")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.txt").write_text("0")
    tracker.log_artifact(tmp_path / "model", "policy", "model", {"made_from": "0123456789abcdef"})
    tracker.finish()
    assert len(offline_runs(tmp_path)) == 1
    summary = inspect_run(offline_runs(tmp_path)[0])["summary"]
    # The last step of n is n - 1, its reward 10 + n - 1.
    assert (summary["sft/step"], summary["sft/reward"]) == (3, 13.0)
    assert (summary["rl/step"], summary["rl/reward"]) == (1, 11.0)
    assert summary["answers"]["nrows"] == 2
    assert summary["curve"]["_type"] == "image-file"


def test_without_credentials_wandb_stays_offline(logged_out):  # noqa: ARG001
    assert wandb_mode() == "offline"


def test_login_in_netrc_or_key_in_environment_goes_online(logged_out, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "https://tracking.example")
    logged_out.write_text(f"machine other.example login user password {'0' * 40}\n")
    assert wandb_mode() == "offline"
    logged_out.write_text(f"machine tracking.example login user password {'0' * 40}\n")
    assert wandb_mode() == "online"
    logged_out.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert wandb_mode() == "online"


def test_wandb_mode_of_the_environment_wins_over_a_login(logged_out, monkeypatch):  # noqa: ARG001
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


def test_csv_tracker_writes_a_history_per_stage(tmp_path):
    tracker = CsvTracker()
    tracker.start({"seed": 3}, RUN, tmp_path, run_id="0")
    train(tracker.logger_for("sft"), tmp_path, steps=2)
    train(tracker.logger_for("rl"), tmp_path, steps=3)
    tracker.log_table("final/table", ["model", "n"], [["Ours", 4]])
    tracker.log_summary({"accuracy": 0.5})
    tracker.finish()
    with (tmp_path / "tracking" / "history" / "rl" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rl/step"], row["rl/reward"]) for row in rows] == [("0", "10.0"), ("1", "11.0"), ("2", "12.0")]
    assert (tmp_path / "tracking" / "tables" / "final_table.csv").read_text().splitlines() == ["model,n", "Ours,4"]
    assert json.loads((tmp_path / "tracking" / "summary.json").read_text()) == {"accuracy": 0.5, "exit_code": 0}
    assert json.loads((tmp_path / "tracking" / "config.json").read_text())["config"] == {"seed": 3}


def test_csv_history_survives_a_metric_that_appears_late(tmp_path):
    tracker = CsvTracker()
    tracker.start({}, RUN, tmp_path, run_id="0")
    logger = tracker.logger_for("rl")
    logger.log_metrics({"reward": 1.0}, step=0)
    logger.log_metrics({"rl/reward": 2.0, "validation_accuracy": 0.5}, step=1)
    tracker.finish()
    with (tmp_path / "tracking" / "history" / "rl" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rl/reward"] for row in rows] == ["1.0", "2.0"]
    assert [row["rl/validation_accuracy"] for row in rows] == ["", "0.5"]


def test_tensorboard_tracker_keeps_scalars_tables_and_images_of_all_stages(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoardTracker()
    tracker.start({"seed": 0}, RUN, tmp_path, run_id="0")
    train(tracker.logger_for("sft"), tmp_path, steps=2)
    train(tracker.logger_for("rl"), tmp_path, steps=3)
    tracker.log_table("final", ["model", "n"], [["Ours", 4]])
    imsave(tmp_path / "curve.png", torch.zeros(4, 4, 3).numpy())
    tracker.log_image("curve", tmp_path / "curve.png")
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("rl/reward")] == [(0, 10.0), (1, 11.0), (2, 12.0)]
    assert [scalar.step for scalar in events.Scalars("sft/reward")] == [0, 1]
    assert events.Tags()["images"] == ["curve"]
    assert "final/text_summary" in events.Tags()["tensors"]


def test_no_tracker_gives_lightning_no_logger(tmp_path):
    tracker = NoTracker()
    tracker.start({}, RUN, tmp_path, run_id="0")
    assert tracker.logger_for("sft") is False
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


def test_starting_twice_without_finish_is_refused(tmp_path):
    tracker = CsvTracker()
    tracker.start({}, RUN, tmp_path, run_id="0")
    with pytest.raises(RuntimeError, match=r"still open: call `finish\(\)`"):
        tracker.start({}, RUN, tmp_path, run_id="0")


def test_logging_before_start_is_refused_and_finish_without_a_run_is_not():
    with pytest.raises(RuntimeError, match=r"call `start"):
        WandbTracker(project="rkd-test").logger_for("sft")
    WandbTracker(project="rkd-test").finish()


@pytest.mark.parametrize("path", TRACKING_CONFIGS, ids=lambda path: path.stem)
def test_every_tracking_option_builds_its_tracker(path):
    tracker = hydra.utils.instantiate(yaml.safe_load(path.read_text()))
    assert type(tracker).__name__.lower() == f"{path.stem.replace('none', 'no')}tracker"
