"""Tables from summaries of jobs: which jobs make a cell, what is marked, tested and claimed, and how it is printed."""

import csv
import dataclasses
import io
import json
from dataclasses import replace

import pytest

from rkd.evaluation.results import ModelResult, failed_result
from rkd.evaluation.statistics import holm
from rkd.mini import perturb
from rkd.reporting.job_summary import EvaluationSummary, Summary, read_summaries, summarize, write_summaries
from rkd.reporting.table_figures import Dots, Histories, Lines, Reliability, Ternary
from rkd.reporting.table_files import add_notes, build_table, render, update_tables, write_manifest
from rkd.reporting.table_text import as_json, comma_separated, latex, markdown
from tests.support.made_up_results import on_test_set


def summary(row: str, seed: int, right: int, *, of: int = 100, teacher: int | None = 80, **choices) -> Summary:
    """A job whose model answers the first `right` of `of` questions rightly."""

    def test(correct: int) -> dict[str, EvaluationSummary]:
        return {"maths": EvaluationSummary("1" * correct + "0" * (of - correct), "questions", 0.0, 0.0)}

    models = {"own": test(right)} | ({"teacher": test(teacher)} if teacher is not None else {})
    history = [{"episodes": 0.0, "validation_accuracy": 0.5}, {"episodes": 8.0, "validation_accuracy": right / of}]
    return Summary(
        job=f"{row}-seed{seed}",
        row=row,
        seed=seed,
        choices={"experiments": row, "seed": seed, "teacher": "large", **choices},
        revision="abc",
        created="2026-01-01",
        models=models,
        values={"labels.precision": 0.5 + seed / 10},
        histories={"rl": history},
    )


def pending(row: str, seed: int, failure: str | None = None) -> Summary:
    """A job that has not run, or that failed."""
    return Summary(
        f"{row}-seed{seed}", row, seed, {"experiments": row, "teacher": "large"}, None, "", {}, {}, {}, failure
    )


PLAIN = {
    "name": "table9",
    "title": "Table 9: what is shown",
    "columns": [
        {"label": "maths", "paper": "GSM8K", "test_set": "maths"},
        {"label": "label precision", "value": "labels.precision", "higher_is_better": None},
    ],
    "groups": [
        {
            "label": "large → one",
            "jobs": {"teacher": "large"},
            "rows": {
                "Teacher": {"model": "teacher", "published": [93.2, None]},
                "SFT": {"jobs": {"experiments": "sft"}, "published": [61.0, None]},
                "Ours": {"jobs": {"experiments": "ours"}, "published": [64.1, None]},
            },
        }
    ],
    "gain_over": "SFT",
    "claims": [
        {"says": "Ours is better than SFT", "better": "Ours", "worse": ["SFT"]},
        {"says": "The student surpasses its teacher", "better": "Ours", "worse": ["Teacher"], "columns": ["maths"]},
    ],
    "deviations": ["Smaller models."],
}
JOBS = [summary("sft", 0, 50), summary("sft", 1, 54), summary("ours", 0, 70), summary("ours", 1, 74)]


@pytest.fixture
def evaluated():
    return build_table(PLAIN).evaluate(JOBS)


