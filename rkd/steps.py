"""The steps of one row, each through the store: the parts of `Stages` meet here, and nowhere else.

A step's recipe names everything that decides what it makes, so that rows and seeds share what is equal.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from rkd.evaluation import accuracy
from rkd.generation import LocalGenerator, LocalModel, content_files
from rkd.label_statistics import label_statistics, verdict_counts
from rkd.labels import score, two_pass
from rkd.loading import ModelOptions, load_tokenizer
from rkd.mini.overlap import summarize_overlap
from rkd.parallel import own_share, sum_over_processes
from rkd.preferences import StoredPairs
from rkd.progress import Progress
from rkd.prompts import PromptTemplate
from rkd.protocols import RewardFunction, TextGenerator
from rkd.recipes import digest_of_files
from rkd.records import Checkpoint, PreferencePair, PseudoLabel, Query, Response, ScoredResponse, digest_of
from rkd.results import LabelStatistics, ModelResult, Overlap, TestSetResult, VerdictCounts, result_from_json
from rkd.rewards import RewardInputs
from rkd.shards import InShards
from rkd.stages import Line, Stages, samples_student, trains
from rkd.stored import StoredTeacher
from rkd.student_samples import balanced
from rkd.workshop import Workshop

Draw = Callable[[TextGenerator | StoredTeacher, Sequence[Query], int], list[list[Response]]]
"""Samples responses to the queries from a generator, with a seed."""


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


class Steps:
    """The steps of one row; `counts`, `labels` and `verdicts` keep, for the result, what they dealt with."""

    def __init__(self, stages: Stages, workshop: Workshop) -> None:
        self.stages, self.workshop = stages, workshop
        self.student = stages.student.source()
        self.counts: dict[str, int | float] = {}
        self.labels: LabelStatistics | None = None
        self.verdicts: VerdictCounts | None = None

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
            self.counts[f"{split}_second_pass_queries"] = len(undecided)
            return self._teacher_responses("second", split, undecided)

        first = self._teacher_responses("first", split, queries)
        labels, responses = two_pass(s.labels, queries, first, second_pass)
        labelled = Labelled(split, queries, labels, score(queries, responses, labels))
        without, unanswered = len(queries) - len(labelled.answers), sum(not own for own in responses)
        self.counts |= {f"{split}_queries": len(queries), f"{split}_without_label": without}
        if unanswered:
            self.counts[f"{split}_without_response"] = unanswered
        said = f", {unanswered} without a response" if unanswered else ""
        self.workshop.say(f"    {len(queries)} {split} queries, {without} without consensus{said}")
        if split == "training":
            self._note_labels(labelled)
            if not labelled.answers:
                raise ValueError(
                    f"no query is left after the vote: none of {len(queries)} reached the consensus threshold. "
                    "Lower it with labels.threshold=0.5, or choose a better teacher=."
                )
        return labelled

    def fit_sft(self, training: Labelled, validation: Labelled) -> Checkpoint:
        """Data distillation: the student learns the teaching set."""
        chosen = self.stages.teaching_set.select(training.scored)
        examples = [(q, r.response.text) for q, group in zip(training.queries, chosen, strict=True) for r in group]
        self.counts["sft_examples"] = len(examples)
        inputs = {
            "student": self.student,
            "examples": digest_of_examples(examples),
            "validation": self._validation_recipe(validation),
        }
        return self._fit("sft", self.stages.sft, inputs, self.student, examples, validate=self._validator(validation))

    def pair(self, sft: Checkpoint, labelled: Labelled) -> tuple[list[Query], list[PreferencePair]]:
        """The SFT student is sampled; the queries of D_R, and pairs of teacher and student responses.

        Both are empty in a row that needs neither.
        """
        if not samples_student(self.stages):
            return [], []
        s, split, known = self.stages, labelled.split, labelled.with_label()
        sampled = self._responses(
            f"student_samples_{split}",
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
        kept = balanced(scores)
        self._note_student_samples(split, scores, kept)
        queries = [known.queries[i] for i in kept]
        if isinstance(s.pairs, StoredPairs):
            pairs = s.pairs.pairs_of(known.queries, s.zero_shot)
        else:
            pairs = s.pairs.pair(queries, [known.scored[i] for i in kept], [scores[i] for i in kept], s.sampling_seed)
        self.counts |= {f"{split}_balanced_queries": len(queries), f"{split}_pairs": len(pairs)}
        return queries, pairs

    def fit_reward_model(
        self, sft: Checkpoint, pairs: list[PreferencePair], validation_pairs: list[PreferencePair]
    ) -> Checkpoint:
        """Reward distillation: R learns the pairs, starting from the SFT student."""
        inputs = {"student": sft, "pairs": digest_of(pairs), "validation_pairs": digest_of(validation_pairs)}
        return self._fit("reward_model", self.stages.reward_model, inputs, sft, pairs, validation_pairs)

    def fit_policy(
        self, sft: Checkpoint, reward_model: Checkpoint, queries: list[Query], training: Labelled, validation: Labelled
    ) -> Checkpoint:
        """Reinforcement learning of the SFT student on the queries of D_R, under the reward mix."""
        s = self.stages
        inputs = {
            "student": sft,
            "queries": digest_of(queries),
            "labels": training.answers,
            "reward_mix": s.reward_mix,
            "reward_model": reward_model,
            "validation": self._validation_recipe(validation),
        }

        def build_reward() -> RewardFunction:
            return s.reward_mix.build(RewardInputs(training.answers, reward_model, s.zero_shot, s.student.options))

        return self._fit("rl", s.rl, inputs, sft, queries, build_reward, validate=self._validator(validation))

    def evaluate(self, line: Line, source: Checkpoint | StoredTeacher) -> ModelResult:
        """The model of a line on every test set; pass@8 on the first one, the dataset's own.

        No training seed is in the recipe, and copies of a model share it: teacher and pretrained student are evaluated
        once for all seeds and rows. Recorded responses are evaluated where they answer a whole test set, one to each
        query.
        """
        s, model, is_stored = self.stages, content_of(source), isinstance(source, StoredTeacher)
        results: dict[str, TestSetResult] = {}
        for place, (name, queries) in enumerate(s.dataset.test_sets().items()):
            if is_stored and (answered := source.answered(queries)) < len(queries):
                self.workshop.say(
                    f"    {line.role}: {answered} of {len(queries)} queries of {name} have a recorded response, so it "
                    "is not evaluated there"
                )
                continue
            stage = s.evaluation if place == 0 and not is_stored else s.evaluation.without_pass_at_k()
            sampled = stage.pass_at_k_queries(len(queries))
            recipe = {
                "stage": stage, "model": model, "prompt": line.prompt, "test_set": name,
                "options": self._options(line.model), "generation": self._generation_recipe(source),
                "queries": digest_of(queries), "sampling_seed": s.sampling_seed if sampled else None,
            }  # fmt: skip

            def measure(
                progress: Progress,
                name: str = name,
                queries: list[Query] = queries,
                stage: Any = stage,
                sampled: int = sampled,
            ) -> dict[str, Any]:
                with self.workshop.progress(f"evaluating {line.role} on {name}", len(queries) + sampled) as advance:
                    asked = (line.role, line.model, source, line.prompt)
                    generator = self._generator(*asked, progress, advance)
                    return dataclasses.asdict(stage.evaluate(generator, queries, s.sampling_seed, test_set=name))

            value = self.workshop.value("evaluation", recipe, measure, shown=f"{line.role} on {name}")
            results[name] = result_from_json(TestSetResult, value)
            if results[name].share_truncated > 0.5:
                self.workshop.warn(
                    f"{results[name].share_truncated:.0%} of the responses of {line.role} to {name} do not stop within "
                    f"evaluation.max_response_tokens={s.evaluation.max_response_tokens}: raise it, or train the model "
                    "to stop (more sft.epochs)."
                )
        return ModelResult(line.role, results)

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
        return InShards(own, progress, advance, self.workshop.responses_per_shard)

    def _fit(self, name: str, stage: Any, inputs: Mapping[str, Any], *arguments: Any, **options: Any) -> Checkpoint:
        """What a training stage makes of its inputs; what it reports is counted."""
        s = self.stages
        checkpoint = self.workshop.checkpoint(
            name,
            {
                "stage": stage, "prompt": s.zero_shot, "seed": s.seed, "options": s.student.options, **inputs,
                **s.training_recipe,
            },
            lambda folder, progress: stage.fit(
                *arguments, prompt=s.zero_shot, training=s.trainer, logger=s.tracking.logger_for(name),
                folder=folder, progress=progress, seed=s.seed, options=s.student.options, **options,
            ),
        )  # fmt: skip
        report = flat_numbers(self.workshop.report(checkpoint))
        self.counts |= {f"{name}/{key}": value for key, value in report.items()}
        return checkpoint

    def _validated_on(self, validation: Labelled) -> Labelled:
        """The validation queries that decide which weights a training stage keeps."""
        known, first = validation.with_label(), slice(self.stages.validation_queries)
        return Labelled(known.split, known.queries[first], known.labels[first], known.scored[first])

    def _validation_recipe(self, validation: Labelled) -> dict[str, Any]:
        limit = self.stages.evaluation.max_response_tokens
        return {"labels": digest_of(self._validated_on(validation).labels), "max_response_tokens": limit}

    def _validator(self, validation: Labelled) -> Callable[[PreTrainedModel], float]:
        """Greedy accuracy of a student on the validation queries that have a pseudo-label (METHOD 5.7).

        Processes that train together share out the queries; each returns what all of them found.
        """
        s, asked = self.stages, self._validated_on(validation)
        tokenizer = load_tokenizer(self.student.folder)

        def validate(model: PreTrainedModel) -> float:
            generator = LocalGenerator("student", model, tokenizer, s.zero_shot)
            limit = s.evaluation.max_response_tokens
            queries, labels = own_share(asked.queries), own_share(asked.labels)
            own = accuracy(generator, queries, labels, max_response_tokens=limit) if queries else 0.0
            right = torch.tensor(round(own * len(queries)), device=model.device)
            return int(sum_over_processes(right)) / len(asked.queries)

        return validate

    def _note_labels(self, labelled: Labelled) -> None:
        """Note how good the training labels are: for the report alone, nothing that trains may see it."""
        gold, first_pass = self._queries("training", labelled=True), self.stages.teacher_samples.first_pass
        limit = first_pass.samples_per_query if first_pass else None
        self.labels = label_statistics(labelled.labels, gold)
        self.verdicts = verdict_counts(gold, [own[:limit] for own in labelled.scored])
        if self.labels.precision is not None:
            right, wrong = self.verdicts.precision_of_right, self.verdicts.precision_of_wrong
            self.workshop.say(
                f"    {self.labels.precision:.1%} of the labels are right; of the teacher's responses, "
                f"{_percent(right)} of those with the label's answer are right, {_percent(wrong)} of the others wrong"
            )

    def _note_student_samples(
        self, split: str, scored: Sequence[Sequence[ScoredResponse]], kept: Sequence[int]
    ) -> None:
        """Say what became of the student's samples, and warn of what would explain that none are left."""
        flat = [one for own in scored for one in own]
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


def digest_of_examples(examples: Sequence[tuple[Query, str]]) -> str:
    """A digest of the training texts, without the queries' gold answers."""
    return digest_of([Response(query.id, query.question, 0, text, True) for query, text in examples])


def flat_numbers(report: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers of a report, those of nested mappings by key/key."""
    flat: dict[str, int | float] = {}
    for key, value in report.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": number for inner, number in flat_numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[key] = value
    return flat
