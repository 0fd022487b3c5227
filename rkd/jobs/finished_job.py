"""A finished job, read back: its folder enters; its result, its parts and the artifacts of its stages leave."""

import json
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from rkd.data.licences import licence_of_questions, licence_of_texts, licence_of_weights
from rkd.errors import ExportError
from rkd.evaluation.results import RunResult, read_result
from rkd.generation.local import LocalModel, ModelFolder
from rkd.pipeline.experiment import Stages, needs_labels
from rkd.pipeline.pipeline import build_stages
from rkd.pipeline.stage_runner import ARTIFACTS_FILE
from rkd.reporting.cards import Ingredient
from rkd.stages.judge_training import TrainedJudge
from rkd.stages.preferences import StoredPairs
from rkd.store.artifact_store import Artifact, open_artifact

PARTS = ("student", "reward_model", "judge", "data")


@dataclass(frozen=True)
class FinishedJob:
    """A finished job: its folder, its result, the parts of its config, and the root of its store."""

    folder: Path
    result: RunResult
    stages: Stages
    root: Path

    @property
    def tuned(self) -> str | None:
        """The last stage that trained the student; None if none did."""
        stages = {"rl": self.stages.rl, "dpo": self.stages.dpo, "sft": self.stages.sft}
        return next((name for name, stage in stages.items() if not stage.is_left_out), None)

    @property
    def parts(self) -> list[str]:
        """The parts that it has made, of `PARTS`."""
        made = {
            "student": self.tuned is not None,
            "reward_model": not self.stages.reward_model.is_left_out,
            "judge": isinstance(self.stages.judge, TrainedJudge),
            "data": needs_labels(self.stages, "training"),
        }
        return [part for part in PARTS if made[part]]

    def artifact(self, stage: str) -> Artifact:
        """The artifact of a stage, every checksum compared.

        Raises:
            ExportError: the job does not name it, or the store lacks it.
            ArtifactError: it is damaged.
        """
        try:
            labels: list[str] = json.loads((self.folder / ARTIFACTS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ExportError(
                f"{self.folder} does not say which artifacts its job uses ({error}). Remove the folder and run the job "
                "again, which notes them and reuses what is stored."
            ) from error
        folders = [self.root / label for label in labels if label.startswith(f"{stage}/")]
        if missing := [folder for folder in folders or [self.root / stage] if not folder.is_dir()]:
            raise ExportError(
                f"{missing[0]}, which {self.folder} uses, is not there. Name the job's store with --root, or run the "
                "job again, which makes what was removed."
            )
        # The job may have started from a model of another job, which was made before.
        artifact = max(map(open_artifact, folders), key=lambda one: str(one.manifest["created"]))
        artifact.verify()
        return artifact

    def ingredients(self) -> list[Ingredient]:
        """What its models are made from: weights, questions and texts."""
        s, teacher, data = self.stages, self.stages.teacher, self.stages.dataset
        sources = [data.training, *([] if data.validation is None else [data.validation])]
        of_questions = {licence_of_questions(source) for source in sources}
        questions = of_questions.pop() if len(of_questions) == 1 else None
        made = [
            Ingredient(what="weights at the start", name=s.student.name, licence=licence_of(s.student)),
            Ingredient(what="questions", name=data.name, licence=questions, is_record=True),
        ]
        if isinstance(teacher, LocalModel):
            made.append(Ingredient(what="weights of the teacher", name=teacher.name, licence=licence_of(teacher)))
        else:
            texts = licence_of_texts(teacher)
            made.append(Ingredient(what="texts of the teacher", name=teacher.name, licence=texts, is_record=True))
        if isinstance(s.pairs, StoredPairs):
            made.append(Ingredient(what="pairs", name=Path(s.pairs.path).name, licence=None, is_record=True))
        return made

    def limits(self) -> list[str]:
        """What a user of its models should know, in sentences."""
        return [
            f"It was trained for questions like those of {self.stages.dataset.name}, in the prompt above. Nothing else "
            "was tested.",
            "Nothing was done for safety: what it says may be wrong or harmful.",
            "The results are those of one training seed. Another seed gives other numbers.",
            *self.label_limits(),
            *(f"{name}: {overlap}." for name, overlap in self.result.overlaps.items()),
        ]

    def label_limits(self) -> list[str]:
        """How many labels are wrong, if that is known."""
        labels = self.result.notes.labels
        if labels is None or labels.precision is None:
            return []
        return [f"{100 * labels.precision:.1f} % of the labels are right."]


def finished_job(folder: Path, root: Path | None = None) -> FinishedJob:
    """The job in a folder.

    Args:
        root: of its store; None: where its config says.

    Raises:
        FileNotFoundError: the folder holds no result.
        ExportError: the job failed, it only tried its stages, or its config is not one of this version.
    """
    result = read_result(folder)
    if result.failure is not None:
        raise ExportError(f"{folder} is not finished: {result.failure} Run it again; what it has made is reused.")
    config = OmegaConf.create(result.config)
    try:
        stages = build_stages(config)
    except Exception as error:  # Hydra wraps a constructor's error in its own exception
        raise ExportError(
            f"the config of {folder} is not one of this version of the code ({error.__cause__ or error}). Run the job "
            "again; what it has made is reused where the code still makes the same."
        ) from error
    if stages.shortened:
        raise ExportError(
            f"{folder} only tried its stages ({', '.join(stages.shortened)}): it has nothing to hand over."
        )
    return FinishedJob(folder, result, stages, root or Path(config.artifacts.root))


def licence_of(model: ModelFolder) -> str | None:
    """The licence of a model's weights; None: it is not known."""
    return licence_of_weights(model.name_or_path, model.local_folder())
