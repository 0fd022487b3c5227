"""Poison: random gold answers in training and validation change no weight of a label-free row, and do change others.

Every row of `experiments/` runs twice in the tiny world, with the right gold answers and with random ones. The two runs
have a store each, so that no stage is taken from the other; within a store the rows share stages.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from rkd.judges.gold import GoldJudge
from rkd.pipeline.experiment import Stages
from rkd.pipeline.pipeline import build_stages
from rkd.store.artifact_store import open_artifact
from tests.support.jobs import only_result, run
from tests.support.made_once import made_once
from tests.support.tiny_world import REPOSITORY, composed

ROWS = sorted(path.stem for path in (REPOSITORY / "experiments").glob("*.yaml"))
WITH_LABELS = (
    "gold_label", "rerank", "self_judge", "semi_supervised", "sft_gold", "vr", "vr_everywhere", "vr_rerank", "vr_yon",
    "yon", "yon_rerank",
)  # fmt: skip
LABEL_FREE = [row for row in ROWS if row not in WITH_LABELS]

# Half of the queries without a label, for the rows that ask such queries; few of everything.
DATA = ["dataset.labelled_fraction=0.5", "dataset.validation_fraction=0.25", "dataset.max_test_queries=2"]
# By the part that has the setting. A teacher that guesses is right and wrong about every query.
SETTINGS = {
    "labels.threshold": "0.6",
    "labels.labels.threshold": "0.6",
    "labels.noise": "0.4",
    "judge.prompt.yes_word": "' 1'",
    "judge.prompt.no_word": "' 2'",
    "sft.epochs": "2",
    "sft.learning_rate": "1e-3",
    "dpo.epochs": "2",
    "dpo.learning_rate": "1e-3",
    "pairs.max_pairs_per_query": "4",
    "reward_model.epochs": "2",
    "reward_model.learning_rate": "1e-3",
    "reward_model.pooling": "last",
    "reward_model.prompt.yes_word": "' 1'",
    "reward_model.prompt.no_word": "' 2'",
    "rl.rollouts.episodes": "96",
    "rl.rollouts.queries_per_rollout": "12",
    "rl.rollouts.responses_per_query": "4",
    "rl.rollouts.max_response_tokens": "16",
    "rl.rollouts_between_validations": "1",
    "rl.optimisation.minibatches_per_epoch": "2",
    "evaluation.pass_at_k_samples": "0",
    "evaluation.inference.samples_per_query": "2",
}


# Of a judge that writes: the tiny models write an answer, which is read as a grade.
OF_WRITTEN_GRADES = {
    "judge.read_reply.path": "tests.support.tiny_grader.read_answer",
    "judge.max_reply_tokens": "16",
    "judge.prompt.template": r"'Q: {question}\n<response>{response}</response>\nA:'",
}


def has_labels(stages: Stages) -> bool:
    """Whether a training of the row may read gold answers, by what its parts declare."""
    return stages.labels.uses_gold or isinstance(stages.judge, GoldJudge)


def overrides_of(row: str, world: Path) -> list[str]:
    """The command line of a row in the tiny world, without its dataset: the settings of the parts that it has."""
    config = composed([f"experiments={row}"])
    settings = {key: value for key, value in SETTINGS.items() if has_setting(config, key)}
    if has_setting(config, "judge.name_or_path") and not OmegaConf.is_interpolation(config.judge, "name_or_path"):
        settings["judge.name_or_path"] = str(world / "teacher")
    if has_setting(config, "judge.read_reply"):
        settings |= OF_WRITTEN_GRADES
    settings["teacher.name_or_path"] = str(world / "student")
    return [f"experiments={row}", *DATA, *(f"{key}={value}" for key, value in settings.items())]


def has_setting(config: DictConfig, key: str) -> bool:
    """Whether the config has this key; without the values that it refers to."""
    *parts, name = key.split(".")
    for part in parts:
        if part not in config or not OmegaConf.is_config(config := config[part]):
            return False
    return name in config


def files_of(store: Path, job: Path) -> dict[str, str]:
    """The checksum of every file that the stages of a finished job made, without evaluations of policy and judge."""
    found = {}
    for label in json.loads((job / "artifacts.json").read_text(encoding="utf-8")):
        if not label.startswith(("evaluation/", "judge_attacks/")):
            files = open_artifact(store / label).manifest["files"]
            found |= {f"{label}/{name}": file["sha256"] for name, file in files.items()}
    return found


@pytest.fixture(scope="session")
def made(world, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """By row: `has_labels`, and `files_of` the job with right gold answers and of the one with random ones."""

    def make(folder: Path) -> None:
        found: dict[str, dict[str, Any]] = {}
        for row in ROWS:
            usual = overrides_of(row, world)
            found[row] = {"has_labels": has_labels(build_stages(composed(["dataset=svamp", *usual])))}
            for data in ("data", "poisoned"):
                outputs = folder / data / row
                own = [f"dataset.source={world / data}", f"output_root={outputs}", *usual]
                run(world, folder / data, *own, stages=[], without=("pairs.",))
                (job,) = outputs.iterdir()
                found[row][data] = files_of(folder / data / "artifacts", job)
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")

    return json.loads((made_once(tmp_path_factory, "poison", make) / "found.json").read_text(encoding="utf-8"))


def test_the_poison_is_in_training_and_in_validation(world):
    right, wrong = (
        build_stages(composed(["dataset=svamp", f"dataset.source={world / name}", *DATA])).dataset
        for name in ("data", "poisoned")
    )
    assert right.test_sets() == wrong.test_sets()
    for split in ("training_queries", "validation_queries", "unlabelled_queries"):
        assert getattr(right, split)() == getattr(wrong, split)()
        gold = [[query.gold_answer for query in getattr(data, split)(labelled=True)] for data in (right, wrong)]
        assert sum(a != b for a, b in zip(*gold, strict=True)) >= len(gold[0]) // 4


def test_random_gold_answers_change_no_file_of_the_whole_method(world, finished, tmp_path):
    run(world, tmp_path, f"dataset.source={world / 'poisoned'}")
    jobs = [(root / "artifacts", only_result(root)[1]) for root in (finished[0], tmp_path)]
    assert files_of(*jobs[0]) == files_of(*jobs[1])


@pytest.mark.slow
def test_every_row_with_labels_is_listed_here(made):
    assert [row for row in ROWS if made[row]["has_labels"]] == list(WITH_LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("row", LABEL_FREE)
def test_random_gold_answers_change_no_file_of_a_label_free_row(made, row):
    # Weights, the histories of training with all validations, labels, samples and pairs; and what each was made from.
    assert any(re.fullmatch(r"(rl|rejection)/.*/model\.safetensors", name) for name in made[row]["data"])
    assert made[row]["data"] == made[row]["poisoned"]


@pytest.mark.slow
@pytest.mark.parametrize("row", WITH_LABELS)
def test_random_gold_answers_change_the_policy_of_a_row_with_labels(made, row):
    policies = [
        [checksum for name, checksum in made[row][data].items() if re.fullmatch(r"rl/.*/model\.safetensors", name)]
        for data in ("data", "poisoned")
    ]
    assert [len(own) for own in policies] == [1, 1]
    assert policies[0] != policies[1]
