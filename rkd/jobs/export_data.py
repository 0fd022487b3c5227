"""The export of a job's labels and pairs: a finished job and an empty folder enter, files of `datasets` leave.

Labels and pairs are no artifacts: they are computed again from the responses in the store. Nothing is sampled.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rkd.data.licences import PASSED_ON
from rkd.data.preference_files import write_pairs
from rkd.errors import ExportError, UsageError
from rkd.evaluation.results import Notes
from rkd.io import write_rows
from rkd.jobs.finished_job import FinishedJob
from rkd.pipeline.experiment import learns_from_pairs
from rkd.pipeline.label import Labelled
from rkd.pipeline.pair import Pairing
from rkd.pipeline.stage_runner import StageRunner
from rkd.pipeline.train import Fitting
from rkd.records import PreferencePair
from rkd.reporting.cards import CARD, Facts, Ingredient, data_usage, dataset_card, shown_recipe
from rkd.work import STUDENT

SPLITS = {"training": "train", "validation": "validation"}  # by their names in a dataset of the hub
RECIPE = ("teacher_samples", "labels", "arithmetic", "sft", "student_samples", "pairs")
# By whether the labels are gold answers.
MADE_BY = {
    True: "The labels are the dataset's own answers.",
    False: "Labels and scores are those of a model, not of people.",
}
HOW = "`--licence ID` passes it on under a licence that you have checked"


def export_data(job: FinishedJob, folder: Path, licence: str | None = None) -> None:
    """Labels and pairs, without what may not be passed on, and a card that says what is left out.

    Args:
        licence: of what has no known one, one of `PASSED_ON`.

    Raises:
        UsageError: the licence is another one.
        ExportError: nothing may be passed on.
        ArtifactError: the store lacks responses.
    """
    if licence is not None and licence not in PASSED_ON:
        raise UsageError(f"--licence {licence}: data are passed on under one of {', '.join(PASSED_ON)}.")
    labelled, pairs = _computed(job)
    made = job.ingredients()
    weights, questions, *texts = [
        replace(one, licence=one.licence or licence) if one.is_record else one for one in made
    ]
    left_out = []
    if not questions.may_be_passed_on:
        left_out.append(f"The questions of {questions.name}, and with them all pairs: {_why(questions)}.")
        pairs = {}
    elif kept_back := [one for one in texts if not one.may_be_passed_on]:
        dropped = sum(not _is_of_student(one) for own in pairs.values() for one in own)
        left_out += [
            f"{dropped:,} pairs with other texts than the student's: {_why(one)}." for one in kept_back if dropped
        ]
        pairs = {split: [one for one in own if _is_of_student(one)] for split, own in pairs.items()}
    files: dict[str, dict[str, str]] = {}

    def write(config: str, split: str, rows: list[Any], to: Callable[[Path, list[Any]], object]) -> None:
        if rows:
            path = folder / config / f"{SPLITS[split]}.jsonl"
            path.parent.mkdir(exist_ok=True)
            to(path, rows)
            files.setdefault(config, {})[SPLITS[split]] = path.relative_to(folder).as_posix()

    for split, own in labelled.items():
        write("labels", split, _label_rows(own, with_questions=questions.may_be_passed_on), write_rows)
    for split, of_split in pairs.items():
        write("pairs", split, of_split, lambda path, own: write_pairs(path, own, job.stages.zero_shot))
    if not files:
        raise ExportError(f"{job.folder} has no data to pass on. {' '.join(left_out)}".rstrip())
    facts = Facts(
        title=f"Labels and pairs of {job.result.row} on {job.stages.dataset.name}",
        summary=[
            "`labels`: the label of each question, and its share of the votes (`consensus`). The label is null where "
            "no answer reached the threshold. `pairs`: two responses to a question, of which `chosen` has the higher "
            "score.",
            *(f"**Left out.** {one} {HOW}." for one in left_out),
        ],
        usage=data_usage(list(files)),
        ingredients=[questions, *texts, weights],
        recipe=shown_recipe(job.result.config, RECIPE),
        limits=[MADE_BY[job.stages.labels.uses_gold], *job.label_limits()],
        numbers=("labels.", "verdicts."),
    )
    dataset_card(job.result, facts, files).save(folder / CARD)


def _computed(job: FinishedJob) -> tuple[dict[str, Labelled], dict[str, list[PreferencePair]]]:
    """The labels and the pairs of each split."""
    s, runner, notes = job.stages, StageRunner(job.root, Console(quiet=True), makes=False), Notes()
    pairing, fitting = Pairing(s, runner, notes), Fitting(s, runner, notes)
    labelled = {split: pairing.label(split) for split in SPLITS}
    if not learns_from_pairs(s):
        return labelled, {}
    training, validation = labelled.values()
    sft = fitting.fit_sft(training, validation)
    _, pairs = pairing.pair(sft, training)
    return labelled, {"training": pairs, "validation": pairing.validation_pairs(sft, validation)}


def _label_rows(labelled: Labelled, *, with_questions: bool) -> list[Mapping[str, Any]]:
    """A row for each query; none for graded responses, and for queries that nothing answered."""
    if labelled.highest is not None or not any(labelled.scored):
        return []
    return [
        {
            "query_id": query.id,
            **({"question": query.question} if with_questions else {}),
            "label": label.answer,
            "consensus": label.consensus,
        }
        for query, label in zip(labelled.queries, labelled.labels, strict=True)
    ]


def _is_of_student(pair: PreferencePair) -> bool:
    return pair.chosen.response.generator == pair.rejected.response.generator == STUDENT


def _why(made_from: Ingredient) -> str:
    what = f"{made_from.what} ({made_from.name})"
    if made_from.licence is None:
        return f"the licence of the {what} is not known"
    return f"the licence of the {what}, {made_from.licence}, does not allow it"
