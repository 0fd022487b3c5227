"""The command that looks after the store: what it lists and repairs, and that it removes only what no job uses."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from rkd.jobs import artifacts_command as artifacts
from rkd.store.artifact_store import Artifact, Store
from tests.support.rkd_command import rkd_command


def command(folder: Path, *arguments: str) -> CompletedProcess:
    """The command, as a user calls it in a folder with `artifacts` and `outputs`."""
    return rkd_command("artifacts", *arguments, folder=folder)


def make(folder: Path, seed: int) -> Artifact:
    """An artifact in the store of a folder."""
    return Store(folder / "artifacts").get_or_make(
        "sft", {"seed": seed}, lambda own, _: (own / "answer.txt").write_text("42")
    )


def interrupt(folder: Path, seed: int) -> Path:
    """A stage that was interrupted after it had saved something; where its artifact would lie."""

    def fail(_, partial):
        partial.save("half", lambda path: path.write_text("half"))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Store(folder / "artifacts").get_or_make("rl", {"seed": seed}, fail)
    return Store(folder / "artifacts").folder_of("rl", {"seed": seed})


def job(folder: Path, name: str, *labels: str) -> None:
    """A job that says what it uses."""
    (folder / "outputs" / name).mkdir(parents=True)
    (folder / "outputs" / name / "artifacts.json").write_text(json.dumps(labels))


def test_list_names_size_and_users_of_each_artifact_and_unfinished_stage(tmp_path):
    used, unused, unfinished = make(tmp_path, 0), make(tmp_path, 1), interrupt(tmp_path, 0)
    job(tmp_path, "Ours-seed0", used.label, f"rl/{unfinished.name}")
    lines = {line.split()[0]: line for line in command(tmp_path, "list").stdout.splitlines()}
    assert lines[used.label].endswith("Ours-seed0")
    assert lines[unused.label].endswith("no job")
    assert "unfinished" in lines[f"rl/{unfinished.name}"]
    assert lines[f"rl/{unfinished.name}"].endswith("Ours-seed0")


def test_list_ends_with_the_time_that_all_of_it_took(tmp_path):
    for seed in range(2):
        manifest = make(tmp_path, seed).folder / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "seconds": 2700.0}))
    assert command(tmp_path, "list").stdout.endswith("made in 1.50 h, one stage after the other.\n")


def test_show_prints_what_an_artifact_was_made_from(tmp_path):
    artifact = make(tmp_path, 7)
    shown = command(tmp_path, "show", artifact.label).stdout
    assert "fingerprint:\n  seed: 7\n" in shown
    assert "sha256" in shown


def test_gc_removes_what_no_job_uses_and_nothing_else(tmp_path):
    used, unused = make(tmp_path, 0), make(tmp_path, 1)
    kept, forgotten = interrupt(tmp_path, 0), interrupt(tmp_path, 1)
    job(tmp_path, "Ours-seed0", used.label, f"rl/{kept.name}")
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    dry = command(tmp_path, "gc", "--dry-run")
    assert f"would remove {unused.label}" in dry.stdout
    assert before == sorted(path.as_posix() for path in tmp_path.rglob("*"))
    done = command(tmp_path, "gc")
    assert done.returncode == 0
    assert {line for line in done.stdout.splitlines() if line.startswith("removed")} == {
        f"removed {unused.label}, 0.0 MB",
        f"removed rl/{forgotten.name}, 0.0 MB",
    }
    store = Store(tmp_path / "artifacts")
    assert store.folders() == [store.root / used.label]
    assert store.unfinished() == [store.root / "rl" / kept.name]
    assert not unused.folder.exists()


def test_gc_without_the_jobs_would_remove_everything_and_is_refused(tmp_path):
    artifact = make(tmp_path, 0)
    done = command(tmp_path, "gc")
    assert done.returncode == 2
    assert "without the jobs, every artifact would be removed" in done.stderr
    assert artifact.folder.exists()


def test_gc_refuses_a_job_that_does_not_say_what_it_uses(tmp_path):
    artifact = make(tmp_path, 0)
    (tmp_path / "outputs" / "old").mkdir(parents=True)
    (tmp_path / "outputs" / "old" / "result.json").write_text("{}")
    done = command(tmp_path, "gc")
    assert done.returncode == 1
    assert "outputs/old does not say which artifacts its job uses" in done.stderr
    assert artifact.folder.exists()


def test_repair_removes_the_damaged_artifact_and_keeps_the_whole_one(tmp_path):
    damaged, whole = make(tmp_path, 0), make(tmp_path, 1)
    (damaged.folder / "answer.txt").write_text("")
    report = command(tmp_path, "verify")
    assert report.returncode == 1
    assert "1 of 2 artifacts" in report.stdout
    assert damaged.folder.exists()
    assert command(tmp_path, "verify", "--repair").returncode == 0
    assert Store(tmp_path / "artifacts").folders() == [tmp_path / "artifacts" / whole.label]
    assert make(tmp_path, 0).folder == damaged.folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--root", "nowhere"], "--root nowhere is no folder"),
        (["show"], "STAGE/DIGEST"),
        (["gc", "sft/1"], "unrecognized arguments: sft/1"),
        (["show", "sft/1"], "artifacts holds no artifact 'sft/1'"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, words):
    make(tmp_path, 0)
    done = command(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_gc_without_a_single_job_would_remove_everything_and_is_refused(tmp_path):
    artifact = make(tmp_path, 0)
    (tmp_path / "outputs").mkdir()
    done = command(tmp_path, "gc")
    assert done.returncode == 2
    assert "outputs holds no job" in done.stderr
    assert artifact.folder.exists()


def test_folders_that_are_no_artifacts_are_left_alone(tmp_path):
    (tmp_path / "artifacts" / "models" / "llama").mkdir(parents=True)
    job(tmp_path, "Ours-seed0", make(tmp_path, 0).label)
    for arguments in (["gc"], ["verify", "--repair"]):
        assert command(tmp_path, *arguments).returncode == 0
    assert (tmp_path / "artifacts" / "models" / "llama").is_dir()


def test_an_artifact_that_a_job_comes_to_need_while_gc_runs_stays(tmp_path, capsys, monkeypatch):
    artifact, other = make(tmp_path, 0), make(tmp_path, 1)
    job(tmp_path, "first", other.label)
    lock = artifacts.Store.remove

    def remove(store, folder, is_needed):
        job(tmp_path, "second", artifact.label)
        return lock(store, folder, is_needed)

    monkeypatch.setattr(artifacts.Store, "remove", remove)
    artifacts.collect_garbage(Store(tmp_path / "artifacts"), tmp_path / "outputs", dry_run=False)
    assert "is in use and stays" in capsys.readouterr().out
    assert artifact.folder.exists()
