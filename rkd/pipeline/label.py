"""The labelling of a row's queries, through the store: queries enter, labels and scored responses leave."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rkd.evaluation.label_quality import grade_statistics, label_statistics, verdict_counts
from rkd.judges.base import open_judge
from rkd.judges.written import Written
from rkd.pipeline.dry_pass import made_up_labels, made_up_responses
from rkd.pipeline.experiment import needs_labels
from rkd.pipeline.sample import Step
from rkd.records import PseudoLabel, Query, Response, ScoredResponse, digest_of
from rkd.stages.labels import RubricGrades, score, two_pass
from rkd.store.fingerprint import fingerprint_digest
from rkd.store.partial_results import PartialResults

_SHOWN = 120  # characters that are printed of a response's end, or of the beginning of a judge's reply
# The defects of responses (`Response.defect`) in words, and what to do about them.
DEFECTS = {
    "length": ("cut at the limit", "Raise teacher_samples.max_response_tokens."),
    "empty": (
        "empty",
        "A model that thinks first may need a larger teacher_samples.max_response_tokens, or thinking turned off in "
        "teacher.extra_body.",
    ),
    "refusal": ("declined by the teacher", "Choose another teacher= or other queries."),
    "content_filter": ("withheld by a filter", "Choose another teacher= or other queries."),
    "null": ("without a finish_reason", "The server has to say why a response ended."),
    "tool_calls": ("calls of a tool", "Turn tools off at the server."),
}


@dataclass(frozen=True)
class Labelled:
    """The queries of a split with the teacher's responses, scored against the teacher's own labels.

    In an open-ended task a judge has graded the responses, from 0 to `highest`, and there are no labels.
    """

    split: str
    queries: list[Query]
    labels: list[PseudoLabel]
    scored: list[list[ScoredResponse]]
    highest: int | None = None

    @property
    def answers(self) -> dict[str, str]:
        """y* by query id, without the queries that have no consensus."""
        return {label.query_id: label.answer for label in self.labels if label.answer is not None}

    @property
    def unread(self) -> "Unread":
        """The whole responses whose answer could not be read; those that are never taught are counted elsewhere."""
        whole = [one for own in self.scored for one in own if one.response.defect is None]
        return Unread([one.response.text for one in whole if one.answer is None], len(whole))

    def with_label(self) -> "Labelled":
        """The queries that have a label; with grades, those with a response of the highest score."""
        return self.at([i for i in range(len(self.queries)) if self._is_taught(i)])

    def at(self, places: Sequence[int]) -> "Labelled":
        """The queries at these places."""
        return Labelled(
            self.split,
            [self.queries[i] for i in places],
            [self.labels[i] for i in places],
            [self.scored[i] for i in places],
            self.highest,
        )

    def _is_taught(self, place: int) -> bool:
        if self.highest is None:
            return self.labels[place].answer is not None
        return any(one.score == self.highest for one in self.scored[place])


@dataclass(frozen=True)
class Unread:
    """The texts without an answer that could be read, among `responses` of the teacher."""

    texts: list[str] = field(repr=False)
    responses: int

    def __str__(self) -> str:
        shown = " ".join(self.texts[0].split()) if self.texts else ""
        end = shown if len(shown) <= _SHOWN else f"…{shown[-_SHOWN:]}"
        said = f"{len(self.texts)} of {self.responses} responses of the teacher state no answer that can be read"
        return f"{said}, as this one: {end!r}" if self.texts else said


class Labelling(Step):
    """The steps of one row that label queries and score responses."""

    def label(self, split: str) -> Labelled:
        """Let the teacher answer the queries of a split in its two passes; label and score its responses.

        With a judge's grades there is one pass, since grades have no consensus. A row without training gets labels only
        to compare a judge with.

        Raises:
            ValueError: no training query is left.
        """
        s = self.stages
        queries = self._queries(split, labelled=s.labels.uses_gold)
        if not needs_labels(s, split):  # no stage would use the responses
            return _without_labels(split, queries, [[] for _ in queries])
        if s.labels.is_graded:
            return self._graded(s.labels, split, queries)

        def second_pass(undecided: list[Query]) -> list[list[Response]]:
            if s.teacher_samples.second_pass is None:
                return [[] for _ in undecided]
            self.notes.counts[f"{split}_second_pass_queries"] = len(undecided)
            return self._teacher_responses("second", split, undecided)

        first = self._teacher_responses("first", split, queries)
        labels, responses = two_pass(s.labels, queries, first, second_pass)
        labelled = Labelled(split, queries, labels, score(queries, responses, labels))
        self._note_queries(labelled, responses, "without consensus")
        unread = self._note_unread(labelled)
        if split == "training":
            passes = ["teacher_first_training", "teacher_second_training"]
            self.runner.note("labels", labels, fingerprint_digest("labels", labelled.answers), made_from=passes)
            self._note_labels(labelled)
        labelled = self._taught_in_dry_pass(labelled)
        if split == "training" and not labelled.answers:
            raise ValueError(_why_none_is_left(len(queries), unread))
        return labelled

    def _graded(self, grades: RubricGrades, split: str, queries: list[Query]) -> Labelled:
        """The teacher's first-pass responses with the judge's grades."""
        responses = self._teacher_responses("first", split, queries)
        scored = self._grades(grades, f"teacher_{split}", "the teacher's responses", queries, responses)
        labelled = _without_labels(split, queries, scored, grades.highest)
        best = f"without a response of grade {grades.highest}"
        self._note_queries(labelled, responses, best)
        labelled = self._taught_in_dry_pass(labelled)
        if split == "training" and not labelled.with_label().queries:
            raise ValueError(
                f"no query is left after grading: all {len(queries)} are {best}. Look at what the judge writes with "
                "`experiments=judge_quality`, or choose a better teacher=."
            )
        return labelled

    def _taught_in_dry_pass(self, labelled: Labelled) -> Labelled:
        """The queries as they are; in a dry pass without a response to teach, with made-up labels and responses."""
        best = self.stages.highest_score
        has_example = any(one.score == best and one.response.defect is None for own in labelled.scored for one in own)
        if has_example or not self.stages.is_dry_pass:
            return labelled
        labels = labelled.labels if labelled.highest else made_up_labels(labelled.queries, labelled.labels)
        scored = made_up_responses("teacher", labelled.queries, best)
        self._note_made_up(labelled.split, "teacher", scored)
        return replace(labelled, labels=labels, scored=scored)

    def _note_made_up(self, split: str, role: str, scored: Sequence[Sequence[ScoredResponse]]) -> None:
        self.notes.counts[f"{split}_made_up/{role}"] = count = sum(map(len, scored))
        self.runner.warn(
            f"dry pass: the {role} gives nothing to train on, so {count} {split} responses are made up. No number that "
            "follows says anything about the models."
        )

    def _grades(
        self, grades: RubricGrades, name: str, what: str, queries: list[Query], responses: list[list[Response]]
    ) -> list[list[ScoredResponse]]:
        """The responses with the judge's grades; notes the statistics of the grades."""
        asked = [(query, one) for query, own in zip(queries, responses, strict=True) for one in own]
        made = self._judged(name, what, asked)
        scored = grades.scored(responses, made["scores"])
        noted = self.notes.grades[name] = grade_statistics(queries, scored, grades.highest, self.stages.dataset.rubric)
        if noted.unreadable:
            unread = f"{noted.unreadable} of {len(asked)} grades of {what}"
            self.runner.warn(f"{unread} could not be read, and count for nothing.{example_of(made)}")
        self.runner.say(f"    grades of {what}: {noted}")
        return scored

    def _note_queries(self, labelled: Labelled, responses: Sequence[Sequence[Response]], lacking: str) -> None:
        """Print and note the numbers of kept and dropped queries of a split after the teacher's responses."""
        split, queries = labelled.split, len(labelled.queries)
        without, unanswered = queries - len(labelled.with_label().queries), sum(not own for own in responses)
        given = [one for own in responses for one in own if not one.only_votes]
        self.notes.counts |= {f"{split}_queries": queries, f"{split}_without_label": without}
        if unanswered:
            self.notes.counts[f"{split}_without_response"] = unanswered
        said = f", {unanswered} without a response" if unanswered else ""
        self.runner.say(f"    {queries} {split} queries, {without} {lacking}{said}")
        if defects := Counter(one.defect for one in given if one.defect is not None):
            self.notes.counts[f"{split}_withheld_responses"] = defects.total()
            self.notes.counts |= {f"{split}_withheld/{defect}": count for defect, count in sorted(defects.items())}
            self.runner.warn(_withheld_said(split, defects, len(given)))

    def _note_unread(self, labelled: Labelled) -> Unread:
        """Print and note how many responses state no answer that can be read, and show one."""
        unread = labelled.unread
        if unread.texts:
            self.notes.counts[f"{labelled.split}_unread_responses"] = len(unread.texts)
            self.runner.say(f"    {unread}")
        return unread

    def _queries(self, split: str, *, labelled: bool) -> list[Query]:
        data = self.stages.dataset
        of_split = data.training_queries if split == "training" else data.validation_queries
        return of_split(labelled=labelled)

    def _teacher_responses(self, which: str, split: str, queries: list[Query]) -> list[list[Response]]:
        s, teacher, source = self.stages, self.stages.teacher, self.stages.teacher.source()
        draw = {"first": s.teacher_samples.first, "second": s.teacher_samples.second}[which]
        return self._responses(
            f"teacher_{which}_{split}",
            {
                "stage": s.teacher_samples, "model": source, "prompt": teacher.prompt,
                "sampling_seed": s.sampling_seed, "pass": which, "options": self._options("teacher"),
                "generation": self._generation_fingerprint(source),
            },
            queries,
            ("teacher", source, teacher.prompt, draw),
        )  # fmt: skip

    def _first_pass(self, labelled: Labelled) -> list[list[ScoredResponse]]:
        """The responses of the teacher's first pass."""
        first_pass = self.stages.teacher_samples.first_pass
        return [own[: first_pass.samples_per_query if first_pass else None] for own in labelled.scored]

    def _note_labels(self, labelled: Labelled) -> None:
        """Note the quality of the training labels, for the report only: no training may see it."""
        gold = self._queries("training", labelled=True)
        self.notes.labels = label_statistics(labelled.labels, gold)
        self.notes.verdicts = verdict_counts(gold, self._first_pass(labelled))
        if self.notes.labels.precision is not None:
            right, wrong = self.notes.verdicts.precision_of_right, self.notes.verdicts.precision_of_wrong
            self.runner.say(
                f"    {self.notes.labels.precision:.1%} of the labels are right; of the teacher's responses, "
                f"{percent(right)} of those with the label's answer are right, {percent(wrong)} of the others wrong"
            )

    def _judged(self, name: str, what: str, asked: Sequence[tuple[Query, Response]]) -> dict[str, Any]:
        """The judge's scores of these responses and the probability masses of its tokens, in their order."""
        judge = self.stages.judge
        if not asked:
            return {"scores": [], "masses": []}

        def read(partial: PartialResults) -> dict[str, Any]:
            with self.runner.progress(f"judging {what}", len(asked)) as advance:
                opened = open_judge(judge, advance, partial)
                verdicts = opened.verdicts(*zip(*asked, strict=True))
            made = {"scores": [one and one.score for one in verdicts], "masses": [one and one.mass for one in verdicts]}
            unread = [text[:_SHOWN] for text in opened.unread] if isinstance(opened, Written) else []
            return made | ({"unread": unread} if unread else {})

        fingerprint = {"judge": judge.content(), "responses": digest_of([response for _, response in asked])}
        return self.runner.value(f"judge_{name}", fingerprint, read)


