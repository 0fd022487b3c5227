"""The method, top to bottom: a configuration enters, a `RunResult` leaves.

This is the one module that knows the order of the stages, and `build_stages` the one function that sees a config.
"""

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from rkd.artifacts import code_revision, package_versions, recipe_digest
from rkd.data import Data
from rkd.evaluation import Evaluation, accuracy, compare
from rkd.generation import LocalGenerator, LocalModel, open_generator
from rkd.labels import Labels, label_statistics, score, two_pass
from rkd.models import load_tokenizer
from rkd.preferences import Pairs
from rkd.prompts import PromptTemplate
from rkd.records import Checkpoint, PreferencePair, PseudoLabel, Query, Response, ScoredResponse, digest_of
from rkd.results import ModelResult, RunResult, TestSetResult, result_from_json
from rkd.rewards import RewardInputs, RewardMix
from rkd.student_samples import StudentSamples, balanced
from rkd.teacher import TeacherSamples
from rkd.tracking import Tracker
from rkd.training import Training
from rkd.workshop import Workshop

TEACHER, FEW_SHOT, SFT_ROLE = "teacher", "student few-shot", "SFT"


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The parts of one row. Each stage documents itself; a stage left out is an object that does nothing."""

    row: str
    seed: int
    sampling_seed: int
    dataset: Data
    teacher: LocalModel
    teacher_samples: TeacherSamples
    labels: Labels
    student: LocalModel
    teaching_set: Any
    sft: Any
    student_samples: StudentSamples
    pairs: Pairs
    reward_model: Any
    reward_mix: RewardMix
    rl: Any
    evaluation: Evaluation
    validation_queries: int
    training: Training
    tracker: Tracker


def build_stages(config: DictConfig) -> Stages:
    """Instantiate every part that the config names."""
    parts = {
        field.name: instantiate(config[field.name], _convert_="all")
        for field in dataclasses.fields(Stages)
        if OmegaConf.is_config(config[field.name])
    }
    values = {name: config[name] for name in ("row", "seed", "sampling_seed", "validation_queries")}
    return Stages(**parts, **values)


@dataclass(frozen=True)
class Labelled:
    """Queries with the teacher's responses to them, scored against the teacher's own labels."""

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
        return Labelled(*([column[i] for i in kept] for column in (self.queries, self.labels, self.scored)))


def run_experiment(stages: Stages, workshop: Workshop, config: Mapping[str, Any]) -> RunResult:
    """The method of paper D, in the order of its section 4; METHOD.md section 2 numbers the steps."""
    s = stages
    seeds = {"sampling_seed": s.sampling_seed}
    base, zero_shot = s.student.checkpoint(), s.student.prompt.zero_shot()
    counts: dict[str, int | float] = {}

    # 1, 2: the teacher answers and labels.
    training = label(s, workshop, s.dataset.training_queries(labelled=s.labels.uses_gold), "training", counts)
    validation = label(s, workshop, s.dataset.validation_queries(labelled=s.labels.uses_gold), "validation", counts)
    if not training.answers:
        raise ValueError(
            f"no query is left after the vote: none of {len(training.queries)} reached the consensus threshold. "
            "Lower it with labels.threshold=0.5, or choose a better teacher=."
        )
    validate = validator(s, validation, zero_shot)

    # 3: data distillation.
    chosen = s.teaching_set.select(training.scored)
    examples = [(q, r.response.text) for q, group in zip(training.queries, chosen, strict=True) for r in group]
    counts |= {"sft_examples": len(examples)}
    sft_recipe = {"stage": s.sft, "student": base, "examples": digest_of_examples(examples), "prompt": zero_shot}
    sft = workshop.checkpoint(
        "sft",
        {**sft_recipe, "validation": validation_digest(s, validation), "seed": s.seed},
        lambda folder: s.sft.fit(
            base, examples, prompt=zero_shot, validate=validate, training=s.training,
            logger=s.tracker.logger_for("sft"), folder=folder, seed=s.seed,
        ),
    )  # fmt: skip

    # 4, 5: student samples, and pairs of teacher and student responses.
    def student_pairs(labelled: Labelled, split: str) -> tuple[list[Query], list[PreferencePair]]:
        known = labelled.with_label()
        sampled = workshop.responses(
            f"student_samples_{split}",
            {"stage": s.student_samples, "student": sft, "prompt": zero_shot, **seeds},
            known.queries,
            lambda: sample(
                workshop, sft, zero_shot, "student", known.queries, s.student_samples.sample, s.sampling_seed
            ),
        )
        scores = score(known.queries, sampled, known.labels)
        kept = balanced(scores)
        note_student_samples(workshop, split, scores, kept, s.student_samples.max_response_tokens)
        queries = [known.queries[i] for i in kept]
        pairs = s.pairs.pair(queries, [known.scored[i] for i in kept], [scores[i] for i in kept], s.sampling_seed)
        counts[f"{split}_balanced_queries"], counts[f"{split}_pairs"] = len(queries), len(pairs)
        return queries, pairs

    rl_queries, pairs = student_pairs(training, "training")
    _, validation_pairs = student_pairs(validation, "validation")

    # 6: the reward model.
    reward_model = workshop.checkpoint(
        "reward_model",
        {
            "stage": s.reward_model, "student": sft, "prompt": zero_shot, "seed": s.seed,
            "pairs": digest_of(pairs), "validation_pairs": digest_of(validation_pairs),
        },
        lambda folder: s.reward_model.fit(
            sft, pairs, validation_pairs, prompt=zero_shot, training=s.training,
            logger=s.tracker.logger_for("reward_model"), folder=folder, seed=s.seed,
        ),
    )  # fmt: skip

    # 7: reinforcement learning under the reward.
    inputs = RewardInputs(training.answers, reward_model, zero_shot)
    policy = workshop.checkpoint(
        "rl",
        {
            "stage": s.rl, "student": sft, "queries": digest_of(rl_queries), "labels": training.answers,
            "reward_mix": s.reward_mix, "reward_model": reward_model, "prompt": zero_shot,
            "validation": validation_digest(s, validation), "seed": s.seed,
        },
        lambda folder: s.rl.fit(
            sft, rl_queries, lambda: s.reward_mix.build(inputs), prompt=zero_shot, validate=validate,
            training=s.training, logger=s.tracker.logger_for("rl"), folder=folder, seed=s.seed,
        ),
    )  # fmt: skip

    # 8: evaluation.
    contestants = [
        (TEACHER, s.teacher.checkpoint(), s.teacher.prompt),
        (FEW_SHOT, base, s.student.prompt),
        (SFT_ROLE, sft, zero_shot),
        (s.row, policy, zero_shot),
    ]
    models = [evaluate(s, workshop, *contestant) for contestant in contestants]
    for name, checkpoint in (("sft", sft), ("reward_model", reward_model), ("rl", policy)):
        counts |= {f"{name}/{key}": value for key, value in flat_numbers(workshop.report(checkpoint)).items()}
    return result_of(s, workshop, config, counts, models)


def evaluate_student(stages: Stages, workshop: Workshop, config: Mapping[str, Any]) -> RunResult:
    """`evaluate_only=true`: the student as it is, with its examples and without."""
    checkpoint, prompt = stages.student.checkpoint(), stages.student.prompt
    models = [
        evaluate(stages, workshop, "few-shot", checkpoint, prompt),
        evaluate(stages, workshop, "zero-shot", checkpoint, prompt.zero_shot()),
    ]
    return result_of(stages, workshop, config, {}, models)


def result_of(
    s: Stages,
    workshop: Workshop,
    config: Mapping[str, Any],
    counts: dict[str, int | float],
    models: list[ModelResult],
) -> RunResult:
    """The result of the job; its last model is compared with each other one on the same questions."""
    return RunResult(
        row=s.row,
        seed=s.seed,
        config=dict(config),
        revision=code_revision(),
        versions=package_versions(),
        counts=counts,
        costs=workshop.costs,
        models=models,
        comparisons=[compare(models[-1], other, name) for other in models[:-1] for name in models[-1].test_sets],
        failure=None,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def label(s: Stages, workshop: Workshop, queries: list[Query], split: str, counts: dict[str, int | float]) -> Labelled:
    """The teacher answers the queries in its two passes; its answers are labelled and scored."""
    recipe = {"stage": s.teacher_samples, "model": s.teacher.checkpoint(), "prompt": s.teacher.prompt}
    recipe |= {"sampling_seed": s.sampling_seed}

    def responses(part: str, asked: list[Query], draw: Callable[..., list[list[Response]]]) -> list[list[Response]]:
        checkpoint, prompt = s.teacher.checkpoint(), s.teacher.prompt
        schedule = s.teacher_samples.first_pass if part == "first" else s.teacher_samples.second_pass
        rounds = len(schedule.temperatures) if schedule else 0
        return workshop.responses(
            f"teacher_{part}_{split}",
            {**recipe, "pass": part},
            asked,
            lambda: sample(workshop, checkpoint, prompt, "teacher", asked, draw, s.sampling_seed, rounds=rounds),
        )

    first = responses("first", queries, s.teacher_samples.first)
    labels, responses_of_both = two_pass(
        s.labels, queries, first, lambda undecided: responses("second", undecided, s.teacher_samples.second)
    )
    scored = score(queries, responses_of_both, labels)
    labelled = Labelled(queries, labels, scored)
    known = labelled.answers
    counts |= {f"{split}_queries": len(queries), f"{split}_without_label": len(queries) - len(known)}
    if split == "training":
        gold = s.dataset.training_queries(labelled=True)
        precision = label_statistics(labels, gold)["precision"]
        if precision is not None:
            counts["label_precision"] = precision
    workshop.say(f"    {len(queries)} {split} queries, {len(queries) - len(known)} without consensus")
    return labelled


def sample(
    workshop: Workshop,
    checkpoint: Checkpoint,
    prompt: PromptTemplate,
    name: str,
    queries: list[Query],
    draw: Callable[[LocalGenerator, Sequence[Query], int], list[list[Response]]],
    seed: int,
    *,
    rounds: int = 1,
) -> list[list[Response]]:
    """Responses of a model to the queries, which `draw` asks so many rounds of."""
    with workshop.progress(f"sampling from the {name}", len(queries) * rounds) as advance:
        return draw(open_generator(checkpoint, prompt, name, advance), queries, seed)


def note_student_samples(
    workshop: Workshop, split: str, scored: Sequence[Sequence[ScoredResponse]], kept: Sequence[int], limit: int
) -> None:
    """Say what became of the student's samples, and warn of what would explain that none are left."""
    flat = [one for own in scored for one in own]
    all_right = sum(all(one.score == 1 for one in own) for own in scored)
    workshop.say(
        f"    {len(scored)} {split} queries: {len(kept)} with right and wrong student samples, {all_right} all right, "
        f"{len(scored) - len(kept) - all_right} all wrong"
    )
    truncated = sum(not one.response.is_finished for one in flat) / max(1, len(flat))
    if truncated > 0.5:
        workshop.warn(
            f"{truncated:.0%} of the student's {split} samples do not stop within student_samples.max_response_tokens="
            f"{limit}: raise it, or train the student to stop (sft=mini, more sft.epochs)."
        )


