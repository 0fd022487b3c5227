"""The examples of docs/extending.md: what the page shows is written as files, and used as the page says."""

import importlib
import importlib.util
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from rkd.jobs.job import run_job
from rkd.models.loading import load_causal_lm
from rkd.records import Checkpoint
from tests.support.documents import EXTENDING, shown_files, write_extended
from tests.support.fakes import context
from tests.support.jobs import only_result
from tests.support.tiny_models import PROMPT
from tests.support.tiny_world import SFT_SETTINGS, overrides


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A folder with the configuration of the repository and the files that the page shows."""
    return write_extended(tmp_path_factory.mktemp("extended"))


@pytest.fixture
def modules(extended, monkeypatch) -> None:
    """The page's modules can be imported: those in rkd/ as modules of the package, the others by their names."""
    monkeypatch.syspath_prepend(str(extended))
    for path in sorted((extended / "rkd").rglob("*.py")):
        name = ".".join(path.relative_to(extended).with_suffix("").parts)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(importlib.import_module(name.rpartition(".")[0]), path.stem, module, raising=False)
        spec.loader.exec_module(module)


def run(extended: Path, *words: str) -> str:
    """Run a job that the page describes: what the user sees."""
    with initialize_config_dir(str(extended / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(words))
    seen = io.StringIO()
    with redirect_stdout(seen):
        run_job(config)
    return seen.getvalue()


def test_the_page_shows_files_of_each_kind():
    assert set(shown_files(EXTENDING)) == {
        "conf/student/qwen.yaml",
        "conf/dataset/queries/my_problems.yaml",
        "conf/dataset/my_problems.yaml",
        "my_rewards.py",
        "rkd/judges/length.py",
        "conf/judge/length.yaml",
        "my_prompts/mini_math.yaml",
        "experiments/short.yaml",
        "sweeps/temperature.yaml",
        "rkd/stages/interpolation.py",
    }


def test_a_dataset_of_ones_own_is_read_and_split(extended, tmp_path):
    sums = [(i, j) for i in range(10) for j in (2, 3)]
    rows = [{"question": f"Ada has {i} nuts and finds {j} more.", "answer": str(i + j)} for i, j in sums]
    (tmp_path / "my_problems").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "my_problems" / "train.jsonl").write_text(lines, encoding="utf-8")
    seen = run(extended, "dataset=my_problems", f"dataset.source={tmp_path}", "dry_run=true")
    # Of 20 a tenth is the test set, and a tenth of the rest, rounded, is for validation.
    assert "16 training, 2 validation; tests: my_problems 2" in seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["experiments=short"], "5,120 episodes"),
        (["sweeps=temperature", "rl.rollouts.temperature=1.0"], "10,240 episodes"),
        (["student=qwen", "dataset=mini_math"], "qwen2_5_0_5b"),
    ],
    ids=["row", "table", "model"],
)
def test_a_row_a_table_and_a_model_of_ones_own_are_planned(extended, words, told):
    assert told in run(extended, *words, "dry_run=true")


@pytest.mark.slow
def test_a_prompt_of_ones_own_is_asked(extended):
    words = ["dataset/prompt@teacher.prompt=from_folder", f"prompts.folder={extended / 'my_prompts'}", "dry_run=true"]
    assert run(extended, *words) != run(extended, "dry_run=true")  # it has other lengths


@pytest.mark.usefixtures("modules")
def test_a_reward_of_ones_own_trains(extended, world, tmp_path):
    own = ["reward_mix=own", "reward_mix.verifiable.function.path=my_rewards.brevity", "reward_model=none"]
    rollouts = ["rl.rollouts.episodes=64", "rl.rollouts.queries_per_rollout=4", "rl.rollouts.responses_per_query=8"]
    stages = [*SFT_SETTINGS, *rollouts, "rl.rollouts.max_response_tokens=16"]
    run(extended, *overrides(world, tmp_path, *own, stages=stages))
    result, _ = only_result(tmp_path)
    rewards = [row["reward"] for row in result.notes.histories["rl"] if "reward" in row]
    # "The answer is 1." has 16 of 400 characters, and at most 16 tokens are sampled: a reward near 1.
    assert rewards
    assert all(0.8 < reward <= 1 for reward in rewards)


@pytest.mark.usefixtures("modules")
def test_a_judge_of_ones_own_judges(extended, world, tmp_path):
    run(extended, *overrides(world, tmp_path, "experiments=judge_quality", "judge=length", stages=[]))
    result, _ = only_result(tmp_path)
    assert result.notes.judge is not None
    bins = {name for name, own in result.notes.judge.reliability.items() if own.count}
    assert bins == {"9"}  # all responses are short: scores from 0.9 to 1
    accepted = result.notes.judge.attacks_accepted
    assert accepted["empty"] == 1.0
    assert accepted["repetition"] == 0.0  # one sentence without end


@pytest.mark.usefixtures("modules")
def test_a_stage_of_ones_own_mixes_weights(world, tmp_path):
    stage = importlib.import_module("rkd.stages.interpolation").Interpolation(weight=0.25)
    tuned, other = Checkpoint(world / "student", "student"), Checkpoint(world / "teacher", "teacher")
    report = stage.fit(other, context(tuned, tmp_path / "made", prompt=PROMPT))
    assert report.weight == 0.25
    parameters = [
        dict(load_causal_lm(folder).named_parameters()) for folder in (tmp_path / "made", tuned.folder, other.folder)
    ]
    for name, own in parameters[0].items():
        torch.testing.assert_close(own, 0.75 * parameters[1][name] + 0.25 * parameters[2][name])
