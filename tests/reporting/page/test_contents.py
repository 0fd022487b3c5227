"""What the page shows: texts of jobs where they were kept, and kept tables with the jobs of their cells."""

import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import pytest

from rkd.errors import UsageError
from rkd.evaluation.results import RESPONSES_FILE, failed_result, write_result
from rkd.io import write_rows
from rkd.reporting.page.blocks import Blocks
from rkd.reporting.page.contents import overview
from rkd.reporting.page.jobs import MOST_POINTS
from tests.reporting.page.test_blocks import unpacked
from tests.support.made_up_jobs import answered, queries, result, rollout, write_job

TABLES = Path(__file__).parents[3] / "experiments" / "results" / "mini" / "tables"
TEST = answered(["0", "7", None], ["It is 0.", "It is 7.", "Who knows?"])  # the answers are 0, 1, 2


@pytest.fixture
def shown(tmp_path):
    """Writes a job, and returns what the page shows of it, with its blocks in place of their names."""

    def show(made=None, rollouts=(), without=()):
        folder = write_job(tmp_path, made or result("Ours", 0, TEST), list(rollouts)).parent
        for name in without:
            (folder / name).unlink()
        return of(folder)

    return show


def of(folder):
    """What the page shows of the one job."""
    blocks = Blocks()
    (job,) = overview([folder], blocks)["jobs"]
    for model in job["models"]:
        for test in model["tests"].values():
            test |= {part: unpacked(blocks, test[part]) for part in ("questions", "answers")}
    return job | {part: job[part] and unpacked(blocks, job[part]) for part in ("detail", "curves", "rollouts")}


def test_a_job_has_its_numbers_questions_and_responses(shown):
    job = shown()
    assert (job["row"], job["seed"], job["dataset"], job["student"], job["teacher"]) == (
        "Ours",
        0,
        "sums",
        "small",
        "large",
    )
    assert (job["seconds"], job["tokens"], job["failure"]) == (60.0, 1000, None)
    (model,) = job["models"]
    test = model["tests"]["sums"]
    assert model["role"] == "Ours"
    assert (test["n"], test["measure"]) == (3, "accuracy")
    assert test["accuracy"] == pytest.approx(1 / 3)
    assert test["questions"] == {
        "ids": ["sums-0", "sums-1", "sums-2"],
        "questions": [query.question for query in queries(3)],
        "gold_answers": ["0", "1", "2"],
    }
    assert test["answers"] == {"outcomes": [1, 0, 0], "answers": ["0", "7", None], "responses": TEST.responses}


def test_seeds_share_a_setting_and_another_value_makes_another(shown):
    of_seeds = [result("Ours", seed, TEST) for seed in (0, 1)]
    changed = dataclasses.replace(of_seeds[0], config={**of_seeds[0].config, "labels": {"threshold": 0.9}})
    first, second, third = (
        shown(dataclasses.replace(one, config={**one.config, "seed": one.seed, "output_root": f"o{one.seed}"}))
        for one in (*of_seeds, changed)
    )
    assert first["setting"] == second["setting"] != third["setting"]


def test_label_statistics_and_costs_are_among_the_numbers(shown):
    detail = shown()["detail"]
    # 8 of 10 queries have a label, and 6 of the 8 are right.
    assert detail["numbers"]["labels.precision"] == 0.75
    assert detail["numbers"]["costs.rl.seconds"] == 60.0
    assert detail["consensus"] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_a_job_without_kept_texts_shows_ids_and_answers(shown):
    test = shown(without=[RESPONSES_FILE])["models"][0]["tests"]["sums"]
    assert test["questions"] == {"ids": ["sums-0", "sums-1", "sums-2"], "questions": None, "gold_answers": None}
    assert test["answers"]["responses"] is None
    assert test["answers"]["answers"] == ["0", "7", None]


def test_a_model_whose_test_was_stored_without_texts_has_none(shown):
    without = dataclasses.replace(TEST, responses=[])
    test = shown(result("Ours", 0, without))["models"][0]["tests"]["sums"]
    assert test["answers"]["responses"] is None
    assert test["questions"]["gold_answers"] == ["0", "1", "2"]


def test_rollouts_have_texts_and_all_their_numbers(shown):
    (row,) = shown(rollouts=[rollout("How much?", "One.", episodes=32)])["rollouts"]
    assert list(row["numbers"])[:3] == ["reward", "learned", "check"]
    assert row == {
        "term": "learned", "question": "How much?", "response": "One.", "answer": "1", "label": "1", "episodes": 32,
        "numbers": {
            "rollout": 0, "reward": 0.25, "learned": 0.5, "check": -0.25, "advantage": -1.5, "tokens": 12,
        },
    }  # fmt: skip


def test_a_number_of_a_rollout_that_is_not_finite_is_shown_as_absent(shown):
    (row,) = shown(rollouts=[rollout("How much?", "One.", label=None, parts={"learned": None, "check": 0.5})])[
        "rollouts"
    ]
    assert (row["numbers"]["learned"], row["numbers"]["check"]) == (None, 0.5)
    assert row["label"] is None
    assert "label" not in row["numbers"]


def test_curves_are_those_of_the_result_where_there_is_no_store(shown):
    curves = shown()["curves"]
    assert curves["axes"] == {"rl": "episodes"}
    assert curves["metrics"]["rl/kl"] == [[0, 64, 128, 192, 256], [0, 0.02, 0.04, 0.06, 0.08]]
    assert set(curves["metrics"]) == {"rl/kl", "rl/reward"}