def validator(s: Stages, validation: Labelled, prompt: PromptTemplate) -> Callable[[PreTrainedModel], float]:
    """Greedy accuracy of a student on the validation queries that have a pseudo-label (METHOD 5.7)."""
    known = validation.with_label()
    queries, labels = known.queries[: s.validation_queries], known.labels[: s.validation_queries]
    tokenizer = load_tokenizer(s.student.checkpoint().folder)

    def validate(model: PreTrainedModel) -> float:
        generator = LocalGenerator("student", model, tokenizer, prompt)
        return accuracy(generator, queries, labels, max_response_tokens=s.evaluation.max_response_tokens)

    return validate


def evaluate(s: Stages, workshop: Workshop, role: str, checkpoint: Checkpoint, prompt: PromptTemplate) -> ModelResult:
    """One model on every test set; pass@8 on the first one, the dataset's own."""
    results: dict[str, TestSetResult] = {}
    for place, (name, queries) in enumerate(s.dataset.test_sets().items()):
        stage = s.evaluation if place == 0 else s.evaluation.without_pass_at_k()
        recipe = {"stage": stage, "model": checkpoint, "prompt": prompt, "queries": digest_of(queries)}

        def measure(name: str = name, queries: list[Query] = queries, stage: Evaluation = stage) -> dict[str, Any]:
            total = len(queries) + stage.pass_at_k_queries(len(queries))
            with workshop.progress(f"evaluating {role} on {name}", total) as advance:
                generator = open_generator(checkpoint, prompt, role, advance)
                return dataclasses.asdict(stage.evaluate(generator, queries, s.sampling_seed, test_set=name))

        results[name] = result_from_json(
            TestSetResult,
            workshop.value("evaluation", {**recipe, "test_set": name}, measure, shown=f"{role} on {name}"),
        )
    return ModelResult(role, results)


def validation_digest(s: Stages, validation: Labelled) -> str:
    """What decides which weights a training stage keeps."""
    return digest_of(validation.with_label().labels[: s.validation_queries])


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


def job_digest(s: Stages, *, evaluate_only: bool = False, models: Sequence[Checkpoint] = ()) -> str:
    """What names the job's folder and its W&B run: everything that decides the result.

    Args:
        models: the checkpoints of teacher and student: other weights in the same folder are another job.
    """
    parts = {field.name: getattr(s, field.name) for field in dataclasses.fields(s)}
    for without_effect in ("tracker", "training"):
        del parts[without_effect]
    if evaluate_only:
        parts = {name: parts[name] for name in ("dataset", "student", "evaluation", "sampling_seed")}
    return recipe_digest("job", {**parts, "evaluate_only": evaluate_only, "models": list(models)})
