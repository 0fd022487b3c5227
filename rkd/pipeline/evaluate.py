"""The tests of a row's models, through the store: models enter, their results on the test sets leave."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from rkd.data.recorded_model import RecordedTeacher
from rkd.decoding import decode
from rkd.evaluation.accuracy import Evaluation
from rkd.evaluation.annotators import open_annotator
from rkd.evaluation.contamination import NEAR, summarize_overlap
from rkd.evaluation.results import BoundSides, EvaluationResult, ModelResult, Overlap, with_clusters
from rkd.evaluation.reward_bound import sides
from rkd.evaluation.win_rate import evaluate_open_ended
from rkd.pipeline.experiment import Line
from rkd.pipeline.label import Labelled
from rkd.pipeline.sample import Source, Step, content_of
from rkd.protocols import RewardFunction
from rkd.records import Checkpoint, Query, Response, digest_of
from rkd.rl.rewards import VerifiableReward
from rkd.store.partial_results import PartialResults

Measure = Callable[[Sequence[Query], Sequence[Response]], Tensor]
"""A number for each response, (n,)."""


class Evaluating(Step):
    """The steps of one row that test models."""

    def overlaps(self) -> dict[str, Overlap]:
        """The overlap of each test set's questions with the training questions, unlabelled queries included."""
        dataset = self.stages.dataset
        training = [*dataset.training_queries(), *dataset.unlabelled_queries()]
        digest, found = digest_of(training), {}
        for name, queries in dataset.test_sets().items():
            fingerprint = {"training": digest, "test": digest_of(queries), "near": NEAR}

            def measure(_: PartialResults, queries: list[Query] = queries) -> dict[str, Any]:
                texts = ([query.question for query in own] for own in (queries, training))
                return dataclasses.asdict(summarize_overlap(*texts))

            value = self.runner.value("overlap", fingerprint, measure, shown=f"overlap of {name}")
            found[name] = decode(Overlap, value)
            self.runner.say(f"    {name}: {found[name]}")
        return found

    def evaluate(self, line: Line, source: Source, reward_model: Checkpoint | None = None) -> ModelResult:
        """Evaluate the model of a line on every test set; pass@8 only on the first one, the dataset's own.

        Recorded responses are evaluated on a test set only if they hold one response to each of its queries.

        Args:
            reward_model: ranks the responses of a line that answers with the best of several.
        """
        s, results = self.stages, {}
        is_single = isinstance(source, RecordedTeacher) or line.inference.needs_reward_model
        for place, (name, queries) in enumerate(s.dataset.test_sets().items()):
            if isinstance(source, RecordedTeacher) and (answered := source.answered(queries)) < len(queries):
                self.runner.say(
                    f"    {line.role}: {answered} of {len(queries)} queries of {name} have a recorded response, so it "
                    "is not evaluated there"
                )
                continue
            is_sampled = place == 0 and not is_single and s.dataset.is_verifiable
            stage = s.evaluation if is_sampled else s.evaluation.without_pass_at_k()
            results[name] = self._test(stage, line, source, reward_model, name, queries)
            if results[name].share_truncated > 0.5:
                self.runner.warn(
                    f"{results[name].share_truncated:.0%} of the responses of {line.role} to {name} do not stop within "
                    f"evaluation.max_response_tokens={s.evaluation.max_response_tokens}: raise it, or train the model "
                    "to stop (more sft.epochs)."
                )
        return ModelResult(line.role, results)

    def measure_bound(
        self, sft: Checkpoint, policy: Checkpoint, reward_model: Checkpoint, validation: Labelled
    ) -> dict[str, BoundSides]:
        """Both sides of appendix A's bound, by proxy reward: the label and, if there is one, R."""
        s, known = self.stages, validation.with_label()
        gold = {query.id: query.gold_answer for query in s.dataset.validation_queries(labelled=True)}
        rewards: dict[str, Measure] = {"true": _is_right(gold), "label": _is_right(known.answers)}
        if not s.reward_model.is_left_out:
            learned = s.reward_model.open_reward(reward_model.folder, s.zero_shot, s.student.options)
            rewards["learned"] = lambda queries, responses: learned(queries, responses).total.sigmoid()
        before, after = (self._bound_rewards(name, of, known, rewards) for name, of in (("sft", sft), ("rl", policy)))
        return {name: sides(before["true"], before[name], after["true"], after[name]) for name in list(rewards)[1:]}

    def _bound_rewards(
        self, name: str, policy: Checkpoint, known: Labelled, rewards: Mapping[str, Measure]
    ) -> dict[str, Tensor]:
        """Each reward's values on the responses that a policy samples."""
        s, bound = self.stages, self.stages.evaluation.bound
        assert not bound.is_left_out
        fingerprint = {
            "stage": bound, "model": policy, "prompt": s.zero_shot, "sampling_seed": s.sampling_seed,
            "options": s.student.options, "generation": self._generation_fingerprint(policy),
        }  # fmt: skip
        asked = ("student", policy, s.zero_shot, bound.sample)
        responses = self._responses(f"bound_samples_{name}", fingerprint, known.queries, asked)
        queries = [query for query, own in zip(known.queries, responses, strict=True) for _ in own]
        flat = [response for own in responses for response in own]
        return {of: reward(queries, flat) for of, reward in rewards.items()}

    def _test(
        self,
        stage: Evaluation,
        line: Line,
        source: Source,
        reward_model: Checkpoint | None,
        name: str,
        queries: list[Query],
    ) -> EvaluationResult:
        """Evaluate on one test set. The fingerprint holds no training seed, and copies of a model share it.

        So teacher and pretrained student are evaluated once for all seeds and rows.
        """
        s, sampled, asks_reward = self.stages, stage.pass_at_k_queries(len(queries)), line.inference.needs_reward_model
        fingerprint = {
            "stage": stage, "model": content_of(source), "prompt": line.prompt, "test_set": name,
            "options": self._options(line.model), "generation": self._generation_fingerprint(source),
            "queries": digest_of(queries), "sampling_seed": s.sampling_seed if sampled or asks_reward else None,
        }  # fmt: skip
        if not s.dataset.is_verifiable:
            fingerprint["annotator"] = s.evaluation.annotator.content()
        if asks_reward:
            fingerprint |= {"inference": line.inference, "reward_model": reward_model}

        def build_reward() -> RewardFunction:
            assert reward_model is not None  # `Stages` refuses a row without one
            assert not s.reward_model.is_left_out
            assert line.prompt is not None
            return s.reward_model.open_reward(reward_model.folder, line.prompt, self._options(line.model))

        def measure(partial: PartialResults) -> dict[str, Any]:
            with self.runner.progress(f"evaluating {line.role} on {name}", len(queries) + sampled) as advance:
                own = self._generator(line.role, line.model, source, line.prompt, partial, advance)
                generator = line.inference.over(own, build_reward)
                if s.dataset.is_verifiable:
                    result = stage.evaluate(generator, queries, s.sampling_seed, test_set=name)
                else:
                    annotator = open_annotator(s.evaluation.annotator, partial)
                    result = evaluate_open_ended(
                        stage, generator, queries, annotator, test_set=name, rubric=s.dataset.rubric
                    )
                return dataclasses.asdict(result)

        value = self.runner.value("evaluation", fingerprint, measure, shown=f"{line.role} on {name}")
        # Clusters decide no response, so a stored test serves whether it was made with them or not.
        return with_clusters(decode(EvaluationResult, value), [query.cluster or query.id for query in queries])


def _is_right(answers: Mapping[str, str | None]) -> Measure:
    """A reward of 1 for a response with the given answer, else 0."""
    reward = VerifiableReward(answers, right=1.0, wrong=0.0)
    return lambda queries, responses: reward(queries, responses).total