def cells(text: str, row: str) -> list[str]:
    """The cells of one line of a Markdown table."""
    (line,) = (line for line in text.splitlines() if f"| {row} |" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_cell_is_the_mean_over_the_seeds_of_its_jobs_with_their_sample_deviation(evaluated):
    cell = evaluated.cell("large → one", "SFT", "maths")
    assert cell.mean == pytest.approx(0.52)
    assert cell.deviation == pytest.approx(0.02 * 2**0.5)  # ± 0.02 around the mean, divided by n − 1
    assert (cell.n, cell.published, cell.missing) == (100, 61.0, 0)


def test_a_value_that_the_seed_does_not_decide_has_no_deviation(evaluated):
    assert evaluated.cell("large → one", "Teacher", "maths").deviation is None


def test_the_table_shows_the_best_student_in_bold_its_gain_and_the_papers_value(evaluated):
    text = markdown(evaluated)
    # 72 ± 2.83 against 52: a gain of 20 points.
    assert cells(text, "Ours")[2:4] == ["**72.0 ± 2.8** (+20.0)", "64.1"]
    assert cells(text, "SFT")[2:4] == ["52.0 ± 2.8", "61.0"]
    assert cells(text, "Teacher")[2:4] == ["80.0", "93.2"]
    assert "maths (GSM8K), n = 100" in text
    assert "1. Smaller models." in text


@pytest.mark.parametrize(
    ("points", "shown"),
    [((3.881, 3.899), "3.89 ± 0.01"), ((53.1, 54.3), "53.7 ± 0.8"), ((1200.0, 1210.0), "1,205 ± 7")],
)
def test_the_deviation_of_a_plain_number_has_the_decimals_of_its_mean(points, shown):
    jobs = [
        dataclasses.replace(summary("sft", seed, 50), values={"labels.precision": value})
        for seed, value in enumerate(points)
    ]
    columns = [PLAIN["columns"][0], PLAIN["columns"][1] | {"unit": "number"}]
    text = markdown(build_table(PLAIN | {"columns": columns}).evaluate(jobs))
    assert cells(text, "SFT")[-1].strip("*") == shown


def test_notes_name_each_origin_of_models_once():
    jobs = [summary("sft", seed, 50) for seed in (0, 1, 2)]
    origins = ["tiny, weights dequantised from Q4_1", "tiny, the hub's weights", "tiny, the hub's weights"]
    told = [dataclasses.replace(job, origins={"one": origin}) for job, origin in zip(jobs, origins, strict=True)]
    table = build_table({**PLAIN, "notes": ["All settings are those of the paper."]})
    notes = "of the paper.\n\nModel one: tiny, weights dequantised from Q4_1.\n\nModel one: tiny, the hub's weights.\n"
    assert notes in markdown(table.evaluate(told))
    assert "Model " not in markdown(table.evaluate(jobs))


def test_a_student_above_its_teacher_is_marked():
    jobs = [summary("ours", seed, 90) for seed in (0, 1)]
    assert cells(markdown(build_table(PLAIN).evaluate(jobs)), "Ours")[2] == "90.0 ▲"


def test_claims_say_in_how_many_cells_they_hold_here_and_in_the_paper(evaluated):
    better, above = evaluated.judgements
    (difference,) = better.differences
    assert difference.difference == pytest.approx(0.2)
    assert difference.published == pytest.approx(3.1)
    assert difference.is_significant  # 20 of 100 questions that Ours alone answers, and none the other way
    (to_teacher,) = above.differences
    assert to_teacher.difference == pytest.approx(-0.08)
    text = markdown(evaluated)
    assert (
        "*Ours is better than SFT*: **holds**, in 1 of 1 comparison, 1 of them significant. In the paper 1 of 1."
        in text
    )
    assert "*The student surpasses its teacher*: **does not hold**" in text
    assert "In the paper 0 of 1." in text


def test_claims_are_about_columns_whose_higher_value_is_better(evaluated):
    claimed, _ = evaluated.judgements
    assert [one.column for one in claimed.differences] == ["maths"]  # not how many labels are right


def test_outcomes_to_other_questions_are_not_tested():
    other = EvaluationSummary("1" * 90 + "0" * 10, "other questions", 0.0, 0.0)
    job = summary("ours", 0, 90)
    jobs = [summary("sft", 0, 50), Summary(**{**vars_of(job), "models": {"own": {"maths": other}}})]
    difference = build_table(PLAIN).evaluate(jobs).judgements[0].differences[0]
    assert (difference.p_value, difference.low) == (None, None)
    assert not difference.is_significant


def in_clusters(one: Summary, size: int) -> Summary:
    """The job with the questions of its test in clusters of a size."""
    models = {
        role: {name: replace(test, cluster_sizes=[size] * (test.n // size)) for name, test in tests.items()}
        for role, tests in one.models.items()
    }
    return replace(one, models=models)


def test_a_cluster_is_drawn_as_a_whole_and_told_beside_n():
    table = build_table(PLAIN)
    alone = table.evaluate(JOBS)
    clustered = table.evaluate([in_clusters(one, 5) for one in JOBS])
    text = markdown(clustered)
    assert "maths (GSM8K), n = 100 in 20 clusters" in text
    assert "A cluster, the variants of one problem, is drawn as a whole." in text
    assert "cluster" not in markdown(alone)
    assert json.loads(as_json(clustered))["cells"][0]["clusters"] == 20
    widths = [one.high - one.low for own in (alone, clustered) for one in own.judgements[0].differences[:1]]
    # Questions 50 to 70 differ: whole clusters of five, so that 20 clusters are worth 20 questions.
    assert widths[1] > 1.5 * widths[0]


def test_a_p_value_at_the_floor_is_printed_as_a_bound_after_holms_correction(evaluated):
    # No replicate of 50 and 54 against 70 and 74 is at or below 0: 2 · 2 / 100,001, times two comparisons.
    text = markdown(evaluated)
    assert "+20.0 [" in text
    assert "p ≤ 0.000040" in text
    (difference,) = evaluated.judgements[0].differences
    assert difference.is_bound
    assert json.loads(as_json(evaluated))["claims"][0]["differences"][0]["is_bound"] is True


def test_older_summaries_of_mini_math_plus_get_the_clusters_of_its_questions(tmp_path):
    asked = perturb.queries("test", 700, 1)  # as in conf/dataset/mini_math.yaml
    result = dataclasses.replace(
        on_test_set("plus", 300, 700, 0.0, 1.0),
        question_ids=[query.id for query in asked],
        clusters=[int(query.id.split("-")[2]) for query in asked],
    )
    run = failed_result("Ours", 0, {}, None, {}, "")
    job = summarize(replace(run, failure=None, models=[ModelResult("Ours", {"plus": result})]), "job", {})
    assert job.models["own"]["plus"].cluster_sizes == [7] * 100
    fields = dataclasses.asdict(job)
    del fields["models"]["own"]["plus"]["cluster_sizes"]
    (tmp_path / "older.jsonl").write_text(json.dumps(fields) + "\n", encoding="utf-8")
    assert read_summaries(tmp_path / "older.jsonl") == [job]


def test_scattered_clusters_are_summarized_one_after_another():
    result = replace(on_test_set("plus", 2, 5, 0.0, 1.0), clusters=[0, 1, 0, 2, 1])
    run = replace(
        failed_result("Ours", 0, {}, None, {}, ""), failure=None, models=[ModelResult("Ours", {"plus": result})]
    )
    test = summarize(run, "job", {}).models["own"]["plus"]
    assert test.outcomes == "10100"  # the questions q0 q2, q1 q4, q3, of which q0 and q1 are right
    assert test.cluster_sizes == [2, 2, 1]
    assert test.clusters == [0, 0, 1, 1, 2]
    assert (
        test.questions
        != summarize(replace(run, models=[ModelResult("Ours", {"plus": replace(result, clusters=[])})]), "job", {})
        .models["own"]["plus"]
        .questions
    )


def test_notes_stand_under_the_deviations_or_in_their_place():
    notes = ["Settings that are not the paper's: KL coefficient 0.02 (0.2)."]
    noted = build_table(PLAIN | {"notes": notes}).evaluate(JOBS)
    assert f"Where this differs from the paper:\n\n1. Smaller models.\n\n{notes[0]}\n\nJobs:" in markdown(noted)
    alone = build_table(PLAIN | {"notes": notes, "deviations": []}).evaluate(JOBS)
    assert f"Where this differs from the paper:\n\n{notes[0]}\n\nJobs:" in markdown(alone)
    assert json.loads(as_json(noted))["notes"] == notes
    assert f"% {notes[0]}" in latex(noted)


def test_notes_are_added_to_a_manifest_once(tmp_path):
    jobs = {f"outputs/{one.job}": one.choices for one in JOBS}
    write_manifest(tmp_path, PLAIN, jobs)
    manifest = tmp_path / "table9.jobs.json"
    add_notes(manifest)
    content = json.loads(manifest.read_text())
    assert "Settings that are not the paper's" in content["table"]["notes"][0]
    assert content["jobs"] == jobs
    render(manifest)
    assert content["table"]["notes"][0] in (tmp_path / "table9.md").read_text()
    manifest.write_text(json.dumps({**content, "table": {**content["table"], "notes": ["as it was"]}}))
    add_notes(manifest)
    assert json.loads(manifest.read_text())["table"]["notes"] == ["as it was"]


def vars_of(one: Summary) -> dict:
    return {name: getattr(one, name) for name in Summary.__dataclass_fields__}


def test_what_is_missing_or_failed_is_said():
    jobs = [summary("sft", 0, 50), pending("sft", 1), pending("ours", 0, "the disk is full")]
    text = markdown(build_table(PLAIN).evaluate(jobs))
    assert cells(text, "SFT")[2] == "50.0 [1 of 2 seeds]"
    assert cells(text, "Ours")[2] == "–"
    assert "Jobs: 1 of 3 finished." in text
    assert "- ours-seed0 failed: the disk is full" in text
    assert "nothing to compare yet" in text


def test_a_choice_of_null_takes_back_that_of_the_group():
    plain = json.loads(json.dumps(PLAIN))
    plain["groups"][0]["rows"]["SFT"]["jobs"] = {"experiments": "sft", "teacher": None}
    jobs = [summary("sft", 0, 50)]
    jobs[0].choices["teacher"] = "another"
    assert build_table(plain).evaluate(jobs).cell("large → one", "SFT", "maths").mean == 0.5
    assert build_table(PLAIN).evaluate(jobs).cell("large → one", "SFT", "maths").mean is None


def test_holm_multiplies_the_smallest_by_their_number_and_keeps_the_order():
    # Ascending .01, .02, .04: times 3, 2, 1 is .03, .04, .04.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_csv_has_a_line_for_each_seed_and_json_all_numbers(evaluated):
    rows = list(csv.DictReader(io.StringIO(comma_separated(evaluated))))
    ours = [row for row in rows if (row["row"], row["column"]) == ("Ours", "maths")]
    assert [(row["seed"], row["value"], row["n"], row["paper"]) for row in ours] == [
        ("0", "70.0", "100", "64.1"),
        ("1", "74.0", "100", "64.1"),
    ]
    content = json.loads(as_json(evaluated))
    assert content["cells"][4]["values"] == {"0": 0.7, "1": 0.74}
    assert content["claims"][0]["differences"][0]["difference"] == pytest.approx(0.2)


def test_latex_escapes_what_tex_would_read_as_its_own():
    plain = json.loads(json.dumps(PLAIN).replace("label precision", "label_precision %"))
    text = latex(build_table(plain).evaluate(JOBS))
    assert r"label\_precision \%" in text
    assert r"\textbf{72.0 $\pm$ 2.8} (+20.0) (64.1)" in text
    assert text.count(r"\\") == 5  # header, group, three rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": [{"label": "x"}]}, "either its test_set or its value"),
        ({"gain_over": "SFTT"}, "the row 'SFTT'"),
        ({"colums": []}, "unexpected keyword argument 'colums'"),
        ({"columns": PLAIN["columns"][:1]}, "2 published values for 1 columns"),
        ({"columns": PLAIN["columns"][:1] * 2}, "two of its columns are called 'maths'"),
        (
            {"claims": [{"says": "", "better": "Ours", "worse": ["SFT"], "columns": ["label precision"]}]},
            "the column 'label precision', and it has none of this name whose higher value is better",
        ),
    ],
)
def test_a_faulty_description_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_table({**PLAIN, **change})


def test_summaries_are_read_back_as_they_were(tmp_path):
    write_summaries(tmp_path / "one.jsonl", JOBS)
    assert read_summaries(tmp_path / "one.jsonl") == sorted(JOBS, key=lambda one: one.job)


def test_a_table_is_made_from_its_summaries_where_the_jobs_are_gone(tmp_path):
    figure = {"_target_": "rkd.reporting.table_figures.Dots"}
    manifest = tmp_path / "table9.jobs.json"
    write_manifest(tmp_path, {**PLAIN, "figure": figure}, {f"outputs/{one.job}": one.choices for one in JOBS})
    assert "Jobs: 0 of 4 finished" in (tmp_path / "table9.md").read_text()
    write_summaries(tmp_path / "table9.results.jsonl", JOBS)
    assert render(manifest).finished == 4
    assert "**72.0 ± 2.8** (+20.0)" in (tmp_path / "table9.md").read_text()
    assert {path.suffix for path in tmp_path.iterdir()} >= {".md", ".csv", ".tex", ".json", ".jsonl", ".png"}
    assert update_tables(tmp_path, tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    "figure",
    [
        Dots(),
        Lines(x_label="share", x={"SFT": 0.0, "Ours": 1.0}),
        Lines(x_label="questions", x={"SFT": 10, "Ours": 1000}, is_logarithmic=True),
        Histories(stage="rl", x="episodes", x_label="episodes", y={"validation_accuracy": "accuracy (%)", "kl": "KL"}),
    ],
)
def test_every_kind_of_figure_is_drawn(evaluated, figure, tmp_path):
    figure.draw(evaluated, JOBS, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("measured", [0, 1, 2, 4])
def test_mixes_are_drawn_in_a_triangle_whether_they_span_it_or_not(measured, tmp_path):
    mixes = {"V": (1, 0, 0), "J": (0, 1, 0), "L": (0, 0, 1), "VJ": (0.5, 0.5, 0)}
    choices = {
        label: {"reward_mix.lambda_": a, "reward_mix.mu": b, "reward_mix.rho": c} for label, (a, b, c) in mixes.items()
    }
    description = {
        "name": "mixes",
        "title": "Mixes",
        "columns": [{"label": "maths", "test_set": "maths"}, {"label": "time", "value": "costs", "unit": "seconds"}],
        "groups": [{"rows": {label: {"jobs": jobs} for label, jobs in choices.items()}}],
    }
    table = build_table(description)
    jobs = [replace(JOBS[0], job=label, choices=jobs) for label, jobs in list(choices.items())[:measured]]
    Ternary(corners=("verifiable", "judge", "reranker")).draw(table.evaluate(jobs), jobs, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_reliability_is_drawn_of_scores_in_bins_and_of_none(evaluated, tmp_path):
    bins = {"judge.reliability.0.count": 0, "judge.reliability.9.count": 30}
    bins |= {"judge.reliability.9.mean_score": 0.95, "judge.reliability.9.share_right": 2 / 3}
    judged = [replace(one, values={**one.values, **bins}) for one in JOBS[:1]]
    for jobs in (judged, [*judged, *JOBS[1:]], []):
        Reliability().draw(evaluated, jobs, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_to_which_no_job_belongs_is_refused(tmp_path):
    jobs = {"outputs/one": {"experiments": "ours", "teacher": "another", "seed": 0}}
    with pytest.raises(ValueError, match=r"none of the 1 jobs belongs to a cell of table9.*roles\.small=mini_large"):
        write_manifest(tmp_path, PLAIN, jobs)
    assert not list(tmp_path.iterdir())


def test_a_manifest_names_folders_without_their_place_where_no_row_is_told_apart_by_them(tmp_path):
    jobs = {"outputs/one": {"experiments": "ours", "teacher": "/a/large", "dataset.source": "/a/data", "seed": 0}}
    group = {**PLAIN["groups"][0], "jobs": {"teacher": "/a/large"}}
    write_manifest(tmp_path, {**PLAIN, "groups": [group]}, jobs)
    (kept,) = json.loads((tmp_path / "table9.jobs.json").read_text())["jobs"].values()
    assert (kept["teacher"], kept["dataset.source"]) == ("/a/large", "data")
