"""What tables say of the configs of their jobs: settings beside those of the paper's scale, and shared draws."""

import pytest
from omegaconf import OmegaConf

from rkd.reporting.paper_settings import SETTINGS, notes
from tests.support.tiny_world import composed

OURS = {"experiments": "ours", "scale": "mini", "teacher": "mini_small", "student": "mini_1", "dataset": "mini_math"}
SHARED = "± is over training seeds alone."


@pytest.fixture(scope="module")
def composed_rows():
    """For each scale the configs of rows that together have every stage."""
    return {
        scale: [
            composed([f"scale={scale}", *row]) for row in (["experiments=ours"], ["experiments=dpo", "sft/data=all"])
        ]
        for scale in ("mini", "paper")
    }


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_is_a_key_at_both_scales(composed_rows, setting):
    parent, _, name = setting.key.rpartition(".")
    for rows in composed_rows.values():
        assert any(name in (OmegaConf.select(row, parent) or {}) for row in rows)


def test_no_setting_is_listed_twice():
    assert len({one.key for one in SETTINGS}) == len({one.name for one in SETTINGS}) == len(SETTINGS)


def test_settings_of_the_mini_scale_are_told_beside_those_of_the_paper():
    papers, silent = notes("table6", [OURS])
    assert papers.startswith("Settings that are not the paper's, whose values are in parentheses: teacher samples")
    # docs/method.md 2.3 to 2.7, Tables 7 and 8.
    for part in (
        "teacher samples per temperature 1 (5)",
        "SFT learning rate 2e-3 (5e-6)",
        "student samples per query 4 (30)",
        "reward model epochs 1 (4)",
        "reward model pooling mean (last)",
        "RL episodes 10,240 (200,000)",
        "queries per rollout 32 (40)",
        "KL coefficient 0.02 (0.2)",
    ):
        assert part in papers
    assert silent.startswith("Where the paper gives no value")
    for part in ("RL temperature 0.6 (1)", "GAE λ 1 (0.95)", "RL epochs per rollout 1 (4)", "pairs per query 2 (16)"):
        assert part in silent
    assert "value coefficient" not in papers  # 0.1 at both scales
    assert "λ_cls" not in papers


def test_a_row_is_compared_with_the_same_row_at_the_papers_scale():
    # Table 8: the 3B student has 4 × 4 queries per rollout, and w/o D has a KL coefficient of 0.1.
    three, _ = notes("table3", [OURS | {"student": "mini_3"}])
    assert "queries per rollout 32 (16)" in three
    without, _ = notes("table3", [OURS | {"experiments": "ours_wo_d", "teacher": "mini_large"}])
    assert "(0.1)" in without
    assert "KL coefficient" in without
    assert "SFT learning rate" in without  # R of w/o D is that of Ours
    only_sft = " ".join(notes("table3", [OURS | {"experiments": "ours_wo_r"}]))
    assert "SFT batch size 16 (84)" in only_sft
    assert "KL" not in only_sft


def test_what_a_job_sets_itself_is_told_at_the_papers_scale_too():
    at_paper = {"experiments": "ours", "scale": "paper", "dataset": "gsm8k", "teacher": "paper_small"}
    at_paper |= {"student": "paper_1"}
    assert notes("table6", [at_paper]) == ["All settings are those of `scale=paper`."]
    (own,) = notes("table6", [at_paper | {"rl.kl.controller.coefficient": 0.05}, at_paper])
    assert own == "Settings that are not the paper's, whose values are in parentheses: KL coefficient 0.05 (0.2)."


def test_rows_of_paper_j_are_compared_with_refts_code():
    (told,) = notes("judge_main", [OURS | {"experiments": "vr", "dataset": "mini_math_aug", "teacher": "mini_large"}])
    assert told.startswith("Settings that are not those of `scale=paper`, where RL has those of ReFT's code")
    assert "RL learning rate 1e-4 (3e-6)" in told
    assert "not the paper's" not in told


def test_choices_that_no_longer_exist_are_left_out():
    older = OURS | {"teaching_set": "correct", "answering": "as_asked", "no such group": "x", "tracking": "gone"}
    assert notes("table6", [older]) == notes("table6", [OURS])
    assert notes("no such table", [OURS])[0].startswith("Settings that are not the paper's")


def test_seeds_that_share_a_draw_are_told():
    seeds = [OURS | {"seed": seed} for seed in (0, 1)]
    assert "(`sampling_seed: 0`)" in notes("table6", seeds)[-1]
    assert notes("table6", seeds)[-1].startswith(SHARED)
    assert "(`sampling_seed: 7`)" in notes("table6", [one | {"sampling_seed": 7} for one in seeds])[-1]
    drawn_anew = [one | {"sampling_seed": one["seed"]} for one in seeds]
    assert SHARED not in " ".join(notes("table6", drawn_anew))
    assert SHARED not in " ".join(notes("table6", seeds[:1]))


def test_a_judge_that_learned_from_known_answers_is_named():
    rows = [OURS | {"experiments": "judge_only", "dataset": "mini_math_aug", "judge": "mini_judge"}, OURS]
    assert notes("judge_main", rows)[-1].startswith(
        "`mini_judge` was trained on verdicts or grades that follow from known"
    )
    graded = OURS | {"dataset": "mini_open", "labels": "rubric_judge", "judge": "mini_grader"}
    assert "`mini_grader` was trained" in notes("table4", [graded])[-1]
    own = OURS | {"experiments": "self_judge", "judge": "student"}
    assert "was trained on verdicts" not in " ".join(notes("judge_main", [own, OURS]))
