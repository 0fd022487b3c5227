"""The method, top to bottom: a configuration enters, a `RunResult` leaves.

Only this module knows the order of the steps, and only `build_stages` reads the config.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rkd.config import check_keys, check_types
from rkd.data.recorded_model import RecordedModel
from rkd.evaluation.accuracy import PARTS, compare
from rkd.evaluation.results import ModelResult, Overlap, RunResult
from rkd.generation.endpoint_server import EndpointModel
from rkd.generation.local import ModelFolder
from rkd.pipeline.evaluate import Evaluating
from rkd.pipeline.experiment import Stages, pretrained_lines, table_lines
from rkd.pipeline.judge import Judging
from rkd.pipeline.label import Labelling
from rkd.pipeline.pair import Pairing
from rkd.pipeline.sample import Notes, Source, Step
from rkd.pipeline.stage_runner import StageRunner
from rkd.pipeline.train import Fitting
from rkd.store.fingerprint import fingerprint_digest
from rkd.store.provenance import code_revision, package_versions


def build_stages(config: DictConfig) -> Stages:
    """Instantiate every part that the config names; the other fields are values.

    Raises:
        ValueError: a key is unknown or missing, or a value has the wrong type or is outside its range.
    """
    check_keys(config, Stages)
    check_types(config, Stages)
    names = [field.name for field in dataclasses.fields(Stages)]
    parts = {
        name: instantiate(config[name], _convert_="all") if OmegaConf.is_config(config[name]) else config[name]
        for name in names
    }
    return Stages(**parts)


def run_experiment(stages: Stages, runner: StageRunner, config: Mapping[str, Any]) -> RunResult:
    """The method of paper D, in the order of its section 4; docs/method.md, section 2, numbers the steps."""
    notes = Notes()
    labelling, evaluating = Labelling(stages, runner, notes), Evaluating(stages, runner, notes)
    overlaps = evaluating.overlaps()
    # 1, 2: teacher responses, and labels by their vote.
    training, validation = labelling.label("training"), labelling.label("validation")
    # A judge that is trained in the job takes the place of the one that its training starts from.
    judge = Fitting(stages, runner, notes).fit_judge(training, validation)
    stages = dataclasses.replace(stages, judge=judge)
    judging, pairing = Judging(stages, runner, notes), Pairing(stages, runner, notes)
    fitting = Fitting(stages, runner, notes)
    judging.note_judge(training)
    # 3: data distillation.
    sft = fitting.fit_sft(training, validation)
    judging.note_trained_judge(sft, validation)
    # 4, 5: student samples, and pairs of teacher and student responses.
    queries, pairs = pairing.pair(sft, training)
    validation_pairs = pairing.validation_pairs(sft, validation)
    # The row DPO trains the student directly on the pairs.
    dpo = fitting.fit_dpo(sft, pairs, validation)
    # 6: reward distillation.
    reward_model = fitting.fit_reward_model(sft, pairs, validation_pairs)
    # 7: reinforcement learning under the reward.
    policy = fitting.fit_policy(dpo, reward_model, pairing.streams(training, queries), training, validation)
    # 8: evaluation.
    made: dict[str, Source] = {
        "teacher": stages.teacher.source(),
        "student": fitting.student,
        "sft": sft,
        "dpo": dpo,
        "rl": policy,
    }
    models = [evaluating.evaluate(line, made[line.model], reward_model) for line in table_lines(stages)]
    if not stages.evaluation.bound.is_left_out:  # appendix A: the bound on the gain in the true reward
        notes.bound = evaluating.measure_bound(sft, policy, reward_model, validation)
    asked = (stages.teacher, stages.student, stages.judge, stages.evaluation.annotator)
    return result_of(stages.row, evaluating, config, models, overlaps, _origins(asked))


def evaluate_student(stages: Stages, runner: StageRunner, config: Mapping[str, Any]) -> RunResult:
    """Evaluate the untrained student, with its examples and without, for `evaluate_only=true`."""
    evaluating, student = Evaluating(stages, runner, Notes()), stages.student.source()
    models = [evaluating.evaluate(line, student) for line in pretrained_lines(stages)]
    origins = _origins((stages.student, stages.evaluation.annotator))
    return result_of(row_of(stages, evaluate_only=True), evaluating, config, models, {}, origins)


def row_of(s: Stages, *, evaluate_only: bool) -> str:
    """The job's row name; a student that is only evaluated is not a row of a table."""
    return f"evaluation of {s.student.name}" if evaluate_only else s.row


def result_of(
    row: str,
    step: Step,
    config: Mapping[str, Any],
    models: list[ModelResult],
    overlaps: dict[str, Overlap],
    origins: dict[str, str],
) -> RunResult:
    """The result of the job, which compares its last model with each other model on the same questions."""
    own, others = models[-1], models[:-1]
    return RunResult(
        row=row,
        seed=step.stages.seed,
        config=dict(config),
        revision=code_revision(),
        versions=package_versions(),
        costs=step.runner.costs,
        models=models,
        comparisons=[
            compare(own, other, name) for other in others for name in own.test_sets if name in other.test_sets
        ],
        failure=None,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        overlaps=overlaps,
        notes=step.notes,
        origins=origins,
    )


def _origins(models: Iterable[object]) -> dict[str, str]:
    """Where the models' weights and recorded answers come from, by name; those that do not say are left out."""
    found = {model.name: model.origin() for model in models if isinstance(model, ModelFolder | RecordedModel)}
    return {name: origin for name, origin in found.items() if origin is not None}


def job_digest(s: Stages, *, evaluate_only: bool = False, models: Sequence[Source | EndpointModel] = ()) -> str:
    """The digest that names the job's folder and its W&B run, of everything that decides the result.

    Args:
        models: the sources of teacher and student; other weights in the same folder make another job.
    """
    parts = {field.name: getattr(s, field.name) for field in dataclasses.fields(s)}
    unused = ["arithmetic"] if s.arithmetic.is_left_out else []
    for without_effect in ("tracking", "trainer", *unused):
        del parts[without_effect]
    parts |= s.training_fingerprint
    # The fingerprints of these two stages leave out parts that the whole job depends on.
    parts |= {"sft.data": s.sft.data} | {f"evaluation.{name}": getattr(s.evaluation, name) for name in PARTS}
    if s.generation.samples_policy and not s.rl.is_left_out:
        parts["sampler"] = "generation"
    if evaluate_only:
        kept = ("dataset", "student", "evaluation", "evaluation.annotator", "generation", "sampling_seed")
        parts = {name: parts[name] for name in kept}
    return fingerprint_digest("job", {**parts, "evaluate_only": evaluate_only, "models": list(models)})
