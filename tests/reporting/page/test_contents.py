"""What the page shows of jobs: texts where they were kept, curves of the store where there is one."""

import dataclasses

import pytest

from rkd.evaluation.results import RESPONSES_FILE, failed_result, write_result
from rkd.reporting.page.blocks import Blocks
from rkd.reporting.page.contents import MOST_POINTS, overview
from tests.reporting.page.test_blocks import unpacked
from tests.support.made_up_jobs import answered, queries, result, rollout, write_job

TEST = answered(["0", "7", None], ["It is 0.", "It is 7.", "Who knows?"])  # the answers are 0, 1, 2


@pytest.fixture
def shown(tmp_path):
    """Writes a job, and returns what the page shows of it, with its blocks in place of their names."""

    def show(made=None, rollouts=(), without=()):
        path = write_job(tmp_path, made or result("Ours", 0, TEST), list(rollouts))
        for name in without:
            (path.parent / name).unlink()
        return of(path)

    return show


def of(path):
    """What the page shows of the one job."""
    blocks = Blocks()
    (job,) = overview([path], blocks)
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
    assert row == {
        "question": "How much?", "response": "One.", "answer": "1", "label": "1", "episodes": 32,
        "numbers": {
            "rollout": 0, "reward": 0.25, "learned": 0.5, "check": -0.25, "advantage": -1.5, "tokens": 12,
        },
    }  # fmt: skip


def test_curves_are_those_of_the_result_where_there_is_no_store(shown):
    curves = shown()["curves"]
    assert curves["axes"] == {"rl": "episodes"}
    assert curves["metrics"]["rl/kl"] == [[0, 64, 128, 192, 256], [0, 0.02, 0.04, 0.06, 0.08]]
    assert set(curves["metrics"]) == {"rl/kl", "rl/reward"}


def test_a_long_curve_is_thinned_and_keeps_its_last_point(shown):
    made = result("Ours", 0, TEST)
    history = [{"episodes": k, "reward": k} for k in range(2 * MOST_POINTS + 1)]
    notes = dataclasses.replace(made.notes, histories={"rl": history})
    xs, ys = shown(dataclasses.replace(made, notes=notes))["curves"]["metrics"]["rl/reward"]
    assert xs == ys
    assert xs[-1] == 2 * MOST_POINTS
    assert MOST_POINTS / 2 < len(xs) <= MOST_POINTS


def test_a_failed_job_is_shown_with_its_reason(tmp_path):
    job = of(write_result(failed_result("Ours", 3, {}, None, {}, "no memory"), tmp_path))
    assert (job["row"], job["seed"], job["failure"]) == ("Ours", 3, "no memory")
    assert (job["models"], job["curves"], job["rollouts"]) == ([], None, None)


def test_jobs_with_the_same_questions_share_their_block(tmp_path):
    paths = [write_job(tmp_path, result("Ours", seed, TEST), []) for seed in (0, 1)]
    first, second = (job["models"][0]["tests"]["sums"] for job in overview(paths, Blocks()))
    assert first["questions"] == second["questions"]
    assert first["answers"] == second["answers"]
