"""The training of a row's models, through the store: scored responses, pairs and rewards enter, checkpoints leave.

A step's fingerprint names everything that decides its result, so that rows and seeds share equal results.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from rkd.distributed import own_share, sum_over_processes
from rkd.evaluation.accuracy import accuracy, mean_verdict
from rkd.generation.local import LocalGenerator, LocalModel
from rkd.judges.base import ConfiguredJudge, NoJudge, OpenJudge, WithoutGaps, open_judge
from rkd.models.loading import ModelOptions, load_tokenizer
from rkd.pipeline.experiment import Stages
from rkd.pipeline.label import Labelled
from rkd.pipeline.sample import Notes, Step
from rkd.pipeline.stage_runner import StageRunner
from rkd.records import Checkpoint, PreferencePair, PseudoLabel, Query, Response, digest_of
from rkd.rl.control_rewards import NoiseCorrected
from rkd.rl.noise_rates import NoiseRates, estimated_noise
from rkd.rl.reward_mix import RewardInputs, Stream, Term
from rkd.rl.stage import BuildTerms, RLInputs
from rkd.stages.gkd import GKD, GKDInputs
from rkd.stages.judge_training import JudgedSets, TrainedJudge, digest_of_verdicts
from rkd.stages.rejection_sampling import RejectionSampling
from rkd.stages.reward_model import PairSets
from rkd.stages.sft import Examples
from rkd.store.partial_results import PartialResults
from rkd.training.stage import Data, TrainingContext, TrainingStage
from rkd.training.trainer import interruptible

ROLLOUTS_SHOWN = 40  # of thousands; about this many are enough for a curve
OF_ROLLOUTS = ("reward", "kl", "response_tokens", "repetition")


class Fitting(Step):
    """The steps of one row that train models."""

    def __init__(self, stages: Stages, runner: StageRunner, notes: Notes) -> None:
        super().__init__(stages, runner, notes)
        self.student = stages.student.source()

    @cached_property
    def untuned(self) -> Checkpoint:
        """The student after the arithmetic warm-up, which trains it on drawn equations; without it, as it is."""
        stage = self.stages.arithmetic
        if stage.is_left_out:
            return self.student
        examples = stage.examples()
        return self._fit("arithmetic", stage, examples, self.student, {"examples": digest_of_examples(examples)})

    def fit_judge(self, training: Labelled, validation: Labelled) -> ConfiguredJudge | NoJudge:
        """The row's judge: the trained one, if the job has to train it on the row's labels."""
        judge, seed = self.stages.judge, self.stages.seed
        if not isinstance(judge, TrainedJudge):
            return judge
        validated = self._validated_on(validation)
        balanced = judge.balanced and not self.stages.is_dry_pass
        sets = JudgedSets(
            *(judge.judged(own.queries, own.labels, seed, balanced=balanced) for own in (training, validated))
        )
        inputs = {
            "stage": judge.settings(),
            "prompt": judge.prompt,
            "options": judge.options,
            "verdicts": digest_of_verdicts(sets.training),
            "validation_verdicts": digest_of_verdicts(sets.validation),
        }
        return judge.trained(self._fit("judge", judge, sets, judge.source(), inputs, options=judge.options))

    def fit_sft(self, training: Labelled, validation: Labelled) -> Checkpoint:
        """Data distillation: train the student on the SFT data."""
        examples = self._taught(training)
        self.notes.counts["sft_examples"] = len(examples)
        return self._fit("sft", self.stages.sft, examples, self.untuned, *self._of_examples(examples, validation))

    def _taught(self, training: Labelled) -> list[tuple[Query, str]]:
        """The teacher's responses that SFT teaches, each with its query."""
        s = self.stages
        chosen = s.sft.data.select(training.scored)
        examples = [(q, r.response.text) for q, group in zip(training.queries, chosen, strict=True) for r in group]
        if not s.student.calculator.is_left_out and not s.sft.is_left_out:
            right = [(query, text) for query, text in examples if s.student.calculator.agrees_with(text)]
            self.notes.counts["sft_examples_miscalculated"] = len(examples) - len(right)
            examples = right
        return examples

    def _of_examples(self, examples: Examples, validation: Labelled) -> tuple[dict[str, Any], Labelled]:
        """What decides the weights of a training on examples, and the queries that select them."""
        inputs = {"examples": digest_of_examples(examples), "validation": self._validation_fingerprint(validation)}
        return inputs, validation

    def fit_dpo(self, sft: Checkpoint, pairs: list[PreferencePair], validation: Labelled) -> Checkpoint:
        """Direct preference optimisation: train the SFT student on the pairs."""
        inputs = {"pairs": digest_of(pairs), "validation": self._validation_fingerprint(validation)}
        return self._fit("dpo", self.stages.dpo, pairs, sft, inputs, validation)

    def fit_reward_model(
        self, sft: Checkpoint, pairs: list[PreferencePair], validation_pairs: list[PreferencePair]
    ) -> Checkpoint:
        """Reward distillation: train R on the pairs, starting from the SFT student."""
        s = self.stages
        inputs: dict[str, Any] = {"pairs": digest_of(pairs), "validation_pairs": digest_of(validation_pairs)}
        if s.highest_score != 1:
            inputs["highest_score"] = s.highest_score
        sets = PairSets(pairs, validation_pairs, s.highest_score)
        checkpoint = self._fit("reward_model", s.reward_model, sets, sft, inputs)
        self.notes.reward_model = self.runner.report(checkpoint)["validation"]
        return checkpoint

    def fit_policy(
        self,
        tuned: Checkpoint,
        reward_model: Checkpoint,
        queries: Mapping[Stream, list[Query]],
        training: Labelled,
        validation: Labelled,
    ) -> Checkpoint:
        """Reinforcement learning of the tuned student under the reward mix, on the queries of its streams.

        Without warm-up (the row w/o D) it starts from the untuned student.
        """
        s = self.stages
        start = tuned if s.warm_up else self.student
        inputs: dict[str, Any] = {"validation": self._validation_fingerprint(validation)}
        teacher = s.teacher if s.rl.reads_teacher and isinstance(s.teacher, LocalModel) else None
        if teacher is not None:
            inputs |= {"teacher": teacher.source(), "teacher_options": teacher.options}
        if isinstance(s.rl, GKD):
            assert teacher is not None  # `Stages` refuses any other
            examples = self._taught(training)
            inputs["examples"] = digest_of_examples(examples)
            return self._fit("rl", s.rl, GKDInputs(examples, teacher), start, inputs, validation)
        if not s.rl.is_left_out:
            used = s.reward_mix.used
            inputs |= {
                "queries": {name: digest_of(queries[source.queries]) for name, (_, source) in used.items()},
                "labels": training.answers,
                "reward_mix": s.reward_mix,
            }
            if "learned" in used:
                inputs["reward_model"] = reward_model
            if "judge" in used and not s.judge.is_left_out:
                inputs["judge"] = s.judge.content()
            if s.generation.samples_policy:
                inputs["sampler"] = s.generation
        if (noise := self._label_noise(queries, training)) is not None:
            inputs["noise"] = noise

        def build_terms(partial: PartialResults) -> list[Term]:
            own = (s.zero_shot, s.student.options, partial)
            labels = training.answers if training.highest is None else None
            made_of = RewardInputs(labels, reward_model, s.judge, *own, is_dry_pass=s.is_dry_pass, noise=noise)
            if not s.reward_model.is_left_out:
                made_of = dataclasses.replace(made_of, open_reward=s.reward_model.open_reward)
            return s.reward_mix.terms(made_of, queries)

        if isinstance(s.rl, RejectionSampling):
            (source,) = (source for _, source in s.reward_mix.used.values())
            return self._fit_rounds(s.rl, queries[source.queries], (build_terms, inputs), start, training, validation)
        data = RLInputs(build_terms=build_terms, engine=s.generation, teacher=teacher)
        checkpoint = self._fit("rl", s.rl, data, start, inputs, validation)
        if stopped := self.runner.report(checkpoint).get("stopped"):
            self.notes.stopped["rl"] = stopped
            self.runner.warn(f"rl was stopped early, and what was best until then is kept: {stopped}.")
        return checkpoint

    def _label_noise(self, queries: Mapping[Stream, list[Query]], training: Labelled) -> NoiseRates | None:
        """How often labels mislead, on the queries of a reward that corrects for it; None without such a reward."""
        s = self.stages
        used = {} if s.rl.is_left_out else s.reward_mix.used
        stream = next((one.queries for _, one in used.values() if isinstance(one, NoiseCorrected)), None)
        if stream is None:
            return None
        if s.is_dry_pass:  # made-up labels have no votes
            return NoiseRates(0.0, 0.0)
        asked = {query.id for query in queries[stream]}
        noise = estimated_noise([label for label in training.labels if label.query_id in asked])
        self.notes.counts |= {f"label_noise/{name}": rate for name, rate in dataclasses.asdict(noise).items()}
        self.runner.say(
            f"    by their votes, labels confirm {noise.false_positive:.1%} of the wrong responses and reject "
            f"{noise.false_negative:.1%} of the right ones"
        )
        return noise

    def _fit_rounds(
        self,
        stage: RejectionSampling,
        queries: list[Query],
        rewarded: tuple[BuildTerms, Mapping[str, Any]],
        start: Checkpoint,
        training: Labelled,
        validation: Labelled,
    ) -> Checkpoint:
        """Rejection sampling: in each round, sample the student and train it anew on what the reward accepts as well.

        Args:
            rewarded: makes the term of the reward, and what decides that.
        """
        s, (build_terms, decides), policy = self.stages, rewarded, start
        rollouts = stage.rollouts.tried() if s.is_dry_pass else stage.rollouts
        examples, counts = self._taught(training), Counter[str]()
        for place in range(rollouts.rounds):
            asked = rollouts.asked(queries, s.seed, place)
            drawn = self._responses(
                "rejection_samples",
                {
                    "sampling": rollouts.sampling(len(asked)), "student": policy, "prompt": s.zero_shot,
                    "sampling_seed": s.sampling_seed, "options": s.student.options,
                    "generation": self._generation_fingerprint(policy),
                },
                asked,
                ("student", policy, s.zero_shot, rollouts.sample),
            )  # fmt: skip
            pairs = [(query, one) for query, own in zip(asked, drawn, strict=True) for one in own]
            rewards = self._rewards(build_terms, decides, pairs)
            accepted = stage.accepted(pairs, rewards)
            counts.update(sampled=len(pairs), accepted=len(accepted))
            examples = list(dict.fromkeys([*examples, *accepted]))  # equal texts of a query are taught once
            policy = self._fit(
                "rejection", stage.training, examples, self.untuned, *self._of_examples(examples, validation)
            )
        self.notes.counts |= {f"rejection/{name}": count for name, count in counts.items()}
        return policy

    def _rewards(
        self, build_terms: BuildTerms, decides: Mapping[str, Any], pairs: Sequence[tuple[Query, Response]]
    ) -> list[float]:
        """The reward of each response under the only term of the mix."""

        def read(partial: PartialResults) -> dict[str, Any]:
            (term,) = build_terms(partial)
            return {"rewards": term.reward(*zip(*pairs, strict=True)).total.tolist()}

        fingerprint = {**decides, "responses": digest_of([response for _, response in pairs])}
        rewards: list[float] = self.runner.value("rejection_rewards", fingerprint, read)["rewards"]
        return rewards

    def _fit(
        self,
        name: str,
        stage: TrainingStage[Data],
        data: Data,
        start: Checkpoint,
        inputs: Mapping[str, Any],
        validation: Labelled | None = None,
        options: ModelOptions | None = None,
    ) -> Checkpoint:
        """Run a training stage on its data; note the numbers of its report, and its training history.

        Args:
            inputs: the part of the data that decides the weights, for the fingerprint.
            validation: for a stage that trains the student, the queries that select its weights.
            options: of a model that is not the student.
        """
        s = self.stages

        def fit(folder: Path, partial: PartialResults) -> Any:
            context = TrainingContext(
                start=start,
                prompt=s.zero_shot,
                training=s.training,
                logger=s.tracking.logger_for(name),
                folder=folder,
                partial=partial,
                seed=s.seed,
                options=options or s.student.options,
                validate=None if validation is None else self._validator(validation, partial),
                log_rows=functools.partial(self.runner.note_rows, name),
            )
            with interruptible():
                return stage.fit(data, context)

        checkpoint = self.runner.checkpoint(
            name,
            {
                "stage": stage, "student": start, "prompt": s.zero_shot, "seed": s.seed, "options": s.student.options,
                **inputs, **s.training_fingerprint,
            },
            fit,
            is_said=not stage.is_left_out,
        )  # fmt: skip
        if not stage.is_left_out:
            self.notes.precision = s.training.precision
        report = flat_numbers(self.runner.report(checkpoint))
        self.notes.counts |= {f"{name}/{key}": value for key, value in report.items()}
        if history := self.runner.history(checkpoint):
            self.notes.histories[name] = condensed(history)
        return checkpoint

    def _validated_on(self, validation: Labelled) -> Labelled:
        """The validation queries that select the weights a training stage keeps; graded tasks need no label."""
        known = validation.with_label() if validation.highest is None else validation
        return known.at(range(min(len(known.queries), self.stages.validation_queries)))

    def _validation_fingerprint(self, validation: Labelled) -> dict[str, Any]:
        asked, limit = self._validated_on(validation), self.stages.evaluation.max_response_tokens
        if validation.highest is None:
            return {"labels": digest_of(asked.labels), "max_response_tokens": limit}
        return {"queries": digest_of(asked.queries), "judge": self.stages.judge.content(), "max_response_tokens": limit}

    def _validator(self, validation: Labelled, partial: PartialResults) -> Callable[[PreTrainedModel], float]:
        """A function that scores a student's greedy responses to validation queries, in [0, 1].

        The score is the share of responses that match the pseudo-label (docs/method.md 5.7), or the judge's mean grade
        divided by the highest one. Processes that train together split the queries; each returns the overall score.
        """
        s, asked = self.stages, self._validated_on(validation)
        tokenizer, limit = load_tokenizer(self.student.folder), s.evaluation.max_response_tokens
        judges: list[OpenJudge] = []  # opened by the first validation, which a skipped stage does not have

        def score(generator: LocalGenerator, queries: Sequence[Query], labels: Sequence[PseudoLabel]) -> float:
            if validation.highest is None:
                return accuracy(generator, queries, labels, max_response_tokens=limit)
            if not judges:
                opened = open_judge(s.judge, partial=partial)
                judges.append(WithoutGaps(opened) if s.is_dry_pass else opened)
            return mean_verdict(generator, queries, judges[0], max_response_tokens=limit)

        def validate(model: PreTrainedModel) -> float:
            generator = LocalGenerator("student", model, tokenizer, s.zero_shot)
            queries, labels = own_share(asked.queries), own_share(asked.labels)
            own = len(queries) * score(generator, queries, labels) if queries else 0.0
            if validation.highest is None:
                own = round(own)  # right answers: the share must not depend on the number of processes
            total = torch.tensor(float(own), dtype=torch.float64, device=model.device)
            return float(sum_over_processes(total)) / len(asked.queries)

        return validate


def digest_of_examples(examples: Sequence[tuple[Query, str]]) -> str:
    """A digest of the training texts, without the queries' gold answers."""
    return digest_of([Response(query.id, query.question, 0, text, True) for query, text in examples])


def condensed(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The data of a training's curves: all validations, and some of its rollouts, if it has any.

    A rollout and the validation after it, at the same number of episodes, share a row.
    """
    rollouts = [row for row in history if "reward" in row]
    validations = [row for row in history if "reward" not in row]
    if not rollouts:
        return [dict(row) for row in validations]
    shown = [
        {name: row[name] for name in ("episodes", *OF_ROLLOUTS) if name in row}
        for row in rollouts[:: math.ceil(len(rollouts) / ROLLOUTS_SHOWN)]
    ]
    rows: dict[float, dict[str, float]] = {}
    for row in (*shown, *validations):
        rows.setdefault(row["episodes"], {}).update(row)
    return [rows[episodes] for episodes in sorted(rows)]


def flat_numbers(report: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers of a report; those of nested mappings get names of the form key/key."""
    flat: dict[str, int | float] = {}
    for key, value in report.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": number for inner, number in flat_numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[key] = value
    return flat
