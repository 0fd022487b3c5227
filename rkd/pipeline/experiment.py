"""The parts of one row of a table, under their configuration names, and the lines of its table."""

from dataclasses import dataclass, replace

from rkd.data.datasets import Data
from rkd.data.prompts import PromptTemplate
from rkd.data.recorded_model import RecordedModel
from rkd.data.recorded_responses import StoredTeacher
from rkd.evaluation.accuracy import Evaluation
from rkd.evaluation.annotators import check_annotator
from rkd.evaluation.best_of_n import AsAsked, Inference
from rkd.generation.endpoint_teacher import EndpointTeacher
from rkd.generation.engines import Engine
from rkd.generation.local import LocalModel
from rkd.judges.base import ConfiguredJudge, NoJudge
from rkd.models.loading import count_weights
from rkd.rl.control_rewards import Confidence, StudentVote
from rkd.rl.reward_mix import RewardMix
from rkd.rl.stage import RL, NoRL
from rkd.stages.arithmetic import Arithmetic, NoArithmetic
from rkd.stages.dpo import DPO, NoDPO
from rkd.stages.generative_verifier import GenerativeVerifier
from rkd.stages.gkd import GKD
from rkd.stages.judge_training import TrainedJudge
from rkd.stages.labels import Labels, RubricGrades
from rkd.stages.preferences import MatchedPairs, OneSourcePairs, Pairs, StoredPairs, ValidationPairs
from rkd.stages.rejection_sampling import RejectionSampling
from rkd.stages.reward_model import NoRewardModel, RewardModelTraining
from rkd.stages.sft import SFT, NoSFT
from rkd.stages.student_samples import StudentSamples
from rkd.stages.teacher import RecordedSamples, TeacherSamples
from rkd.training.tracking import Tracker
from rkd.training.trainer import Training
from rkd.work import FEW_SHOT, TEACHER

