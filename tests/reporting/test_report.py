"""The report: what a reader sees of given results. What joins seeds is computed here, all else by the jobs."""

import dataclasses
import io

import pytest
from matplotlib.image import imread
from rich.console import Console

from rkd.evaluation.results import CategoryResult, Comparison, ModelResult, Overlap, RunResult, write_result
from rkd.reporting.learning_curves import learning_curves
from rkd.reporting.report import (
    category_tables,
    final_table,
    final_table_markdown,
    row_comparison,
    seeds_table,
)
from tests.support.made_up_results import on_test_set
from tests.support.rkd_command import rkd_command


def run(seed: int = 0, *, ours_correct: int = 14, row: str = "Ours", **changes) -> RunResult:
    """20 questions: teacher 18, SFT 10 and few-shot 4 right; Ours as given. Intervals are made up."""
    models = [
        ModelResult(
            "teacher", {"math": on_test_set("math", 18, 20, 0.7, 0.98), "plus": on_test_set("plus", 8, 10, 0, 1)}
        ),
        ModelResult("student few-shot", {"math": on_test_set("math", 4, 20, 0.08, 0.42)}),
        ModelResult("SFT", {"math": on_test_set("math", 10, 20, 0.3, 0.7), "plus": on_test_set("plus", 4, 10, 0, 1)}),
        ModelResult("Ours", {"math": on_test_set("math", ours_correct, 20, 0.48, 0.855, pass_at_8=0.95)}),
    ]
    result = RunResult(
        row=row,
        seed=seed,
        config={"seed": seed, "rl": {"lr": 1e-5}},
        revision=None,
        versions={},
        costs={},
        models=models,
        comparisons=[
            Comparison("Ours", "teacher", "math", 1, 5, -0.2, 0.21875),
            Comparison("SFT", "Ours", "math", 2, 6, -0.2, 0.289),
        ],
        failure=None,
        created="2030-01-01T00:00:00+00:00",
    )
    return dataclasses.replace(result, **changes)


def printed(table) -> str:
    output = io.StringIO()
    Console(file=output, width=160).print(table)
    return output.getvalue()


def test_markdown_and_terminal_show_each_model_with_interval_pass_at_8_and_other_test_sets():
    text = final_table_markdown(run())
    assert "**Ours, seed 0: accuracy in %**" in text
    assert "| model | math [95 % interval] | pass@8 | plus |" in text
    assert "| Ours | 70.0 [48.0, 85.5] | 95.0 | – |" in text
    assert "| SFT | 50.0 [30.0, 70.0] | – | 40.0 |" in text
    terminal = printed(final_table(run()))
    assert "70.0 [48.0, 85.5]" in terminal
    assert "n: math 20, plus 10." in terminal


def test_tables_name_the_origin_of_models():
    told = [run(seed, origins={"one": "tiny, weights dequantised from Q4_1"}) for seed in (0, 1)]
    assert "Model one: tiny, weights dequantised from Q4_1." in printed(final_table(told[0]))
    assert seeds_table(told).count("Model one: tiny, weights dequantised from Q4_1.") == 1
    assert "Model " not in final_table_markdown(run())


def test_line_below_compares_ours_with_the_best_other_student_seen_from_ours():
    # Recorded as SFT against Ours, -20 points with 2 and 6: from Ours it is +20 with 6 and 2.
    line = (
        "Ours − SFT (best other student), same questions: +20.0 points; only Ours right 6, only SFT right 2; "
        "McNemar, exact: p = 0.289."
    )
    assert line in final_table_markdown(run())
    assert "Ours − SFT" in printed(final_table(run()))


def test_of_tied_students_the_last_in_the_table_is_compared_and_the_others_are_named():
    tied = run(ours_correct=14)
    few_shot = ModelResult("student few-shot", {"math": on_test_set("math", 10, 20, 0.3, 0.7)})
    models = [tied.models[0], few_shot, *tied.models[2:]]
    text = final_table_markdown(dataclasses.replace(tied, models=models))
    assert "Ours − SFT (best other student, tied with student few-shot), same questions: +20.0 points" in text


