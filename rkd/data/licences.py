"""The licences of what a job is made from: a source of questions, a teacher or a model enters, its licence leaves.

A licence is listed only where it was read at the source. What is not listed is unknown (None), and recorded data of an
unknown licence is not passed on. A licence is written as the Hugging Face hub writes it.
"""

import json
from pathlib import Path

from rkd.data.recorded_model import FOLDER as RECORDED_TEACHERS
from rkd.data.recorded_model import RecordedModel
from rkd.data.sources import GeneratedDataset, QuerySource, StoredDataset
from rkd.models.packaged import ORIGIN, PACKAGED, REPOSITORY, packaged_at

OWN = "apache-2.0"  # of this repository: its generated questions, and its mini models
MINI_MODELS = REPOSITORY / "rkd" / "mini" / "checkpoints"

# By the name of a dataset's source.
STORED = {
    "gsm8k": "mit",  # openai/grade-school-math
    "svamp": "mit",  # arkilpatel/SVAMP
    "mawps_asdiv": "apache-2.0",  # lqtrung1998/mwp_ReFT, whose problems are those of arkilpatel/SVAMP (MIT)
    RECORDED_TEACHERS: "mit",  # veronica320/Faithful-COT: questions and recorded answers
    "alpaca_eval": "cc-by-nc-4.0",  # tatsu-lab/alpaca_eval, its data
}

# Those of which an excerpt may be passed on to anyone; others have conditions that an export cannot meet for its user.
PASSED_ON = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")


def licence_of_questions(source: QuerySource) -> str | None:
    """The licence of a dataset's questions."""
    if isinstance(source, GeneratedDataset):
        return OWN
    return STORED.get(source.name) if isinstance(source, StoredDataset) else None


def licence_of_texts(teacher: object) -> str | None:
    """The licence of the texts of a recorded teacher, or of one behind a server."""
    return STORED[RECORDED_TEACHERS] if isinstance(teacher, RecordedModel) else None


def licence_of_weights(name_or_path: str, folder: Path | None) -> str | None:
    """The licence of a model's weights: `folder` is where they lie, None if they are not on this machine."""
    if (packaged := packaged_at(name_or_path)) is not None:
        return PACKAGED[packaged].licence.lower()
    if folder is None:
        return None
    if folder.resolve().parent == MINI_MODELS:
        return OWN
    try:
        told = json.loads((folder / ORIGIN).read_text(encoding="utf-8")).get("licence")
    except (OSError, ValueError, AttributeError):
        return None
    return told.lower() if isinstance(told, str) else None