ZERO_SHOT = "student zero-shot"
GREEDY = AsAsked()
FEWEST_VOTES = 3  # of two that differ, the first would win
SEEDS = 2**32  # the generators of all libraries take a smaller seed
TUNED = {"sft": "SFT student", "dpo": "DPO student"}  # by the stage that trains it; the rows are called SFT and DPO


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The parts of one row. Each stage documents itself; a stage left out is an object that does nothing.

    Args:
        generation: samples from the models of checkpoints.
        few_shot: True evaluates the row's model with the student's examples (ICL); trained rows see none
            (docs/method.md 5.12).
        warm_up: True starts reinforcement learning from the tuned student, False from the untuned one
            (docs/method.md 5.13).
    """

    row: str
    seed: int
    sampling_seed: int
    few_shot: bool
    warm_up: bool
    dataset: Data
    teacher: LocalModel | StoredTeacher | RecordedModel | EndpointTeacher
    teacher_samples: TeacherSamples | RecordedSamples
    labels: Labels | RubricGrades
    judge: ConfiguredJudge | NoJudge
    student: LocalModel
    arithmetic: Arithmetic | NoArithmetic
    sft: SFT | NoSFT
    student_samples: StudentSamples
    pairs: Pairs | OneSourcePairs | MatchedPairs | StoredPairs
    validation_pairs: ValidationPairs
    dpo: DPO | NoDPO
    reward_model: RewardModelTraining | GenerativeVerifier | NoRewardModel
    reward_mix: RewardMix
    rl: RL | GKD | RejectionSampling | NoRL
    evaluation: Evaluation
    generation: Engine
    validation_queries: int
    trainer: Training
    tracking: Tracker

    def __post_init__(self) -> None:
        for name in ("seed", "sampling_seed"):
            if not 0 <= getattr(self, name) < SEEDS:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0 and at most {SEEDS - 1}.")
        if self.validation_queries < 1:
            raise ValueError(f"validation_queries={self.validation_queries}: must be at least 1.")
        if isinstance(self.rl, RL | GKD) and self.trainer.strategy == "fsdp":
            raise ValueError(
                "trainer=fsdp does not train rl: it samples token by token from the policy that it trains, "
                "and each token would gather all shards. Train it with trainer=ddp; what sft and "
                "reward_model made before with `trainer=fsdp rl=none` on as many devices is reused."
            )
        if isinstance(self.rl, RL):
            terms = len(self.reward_mix.used) if self.reward_mix.level == "loss" else 1
            self.rl.check_processes(self.trainer.devices, terms)
        if not self.rl.is_left_out:
            self._check_mix()
        if self.rl.reads_teacher and not isinstance(self.teacher, LocalModel):
            raise ValueError(
                f"teacher={self.teacher.name} is known by its texts alone, and this row reads the teacher's "
                "probabilities of the student's tokens. Take a model on this machine of the student's family, as "
                "`python run.py teacher=mini_large` or `teacher=hf teacher.name_or_path=FOLDER`."
            )
        if not self.evaluation.bound.is_left_out and self.rl.is_left_out:
            raise ValueError(
                "evaluation/bound=sampled compares the student before and after RL: it does not go with rl=none."
            )
        if self.evaluation.inference.needs_reward_model and self.reward_model.is_left_out:
            raise ValueError(
                "evaluation/inference=best_of_n needs a reward model, and reward_model=none makes none. Take "
                "`python run.py reward_model=mini`, or greedy responses, `python run.py evaluation/inference=as_asked`."
            )
        if not (self.student.calculator.is_left_out or self.generation.takes_calculator):
            raise ValueError(
                "student/calculator=equations writes into a response while it is sampled, which only generation=local "
                "can do. Take `python run.py generation=local`, or student/calculator=none."
            )
        if not (self.student.calculator.is_left_out or self.arithmetic.is_left_out):
            raise ValueError(
                "arithmetic=small teaches results, and with student/calculator=equations a calculator writes them. "
                "Take one of the two: arithmetic=none or student/calculator=none."
            )
        if self.sft.is_left_out and not self.arithmetic.is_left_out:
            raise ValueError(
                "arithmetic=small is a warm-up of data distillation, and sft=none has none. Take arithmetic=none."
            )
        self._check_task()
        if self.teacher.is_recorded != self.teacher_samples.is_recorded:
            raise ValueError(
                f"teacher={self.teacher.name} does not go with these teacher_samples: the responses of a recorded "
                "teacher are taken as they are (teacher_samples=recorded), and any other teacher is asked. Take "
                f"`python run.py teacher_samples={'recorded' if self.teacher.is_recorded else 'mini'}`."
            )

    def _check_mix(self) -> None:
        """Refuse, before any sampling, a reward mix whose rewards lack an input."""
        used = self.reward_mix.used
        if isinstance(self.rl, RejectionSampling) and self.sft.is_left_out:
            raise ValueError(
                "rejection sampling trains as sft does, and sft=none trains nothing. Take `python run.py sft=mini`, or "
                "reinforcement learning of the untuned student, `python run.py rl=mini`."
            )
        if isinstance(self.rl, RejectionSampling) and any(isinstance(one, Confidence) for _, one in used.values()):
            raise ValueError(
                "reward_mix=confidence compares responses with others of the policy, and has no threshold above which "
                "one is right: rejection sampling cannot accept by it. Take `python run.py reward_mix=label`."
            )
        if isinstance(self.rl, RejectionSampling) and len(used) > 1:
            raise ValueError(
                f"rejection sampling accepts responses by one reward, and the reward mix has {len(used)}: "
                f"{', '.join(used)}. Take one of them, as `python run.py reward_mix=label`, or reinforcement learning, "
                "`python run.py rl=mini`."
            )
        if "learned" in used and self.reward_mix.learned.refresh is not None:
            self._check_refresh()
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
        votes = any(isinstance(source, StudentVote) for _, source in used.values())
        if votes and not isinstance(self.rl, GKD | NoRL) and self.rl.rollouts.responses_per_query < FEWEST_VOTES:
            raise ValueError(
                f"rl.rollouts.responses_per_query={self.rl.rollouts.responses_per_query}: the student's own vote is "
                f"over the responses to a query, and fewer than {FEWEST_VOTES} have no majority. Take "
                "`python run.py rl.rollouts.responses_per_query=8`, and fewer rl.rollouts.queries_per_rollout."
            )
        if "unlabelled" in self.reward_mix.streams and self.dataset.is_labelled_throughout:
            raise ValueError(
                f"the reward mix asks unlabelled queries, and dataset={self.dataset.name} has none. Take one that has, "
                "`python run.py dataset=mini_math_aug`, leave some of these without a label, "
                "`dataset.labelled_fraction=0.5`, or ask them all, `reward_mix.judge.queries=all`."
            )

    def _check_refresh(self) -> None:
        """Refuse a refresh of R where it cannot be trained on rollouts."""
        mixed = self.reward_mix.level == "reward" and len(self.reward_mix.used) > 1
        reasons = {
            "rl trains on no rollouts": not isinstance(self.rl, RL),
            "the learned reward is no reward model with a head": not isinstance(self.reward_model, RewardModelTraining),
            "there are no labels but grades": self.labels.is_graded,
            "one loss has several rewards (reward_mix.level=reward)": mixed,
            "several processes train (trainer.devices)": self.trainer.devices > 1,
        }
        if found := [reason for reason, holds in reasons.items() if holds]:
            raise ValueError(
                f"reward_mix.learned.refresh trains R on the rollouts, which does not work here: {'; '.join(found)}. "
                "Take `python run.py reward_mix=distilled`, whose R stays as it is."
            )

    def _check_task(self) -> None:
        """Refuse an open-ended dataset without a grading judge and an annotator, and these without such a dataset."""
        is_graded = self.labels.is_graded
        if is_graded and self.judge.is_left_out and trains(self):
            raise ValueError(
                "labels=rubric_judge takes grades of a judge, and judge=none is none. Take `python run.py "
                "judge=mini_grader`, or the teacher, `judge=rubric`."
            )
        if is_graded and isinstance(self.judge, TrainedJudge):
            raise ValueError(
                f"judge={self.judge.name} learns from labels, and labels=rubric_judge makes none. Take a judge that is "
                "ready, `python run.py judge=mini_grader`."
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
        self.evaluation.difficulties()  # a file that cannot be read is refused before any stage
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
        """ℓ*: 1 if answers are compared with a label, else the highest grade."""
        return self.labels.highest_score

    @property
    def zero_shot(self) -> PromptTemplate:
        """The student's prompt in training, in sampling for training and in validation."""
        return self.student.prompt.zero_shot()

    @property
    def is_dry_pass(self) -> bool:
        """Whether every stage is only tried with a batch or a few: its input is made up where the models give none."""
        return bool(self.trainer.fast_dev_run)

    @property
    def shortened(self) -> dict[str, bool | int]:
        """The settings that cut training stages short, if any. In the fingerprint they keep a trial run apart from a
        whole one."""
        switches = {
            "fast_dev_run": self.trainer.fast_dev_run,
            "overfit_batches": self.trainer.overfit_batches,
            "max_epochs": self.trainer.max_epochs,
        }
        return {name: value for name, value in switches.items() if value}

    @property
    def training(self) -> Training:
        """The trainer with the precision that the student's size decides."""
        return self.trainer.of_size(count_weights(self.student.source().folder))

    @property
    def training_fingerprint(self) -> dict[str, bool | int | str | None]:
        """The settings of `training` that decide the weights: no loggers; the number of devices, by the batch size."""
        usual = {"precision": "32-true", "devices": 1}
        used = {"precision": self.training.precision, "devices": self.trainer.devices}
        return {**self.shortened, **{name: value for name, value in used.items() if value != usual[name]}}


