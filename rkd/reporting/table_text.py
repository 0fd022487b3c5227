"""Evaluated tables as text: Markdown, CSV, LaTeX and JSON. Fractions become percent here."""

import csv
import dataclasses
import io
import json
import math
from typing import Any

from rkd.evaluation.statistics import REPLICATES, p_value_text
from rkd.markdown import markdown_table
from rkd.reporting.job_summary import OWN
from rkd.reporting.tables import SIGNIFICANT, Cell, Column, Difference, Evaluated, Judgement, TableLine

NOTHING = "–"
ABOVE_TEACHER = "▲"


def markdown(evaluated: Evaluated) -> str:
    """The table with its claims, significant differences, deviations and missing jobs."""
    table = evaluated.table
    grouped = any(group.label for group in table.groups)
    header = [*(["models"] if grouped else []), "row"]
    # A column that the paper lacks gets no column of published values.
    in_paper = [any(cell.published is not None for cell in cells) for cells in _columns(evaluated)]
    for column, is_published in zip(table.columns, in_paper, strict=True):
        header += [_header(column, evaluated), *(["paper"] if is_published else [])]
    rows = []
    for line in evaluated.lines:
        first = line is next(other for other in evaluated.lines if other.group is line.group)
        names = [*([_both(line.group.label, line.group.paper) if first else ""] if grouped else []), line.label]
        cells = []
        for place, cell in enumerate(line.cells):
            cells.append(_shown(evaluated, line, place, bold="**{}**"))
            if in_paper[place]:
                cells.append(_published(table.columns[place], cell))
        rows.append([*names, *cells])
    parts = [f"**{table.title}**", markdown_table(header, rows, text_columns=2 if grouped else 1), _legend(evaluated)]
    if evaluated.judgements:
        parts += [
            "Claims, and what these numbers say:",
            "\n".join(_claim_line(evaluated, one) for one in evaluated.judgements),
        ]
        parts += [_significance(evaluated)]
    if table.deviations or table.notes:
        numbered = "\n".join(f"{number}. {text}" for number, text in enumerate(table.deviations, start=1))
        parts += ["Where this differs from the paper:", *([numbered] if numbered else []), *table.notes]
    return "\n\n".join([*parts, *_state(evaluated)]) + "\n"


def comma_separated(evaluated: Evaluated) -> str:
    """One line for each cell and seed, with the paper's value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["group", "row", "column", "seed", "value", "n", "paper"])
    for line in evaluated.lines:
        for column, cell in zip(evaluated.table.columns, line.cells, strict=True):
            published = "" if cell.published is None else cell.published
            name = [line.group.label, line.label, column.label]
            for seed, value in sorted(cell.values.items()):
                writer.writerow([*name, seed, _scaled(column, value), cell.n or "", published])
            if not cell.values:
                writer.writerow([*name, "", "", "", published])
    return file.getvalue()


def latex(evaluated: Evaluated) -> str:
    """A `tabular` with booktabs rules: mean ± deviation, the paper's value in parentheses; notes as comments."""
    table = evaluated.table
    lines = [
        f"% {table.title}",
        r"\begin{tabular}{l" + "r" * len(table.columns) + "}",
        r"\toprule",
        " & ".join(["", *(_tex(_both(column.label, column.paper)) for column in table.columns)]) + r" \\",
    ]
    for group in table.groups:
        lines.append(r"\midrule")
        if group.label:
            lines.append(
                rf"\multicolumn{{{len(table.columns) + 1}}}{{l}}{{{_tex(_both(group.label, group.paper))}}} \\"
            )
        for line in (one for one in evaluated.lines if one.group is group):
            cells = []
            for place, (column, cell) in enumerate(zip(table.columns, line.cells, strict=True)):
                published = _published(column, cell)
                # The braces of the bold command must not be escaped, so they are inserted after escaping.
                shown = _tex(_shown(evaluated, line, place, bold="<<{}>>"))
                shown = shown.replace("<<", r"\textbf{").replace(">>", "}")
                cells.append(shown + (f" ({published})" if published != NOTHING else ""))
            lines.append(" & ".join([_tex(line.label), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in table.notes)]) + "\n"