def test_missing_comparison_is_said_not_computed():
    assert "No paired test of Ours against SFT is recorded." in final_table_markdown(run(comparisons=[]))


def test_tiny_p_value_is_not_printed_as_zero():
    pair = Comparison("Ours", "SFT", "math", 14, 0, 0.7, 0.000122)
    assert "p < 0.001" in final_table_markdown(run(comparisons=[pair]))


def test_failed_job_shows_its_reason_even_with_brackets():
    failed = run(models=[], comparisons=[], failure="rl: no [/checkpoint] in [bold]")
    assert "rl: no [/checkpoint] in [bold]" in printed(final_table(failed))
    assert "rl: no [/checkpoint] in [bold]" in final_table_markdown(failed)


def test_seeds_table_gives_mean_sample_deviation_and_each_seeds_interval():
    runs = [run(1, ours_correct=16), run(0, ours_correct=12), run(2, ours_correct=14)]
    for own in runs:
        own.models[-1].test_sets["math"].answers[0] = str(own.seed)
    text = seeds_table(runs)
    # 60, 80, 70: mean 70, sample standard deviation sqrt((100 + 100 + 0) / 2) = 10.
    cell = "**70.0 ± 10.0** (n = 20)<br>0: 60.0 [48.0, 85.5]<br>1: 80.0 [48.0, 85.5]<br>2: 70.0 [48.0, 85.5]"
    assert f"| Ours | {cell} | – |" in text
    assert "| model | math: accuracy % | plus: accuracy % |" in text
    assert "**Ours**, seeds 0, 1, 2" in text


def test_a_model_that_is_the_same_for_each_seed_is_told_once_and_each_seed_has_its_paired_test():
    runs = [run(0, ours_correct=12), run(1, ours_correct=14)]
    for own, answer in zip(runs, "12", strict=True):
        own.models[-1].test_sets["math"].answers[0] = answer
    text = seeds_table(runs)
    assert "| teacher | 90.0 [70.0, 98.0] (n = 20), each seed |" in text
    assert "**65.0 ± 7.1** (n = 20)" in text  # 60 and 70
    assert "Seed 1: Ours − SFT (best other student), same questions: +20.0 points;" in text


def test_seeds_and_questions_are_resampled_together():
    table = seeds_table([run(0, ours_correct=14), run(1, ours_correct=16)])
    # Ours right 14 and 16 of 20, SFT 10: 25 points; on `plus` Ours was not tested.
    (line,) = (line for line in table.splitlines() if line.startswith("Over seeds and questions"))
    low, high = map(float, line.split("[")[-1].rstrip("].").split(", "))
    assert "math: Ours − SFT +25.0 points [" in line
    assert "plus" not in line
    assert 0 < low < 25 < high < 50
    assert "Over seeds" not in seeds_table([run(0)])