def test_curves_of_the_store_have_every_logged_metric_at_the_steps_of_the_validations(tmp_path):
    label = f"sft/{'0' * 16}"
    made = result("Ours", 0, TEST)
    config = {**made.config, "artifacts": {"root": str(tmp_path / "artifacts")}}
    notes = dataclasses.replace(made.notes, histories={"sft": [{"step": 2, "accuracy": 0.5, "share": 1.0}]})
    folder = write_job(tmp_path / "outputs", dataclasses.replace(made, config=config, notes=notes), []).parent
    (folder / "artifacts.json").write_text(json.dumps([label]), encoding="utf-8")
    (tmp_path / "artifacts" / label).mkdir(parents=True)
    # Lightning counts steps from 0: the validation after two steps is logged at step 1.
    losses = [{"step": step, "metrics": {"train/loss": loss, "epoch": 0}} for step, loss in ((0, 2.0), (1, 1.0))]
    rows = [*losses, {"step": 1, "metrics": {"validation/accuracy": 0.5, "epoch": 0}}]
    write_rows(tmp_path / "artifacts" / label / "curves.jsonl", rows)
    curves = of(folder)["curves"]
    assert curves["metrics"] == {"sft/validation/accuracy": [[2], [0.5]], "sft/train/loss": [[1, 2], [2.0, 1.0]]}
    assert curves["axes"] == {"sft": "optimiser steps"}


def test_a_long_curve_is_thinned_and_keeps_its_last_point(shown):
    made = result("Ours", 0, TEST)
    history = [{"episodes": k, "reward": k} for k in range(2 * MOST_POINTS + 1)]
    notes = dataclasses.replace(made.notes, histories={"rl": history})
    xs, ys = shown(dataclasses.replace(made, notes=notes))["curves"]["metrics"]["rl/reward"]
    assert xs == ys
    assert xs[-1] == 2 * MOST_POINTS
    assert MOST_POINTS / 2 < len(xs) <= MOST_POINTS


def test_a_failed_job_is_shown_with_its_reason(tmp_path):
    write_result(failed_result("Ours", 3, {}, None, {}, "no memory"), tmp_path)
    job = of(tmp_path)
    assert (job["row"], job["seed"], job["failure"]) == ("Ours", 3, "no memory")
    assert (job["models"], job["curves"], job["rollouts"]) == ([], None, None)


def test_jobs_with_the_same_questions_share_their_block(tmp_path):
    for seed in (0, 1):
        write_job(tmp_path, result("Ours", seed, TEST), [])
    first, second = (job["models"][0]["tests"]["sums"] for job in overview([tmp_path], Blocks())["jobs"])
    assert first["questions"] == second["questions"]
    assert first["answers"] == second["answers"]


# ----------------------------------------------------------------------------------------------------------------------
# Kept tables
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def headline(tmp_path):
    """The files of one kept table, as headline.md prints it."""
    for file in TABLES.glob("headline.*"):
        shutil.copy(file, tmp_path)
    return tmp_path


def test_a_cell_of_a_kept_table_has_its_values_and_its_jobs(headline):
    shown = overview([headline], Blocks())
    (table,) = shown["tables"]
    assert (table["name"], len(table["jobs"])) == ("headline", 7)
    (line,) = (one for one in table["lines"] if one["row"] == "Ours")
    place = [column["test_set"] for column in table["columns"]].index("mini_math")
    # headline.md: 69.7 ± 1.0 over the seeds 0 to 2
    values = line["cells"][place]["values"]
    assert round(100 * statistics.mean(values), 1) == 69.7
    assert round(100 * statistics.stdev(values), 1) == 1.0
    jobs = [shown["jobs"][place] for place in line["cells"][place]["jobs"]]
    assert [(job["row"], job["seed"]) for job in jobs] == [("Ours", 0), ("Ours", 1), ("Ours", 2)]


def test_a_kept_job_has_outcomes_and_curves_but_no_texts(headline):
    blocks = Blocks()
    job = next(one for one in overview([headline], blocks)["jobs"] if (one["row"], one["seed"]) == ("Ours", 0))
    assert [model["role"] for model in job["models"]] == ["teacher", "Ours"]
    test = job["models"][-1]["tests"]["mini_math"]
    answers, asked = unpacked(blocks, test["answers"]), unpacked(blocks, test["questions"])
    assert sum(answers["outcomes"]) / test["n"] == test["accuracy"]
    assert test["low"] < test["accuracy"] < test["high"]
    assert (answers["answers"], answers["responses"], asked["questions"]) == (None, None, None)
    assert len(set(asked["ids"])) == test["n"] == 1000
    assert "rl/reward" in unpacked(blocks, job["curves"])["metrics"]
    assert (job["dataset"], job["teacher"], job["folder"]) == ("mini_math_svamp", "mini_large", None)


def test_a_job_that_has_its_folder_is_not_shown_a_second_time(headline):
    name = "Ours-mini_math_svamp-seed0-49257f2961fe542d"
    folder = write_job(headline, result("Ours", 0, TEST), []).parent
    folder.rename(headline / name)
    jobs = [job for job in overview([headline], Blocks())["jobs"] if job["name"] == name]
    assert [job["folder"] for job in jobs] == [str(headline / name)]


def test_folders_without_jobs_and_tables_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no result\.json and no NAME\.jobs\.json under"):
        overview([tmp_path], Blocks())
