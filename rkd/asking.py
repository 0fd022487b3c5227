"""What the models of a row answer, through the store: queries enter; labels, student samples, pairs and results leave.

A step's recipe names everything that decides what it makes, so that rows and seeds share what is equal.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rkd.evaluation import Evaluation
from rkd.generation import LocalModel, content_files
from rkd.label_statistics import label_statistics, verdict_counts
from rkd.labels import score, two_pass
from rkd.loading import ModelOptions
from rkd.mini.overlap import summarize_overlap
from rkd.preferences import StoredPairs
from rkd.progress import Progress
from rkd.prompts import PromptTemplate
from rkd.protocols import RewardFunction, TextGenerator
from rkd.recipes import digest_of_files, recipe_digest
from rkd.records import Checkpoint, PreferencePair, PseudoLabel, Query, Response, ScoredResponse, digest_of
from rkd.results import LabelStatistics, ModelResult, Overlap, TestSetResult, VerdictCounts, result_from_json
from rkd.reward_model import NoRewardModel
from rkd.rewards import learned_reward
from rkd.shards import InShards
from rkd.stages import Line, Stages, samples_student, trains
from rkd.stored import StoredTeacher
from rkd.student_samples import balanced
from rkd.workshop import Workshop

Draw = Callable[[TextGenerator | StoredTeacher, Sequence[Query], int], list[list[Response]]]
"""Samples responses to the queries from a generator, with a seed."""


@dataclass
class Notes:
    """What the steps of a row note for its result (`rkd.results.RunResult` describes the fields)."""

    counts: dict[str, int | float] = field(default_factory=dict)
    labels: LabelStatistics | None = None
    verdicts: VerdictCounts | None = None
    reward_model: dict[str, float] = field(default_factory=dict)
    histories: dict[str, list[dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Labelled:
    """The queries of a split with the teacher's responses to them, scored against the teacher's own labels."""

    split: str
    queries: list[Query]
    labels: list[PseudoLabel]
    scored: list[list[ScoredResponse]]

    @property
    def answers(self) -> dict[str, str]:
        """y* by query id; a query without consensus is not in it."""
        return {label.query_id: label.answer for label in self.labels if label.answer is not None}

    def with_label(self) -> "Labelled":
        """The queries that have a label."""
        kept = [i for i, entry in enumerate(self.labels) if entry.answer is not None]
        return Labelled(self.split, *([column[i] for i in kept] for column in (self.queries, self.labels, self.scored)))


class Asking:
    """The steps of one row that sample, label and evaluate."""

    def __init__(self, stages: Stages, workshop: Workshop, notes: Notes) -> None:
        self.stages, self.workshop, self.notes = stages, workshop, notes

    def overlaps(self) -> dict[str, Overlap]:
        """How near the questions of each test set are to the training questions."""
        training = self.stages.dataset.training_queries()
        found = {}
        for name, queries in self.stages.dataset.test_sets().items():
            recipe = {"training": digest_of(training), "test": digest_of(queries)}

            def measure(_: Progress, queries: list[Query] = queries) -> dict[str, Any]:
                texts = ([query.question for query in own] for own in (queries, training))
                return dataclasses.asdict(summarize_overlap(*texts))

            found[name] = Overlap(**self.workshop.value("overlap", recipe, measure, shown=f"overlap of {name}"))
            self.workshop.say(f"    {name}: {found[name]}")
        return found

    def label(self, split: str) -> Labelled:
        """The teacher answers the queries of a split in its two passes; its answers are labelled and scored.

        A row that trains nothing gets no labels.

        Raises:
            ValueError: no training query is left.
        """
        s = self.stages
        queries = self._queries(split, labelled=s.labels.uses_gold)
        if not trains(s):  # nobody is asked for what no stage would use
            return Labelled(split, queries, [PseudoLabel(q.id, None, 0.0) for q in queries], [[] for _ in queries])

        def second_pass(undecided: list[Query]) -> list[list[Response]]:
            if s.teacher_samples.second_pass is None:
                return [[] for _ in undecided]
            self.notes.counts[f"{split}_second_pass_queries"] = len(undecided)
            return self._teacher_responses("second", split, undecided)

        first = self._teacher_responses("first", split, queries)
        labels, responses = two_pass(s.labels, queries, first, second_pass)
        labelled = Labelled(split, queries, labels, score(queries, responses, labels))
        without, unanswered = len(queries) - len(labelled.answers), sum(not own for own in responses)
        self.notes.counts |= {f"{split}_queries": len(queries), f"{split}_without_label": without}
        if unanswered:
            self.notes.counts[f"{split}_without_response"] = unanswered
        said = f", {unanswered} without a response" if unanswered else ""
        self.workshop.say(f"    {len(queries)} {split} queries, {without} without consensus{said}")
        if split == "training":
            passes = ["teacher_first_training", "teacher_second_training"]
            self.workshop.note("labels", labels, recipe_digest("labels", labelled.answers), made_from=passes)
            self._note_labels(labelled)
            if not labelled.answers:
                raise ValueError(
                    f"no query is left after the vote: none of {len(queries)} reached the consensus threshold. "
                    "Lower it with labels.threshold=0.5, or choose a better teacher=."
                )
        return labelled

    def pair(self, sft: Checkpoint, labelled: Labelled) -> tuple[list[Query], list[PreferencePair]]:
        """The SFT student is sampled; the queries of D_R, and pairs of teacher and student responses.

        Both are empty in a row that needs neither.
        """
        s, split = self.stages, labelled.split
        if not samples_student(s):
            return [], []
        known, scores = self._student_samples(sft, labelled)
        queries = [known.queries[i] for i in balanced(scores)]
        if isinstance(s.pairs, StoredPairs):
            pairs = s.pairs.pairs_of(known.queries, s.zero_shot)
        else:
            pairs = s.pairs.pair(known.queries, known.scored, scores, s.sampling_seed)
        sources = ["labels", "teacher_first_training", "teacher_second_training", f"student_samples_{split}"]
        self.workshop.note("pairs", pairs, digest_of(pairs), made_from=sources)
        across = sum(pair.chosen.response.generator != pair.rejected.response.generator for pair in pairs)
        self.notes.counts |= {
            f"{split}_balanced_queries": len(queries), f"{split}_pairs": len(pairs), f"{split}_teacher_pairs": across,
        }  # fmt: skip
        return queries, pairs

    def validation_pairs(self, sft: Checkpoint, labelled: Labelled) -> list[PreferencePair]:
        """The pairs that the reward model is judged by, whatever it is trained on; none where there is none."""
        s = self.stages
        if isinstance(s.reward_model, NoRewardModel):
            return []
        known, scores = self._student_samples(sft, labelled)
        pairs = s.validation_pairs.pair(known.queries, known.scored, scores, s.sampling_seed)
        self.notes.counts[f"{labelled.split}_pairs"] = len(pairs)
        return pairs

    def evaluate(
        self, line: Line, source: Checkpoint | StoredTeacher, reward_model: Checkpoint | None = None
    ) -> ModelResult:
        """The model of a line on every test set; pass@8 on the first one, the dataset's own.

        Recorded responses are evaluated where they answer a whole test set, one to each query.

        Args:
            reward_model: what a line that answers with the best of several responses asks which one that is.
        """
        s, results = self.stages, {}
        is_single = isinstance(source, StoredTeacher) or line.answering.needs_reward_model
        for place, (name, queries) in enumerate(s.dataset.test_sets().items()):
            if isinstance(source, StoredTeacher) and (answered := source.answered(queries)) < len(queries):
                self.workshop.say(
                    f"    {line.role}: {answered} of {len(queries)} queries of {name} have a recorded response, so it "
                    "is not evaluated there"
                )
                continue
            stage = s.evaluation if place == 0 and not is_single else s.evaluation.without_pass_at_k()
            results[name] = self._test(stage, line, source, reward_model, name, queries)
            if results[name].share_truncated > 0.5:
                self.workshop.warn(
                    f"{results[name].share_truncated:.0%} of the responses of {line.role} to {name} do not stop within "
                    f"evaluation.max_response_tokens={s.evaluation.max_response_tokens}: raise it, or train the model "
                    "to stop (more sft.epochs)."
                )
        return ModelResult(line.role, results)

    def _test(
        self,
        stage: Evaluation,
        line: Line,
        source: Checkpoint | StoredTeacher,
        reward_model: Checkpoint | None,
        name: str,
        queries: list[Query],
    ) -> TestSetResult:
        """One test set. No training seed is in the recipe, and copies of a model share it.

        Teacher and pretrained student are evaluated once for all seeds and rows.
        """
        s, sampled, asks_reward = self.stages, stage.pass_at_k_queries(len(queries)), line.answering.needs_reward_model
        recipe = {
            "stage": stage, "model": content_of(source), "prompt": line.prompt, "test_set": name,
            "options": self._options(line.model), "generation": self._generation_recipe(source),
            "queries": digest_of(queries), "sampling_seed": s.sampling_seed if sampled or asks_reward else None,
        }  # fmt: skip
        if asks_reward:
            recipe |= {"answering": line.answering, "reward_model": reward_model}

        def build_reward() -> RewardFunction:
            return learned_reward(reward_model.folder, line.prompt, self._options(line.model))

        def measure(progress: Progress) -> dict[str, Any]:
            with self.workshop.progress(f"evaluating {line.role} on {name}", len(queries) + sampled) as advance:
                own = self._generator(line.role, line.model, source, line.prompt, progress, advance)
                generator = line.answering.over(own, build_reward)
                return dataclasses.asdict(stage.evaluate(generator, queries, s.sampling_seed, test_set=name))

        value = self.workshop.value("evaluation", recipe, measure, shown=f"{line.role} on {name}")
        return result_from_json(TestSetResult, value)

    def _student_samples(self, sft: Checkpoint, labelled: Labelled) -> tuple[Labelled, list[list[ScoredResponse]]]:
        """The queries of a split that have a label, and the student's scored samples of each."""
        s, known = self.stages, labelled.with_label()
        sampled = self._responses(
            f"student_samples_{labelled.split}",
            {
                "stage": s.student_samples,
                "student": sft,
                "prompt": s.zero_shot,
                "sampling_seed": s.sampling_seed,
                "options": s.student.options,
                "generation": self._generation_recipe(sft),
            },
            known.queries,
            ("student", sft, s.zero_shot, s.student_samples.sample),
        )
        scores = score(known.queries, sampled, known.labels)
        self._note_student_samples(labelled.split, scores)
        return known, scores

    def _options(self, model: str) -> ModelOptions:
        """How the teacher, or a model that came of the student, is loaded."""
        own = self.stages.teacher if model == "teacher" else self.stages.student
        return own.options if isinstance(own, LocalModel) else ModelOptions()

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
                "generation": self._generation_recipe(source),
            },
            queries,
            ("teacher", source, teacher.prompt, draw),
        )  # fmt: skip

    def _responses(
        self,
        name: str,
        recipe: Mapping[str, Any],
        queries: list[Query],
        asked: tuple[str, Checkpoint | StoredTeacher, PromptTemplate | None, Draw],
    ) -> list[list[Response]]:
        """Responses to the queries; `asked` is a role, what stands in it, its prompt, and what draws from it."""
        role, source, prompt, draw = asked

        def sample(progress: Progress) -> list[list[Response]]:
            with self.workshop.progress(f"sampling from the {role}", len(queries)) as advance:
                generator = self._generator(role, role, source, prompt, progress, advance)
                return draw(generator, queries, self.stages.sampling_seed)

        return self.workshop.responses(name, recipe, queries, sample)

    def _generation_recipe(self, source: Checkpoint | StoredTeacher) -> Any:
        """What of the way of sampling decides the responses."""
        engine = self.stages.generation
        if isinstance(source, StoredTeacher):
            return None
        return [engine, self.workshop.responses_per_shard] if engine.batches_decide else engine

    def _generator(
        self,
        name: str,
        model: str,
        source: Checkpoint | StoredTeacher,
        prompt: PromptTemplate | None,
        progress: Progress,
        advance: Callable[[int], None],
    ) -> TextGenerator | StoredTeacher:
        """What answers queries under this name: recorded responses, or a model that keeps its shards in `progress`."""
        if isinstance(source, StoredTeacher):
            return source
        own = self.stages.generation.open(source, prompt, name, advance, self._options(model))
        return InShards(own, progress, advance, self.workshop.responses_per_shard, own.tokenizer)

    def _note_labels(self, labelled: Labelled) -> None:
        """Note how good the training labels are: for the report alone, nothing that trains may see it."""
        gold, first_pass = self._queries("training", labelled=True), self.stages.teacher_samples.first_pass
        limit = first_pass.samples_per_query if first_pass else None
        self.notes.labels = label_statistics(labelled.labels, gold)
        self.notes.verdicts = verdict_counts(gold, [own[:limit] for own in labelled.scored])
        if self.notes.labels.precision is not None:
            right, wrong = self.notes.verdicts.precision_of_right, self.notes.verdicts.precision_of_wrong
            self.workshop.say(
                f"    {self.notes.labels.precision:.1%} of the labels are right; of the teacher's responses, "
                f"{_percent(right)} of those with the label's answer are right, {_percent(wrong)} of the others wrong"
            )

    def _note_student_samples(self, split: str, scored: Sequence[Sequence[ScoredResponse]]) -> None:
        """Say what became of the student's samples, and warn of what would explain that none are left."""
        kept, flat = balanced(scored), [one for own in scored for one in own]
        all_right = sum(all(one.score == 1 for one in own) for own in scored)
        self.workshop.say(
            f"    {len(scored)} {split} queries: {len(kept)} with right and wrong student samples, {all_right} all "
            f"right, {len(scored) - len(kept) - all_right} all wrong"
        )
        truncated = sum(not one.response.is_finished for one in flat) / max(1, len(flat))
        if truncated > 0.5:
            self.workshop.warn(
                f"{truncated:.0%} of the student's {split} samples do not stop within "
                f"student_samples.max_response_tokens={self.stages.student_samples.max_response_tokens}: raise it, or "
                "train the student to stop (sft=mini, more sft.epochs)."
            )


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


def content_of(source: Checkpoint | StoredTeacher) -> Checkpoint | StoredTeacher:
    """The checkpoint under a digest of what decides its answers: weights, configuration and tokenizer."""
    if isinstance(source, StoredTeacher):
        return source
    return Checkpoint(source.folder, digest_of_files(content_files(source.folder)))
