"""Tracking: one run per job, one x-axis per stage, and nothing that leaks from one job of a process to the next."""

import csv
import json
from pathlib import Path

import hydra
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.image import imsave

from rkd.errors import TrackingError
from rkd.training.tracking import NoTracker, Output, RunDescription
from rkd.training.tracking_files import CsvTracker, TensorBoardTracker
from rkd.training.tracking_wandb import WandbTracker, wandb_mode
from tests.support import tiny_world
from tests.support.offline_runs import offline_folders, read_run


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


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_two_jobs_of_one_process_give_two_wandb_runs_with_their_own_config(tmp_path, offline):  # noqa: ARG001
    for seed in (0, 1):
        tracker = WandbTracker(project="rkd-test")
        described = RunDescription(name=f"row{seed}", group="table3", job_type="Ours", tags=["mini"])
        config = {"seed": seed, f"only_in_{seed}": True}
        tracker.start(config, described, tmp_path / f"job{seed}", run_id=f"digest{seed}")
        tracker.log_summary({"accuracy": 0.25 + seed / 2})
        tracker.finish()
    runs = [offline_folders(tmp_path / f"job{seed}") for seed in (0, 1)]
    assert [len(folders) for folders in runs] == [1, 1]
    contents = [read_run(folders[0]) for folders in runs]
    assert [run.config for run in contents] == [{"seed": 0, "only_in_0": True}, {"seed": 1, "only_in_1": True}]
    assert [run.described["display_name"] for run in contents] == ["row0", "row1"]
    assert [run.summary["accuracy"] for run in contents] == [0.25, 0.75]
    assert [run.described["run_id"] for run in contents] == ["digest0", "digest1"]


def test_job_that_never_finished_its_run_does_not_receive_the_next_jobs_metrics(tmp_path, offline):  # noqa: ARG001
    forgetful, next_job = WandbTracker(project="rkd-test"), WandbTracker(project="rkd-test")
    forgetful.start({"seed": 0}, RUN, tmp_path / "first", run_id="first")
    next_job.start({"seed": 1}, RUN, tmp_path / "second", run_id="second")
    next_job.log_summary({"accuracy": 0.5})
    next_job.finish()
    forgetful.finish("The loss is not a number.")
    first, second = (read_run(offline_folders(tmp_path / name)[0]) for name in ("first", "second"))
    assert "accuracy" not in first.summary
    assert second.summary["accuracy"] == 0.5
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert (first.summary["failure"], second.summary["failure"]) == ("The loss is not a number.", None)


def test_stages_of_one_job_share_a_wandb_run_and_keep_their_own_steps(tmp_path, offline):  # noqa: ARG001
    tracker = WandbTracker(project="rkd-test")
    tracker.start({}, RUN, tmp_path, run_id="0")
    train(tracker.logger_for("sft"), tmp_path, steps=4)
    train(tracker.logger_for("rl"), tmp_path, steps=2)
    tracker.log_table("answers", ["question", "answer"], [["q0", None], ["q1", 7]])
    imsave(tmp_path / "curve.png", torch.zeros(4, 4, 3).numpy())
    tracker.log_image("curve", tmp_path / "curve.png")
    tracker.finish()
    (folder,) = offline_folders(tmp_path)
    run = read_run(folder)
    assert run.axes == {"sft/*": "sft/step", "rl/*": "rl/step"}
    assert [(row["sft/step"], row["sft/reward"]) for row in run.curve("sft")] == [(n, 10.0 + n) for n in range(4)]
    assert [(row["rl/step"], row["rl/reward"]) for row in run.curve("rl")] == [(0, 10.0), (1, 11.0)]
    assert run.table("answers") == [{"question": "q0", "answer": None}, {"question": "q1", "answer": 7}]
    assert run.summary["curve._type"] == "image-file"


INCREMENTS = [[[0, "a"], [0, "b"]], [[1, "c"]], [[2, "d\ne|f"]]]


def log_increments(tracker, folder: Path, increments=INCREMENTS) -> None:
    """A run that appends to a table, in as many calls as there are increments."""
    tracker.start({}, RUN, folder, run_id="0")
    for rows in increments:
        tracker.extend_table("samples/rl", ["rollout", "response"], rows)
    tracker.finish()


def test_wandb_appends_to_a_table_and_keeps_every_row(tmp_path, offline):  # noqa: ARG001
    log_increments(WandbTracker(project="rkd-test"), tmp_path)
    (folder,) = offline_folders(tmp_path)
    run = read_run(folder)
    assert [list(row.values()) for row in run.table("samples/rl")] == [row for rows in INCREMENTS for row in rows]
    assert (run.summary["samples/rl.nrows"], run.summary["samples/rl.increment_num"]) == (4, 2)
    assert len(run.summary["samples/rl.previous_increments_paths"]) == 2
    files = [json.loads((folder / "files" / file).read_text()) for file in run.tables["samples/rl"]]
    assert [file["data"] for file in files] == INCREMENTS


def test_a_tracker_begins_a_table_anew_in_each_run(tmp_path, offline):  # noqa: ARG001
    tracker = WandbTracker(project="rkd-test")
    for name in ("first", "second"):
        log_increments(tracker, tmp_path / name, [[[0, name]]])
        (folder,) = offline_folders(tmp_path / name)
        assert read_run(folder).table("samples/rl") == [{"rollout": 0, "response": name}]


