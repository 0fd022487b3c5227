"""How models are loaded and trained: adapters, gradient checkpoints, precision; and what a checkpoint is afterwards."""

import copy
import dataclasses
import json
import sys
from importlib.util import find_spec

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
)

from rkd.data.prompts import special_tokens
from rkd.errors import ModelError
from rkd.models.batches import collate
from rkd.models.cpu_workers import SMALL
from rkd.models.loading import ModelOptions, load_causal_lm, load_tokenizer
from rkd.models.lora import LoRA, adapters_off, merge
from rkd.models.policy import AdaptersOff, Policy
from rkd.models.reward_model import new_reward_model
from rkd.protocols import Rewards
from rkd.records import Checkpoint, PreferencePair, Query, Response, ScoredResponse
from rkd.rl.advantages import GAE
from rkd.rl.kl_controller import FixedKL
from rkd.rl.reward_mix import Term
from rkd.rl.settings import KLPenalty, Optimisation, Rollouts
from rkd.rl.stage import RL, RLInputs
from rkd.stages.dpo import DPO
from rkd.stages.reward_model import PairSets, RewardModelTraining
from rkd.stages.sft import SFT
from tests.support import tiny_models
from tests.support.fakes import context
from tests.support.float64_models import llama
from tests.support.tiny_models import PROMPT, weights
from tests.support.tiny_tokenizers import LAYOUTS, folder_of, gpt2

QUERIES = [Query(f"q{i}", "mini", f"{i} plus {i}?") for i in range(8)]
ADAPTED = ModelOptions(lora=LoRA(rank=2, alpha=4))
# Two prompts of different lengths with three responses each.
BATCH = collate([[5, 6, 7], [8]], [[4, 5, 1], [6], [7, 8, 9, 1], [3, 1], [9], [2, 2, 2]], pad_id=0)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Checkpoint:
    texts = [PROMPT.render(query) + " The answer is 0123456789." for query in QUERIES]
    return tiny_models.llama_folder(tmp_path_factory.mktemp("student"), texts, 300)


needs_peft = pytest.mark.skipif(not find_spec("peft"), reason="requirements-lora.txt is not installed")


def fit_sft(student, folder, options):
    stage = SFT(learning_rate=3e-2, epochs=4, batch_size=4, max_tokens=64)
    examples = [(query, f" The answer is {2 * i}.") for i, query in enumerate(QUERIES)]
    return stage.fit(examples, context(student, folder, options=options))


def fit_reward_model(student, folder, options):
    def scored(query, text, score):
        return ScoredResponse(Response(query.id, "student", 0, text, True), text, score)

    pairs = [PreferencePair(query, scored(query, " yes", 1.0), scored(query, " no", 0.0)) for query in QUERIES]
    stage = RewardModelTraining(learning_rate=3e-2, epochs=4, batch_size=4, max_tokens=64)
    return stage.fit(PairSets(pairs, pairs[:4]), context(student, folder, options=options))


def fit_dpo(student, folder, options):
    def scored(query, text, score):
        return ScoredResponse(Response(query.id, "student", 0, text, True), text, score)

    pairs = [PreferencePair(query, scored(query, " yes", 1.0), scored(query, " no", 0.0)) for query in QUERIES]
    stage = DPO(learning_rate=3e-2, epochs=4, batch_size=4, max_tokens=64)
    return stage.fit(pairs, context(student, folder, options=options))


def fit_rl(student, folder, options):
    def reward(_, responses):
        value = torch.tensor([float(len(response.text)) for response in responses])
        return Rewards(value, {"length": value})

    stage = RL(
        rollouts=Rollouts(episodes=32, queries_per_rollout=4, responses_per_query=4, max_response_tokens=6),
        optimisation=Optimisation(learning_rate=1e-2, epochs_per_rollout=1, minibatches_per_epoch=2),
        kl=KLPenalty(controller=FixedKL(0.05)),
        advantages=GAE(),
        rollouts_between_validations=1,
    )
    scores = iter([0.1, 0.2, 0.3])
    return stage.fit(
        RLInputs(build_terms=lambda _: [Term(name="length", weight=1.0, queries=QUERIES, reward=reward)]),
        context(student, folder, options=options, validate=lambda _: next(scores)),
    )