def clustered(own: RunResult) -> RunResult:
    """The result with the questions of `math` in ten clusters of two."""
    models = [
        dataclasses.replace(
            model,
            test_sets=model.test_sets
            | {"math": dataclasses.replace(model.test_sets["math"], clusters=[i // 2 for i in range(20)])},
        )
        for model in own.models
    ]
    return dataclasses.replace(own, models=models)


def test_clusters_are_told_and_compared_as_wholes():
    runs = [clustered(run(0, ours_correct=14)), clustered(run(1, ours_correct=16))]
    runs[0].models[-1].test_sets["math"].answers[0] = "2"
    text = seeds_table(runs)
    assert "± 7.1** (n = 20 in 10 clusters)" in text
    assert "exact test that swaps clusters: p = 0.289" in text
    assert "n: math 20 in 10 clusters, plus 10." in final_table_markdown(runs[0])
    others = [clustered(run(seed, ours_correct=10, row="SFT")) for seed in (0, 1)]
    compared = row_comparison([*runs, *others], "Ours", "SFT")
    assert "math (n = 20 in 10 clusters)" in compared
    # Questions 10 to 14 are two whole clusters: both signs equal with chance 2 / 4. As four questions: 2 / 16.
    assert "| 0 | 70.0 | 50.0 | +20.0 | 4 | 0 | p = 0.500 |" in compared


def test_results_on_other_questions_are_not_resampled_together():
    other = run(1)
    tests = {"math": dataclasses.replace(other.models[-1].test_sets["math"], question_ids=[f"x{i}" for i in range(20)])}
    models = [*other.models[:-1], ModelResult("Ours", tests)]
    assert "Over seeds" not in seeds_table([run(0), dataclasses.replace(other, models=models)])


def test_the_majority_of_samples_is_told_below_the_table():
    own = run()
    voted = dataclasses.replace(own.models[-1].test_sets["math"], maj_at_8=0.8)
    shown = final_table_markdown(
        dataclasses.replace(own, models=[*own.models[:-1], ModelResult("Ours", {"math": voted})])
    )
    assert "maj@8, of the samples of pass@8: Ours 80.0." in shown
    assert "maj@8" not in final_table_markdown(own)


def test_categories_have_a_table_of_their_own():
    own = run()
    math = dataclasses.replace(
        own.models[0].test_sets["math"], by_category={"add": CategoryResult(15, 0.8), "divide": CategoryResult(5, 0.2)}
    )
    shown = category_tables(dataclasses.replace(own, models=[ModelResult("Ours", {"math": math})]))
    assert shown.splitlines()[0] == "math, by category"
    assert shown.splitlines()[-2:] == ["| add | 15 | 80.0 |", "| divide | 5 | 20.0 |"]
    assert category_tables(own) == ""


def test_two_rows_are_compared_seed_by_seed_on_the_same_questions():
    results = [run(0, ours_correct=14), run(1, ours_correct=16), run(0, ours_correct=10, row="Ours w/o R")]
    table = row_comparison([*results, run(1, ours_correct=15, row="Ours w/o R")], "Ours", "Ours w/o R")
    # Both are right on the first questions: 14 and 16 of 20 against 10 and 15.
    assert "| 0 | 70.0 | 50.0 | +20.0 | 4 | 0 | p = 0.125 |" in table
    assert "| 1 | 80.0 | 75.0 | +5.0 | 1 | 0 | p = 1.000 |" in table
    assert "+12.5 points [" in table
    assert "Over seeds" not in row_comparison(results, "Ours", "Ours w/o R")  # one seed in common


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"row": "SFT"}, "no finished result of the row 'Ours w/o R': there are Ours, SFT"),
        ({"row": "Ours w/o R", "seed": 5}, "have no seed in common"),
        (
            {"row": "Ours w/o R", "models": [ModelResult("x", {"plus": on_test_set("plus", 1, 9, 0, 1)})]},
            "same questions of math",
        ),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(other, reason):
    with pytest.raises(ValueError, match=reason):
        row_comparison([run(0), run(**other)], "Ours", "Ours w/o R")


def test_two_results_of_one_row_and_seed_are_not_compared_with_another_row():
    large, small = ({"config": {"teacher": {"name": name}}} for name in ("large", "small"))
    results = [run(0, **large), run(0, **small), run(0, row="Ours w/o R", **small)]
    with pytest.raises(ValueError, match=r"2 finished results of the row 'Ours' have 1 seeds; they differ in teacher"):
        row_comparison(results, "Ours", "Ours w/o R")
    said = "The rows differ in more than their name: teacher large and small."
    assert said in row_comparison([results[0], results[2]], "Ours", "Ours w/o R")
    assert said not in row_comparison(results[1:], "Ours", "Ours w/o R")


def test_one_seed_has_no_deviation():
    assert "| Ours | **70.0** (n = 20)<br>0: 70.0 [48.0, 85.5] |" in seeds_table([run(0)])


def test_rows_are_tabulated_apart_and_failed_seeds_are_named():
    failed = run(1, models=[], comparisons=[], failure="out of memory")
    text = seeds_table([run(0), failed, run(0, row="Ours w/o D")])
    assert "**Ours**, seeds 0\n" in text
    assert "Seed 1 is missing: out of memory." in text
    assert "**Ours w/o D**, seeds 0\n" in text


def test_two_results_of_one_seed_are_refused():
    with pytest.raises(ValueError, match=r"Two results for row='Ours', seed=0.*Name the folders"):
        seeds_table([run(0), run(0)])


def test_other_data_or_models_are_other_rows_and_a_failure_gives_way_to_the_run_that_finished():
    def on(dataset: str, student: str = "small") -> dict:
        return {"dataset": {"name": dataset}, "teacher": {"name": "large"}, "student": {"name": student}}

    failed = run(0, config=on("math"), models=[], comparisons=[], failure="out of memory")
    runs = [run(0, config=on("math")), failed, run(0, config=on("stories")), run(0, config=on("math", "tiny"))]
    for order in (runs, runs[::-1]):
        text = seeds_table(order)
        assert "**Ours** on math, large teaches small, seeds 0" in text
        assert "**Ours** on stories, large teaches small, seeds 0" in text
        assert "**Ours** on math, large teaches tiny, seeds 0" in text
        assert "out of memory" not in text


def test_no_result_is_refused():
    with pytest.raises(ValueError, match=r"give folders that hold a result\.json"):
        seeds_table([])


def test_seeds_of_different_configs_are_marked():
    text = seeds_table([run(0), run(1, config={"seed": 1, "rl": {"lr": 2e-5}})])
    assert "The configs differ in more than the seed: rl.lr." in text


def test_learning_curves_are_drawn_from_rows_and_from_a_csv_file(tmp_path):
    names = ("episodes", "reward", "kl", "response_tokens", "validation_accuracy")
    rows = [(8, 0.1, 0.0, 20, 0.5), (16, 0.2, 0.5, 21, ""), (24, 0.4, 0.9, 22, 0.6)]
    learning_curves([dict(zip(names, row, strict=True)) for row in rows], tmp_path / "rows.png", sft_accuracy=0.5)
    lines = [",".join(f"rl/{name}" for name in names), *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "history.csv").write_text("\n".join(lines) + "\n")
    learning_curves(tmp_path / "history.csv", tmp_path / "figures" / "csv.png", sft_accuracy=0.5)
    picture = imread(tmp_path / "rows.png")
    assert picture.shape[1] >= 900  # pixels: a README's width
    assert (picture == imread(tmp_path / "figures" / "csv.png")).all()


def test_history_without_a_panels_metric_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"both 'episodes' and 'validation_accuracy' \(it has episodes, reward\)"):
        learning_curves([{"episodes": 1, "reward": 0.0}], tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()


def test_command_finds_results_below_a_folder_prints_the_table_and_writes_markdown(tmp_path):
    for seed in (0, 1):
        write_result(run(seed), tmp_path / "jobs" / f"job{seed}")
    output = tmp_path / "report.md"
    done = rkd_command("report", str(tmp_path / "jobs"), "--output", str(output))
    assert "**Ours**, seeds 0, 1" in done.stdout
    text = output.read_text(encoding="utf-8")
    assert "70.0 [48.0, 85.5] (n = 20), each seed" in text
    assert "**Ours, seed 1: accuracy in %**" in text


def test_command_compares_two_rows_and_writes_only_where_it_is_told(tmp_path):
    write_result(run(0), tmp_path / "jobs" / "job0")
    done = rkd_command("compare", str(tmp_path / "jobs"), "Ours", "Theirs", folder=tmp_path)
    assert done.returncode == 2
    assert "Theirs" in done.stderr
    assert not (tmp_path / "report.md").exists()


def test_accuracy_without_near_duplicates_is_told_for_every_model():
    # The first ten of 20 questions are near duplicates, and the first 18, 4, 10 and 14 are right: 8, 0, 0 and 4 of ten.
    told = (
        "On the 10 questions of math that are no near duplicate of a training question: "
        "teacher 80.0, student few-shot 0.0, SFT 0.0, Ours 40.0."
    )
    assert told in final_table_markdown(run(overlaps={"math": Overlap(20, 0.1, 0.1, 0, list(range(10)))}))


@pytest.mark.parametrize("places", [[], list(range(20)), None])
def test_nothing_is_told_where_no_question_or_every_one_is_a_near_duplicate(places):
    overlaps = {"math": Overlap(20, 0.1, 0.1, 0, places)}
    assert "near duplicate" not in final_table_markdown(run(overlaps=overlaps))
