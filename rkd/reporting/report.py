"""Reports from result files: `RunResult` records enter, a table for the terminal and Markdown leave.

The jobs computed their own numbers; only statistics over seeds are computed here. Fractions become percent here.

    python -m rkd report FOLDER... [--output report.md]
    python -m rkd report FOLDER... --html FOLDER          (`rkd.reporting.page`)
    python -m rkd compare FOLDER "Ours" "Ours w/o R"
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rkd.errors import UsageError
from rkd.evaluation.results import RESULT_FILE, EvaluationResult, ModelResult, RunResult, read_result
from rkd.evaluation.statistics import bootstrap_over_seeds_and_questions, p_value_text, paired_comparison
from rkd.markdown import markdown_table
from rkd.reporting.job_summary import origin_notes

OURS = "Ours"
TEACHER = "teacher"
ROLES = ("teacher", "student", "dataset")  # by which comparisons tell jobs apart, beside the row


def final_table(result: RunResult) -> Table:
    """The final table of a job, for the terminal; the first test set of the last model is the main one."""
    columns, rows, notes = _final_content(result)
    # Text, not str: Rich would read brackets in a failure's reason as markup.
    title, caption = Text(_final_title(result)), Text("\n".join(notes)) if notes else None
    # With few lines and narrow gaps, four test sets fit into 80 characters.
    table = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row), style="bold" if row[0] == OURS else None)
    return table


def final_table_markdown(result: RunResult) -> str:
    """The same table in Markdown."""
    columns, rows, notes = _final_content(result)
    return "\n\n".join([f"**{_final_title(result)}**", markdown_table(columns, rows), *notes])


def category_tables(result: RunResult) -> str:
    """Markdown: accuracy by category and model for each test set with categories (kinds of perturbation, subjects)."""
    parts = []
    for name in _test_set_names(result.models):
        tested = [(model.role, model.test_sets[name]) for model in result.models if name in model.test_sets]
        categories = {category: own.n for _, test in tested for category, own in test.by_category.items()}
        if not categories:
            continue
        rows = [
            [category, str(n), *(_percent(test.by_category[category].accuracy) for _, test in tested)]
            for category, n in sorted(categories.items())
        ]
        parts += [f"{name}, by category", markdown_table(["category", "n", *(role for role, _ in tested)], rows)]
    return "\n\n".join(parts)


def seeds_table(results: Sequence[RunResult]) -> str:
    """Markdown: a table of roles by test sets for each row of the experiment, over all seeds.

    A cell holds the mean over seeds ± their sample standard deviation, and each seed's accuracy with its 95 % interval.

    Results on other data or with other models form other rows. A failed job is shown only if no job of its row and seed
    has finished.

    Raises:
        ValueError: there is no result, or there are two finished ones for the same row and seed.
    """
    if not results:
        raise ValueError(f"No result to tabulate: give folders that hold a {RESULT_FILE}.")
    rows: dict[tuple[str, str], dict[int, RunResult]] = {}
    for result in sorted(results, key=lambda result: result.seed):
        of_row = rows.setdefault((result.row, _setting(result)), {})
        other = of_row.get(result.seed)
        if other is not None and other.failure is None and result.failure is None:
            raise ValueError(
                f"Two results for row={result.row!r}, seed={result.seed}, of {other.created} and {result.created}: "
                "a mean over seeds takes one of each. Name the folders that belong together."
            )
        if other is None or other.failure is not None:  # a failed job may have been run again
            of_row[result.seed] = result
    return "\n\n".join(_seeds_part(row, setting, list(found.values())) for (row, setting), found in rows.items())


def row_comparison(results: Sequence[RunResult], first: str, second: str) -> str:
    """Markdown: two rows on the same questions, by McNemar's exact test for each seed, and over seeds and questions.

    Raises:
        ValueError: a row has no finished result, or the rows share no seed or were tested on different questions.
    """
    finished = {row: _finished_by_seed(results, row) for row in (first, second)}
    by_row = {row: {seed: result.models[-1] for seed, result in own.items()} for row, own in finished.items()}
    seeds = sorted(set(by_row[first]) & set(by_row[second]))
    if not seeds:
        raise ValueError(f"{first} and {second} have no seed in common: run both with the same `seed=`.")
    parts = [f"**{first} − {second}**, the same questions"]
    roles = {role: [_name_of(role, finished[row][seeds[0]]) for row in (first, second)] for role in ROLES}
    if differing := [f"{role} {one} and {other}" for role, (one, other) in roles.items() if one != other]:
        parts.append(f"The rows differ in more than their name: {'; '.join(differing)}.")
    for name in _test_set_names([by_row[first][seeds[0]]]):
        ours = [by_row[first][seed].test_sets[name] for seed in seeds]
        others = [test for seed in seeds if (test := by_row[second][seed].test_sets.get(name)) is not None]
        pairs = list(zip(ours, others, strict=False))
        if len(others) < len(ours) or any(a.question_ids != b.question_ids for a, b in pairs):
            raise ValueError(f"{first} and {second} were not tested on the same questions of {name}.")
        lines = []
        for seed, (a, b) in zip(seeds, pairs, strict=True):
            paired = paired_comparison(a.outcomes, b.outcomes, a.clusters or None)
            counts = [_percent(a.accuracy), _percent(b.accuracy), f"{100 * paired.difference:+.1f}"]
            lines.append([str(seed), *counts, str(paired.only_a), str(paired.only_b), p_value_text(paired.p_value)])
        tested = "clusters swapped, exact" if ours[0].clusters else "McNemar, exact"
        columns = ["seed", first, second, "points", f"only {first} right", f"only {second} right", tested]
        parts += [f"{name} (n = {_size(ours[0])})", markdown_table(columns, lines)]
        if len(seeds) > 1:
            over = bootstrap_over_seeds_and_questions(
                *([own.outcomes for own in side] for side in zip(*pairs, strict=True)),
                clusters=ours[0].clusters or None,
            )
            parts.append(
                f"Over seeds and questions (bootstrap of both, 95 %): {100 * over.difference:+.1f} points "
                f"[{100 * over.low:+.1f}, {100 * over.high:+.1f}]."
            )
    return "\n\n".join(parts)


def _finished_by_seed(results: Sequence[RunResult], row: str) -> dict[int, RunResult]:
    """The finished results of a row by their seeds.

    Raises:
        ValueError: there is none, or two of one seed.
    """
    finished = [result for result in results if result.row == row and result.failure is None]
    if not finished:
        rows = ", ".join(dict.fromkeys(result.row for result in results))
        raise ValueError(f"no finished result of the row {row!r}: there are {rows}.")
    by_seed = {result.seed: result for result in finished}
    if len(by_seed) < len(finished):
        keys = ", ".join(_differing_keys(finished)[:5]) or "nothing"
        raise ValueError(
            f"{len(finished)} finished results of the row {row!r} have {len(by_seed)} seeds; they differ in {keys}. "
            "Name the folders of those that are to be compared."
        )
    return by_seed


def _name_of(role: str, result: RunResult) -> str:
    """The name of the teacher, student or dataset of a job."""
    return str((result.config.get(role) or {}).get("name"))


def _final_title(result: RunResult) -> str:
    return f"{result.row}, seed {result.seed}: {_measure(result.models)} in %"


def _measure(models: Sequence[ModelResult]) -> str:
    """The name of the measure that the outcomes of these models have."""
    is_compared = any(test.win_rate for model in models for test in model.test_sets.values())
    return "win rate" if is_compared else "accuracy"


def _final_content(result: RunResult) -> tuple[list[str], list[list[str]], list[str]]:
    if not result.models:
        return ["model", "no result, because"], [["–", result.failure or "no model was evaluated"]], []
    names = _test_set_names(result.models)
    main, others = names[0], names[1:]
    sampled = ["pass@8"] if _measure(result.models) == "accuracy" else []  # not defined for preferences
    columns = ["model", f"{main} [95 % interval]", *sampled, *others]
    rows = []
    for model in result.models:
        test = model.test_sets.get(main)
        cells = [model.role, "–" if test is None else _with_interval(test)]
        cells += [_percent(None if test is None else test.pass_at_8) for _ in sampled]
        cells += [_percent(model.test_sets[name].accuracy) if name in model.test_sets else "–" for name in others]
        rows.append(cells)
    sizes = {name: _size(test) for model in result.models for name, test in model.test_sets.items()}
    notes = [_paired_test(result, main), "n: " + ", ".join(f"{name} {sizes[name]}" for name in names) + "."]
    voted = [(m.role, m.test_sets[main].maj_at_8) for m in result.models if main in m.test_sets]
    if any(share is not None for _, share in voted):
        listed = ", ".join(f"{role} {_percent(share)}" for role, share in voted if share is not None)
        notes.append(f"maj@8, of the samples of pass@8: {listed}.")
    notes += _win_rate_notes(result, main)
    notes += _near_duplicate_notes(result, main)
    notes += origin_notes([result])
    if result.failure is not None:
        notes.append(f"The job failed: {result.failure}.")
    return columns, rows, notes


def _near_duplicate_notes(result: RunResult, main: str) -> list[str]:
    """A note on the questions that no training question is a near duplicate of; none if these are all, or none."""
    overlap = result.overlaps.get(main)
    if overlap is None or not overlap.near_duplicates or overlap.near_duplicates == overlap.questions:
        return []
    tests = {model.role: model.test_sets[main] for model in result.models if main in model.test_sets}
    listed = ", ".join(
        f"{role} {_percent(overlap.accuracy_without_near_duplicates(test))}" for role, test in tests.items()
    )
    others = overlap.questions - overlap.near_duplicates
    return [f"On the {others} questions of {main} that are no near duplicate of a training question: {listed}."]


def _win_rate_notes(result: RunResult, main: str) -> list[str]:
    """Notes on a comparison with references: by model, and on the annotator for the row's own model."""
    told = [(m.role, m.test_sets[main].win_rate) for m in result.models if main in m.test_sets]
    if not told or told[-1][1] is None:
        return []
    own, notes = told[-1][1], []
    shown = {
        "length-controlled": lambda one: _percent(one.length_controlled),
        f"characters, {own.reference_characters:.0f} of the reference": lambda one: f"{one.characters:.0f}",
        "score by the rubric, of 5": lambda one: None if one.rubric is None else f"{one.rubric:.2f}",
    }
    for what, show in shown.items():
        listed = [f"{role} {show(one)}" for role, one in told if show(one) is not None]
        if listed:
            notes.append(f"{what[0].upper()}{what[1:]}: {', '.join(listed)}.")
    unreadable = f", {own.unreadable} of {2 * result.models[-1].test_sets[main].n} verdicts unreadable"
    if own.even is None:
        of_annotator = (
            f"asked in both orders, prefers what stands first by {_percent(own.first_preferred)} % and "
            f"agrees with itself on {_percent(own.orders_agree)} %"
        )
    else:
        of_annotator = f"shown each response by itself, gives equal grades on {_percent(own.even)} %"
    return [*notes, f"The annotator, {of_annotator}{unreadable if own.unreadable else ''}."]