FITS = {"sft": fit_sft, "dpo": fit_dpo, "reward model": fit_reward_model, "rl": fit_rl}


@pytest.mark.parametrize("stage", FITS)
@needs_peft
def test_a_checkpoint_trained_with_adapters_is_a_plain_model(student, tmp_path, stage):
    FITS[stage](student, tmp_path, ADAPTED)
    auto = AutoModelForSequenceClassification if stage == "reward model" else AutoModelForCausalLM
    model, loaded = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not (tmp_path / "adapter_config.json").exists()
    before, after = weights(student.folder), model.base_model.state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[f"model.{name}"])}
    # Every matrix of the layers, and neither embeddings nor norms.
    assert changed == {name for name in after if name.startswith("layers.") and "norm" not in name}


@pytest.mark.parametrize("stage", FITS)
def test_all_weights_train_without_adapters_and_checkpoints_of_gradients_change_nothing(student, tmp_path, stage):
    FITS[stage](student, tmp_path / "plain", ModelOptions())
    FITS[stage](student, tmp_path / "checkpointed", ModelOptions(gradient_checkpointing=True))
    plain, checkpointed = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).base_model.state_dict()
        for name in ("plain", "checkpointed")
    )
    for name, weight in plain.items():
        assert not torch.equal(weight, weights(student.folder)[f"model.{name}"]), name
        assert torch.equal(weight, checkpointed[name]), name


@needs_peft
def test_adapters_switched_off_leave_the_model_that_was_loaded(student):
    lm = load_causal_lm(student.folder)
    before = Policy(lm)(BATCH).logprobs.detach()
    ADAPTED.prepare(lm)
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    policy, reference = Policy(lm), AdaptersOff(lm)
    adapted = policy(BATCH).logprobs.detach()
    assert (adapted - before).abs().max() > 0.01
    assert torch.equal(reference(BATCH).logprobs, before)
    assert torch.equal(policy(BATCH).logprobs, adapted)
    assert torch.equal(copy.deepcopy(reference)(BATCH).logprobs, before)
    assert policy(BATCH).logprobs.requires_grad
    with adapters_off(lm):
        assert not torch.equal(policy(BATCH).logprobs, adapted)
    merge(lm)
    torch.testing.assert_close(policy(BATCH).logprobs, adapted, rtol=1e-5, atol=1e-5)
    assert set(lm.state_dict()) == set(weights(student.folder))


@needs_peft
def test_a_change_that_weights_of_16_bits_would_round_away_is_merged(student):
    lm = load_causal_lm(student.folder, ADAPTED).to(torch.bfloat16)
    before = {name: parameter.detach().float().clone() for name, parameter in lm.named_parameters()}
    ADAPTED.prepare(lm)
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 1e-5)
    merge(lm)
    changed = [name for name, parameter in lm.named_parameters() if not torch.equal(parameter.float(), before[name])]
    assert len(changed) == 7 * lm.config.num_hidden_layers
    assert all(lm.get_parameter(name).dtype == torch.float32 for name in changed)


@needs_peft
def test_only_adapters_and_the_head_of_a_reward_model_have_gradients(student):
    reward_model = new_reward_model(student.folder)
    ADAPTED.prepare(reward_model.model, trained_whole=["score"])
    trained = {name for name, parameter in reward_model.model.named_parameters() if parameter.requires_grad}
    assert "score.weight" in trained
    assert all("lora_" in name for name in trained - {"score.weight"})