def example_of(made: dict[str, Any]) -> str:
    """A reply that could not be read, in one line."""
    return "".join(f" One of them: {text!r}." for text in made.get("unread", ()))


def _why_none_is_left(queries: int, unread: Unread) -> str:
    """Why no query has a label: answers that cannot be read, or differ."""
    said = f"no query is left after the vote: none of {queries} reached the consensus threshold. "
    if unread.texts:
        said += f"{unread}. The prompt has to ask for a form that is read, as 'The answer is 12.' (docs/datasets.md). "
    return said + "Lower the threshold with labels.threshold=0.5, or choose a better teacher=."


def _withheld_said(split: str, defects: Counter[str], given: int) -> str:
    """How many of the `given` responses of the teacher are not taught, why, and what to do about the main reason."""
    counted = ", ".join(f"{count} {DEFECTS.get(defect, (defect, ''))[0]}" for defect, count in defects.most_common(5))
    main, _ = defects.most_common(1)[0]
    advice = DEFECTS.get(main, ("", "See what the server says of this reason."))[1]
    return f"{defects.total()} of {given} {split} responses of the teacher are never taught: {counted}. {advice}"


def _without_labels(
    split: str, queries: list[Query], scored: list[list[ScoredResponse]], highest: int | None = None
) -> Labelled:
    return Labelled(split, queries, [PseudoLabel(query.id, None, 0.0) for query in queries], scored, highest)


def percent(share: float | None) -> str:
    """A share in words; none where there is nothing to share."""
    return "none" if share is None else f"{share:.1%}"