def _paired_test(result: RunResult, test_set: str) -> str:
    """The recorded test of Ours, or of the last model in a row without Ours, against the best other student."""
    scored = [model for model in result.models if test_set in model.test_sets]
    roles = [model.role for model in scored]
    ours = OURS if OURS in roles else roles[-1]
    own = next(model for model in scored if model.role == ours)
    # The teacher is not a rival: a test against it would hide the gain over SFT that the papers claim.
    rivals = [model for model in scored if model.role not in (ours, TEACHER)]
    if not rivals:
        return f"No other student to compare {ours} with."
    most = max(model.test_sets[test_set].accuracy for model in rivals)
    # Among equally good models the last in the table is taken, the nearest to the row's own; the others are named.
    *tied, best = [model.role for model in rivals if model.test_sets[test_set].accuracy == most]
    which = f"best other student, tied with {' and '.join(tied)}" if tied else "best other student"
    for pair in result.comparisons:
        if pair.test_set != test_set or {pair.first, pair.second} != {ours, best}:
            continue
        swapped = pair.first != ours
        difference = -pair.difference if swapped else pair.difference
        only_ours, only_best = (pair.only_second, pair.only_first) if swapped else (pair.only_first, pair.only_second)
        test = "exact test that swaps clusters" if own.test_sets[test_set].clusters else "McNemar, exact"
        counts = f"only {ours} right {only_ours}, only {best} right {only_best}; {test}"
        if _measure(scored) != "accuracy":
            counts = f"{ours} preferred more {only_ours}, {best} {only_best}; sign test"
        return (
            f"{ours} − {best} ({which}), same questions: {100 * difference:+.1f} points; "
            f"{counts}: {p_value_text(pair.p_value)}."
        )
    return f"No paired test of {ours} against {best} is recorded."


