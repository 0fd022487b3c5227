"""Handing over what a finished job has made: a job's folder enters, a folder for the Hugging Face hub leaves.

    python -m rkd export outputs/JOB FOLDER                        the student of the job's row
    python -m rkd export outputs/JOB FOLDER --part reward_model    or its judge, or its labels and pairs (data)
    python -m rkd export outputs/JOB FOLDER --push USER/NAME       and upload it; the environment has HF_TOKEN

Models are read by plain transformers, data by plain datasets, and a card says what they were made from. Nothing is
trained or sampled.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from rkd.errors import ExportError, UsageError
from rkd.jobs.export_data import export_data
from rkd.jobs.export_model import export_judge, export_reward_model, export_student
from rkd.jobs.finished_job import FinishedJob

TOKEN = "HF_TOKEN"


def export(job: FinishedJob, folder: Path, part: str, *, licence: str | None = None) -> None:
    """Write a part of the job to a folder, which is there whole or not at all.

    Args:
        part: one of `rkd.jobs.finished_job.PARTS`.
        licence: of data that have no known one.

    Raises:
        UsageError: the folder is not empty, or the job has no such part.
        ExportError, ArtifactError: the store lacks an artifact, or one is damaged.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty: give a folder that is empty or does not exist.")
    if part not in job.parts:
        raise UsageError(
            f"{job.folder} has no {part}. It has: {', '.join(job.parts) or 'nothing, it trained no model'}."
        )
    write: dict[str, Callable[[FinishedJob, Path], None]] = {
        "student": export_student,
        "reward_model": export_reward_model,
        "judge": export_judge,
        "data": partial(export_data, licence=licence),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    working = folder.with_name(f".{folder.name}.making-{os.getpid()}")
    try:
        working.mkdir()
        write[part](job, working)
        working.replace(folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def push(folder: Path, name: str, *, is_dataset: bool, api_of: Callable[..., Any] = HfApi) -> str:
    """Upload the folder to a repository of the hub, which is made, private, if it is not there; return its address.

    Raises:
        ExportError: there is no token, or the hub cannot be reached or refuses.
    """
    kind, token = "dataset" if is_dataset else "model", os.environ.get(TOKEN)
    again = f"{folder} is whole: `hf upload {name} {folder} --repo-type {kind}` uploads it later."
    if not token:
        raise ExportError(f"{TOKEN} is not set in the environment: make a token that may write on the hub. {again}")
    try:
        api = api_of(token=token)
        address = api.create_repo(name, repo_type=kind, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, repo_type=kind)
    except (OSError, ValueError) as error:  # of the network and the hub; of a name that is none
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"The hub did not take {name} ({said}). Check the network, the name (USER/NAME), and that the token may "
            f"write there. {again}"
        ) from error
    return str(address)