@needs_peft
def test_half_precision_weights_train_in_float32(student):
    options = dataclasses.replace(ADAPTED, dtype="bfloat16")
    lm = options.prepare(load_causal_lm(student.folder, options))
    kinds = {parameter.requires_grad: parameter.dtype for parameter in lm.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_weights_that_are_trained_are_loaded_as_they_were_saved_whatever_samples_from_them(student):
    # An update of fine-tuning is smaller than a step of bfloat16: the next stage would start without it.
    options, saved = ModelOptions(dtype="bfloat16"), load_causal_lm(student.folder).state_dict()
    assert not all(weight.equal(weight.bfloat16().float()) for weight in saved.values())
    trained = options.prepare(load_causal_lm(student.folder, options)).state_dict()
    assert all(weight.equal(saved[name]) for name, weight in trained.items())
    assert load_causal_lm(student.folder, options, placed=True).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("has_instructions", "parameters", "placed", "dtype"),
    [
        (True, SMALL + 1, True, torch.bfloat16),
        (True, SMALL, True, torch.float32),  # the kept tables of the mini models depend on it
        (False, SMALL + 1, True, torch.float32),
        (True, SMALL + 1, False, torch.float32),
    ],
)
def test_large_models_are_read_in_bfloat16_where_the_processor_computes_it(
    has_instructions, parameters, placed, dtype, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_instructions})
    assert ModelOptions(device="cpu").load(parameters, placed=placed)["dtype"] == dtype
    assert ModelOptions(device="cpu", dtype="float32").load(parameters, placed=placed)["dtype"] == torch.float32


def test_a_model_is_placed_on_one_device_without_accelerate(student):
    options = ModelOptions(device="meta")
    assert "device_map" not in options.load(0, placed=True)
    assert load_causal_lm(student.folder, options, placed=True).device.type == "meta"
    assert load_causal_lm(student.folder, options).device.type == "cpu"
    assert ModelOptions(device="spread").load(0, placed=True)["device_map"] == "auto"


def test_a_model_that_does_not_fit_into_all_gpus_is_refused(monkeypatch):
    model, options = llama(), ModelOptions(device="spread")
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    assert options.place(model) is model  # without a GPU, a model lies on the CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="do not fit into the memory of the 2 GPUs"):
        options.place(model)


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 0), ("cuda:1", 1)])
def test_a_gpu_that_is_not_there_is_named(student, monkeypatch, device, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=f"options.device={device}: torch finds {gpus} GPUs here"):
        load_causal_lm(student.folder, ModelOptions(device=device), placed=True)


@needs_peft
@pytest.mark.parametrize("stage", FITS)
def test_adapters_train_on_half_precision_weights_on_a_cpu(student, tmp_path, stage):
    FITS[stage](student, tmp_path, dataclasses.replace(ADAPTED, dtype="bfloat16"))
    (weights_file,) = tmp_path.glob("*.safetensors")
    assert weights_file.stat().st_size > 0


def test_the_attention_that_is_asked_for_is_taken_and_an_unknown_one_is_refused(student):
    assert load_causal_lm(student.folder, ModelOptions(attention="eager")).config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="`options` do not fit it"):
        load_causal_lm(student.folder, ModelOptions(attention="telepathy"))


def test_dropout_stays_off_in_reinforcement_learning_with_checkpoints_of_gradients(tmp_path):
    texts = [PROMPT.render(query) + " The answer is 0123456789." for query in QUERIES]
    student = tiny_models.llama_folder(tmp_path / "student", texts, 300, attention_dropout=0.5)
    for name, checkpointed in (("plain", False), ("checkpointed", True)):
        fit_rl(student, tmp_path / name, ModelOptions(gradient_checkpointing=checkpointed))
    plain, checkpointed = (weights(tmp_path / name) for name in ("plain", "checkpointed"))
    for name, weight in plain.items():
        torch.testing.assert_close(weight, checkpointed[name], rtol=1e-3, atol=1e-4)


def test_without_peft_the_message_says_what_to_install(student, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -r requirements-lora\.txt"):
        ADAPTED.prepare(load_causal_lm(student.folder))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1}])
def test_impossible_adapters_are_refused_by_their_key(wrong):
    with pytest.raises(ValueError, match=f"lora.{next(iter(wrong))}={next(iter(wrong.values()))}"):
        LoRA(**wrong)


@needs_peft
def test_the_tokenizer_lies_beside_the_model(student, tmp_path):
    fit_sft(student, tmp_path, ADAPTED)
    assert load_tokenizer(tmp_path).get_vocab() == load_tokenizer(student.folder).get_vocab()


def test_a_missing_model_folder_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no model \(no config.json\)"):
        load_causal_lm(tmp_path / "nothing")