@dataclass(frozen=True)
class Line:
    """A line of a row's table: a model, named after the stage that trains it, with a prompt.

    Recorded responses have no prompt, because they were sampled elsewhere.
    """

    role: str
    model: str
    prompt: PromptTemplate | None
    inference: Inference = GREEDY

    def is_same_as(self, other: "Line") -> bool:
        """Whether both lines are the same model with the same way of answering."""
        return replace(self, role=other.role) == other


def table_lines(s: Stages) -> list[Line]:
    """The lines of a row's table, the row's own last. A skipped stage or a prompt without examples adds no line."""
    trained = [name for name, stage in (("sft", s.sft), ("dpo", s.dpo), ("rl", s.rl)) if not stage.is_left_out]
    own_prompt = s.student.prompt if s.few_shot else s.zero_shot
    own = Line(s.row, trained[-1] if trained else "student", own_prompt, s.evaluation.inference)
    others = [Line(TEACHER, "teacher", s.teacher.prompt), *pretrained_lines(s)]
    others += [Line(TUNED[name], name, s.zero_shot) for name in trained if name in TUNED]
    return [*(line for line in others if not line.is_same_as(own)), own]


def trains(s: Stages) -> bool:
    """Whether any stage of the row trains, and therefore needs the teacher's responses and labels."""
    is_left_out = s.sft.is_left_out and s.rl.is_left_out
    return not is_left_out or samples_student(s) or isinstance(s.judge, TrainedJudge)


def needs_labels(s: Stages, split: str) -> bool:
    """Whether the teacher answers the queries of a split: for training or, on the training split, for a judge."""
    is_compared = not s.judge.is_left_out and not s.labels.is_graded
    return trains(s) or (split == "training" and is_compared)


def samples_student(s: Stages) -> bool:
    """Whether a stage of the row trains on the student's samples, or on queries that these select."""
    is_asked_of_balanced = not s.rl.is_left_out and "balanced" in s.reward_mix.streams
    return is_asked_of_balanced or learns_from_pairs(s)


def learns_from_pairs(s: Stages) -> bool:
    """Whether a stage of the row is trained on preference pairs."""
    return not (s.dpo.is_left_out and s.reward_model.is_left_out)


def pretrained_lines(s: Stages) -> list[Line]:
    """The untrained student, without examples and, if there are any, with examples."""
    few_shot, zero_shot = Line(FEW_SHOT, "student", s.student.prompt), Line(ZERO_SHOT, "student", s.zero_shot)
    return [zero_shot] if few_shot.is_same_as(zero_shot) else [few_shot, zero_shot]
