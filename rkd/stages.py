"""The parts of one row of a table, as the configuration names them, and the models that its table compares."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rkd.artifacts import MANIFEST
from rkd.data import Data
from rkd.evaluation import Evaluation
from rkd.generation import LocalModel
from rkd.labels import Labels
from rkd.preferences import Pairs
from rkd.prompts import PromptTemplate
from rkd.records import Checkpoint
from rkd.rewards import RewardMix
from rkd.rl import NoRL
from rkd.sft import NoSFT
from rkd.student_samples import StudentSamples
from rkd.teacher import TeacherSamples
from rkd.tracking import Tracker
from rkd.training import Training
from rkd.workshop import REPORT_FILE

TEACHER, FEW_SHOT, ZERO_SHOT, SFT_ROLE = "teacher", "student few-shot", "student zero-shot", "SFT"


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The parts of one row. Each stage documents itself; a stage left out is an object that does nothing.

    Args:
        few_shot: the row's model is evaluated with the student's examples (ICL); trained rows see none (METHOD 5.12).
    """

    row: str
    seed: int
    sampling_seed: int
    few_shot: bool
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

    @property
    def zero_shot(self) -> PromptTemplate:
        """How a student is asked wherever it is trained, sampled for training or validated."""
        return self.student.prompt.zero_shot()


@dataclass(frozen=True)
class Contestant:
    """A line of the table: a model under a prompt. Its digest is that of the model's content, so copies share it."""

    role: str
    checkpoint: Checkpoint
    prompt: PromptTemplate

    def answers_like(self, other: "Contestant") -> bool:
        """Whether both are the same model under the same prompt."""
        return (self.checkpoint.digest, self.prompt) == (other.checkpoint.digest, other.prompt)


def pretrained(s: Stages) -> list[Contestant]:
    """The student as it came, with its examples, if there are any, and without."""
    folder = s.student.checkpoint().folder
    without, few_shot = _contestant(ZERO_SHOT, folder, s.zero_shot), _contestant(FEW_SHOT, folder, s.student.prompt)
    return [without] if few_shot.answers_like(without) else [few_shot, without]


def contestants(s: Stages, sft: Checkpoint, policy: Checkpoint) -> list[Contestant]:
    """The lines of a row's table, the row's own model last; a stage left out has no line of its own."""
    teacher = _contestant(TEACHER, s.teacher.checkpoint().folder, s.teacher.prompt)
    own = _contestant(s.row, policy.folder, s.student.prompt if s.few_shot else s.zero_shot)
    students = pretrained(s)
    has_sft, has_rl = not isinstance(s.sft, NoSFT), not isinstance(s.rl, NoRL)
    if has_sft and has_rl:
        students.append(_contestant(SFT_ROLE, sft.folder, s.zero_shot))
    if not has_sft and not has_rl:
        students = [one for one in students if not one.answers_like(own)]
    return [teacher, *students, own]


def _contestant(role: str, folder: Path, prompt: PromptTemplate) -> Contestant:
    """A contestant with the digest of what decides its answers: weights, configuration and tokenizer."""
    sha = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json") and file.name not in (MANIFEST, REPORT_FILE):
            sha.update(file.name.encode() + file.read_bytes())
    return Contestant(role, Checkpoint(folder, sha.hexdigest()[:16]), prompt)
