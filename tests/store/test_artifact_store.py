"""The stage store: made once, found again, never half there, and gone on with after an interruption."""

import dataclasses
import enum
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rkd.errors import ArtifactError
from rkd.store.artifact_store import Artifact, Store, partial_folder
from rkd.store.fingerprint import as_fingerprint, fingerprint_digest
from rkd.store.partial_results import PartialResults

REPOSITORY = Path(__file__).parents[2]

# A process that asks for one artifact. It counts its makes in `makes.txt`, and `pause` seconds pass between two files.
SCRIPT = """
import sys, time
from pathlib import Path
from rkd.store.artifact_store import Store

root, pause = Path(sys.argv[1]), float(sys.argv[2])

def make(folder, progress):
    with (root / "makes.txt").open("a") as file:
        file.write("made\\n")
    (folder / "first.txt").write_text("first")
    time.sleep(pause)
    (folder / "second.txt").write_text("second")

print(Store(root).get_or_make("teacher", {"seed": 0}, make).folder)
"""


def start_process(root: Path, pause: float) -> subprocess.Popen:
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, str(root), str(pause)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def write_answer(folder: Path, _: object) -> None:
    (folder / "answer.txt").write_text("42 is the answer")


def make_nothing(folder: Path, _: object) -> None:
    raise AssertionError(f"{folder} should have been found")


class Precision(enum.Enum):
    FULL = "float32"


@dataclasses.dataclass(frozen=True)
class Decoding:
    temperatures: tuple[float, ...]
    folder: Path
    precision: Precision


class Teacher:
    def fingerprint(self) -> dict[str, object]:
        return {"decoding": Decoding((0.0, 0.1), Path("models/teacher"), Precision.FULL)}


def test_second_request_finds_what_the_first_made(tmp_path):
    made = Store(tmp_path).get_or_make("sft", {"seed": 1}, write_answer)
    found = Store(tmp_path).get_or_make("sft", {"seed": 1}, make_nothing)
    assert found == made
    assert made.folder == tmp_path / "sft" / made.digest
    assert (found.folder / "answer.txt").read_text() == "42 is the answer"


def test_manifest_tells_files_recipe_versions_and_duration(tmp_path):
    manifest = Store(tmp_path).get_or_make("sft", {"seed": 1}, write_answer).manifest
    # By `printf '42 is the answer' | sha256sum`.
    checksum = "6ee92b5b60d36f2001241ae499070d5544ff0dae2c3e9f5238a549ba050439e1"
    assert manifest["files"] == {"answer.txt": {"size": 16, "sha256": checksum}}
    assert manifest["fingerprint"] == {"seed": 1}
    assert {"python", "torch", "transformers", "pytorch-lightning"} <= set(manifest["versions"])
    assert 0 <= manifest["seconds"] < 10


def test_another_recipe_or_name_gives_another_digest():
    digests = {
        fingerprint_digest("sft", {"seed": 1}),
        fingerprint_digest("sft", {"seed": 2}),
        fingerprint_digest("rl", {"seed": 1}),
    }
    assert len(digests) == 3
    assert all(len(digest) == 16 for digest in digests)


def test_order_of_keys_does_not_change_the_digest():
    assert fingerprint_digest("sft", {"seed": 1, "lr": 0.1}) == fingerprint_digest("sft", {"lr": 0.1, "seed": 1})


def test_recipes_spell_out_dataclasses_paths_tuples_enums_and_recipe_methods():
    assert as_fingerprint({"teacher": Teacher()}) == {
        "teacher": {
            "_class_": f"{__name__}.Teacher",
            "decoding": {
                "_class_": f"{__name__}.Decoding",
                "temperatures": [0.0, 0.1],
                "folder": "models/teacher",
                "precision": "float32",
            },
        }
    }


def test_recipe_of_a_later_stage_names_an_artifact_by_digest_not_by_place(tmp_path):
    one = Store(tmp_path / "one").get_or_make("sft", {"seed": 1}, write_answer)
    other = Store(tmp_path / "other").get_or_make("sft", {"seed": 1}, write_answer)
    assert isinstance(one, Artifact)
    assert fingerprint_digest("rl", {"student": one}) == fingerprint_digest("rl", {"student": other})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"rl": {"lrs": [1e-5, object()]}}, r"fingerprint\.rl\.lrs\[1\] is a builtins\.object"),
        ({"rl": {"kl": float("nan")}}, r"fingerprint\.rl\.kl=nan"),
        ({"sizes": {1, 2}}, r"fingerprint\.sizes is a builtins\.set"),
        ({"rl": {3: "three"}}, r"fingerprint\.rl has the key 3"),
        ({"loss": Teacher}, r"fingerprint\.loss is the class .*Teacher"),
    ],
)
def test_unserialisable_recipe_is_refused_by_its_key(tmp_path, value, words):
    with pytest.raises(TypeError, match=words):
        Store(tmp_path).get_or_make("rl", value, make_nothing)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_ask_at_once_make_it_once(tmp_path):
    processes = [start_process(tmp_path, pause=1.0) for _ in range(2)]
    folders = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(folders) == 1
    assert (tmp_path / "makes.txt").read_text() == "made\n"


def test_killed_process_leaves_nothing_that_looks_complete_and_the_next_run_succeeds(tmp_path):
    process = start_process(tmp_path, pause=60)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("teacher/.*/first.txt")):
        assert time.monotonic() < deadline, "the process did not start to make its artifact"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    assert Store(tmp_path).folders() == []

    artifact = Store(tmp_path).get_or_make("teacher", {"seed": 0}, write_answer)
    assert sorted(path.name for path in artifact.folder.iterdir()) == ["answer.txt", "manifest.json"]
    assert not list((tmp_path / "teacher").glob(".*.making-*"))