def test_weights_in_other_formats_are_refused(tmp_path):
    llama().config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="holds no safetensors file"):
        load_causal_lm(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    llama().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        load_causal_lm(tmp_path)


def saved(tokenizer: PreTrainedTokenizerBase, folder, pad_token: str | None) -> None:
    llama().config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    changed = type(tokenizer).from_pretrained(folder)
    changed.pad_token = pad_token
    changed.save_pretrained(folder)


def test_a_tokenizer_is_read_back_padding_on_the_left(tokenizer, tmp_path):
    saved(tokenizer, tmp_path, tokenizer.pad_token)
    assert load_tokenizer(tmp_path).padding_side == "left"


def test_a_tokenizer_that_names_no_padding_token_takes_one_that_its_vocabulary_reserves(tokenizer, tmp_path):
    saved(tokenizer, tmp_path, None)
    names = [tokenizer.pad_token, "<|reserved_special_token_0|>"]
    for file in tmp_path.glob("tokenizer*.json"):
        file.write_text(file.read_text().replace(*names))
    assert load_tokenizer(tmp_path).pad_token == "<|reserved_special_token_0|>"


@pytest.mark.parametrize("has_pad", [True, False])
def test_a_vocabulary_that_reserves_no_token_pads_with_the_end_of_sequence(tokenizer, tmp_path, has_pad):
    saved(tokenizer, tmp_path, tokenizer.eos_token if has_pad else None)
    for file in tmp_path.glob("tokenizer*.json"):  # no name that a vocabulary reserves for padding
        file.write_text(file.read_text().replace(tokenizer.pad_token, "<|other|>"))
    assert load_tokenizer(tmp_path).pad_token == tokenizer.eos_token


@pytest.mark.parametrize(
    ("layout", "roles", "pad"),
    [
        ("gpt2", {}, "<|endoftext|>"),  # nothing else is special
        ("gpt2", {"pad_token": "<|endoftext|>"}, "<|endoftext|>"),
        ("gpt2", {"pad_token": "!"}, "<|endoftext|>"),
        ("gpt2", {"pad_token": "Ġis"}, "<|endoftext|>"),
        ("gpt2", {"pad_token": "[PAD]"}, "[PAD]"),
        ("neox", {}, "<|padding|>"),
        ("neox", {"pad_token": "<|endoftext|>"}, "<|padding|>"),
        ("llama3", {}, "<|finetune_right_pad_id|>"),
        ("llama3", {"pad_token": "<|begin_of_text|>"}, "<|begin_of_text|>"),
        ("smollm2", {}, "<|endoftext|>"),
        ("gemma", {"pad_token": "<unk>"}, "<unk>"),
        ("mistral", {}, "<unk>"),
        ("t5", {}, "<pad>"),
    ],
)
def test_padding_is_no_token_of_ordinary_text(tmp_path, layout, roles, pad):
    folder = folder_of(LAYOUTS[layout](**roles), tmp_path).folder
    for _ in range(2):  # as it is read, and as it is read back when it was saved beside a trained model
        tokenizer = load_tokenizer(folder)
        assert tokenizer.pad_token == pad
        assert not set(special_tokens(tokenizer)) & {"!", "Ġis", "is"}
        ids = tokenizer("4! is", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == "4! is"
        (prompt,) = PROMPT.encode([Query("q", "svamp", "What is 4! + 1?")], tokenizer)
        assert "What is 4! + 1?" in tokenizer.decode(prompt)
        tokenizer.save_pretrained(folder)


def test_text_that_was_padding_is_split_as_the_vocabulary_splits_it(tmp_path):
    plain = gpt2()
    tokenizer = load_tokenizer(folder_of(gpt2(pad_token="!"), tmp_path).folder)
    for text in ("What is 4! + 1?", "!!", "3! is 6!<|endoftext|>"):
        assert tokenizer(text)["input_ids"] == plain(text)["input_ids"]


def test_a_tokenizer_without_an_end_of_sequence_is_refused(tokenizer, tmp_path):
    saved(tokenizer, tmp_path, None)
    for file in tmp_path.glob("tokenizer_config.json"):
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token"}))
    with pytest.raises(ModelError, match=r"has no end of sequence.*save the tokenizer beside the model"):
        load_tokenizer(tmp_path)
