"""The parts of one row of a table, as the configuration names them, and the lines of its table."""

from dataclasses import dataclass, replace

from rkd.data.datasets import Data
from rkd.data.prompts import PromptTemplate
from rkd.data.recorded_responses import StoredTeacher
from rkd.evaluation.accuracy import Evaluation
from rkd.evaluation.annotators import check_annotator
from rkd.evaluation.best_of_n import AsAsked, Inference
from rkd.generation.endpoint_teacher import EndpointTeacher
from rkd.generation.engines import Engine
from rkd.generation.local import LocalModel
from rkd.judges.base import ConfiguredJudge, NoJudge
from rkd.rl.reward_mix import RewardMix
from rkd.rl.stage import RL, NoRL
from rkd.stages.dpo import DPO, NoDPO
from rkd.stages.labels import Labels, RubricGrades
from rkd.stages.preferences import OneSourcePairs, Pairs, StoredPairs, ValidationPairs
from rkd.stages.reward_model import NoRewardModel, RewardModelTraining
from rkd.stages.sft import SFT, NoSFT
from rkd.stages.student_samples import StudentSamples
from rkd.stages.teacher import RecordedSamples, TeacherSamples
from rkd.training.tracking import Tracker
from rkd.training.trainer import Training
from rkd.work import FEW_SHOT, TEACHER