def test_an_attempt_that_goes_on_doubles_no_row_of_a_csv_file(tmp_path):
    log_increments(CsvTracker(), tmp_path, INCREMENTS[:2])
    log_increments(CsvTracker(), tmp_path, [[*INCREMENTS[0], *INCREMENTS[1]], INCREMENTS[2]])
    with (tmp_path / "tracking" / "tables" / "samples_rl.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["rollout", "response"], ["0", "a"], ["0", "b"], ["1", "c"], ["2", "d\ne|f"]]


def test_tensorboard_shows_each_increment_as_a_step_and_one_attempt_alone(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_increments(TensorBoardTracker(), tmp_path, INCREMENTS[:2])
    log_increments(TensorBoardTracker(), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = events.Tensors("samples/rl/text_summary")
    assert [event.step for event in logged] == [0, 1, 2]
    texts = [event.tensor_proto.string_val[0].decode().splitlines()[2:] for event in logged]
    assert texts == [["| 0 | a |", "| 0 | b |"], ["| 1 | c |"], [r"| 2 | d<br>e\|f |"]]


def output(folder: Path, *, was_made: bool = True) -> Output:
    """A model of two files, of 10 bytes and of 3,000."""
    folder.mkdir()
    sizes = {"config.json": 10, "model.safetensors": 3000}
    for name, size in sizes.items():
        (folder / name).write_bytes(b"0" * size)
    files = {name: folder / name for name in sizes}
    metadata = {"digest": "0123456789abcdef", "inputs": {"student": "f" * 16}}
    return Output(name="sft-0123456789abcdef", kind="model", metadata=metadata, files=files, was_made=was_made)


@pytest.mark.parametrize(
    ("artifacts", "kept"),
    [("all", ["config.json", "model.safetensors"]), ("small", ["config.json"]), ("none", [])],
)
def test_large_files_are_uploaded_only_where_asked_for(tmp_path, offline, artifacts, kept):  # noqa: ARG001
    tracker = WandbTracker(project="rkd-test", artifacts=artifacts, small_megabytes=0.001)
    tracker.start({}, RUN, tmp_path, run_id="0")
    tracker.log_output(output(tmp_path / "model"))
    tracker.log_output(Output(name="labels-0", kind="labels", metadata={}, texts={"labels.jsonl": "{}\n"}))
    tracker.finish()
    logged = read_run(offline_folders(tmp_path)[0]).artifacts
    model = logged["sft-0123456789abcdef"]
    assert (model["kind"], model["files"]) == ("model", kept)
    assert model["metadata"]["inputs"] == {"student": "f" * 16}
    assert sorted([*kept, *model["metadata"]["files_left_out"]]) == ["config.json", "model.safetensors"]
    assert logged["labels-0"]["files"] == ([] if artifacts == "none" else ["labels.jsonl"])


class OnlineRun:
    """Stands for a run with a server that has the artifacts `known`."""

    offline = False

    def __init__(self, *known: str) -> None:
        self.known, self.used, self.logged = known, [], []

    def use_artifact(self, name: str) -> None:
        if name not in self.known:
            raise ValueError(f"{name} not found")
        self.used.append(name)

    def log_artifact(self, artifact) -> None:
        self.logged.append(artifact.name)


@pytest.mark.parametrize(
    ("was_made", "known", "used", "logged"),
    [(True, True, False, True), (False, True, True, False), (False, False, False, True)],
)
def test_online_a_reused_output_is_an_input_of_the_run(tmp_path, was_made, known, used, logged):
    tracker, name = WandbTracker(project="rkd-test"), "sft-0123456789abcdef"
    tracker._run = OnlineRun(*[f"{name}:latest"] * known)
    tracker.log_output(output(tmp_path / "model", was_made=was_made))
    assert tracker._run.used == [f"{name}:latest"] * used
    assert tracker._run.logged == [name] * logged


def test_wandb_is_offline_even_for_a_user_who_is_logged_in(monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert wandb_mode(WandbTracker(project="rkd-test").mode) == "offline"


def test_wandb_mode_of_the_environment_wins(monkeypatch):
    assert wandb_mode("online") == "offline"  # as all tests run
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("online") == "disabled"


def test_online_without_a_login_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(TrackingError, match=r"(?s)wandb login.*tracking=wandb"):
        WandbTracker(project="rkd-test", mode="online").start({}, RUN, tmp_path, run_id="0")


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
    assert json.loads((tmp_path / "tracking" / "summary.json").read_text()) == {"accuracy": 0.5, "failure": None}
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


@pytest.mark.parametrize(
    ("option", "tracker"),
    [
        ("wandb", WandbTracker(project="rkd")),
        ("wandb_online", WandbTracker(project="rkd", mode="online")),
        ("csv", CsvTracker()),
        ("tensorboard", TensorBoardTracker()),
        ("none", NoTracker()),
    ],
)
def test_every_tracking_option_builds_its_tracker(option, tracker):
    assert hydra.utils.instantiate(tiny_world.composed([f"tracking={option}"]).tracking) == tracker