def test_failing_make_keeps_nothing_and_its_own_error_reaches_the_caller(tmp_path):
    def fail(folder: Path, partial: object) -> None:
        write_answer(folder, partial)
        raise ValueError("teacher=stored found no responses")

    with pytest.raises(ValueError, match="teacher=stored"):
        Store(tmp_path).get_or_make("teacher", {}, fail)
    assert Store(tmp_path).folders() == []
    assert not list((tmp_path / "teacher").glob(".*.making-*"))


def test_truncated_file_is_named_with_the_command_that_repairs(tmp_path):
    artifact = Store(tmp_path).get_or_make("sft", {}, write_answer)
    (artifact.folder / "answer.txt").write_text("42")
    with pytest.raises(
        ArtifactError, match=r"answer\.txt has 2 bytes where the manifest says 16.*verify --root .*--rep"
    ):
        Store(tmp_path).get_or_make("sft", {}, make_nothing)


def test_missing_manifest_is_damage_not_absence(tmp_path):
    artifact = Store(tmp_path).get_or_make("sft", {}, write_answer)
    (artifact.folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        Store(tmp_path).get_or_make("sft", {}, make_nothing)


def test_an_altered_file_of_the_same_size_is_named_with_the_command_that_repairs(tmp_path):
    artifact = Store(tmp_path).get_or_make("sft", {}, write_answer)
    (artifact.folder / "answer.txt").write_text("43 is the answer")
    with pytest.raises(ArtifactError, match=r"answer\.txt was altered.*verify --root .*--repair"):
        Store(tmp_path).get_or_make("sft", {}, make_nothing)


def test_verify_sees_a_file_that_does_not_belong(tmp_path):
    artifact = Store(tmp_path).get_or_make("sft", {}, write_answer)
    (artifact.folder / "model.bin").write_text("from elsewhere")
    with pytest.raises(ArtifactError, match=r"model\.bin is not in the manifest"):
        artifact.verify()


def test_full_disk_is_explained_with_the_folder(tmp_path):
    def fill_the_disk(folder: Path, _: object) -> None:  # noqa: ARG001
        with open("/dev/full", "w") as file:
            file.write("no device has room for this")

    with pytest.raises(ArtifactError, match=r"disk was full while making .*sft.*artifacts\.root"):
        Store(tmp_path).get_or_make("sft", {}, fill_the_disk)


def test_root_that_cannot_be_a_folder_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot be written \(Not a directory\).*artifacts\.root"):
        Store(tmp_path / "file").get_or_make("sft", {}, write_answer)


def test_error_of_make_about_a_file_elsewhere_is_not_blamed_on_the_store(tmp_path):
    def read_elsewhere(folder: Path, _: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder.root + "data/gsm8k.jsonl"))

    with pytest.raises(PermissionError, match=r"gsm8k\.jsonl"):
        Store(tmp_path).get_or_make("sft", {}, read_elsewhere)


def test_an_attempt_finds_what_the_one_before_it_saved_and_costs_are_those_of_both(tmp_path):
    advance = []

    def first(_: Path, partial: PartialResults) -> None:
        time.sleep(0.2)
        partial.save("half", lambda path: path.write_text("half"))
        raise KeyboardInterrupt

    def second(folder: Path, partial: PartialResults) -> None:
        assert list(folder.iterdir()) == []
        (folder / "whole.txt").write_text(partial.find("half").read_text() + " and half")

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).get_or_make("sft", {}, first)
    store = Store(tmp_path, advance.append)
    assert store.folders() == []
    assert len(store.unfinished()) == 1
    artifact = store.get_or_make("sft", {}, second)
    assert (artifact.folder / "whole.txt").read_text() == "half and half"
    assert 0.2 <= artifact.manifest["seconds"] < 5
    assert artifact.manifest["attempts"] == 2
    assert "going on where an earlier job ended" in advance[0]
    assert store.unfinished() == []


def test_waiting_for_another_process_is_told(tmp_path):
    process, advance = start_process(tmp_path, pause=1.0), []
    while not list(tmp_path.glob("teacher/.*/first.txt")):
        time.sleep(0.02)
    Store(tmp_path, advance.append).get_or_make("teacher", {"seed": 0}, make_nothing)
    process.communicate(timeout=10)
    assert [line for line in advance if line.startswith("Waiting for another process")]


def test_what_is_being_made_is_not_removed(tmp_path):
    process = start_process(tmp_path, pause=1.0)
    while not list(tmp_path.glob("teacher/.*/first.txt")):
        time.sleep(0.02)
    (unfinished,) = Store(tmp_path).unfinished()
    assert not Store(tmp_path).remove(unfinished)
    process.communicate(timeout=10)
    assert Store(tmp_path).remove(unfinished)
    assert Store(tmp_path).folders() == []


def test_progress_that_a_kill_left_beside_a_finished_artifact_is_removed_when_it_is_found(tmp_path):
    store = Store(tmp_path)
    artifact = store.get_or_make("sft", {}, write_answer)
    PartialResults(partial_folder(artifact.folder)).save("half", lambda path: path.write_text("half"))
    assert store.get_or_make("sft", {}, make_nothing) == artifact
    assert not partial_folder(artifact.folder).exists()