def _size(test: EvaluationResult) -> str:
    """The number of questions, and of their clusters if there are any."""
    clusters = len(set(test.clusters))
    return f"{test.n:,}" + (f" in {clusters:,} clusters" if clusters else "")


def _setting(result: RunResult) -> str:
    """The models and the dataset of a result; results of other settings belong to other tables."""
    dataset, teacher, student = (result.config.get(part, {}).get("name") for part in ("dataset", "teacher", "student"))
    return f" on {dataset}, {teacher} teaches {student}" if dataset else ""


def _seeds_part(row: str, setting: str, results: list[RunResult]) -> str:
    finished = [result for result in results if result.failure is None and result.models]
    models = [model for result in finished for model in result.models]
    names = _test_set_names(models)
    rows = []
    for role in dict.fromkeys(model.role for model in models):
        cells = [role]
        for name in names:
            tests = [
                (result.seed, model.test_sets[name])
                for result in finished
                for model in result.models
                if model.role == role and name in model.test_sets
            ]
            cells.append(_seeds_cell(tests))
        rows.append(cells)
    parts = [f"**{row}**{setting}, seeds {', '.join(str(result.seed) for result in finished) or 'none'}"]
    if rows:
        parts.append(markdown_table(["model", *(f"{name}: {_measure(models)} %" for name in names)], rows))
        parts.append("Mean over seeds ± sample standard deviation; below, each seed with its 95 % interval.")
        parts += [f"Seed {result.seed}: {_paired_test(result, names[0])}" for result in finished]
        parts += _over_seeds(finished, names) + origin_notes(finished)
    parts += [
        f"Seed {result.seed} is missing: {result.failure or 'no model was evaluated'}."
        for result in results
        if result not in finished
    ]
    if differing := _differing_keys(finished):
        parts.append(f"The configs differ in more than the seed: {', '.join(differing)}.")
    return "\n\n".join(parts)