def as_json(evaluated: Evaluated) -> str:
    """All contents: cells by seed, published values, differences with intervals and p-values, claims, missing jobs."""
    content: dict[str, Any] = {
        "name": evaluated.table.name,
        "title": evaluated.table.title,
        "revisions": list(evaluated.revisions),
        "jobs": evaluated.jobs,
        "finished": evaluated.finished,
        "failures": dict(evaluated.failures),
        "cells": [
            {
                "group": line.group.label,
                "row": line.label,
                "column": column.label,
                "values": {str(seed): value for seed, value in sorted(cell.values.items())},
                "mean": cell.mean,
                "deviation": cell.deviation,
                "n": cell.n,
                "clusters": cell.clusters,
                "missing": cell.missing,
                "published": cell.published,
            }
            for line in evaluated.lines
            for column, cell in zip(evaluated.table.columns, line.cells, strict=True)
        ],
        "claims": [
            {"says": one.claim.says, "differences": [dataclasses.asdict(d) for d in one.differences]}
            for one in evaluated.judgements
        ],
        "deviations": list(evaluated.table.deviations),
        "notes": list(evaluated.table.notes),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _shown(evaluated: Evaluated, line: TableLine, place: int, *, bold: str) -> str:
    """The text of a cell: mean ± deviation and gain; bold if best of its group, marked if above its teacher."""
    column, cell = evaluated.table.columns[place], line.cells[place]
    if cell.mean is None:
        return NOTHING
    text = _number(column, cell.mean, cell.mean)
    if cell.deviation is not None:
        text += f" ± {_number(column, cell.deviation, cell.mean)}"
    is_own = line.row.model == OWN
    if is_own and cell.mean == evaluated.best(line.group, place):
        text = bold.format(text)
    teacher = evaluated.teacher_mean(line.group, place)
    is_score = column.test_set is not None and column.higher_is_better
    if is_own and is_score and teacher is not None and cell.mean > teacher:
        text += f" {ABOVE_TEACHER}"
    text += _gain(evaluated, line, place)
    if cell.missing:
        text += f" [{len(cell.values)} of {len(cell.values) + cell.missing} seeds]"
    return text


def _gain(evaluated: Evaluated, line: TableLine, place: int) -> str:
    over = evaluated.table.gain_over
    if over is None or line.row.model != OWN or over == line.label:
        return ""
    base = next((o for o in evaluated.lines if o.group is line.group and o.label == over), None)
    mean = line.cells[place].mean
    if base is None or mean is None or (of_base := base.cells[place].mean) is None:
        return ""
    column = evaluated.table.columns[place]
    gain = mean - of_base
    return f" ({'+' if gain >= 0 else '−'}{_number(column, abs(gain), mean)})"


def _columns(evaluated: Evaluated) -> list[tuple[Cell, ...]]:
    return list(zip(*(line.cells for line in evaluated.lines), strict=True))


def _header(column: Column, evaluated: Evaluated) -> str:
    place = list(evaluated.table.columns).index(column)
    cells = [line.cells[place] for line in evaluated.lines if line.cells[place].n is not None]
    sizes = dict.fromkeys(sorted((cell.n or 0, cell.clusters or 0) for cell in cells))
    shown = "/".join(f"{n:,}" + (f" in {clusters:,} clusters" if clusters else "") for n, clusters in sizes)
    return _both(column.label, column.paper) + (f", n = {shown}" if shown else "")


def _both(ours: str, papers: str) -> str:
    return f"{ours} ({papers})" if papers and papers != ours else ours


def _legend(evaluated: Evaluated) -> str:
    table = evaluated.table
    seeds = sorted({seed for line in evaluated.lines for cell in line.cells for seed in cell.values})
    if not seeds:
        return "No job has finished yet."
    named = ", ".join(map(str, seeds))
    parts = [f"Mean ± sample standard deviation over seeds {named}" if len(seeds) > 1 else f"Values of seed {named}"]
    if any(column.higher_is_better is not None for column in table.columns):
        parts.append("the best of a group in bold, the teacher apart")
    if any(line.row.model != OWN for line in evaluated.lines):
        parts.append(f"{ABOVE_TEACHER} a student above its teacher")
    if table.gain_over:
        parts.append(f"in parentheses the difference to {table.gain_over}")
    return "; ".join(parts) + "."


def _claim_line(evaluated: Evaluated, judgement: Judgement) -> str:
    """A claim, the number of cells in which it holds, and the cells in which it does not."""
    all_of_them = judgement.differences
    if not all_of_them:
        return f"- *{judgement.claim.says}*: nothing to compare yet."
    holding = [one for one in all_of_them if one.difference > 0]
    against = [one for one in all_of_them if one.difference <= 0]
    significant = sum(one.is_significant for one in holding)
    text = f"- *{judgement.claim.says}*: {_verdict(len(holding), len(all_of_them), significant)}"
    text += _comparisons(len(all_of_them), len(holding), significant)
    published = [one.published for one in all_of_them if one.published is not None]
    if published:
        text += f" In the paper {sum(own > 0 for own in published)} of {len(published)}."
    if against:
        text += " Not: " + "; ".join(_difference_text(evaluated, one) for one in against) + "."
    return text


def _verdict(holding: int, compared: int, significant: int) -> str:
    if holding < compared:
        return "**does not hold**" if holding == 0 else "**holds in part**"
    return "**holds**" if significant == compared else "**holds by the means**"


def _comparisons(compared: int, holding: int, significant: int) -> str:
    noun = "comparison" if compared == 1 else "comparisons"
    return f", in {holding} of {compared} {noun}, {significant} of them significant."


def _significance(evaluated: Evaluated) -> str:
    pairs = {(d.group, d.column, d.better, d.worse): d for one in evaluated.judgements for d in one.differences}
    tested = [one for one in pairs.values() if one.p_value is not None]
    if not tested:
        return "No difference was tested: there are no outcomes to the same questions."
    significant = [one for one in tested if one.is_significant]
    explained = (
        f"Significant at {SIGNIFICANT:.0%}: bootstrap over seeds and questions ({REPLICATES:,} replicates), the same "
        f"questions on both sides, corrected for {len(tested)} comparisons by Holm's method."
    )
    if any(cell.clusters for line in evaluated.lines for cell in line.cells):
        explained += " A cluster, the variants of one problem, is drawn as a whole."
    if not significant:
        return f"{explained} No difference is."
    return f"{explained}\n\n" + "\n".join(f"- {_difference_text(evaluated, one)}" for one in significant)


def _difference_text(evaluated: Evaluated, one: Difference) -> str:
    (column,) = (column for column in evaluated.table.columns if column.label == one.column)
    where = ", ".join(part for part in (one.column, one.group) if part)
    decimals = 2 if column.unit == "number" else 1
    text = f"{one.better} − {one.worse} on {where}: {_scaled(column, one.difference):+.{decimals}f}"
    if one.p_value is None or one.low is None or one.high is None:  # not tested
        return text
    p_value = p_value_text(one.p_value, is_bound=one.is_bound)
    return f"{text} [{100 * one.low:+.1f}, {100 * one.high:+.1f}], {p_value}"


def _state(evaluated: Evaluated) -> list[str]:
    """The finished and failed jobs, and the revision of the code."""
    parts = [f"Jobs: {evaluated.finished} of {evaluated.jobs} finished."]
    parts += [f"- {job} failed: {reason}" for job, reason in evaluated.failures.items()]
    made_by = f"Made at revision {', '.join(evaluated.revisions)}." if evaluated.revisions else ""
    return ["\n".join(parts), *([made_by] if made_by else [])]


def _published(column: Column, cell: Cell) -> str:
    if cell.published is None:
        return NOTHING
    return f"{cell.published:.1f}" if column.unit == "percent" else f"{cell.published:g}"


def _number(column: Column, value: float, mean: float) -> str:
    """A value with one decimal; a plain number with as many as give its cell's mean three significant digits."""
    decimals = 1 if column.unit != "number" else max(0, 2 - math.floor(math.log10(abs(mean) or 1.0)))
    return f"{_scaled(column, value):,.{decimals}f}"


def _scaled(column: Column, value: float) -> float:
    return round(100 * value, 4) if column.unit == "percent" else value


def _tex(text: str) -> str:
    for plain, escaped in (("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#"), ("±", r"$\pm$"), ("−", "$-$"),
                           ("→", r"$\to$"), ("▲", r"$\blacktriangle$"), ("–", "--"), ("λ", r"$\lambda$")):  # fmt: skip
        text = text.replace(plain, escaped)
    return text