ZERO_SHOT = "student zero-shot"
GREEDY = AsAsked()
TUNED = {"sft": "SFT student", "dpo": "DPO student"}  # by the stage that leaves it; rows are called SFT and DPO


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The parts of one row. Each stage documents itself; a stage left out is an object that does nothing.

    Args:
        generation: what samples from the models of checkpoints. few_shot: the row's model is evaluated with the
        student's examples (ICL); trained rows see none (docs/method.md 5.12). warm_up: reinforcement learning starts
        from the tuned student, else from the untuned one (docs/method.md 5.13).
    """

    row: str
    seed: int
    sampling_seed: int
    few_shot: bool
    warm_up: bool
    dataset: Data
    teacher: LocalModel | StoredTeacher | EndpointTeacher
    teacher_samples: TeacherSamples | RecordedSamples
    labels: Labels | RubricGrades
    judge: ConfiguredJudge | NoJudge
    student: LocalModel
    sft: SFT | NoSFT
    student_samples: StudentSamples
    pairs: Pairs | OneSourcePairs | StoredPairs
    validation_pairs: ValidationPairs
    dpo: DPO | NoDPO
    reward_model: RewardModelTraining | NoRewardModel
    reward_mix: RewardMix
    rl: RL | NoRL
    evaluation: Evaluation
    generation: Engine
    validation_queries: int
    trainer: Training
    tracking: Tracker

    def __post_init__(self) -> None:
        for name, smallest in (("seed", 0), ("sampling_seed", 0), ("validation_queries", 1)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {smallest}.")
        if not self.rl.is_left_out and self.trainer.strategy == "fsdp":
            raise ValueError(
                "trainer=fsdp does not train rl: it samples token by token from the policy that it trains, "
                "and each token would gather all shards. Train it with trainer=ddp; what sft and "
                "reward_model made before with `trainer=fsdp rl=none` on as many devices is reused."
            )
        if not self.rl.is_left_out:
            terms = len(self.reward_mix.used) if self.reward_mix.level == "loss" else 1
            self.rl.check_processes(self.trainer.devices, terms)
            self._check_mix()
        if not self.evaluation.bound.is_left_out and self.rl.is_left_out:
            raise ValueError(
                "evaluation/bound=sampled compares the student before and after RL: it does not go with rl=none."
            )
        if self.evaluation.inference.needs_reward_model and self.reward_model.is_left_out:
            raise ValueError(
                "evaluation/inference=best_of_n needs a reward model, and reward_model=none makes none. Take "
                "`python run.py reward_model=mini`, or greedy responses, `python run.py evaluation/inference=as_asked`."
            )
        self._check_task()
        if self.teacher.is_recorded != self.teacher_samples.is_recorded:
            raise ValueError(
                f"teacher={self.teacher.name} does not go with these teacher_samples: a stored teacher needs "
                "teacher_samples=recorded, which `teacher=stored` chooses, and no other teacher takes it."
            )

    def _check_mix(self) -> None:
        """Refuse a reward mix that lacks what its rewards are made of, before anything is sampled."""
        used = self.reward_mix.used
        if "judge" in used and self.judge.is_left_out:
            raise ValueError(
                f"reward_mix.mu={self.reward_mix.mu:g} needs a judge, and judge=none is none. Take `python run.py "
                "judge=mini_judge`, a model of yours, `judge=hf judge.name_or_path=FOLDER`, or reward_mix.mu=0."
            )
        if "learned" in used and self.reward_model.is_left_out:
            raise ValueError(
                f"reward_mix.rho={self.reward_mix.rho:g} needs a reward model, and reward_model=none makes none. Take "
                "`python run.py reward_model=mini`, or the label alone as reward, `python run.py reward_mix=label`."
            )
        if "unlabelled" in self.reward_mix.streams and self.dataset.is_labelled_throughout:
            raise ValueError(
                f"the reward mix asks unlabelled queries, and dataset={self.dataset.name} has none. Take one that has, "
                "`python run.py dataset=mini_math_aug`, leave some of these without a label, "
                "`dataset.labelled_fraction=0.5`, or ask them all, `reward_mix.judge.queries=all`."
            )

    def _check_task(self) -> None:
        """Refuse an open-ended dataset without a judge that grades and an annotator that compares, and the reverse."""
        is_graded = self.labels.is_graded
        if is_graded and self.judge.is_left_out and trains(self):
            raise ValueError(
                "labels=rubric_judge takes grades of a judge, and judge=none is none. Take `python run.py "
                "judge=mini_grader`, or the teacher, `judge=rubric`."
            )
        parts = {"sft.data": self.sft.data, "pairs": self.pairs, "validation_pairs": self.validation_pairs}
        for name, part in parts.items():
            best = part.best_score
            if best is not None and best != self.highest_score:
                raise ValueError(
                    f"{name}.best_score={best:g}: with these labels the highest score is {self.highest_score:g}. Leave "
                    "it to `highest_score`, which labels= sets."
                )
        if self.dataset.is_verifiable:
            return
        check_annotator(self.evaluation.annotator, self.dataset.name)
        if not is_graded and trains(self):
            raise ValueError(
                f"dataset={self.dataset.name} is open-ended: there is no answer to vote on. Let a judge grade, "
                "`python run.py labels=rubric_judge judge=mini_grader`."
            )
        if not self.evaluation.bound.is_left_out:
            raise ValueError(
                "evaluation/bound=sampled compares rewards with right answers, which an open-ended task has none of."
            )
        used = "verifiable" in self.reward_mix.used and not self.rl.is_left_out
        if used and self.reward_mix.verifiable.compares_answers:
            raise ValueError(
                "reward_mix.lambda_ is the weight of a comparison of answers, which an open-ended task has none of: "
                "take reward_mix=distilled, reward_mix=judge, or a function of yours, reward_mix=own."
            )

    @property
    def highest_score(self) -> float:
        """ℓ*: 1 where answers are compared with a label, else the highest grade."""
        return self.labels.highest_score

    @property
    def zero_shot(self) -> PromptTemplate:
        """How a student is asked wherever it is trained, sampled for training or validated."""
        return self.student.prompt.zero_shot()

    @property
    def shortened(self) -> dict[str, bool | int]:
        """What cuts the training stages short, if anything does: in a fingerprint, or a try would be taken for the
        whole."""
        switches = {
            "fast_dev_run": self.trainer.fast_dev_run,
            "overfit_batches": self.trainer.overfit_batches,
            "max_epochs": self.trainer.max_epochs,
        }
        return {name: value for name, value in switches.items() if value}

    @property
    def training_fingerprint(self) -> dict[str, bool | int | str]:
        """What of `training` decides the weights; loggers do not, and how many devices does by the size of batches."""
        usual = {"precision": "32-true", "devices": 1}
        used = {"precision": self.trainer.used_precision, "devices": self.trainer.devices}
        return {**self.shortened, **{name: value for name, value in used.items() if value != usual[name]}}


@dataclass(frozen=True)
class Line:
    """A line of a row's table: a model, named for the stage that leaves it, under a prompt.

    Recorded responses have no prompt: they were asked for elsewhere.
    """

    role: str
    model: str
    prompt: PromptTemplate | None
    inference: Inference = GREEDY

    def is_same_as(self, other: "Line") -> bool:
        """Whether both are one model that answers in one way."""
        return replace(self, role=other.role) == other


def table_lines(s: Stages) -> list[Line]:
    """The lines of a row's table, the row's own last; a stage left out, and a prompt without examples, add none."""
    trained = [name for name, stage in (("sft", s.sft), ("dpo", s.dpo), ("rl", s.rl)) if not stage.is_left_out]
    own_prompt = s.student.prompt if s.few_shot else s.zero_shot
    own = Line(s.row, trained[-1] if trained else "student", own_prompt, s.evaluation.inference)
    others = [Line(TEACHER, "teacher", s.teacher.prompt), *pretrained_lines(s)]
    others += [Line(TUNED[name], name, s.zero_shot) for name in trained if name in TUNED]
    return [*(line for line in others if not line.is_same_as(own)), own]


def trains(s: Stages) -> bool:
    """Whether any stage of the row trains, and so needs the teacher's responses and labels."""
    return not (s.sft.is_left_out and s.rl.is_left_out) or samples_student(s)


def needs_labels(s: Stages, split: str) -> bool:
    """Whether the teacher answers the queries of a split: for what trains, and those in training for a judge."""
    is_compared = not s.judge.is_left_out and not s.labels.is_graded
    return trains(s) or (split == "training" and is_compared)


def samples_student(s: Stages) -> bool:
    """Whether a stage of the row learns from the student's samples, or from queries that these decide."""
    is_asked_of_balanced = not s.rl.is_left_out and "balanced" in s.reward_mix.streams
    return is_asked_of_balanced or learns_from_pairs(s)


def learns_from_pairs(s: Stages) -> bool:
    """Whether a stage of the row is trained on preference pairs."""
    return not (s.dpo.is_left_out and s.reward_model.is_left_out)


def pretrained_lines(s: Stages) -> list[Line]:
    """The student as it came, with its examples, if there are any, and without."""
    few_shot, zero_shot = Line(FEW_SHOT, "student", s.student.prompt), Line(ZERO_SHOT, "student", s.zero_shot)
    return [zero_shot] if few_shot.is_same_as(zero_shot) else [few_shot, zero_shot]