def _over_seeds(results: Sequence[RunResult], names: Sequence[str]) -> list[str]:
    """Comparison on each test set of the row's own model with the best other student, over seeds and questions."""
    if len(results) < 2:
        return []
    own = results[0].models[-1].role
    lines = []
    for name in names:
        outcomes, clusters = _outcomes(results, name)
        rivals = [role for role in outcomes if role not in (own, TEACHER)]
        if own not in outcomes or not rivals:
            continue
        best = max(reversed(rivals), key=lambda role: np.mean(outcomes[role]))  # the last among equals, as above
        difference = bootstrap_over_seeds_and_questions(outcomes[own], outcomes[best], clusters=clusters)
        low, high = 100 * difference.low, 100 * difference.high
        lines.append(f"{name}: {own} − {best} {100 * difference.difference:+.1f} points [{low:+.1f}, {high:+.1f}]")
    if not lines:
        return []
    return ["Over seeds and questions (bootstrap of both, 95 %): " + "; ".join(lines) + "."]


def read_results(folders: Sequence[Path]) -> list[RunResult]:
    """The results of all jobs in or below these folders.

    Raises:
        UsageError: there is no result.
    """
    paths = sorted({path for folder in folders for path in folder.rglob(RESULT_FILE)})
    if not paths:
        raise UsageError(f"no {RESULT_FILE} under {', '.join(map(str, folders))}; `python run.py` writes one.")
    return [read_result(path) for path in paths]


def write_report(results: Sequence[RunResult], output: Path) -> str:
    """Write the table over seeds and every job's own table to a Markdown file; return the table over seeds."""
    table = seeds_table(results)
    jobs = [part for result in results for part in (final_table_markdown(result), category_tables(result)) if part]
    output.write_text("\n\n".join(["# Results", table, "# Each job", *jobs]) + "\n", encoding="utf-8")
    return table


def _outcomes(results: Sequence[RunResult], name: str) -> tuple[dict[str, list[Sequence[float]]], Sequence[int] | None]:
    """The outcomes of each role on a test set for each seed, and the clusters, if all answered the same questions."""
    outcomes: dict[str, list[Sequence[float]]] = {}
    tests = [model.test_sets[name] for result in results for model in result.models if name in model.test_sets]
    if len({tuple(test.question_ids) for test in tests}) == 1:
        for result in results:
            for model in result.models:
                if name in model.test_sets:
                    outcomes.setdefault(model.role, []).append(model.test_sets[name].outcomes)
    clusters = next((test.clusters for test in tests if test.clusters), None)
    return {role: own for role, own in outcomes.items() if len(own) == len(results)}, clusters


def _seeds_cell(tests: Sequence[tuple[int, EvaluationResult]]) -> str:
    if not tests:
        return "–"
    if len(tests) > 1 and all(test.answers == tests[0][1].answers for _, test in tests):
        return f"{_with_interval(tests[0][1])} (n = {_size(tests[0][1])}), each seed"  # the same model: no deviation
    accuracies = [100 * test.accuracy for _, test in tests]
    mean = f"{statistics.mean(accuracies):.1f}"
    spread = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    sizes = "/".join(dict.fromkeys(_size(test) for _, test in tests))
    per_seed = [f"{seed}: {_with_interval(test)}" for seed, test in tests]
    return "<br>".join([f"**{mean}{spread}** (n = {sizes})", *per_seed])


def _differing_keys(results: Sequence[RunResult]) -> list[str]:
    """Keys other than the seed in which the configs differ; such results are not repetitions of one experiment."""
    flat = [dict(_flatten(result.config)) for result in results]
    keys = dict.fromkeys(key for config in flat for key in config)
    return [key for key in keys if key != "seed" and any(config.get(key) != flat[0].get(key) for config in flat)]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in config.items():
        pairs += _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs


def _test_set_names(models: Sequence[ModelResult]) -> list[str]:
    # The last model was tested on all test sets, in the dataset's order; a stored teacher may lack some.
    return list(dict.fromkeys(name for model in reversed(models) for name in model.test_sets))


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def _with_interval(test: EvaluationResult) -> str:
    return f"{_percent(test.accuracy)} [{_percent(test.interval_low)}, {_percent(test.interval_high)}]"
