"""A model's own forward: what is computed from states is what the model itself gives, or the model is refused."""

import math
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput

from rkd.errors import ModelError
from rkd.models import policy as policies
from rkd.models.attention import PLAIN_FAMILIES
from rkd.models.batches import collate
from rkd.models.hidden_states import last_states
from rkd.models.lora import LoRA
from rkd.models.own_forward import own_logits, state_width
from rkd.models.policy import AdaptersOff, Policy
from rkd.models.reward_model import RewardModel
from tests.support.float64_models import END, PAD, PROMPTS, RESPONSES, VOCABULARY, close, llama
from tests.support.model_families import FAMILIES, SCALED, SIZES, of_settings

TOLERANCE = 1e-5  # nats; the families that compute a part in float32 differ by up to 1e-6
BATCH = collate(PROMPTS[:2], [*RESPONSES[:3], [6, 2]], PAD)
families = pytest.mark.parametrize("family", sorted(FAMILIES))
needs_peft = pytest.mark.skipif(not find_spec("peft"), reason="requirements-lora.txt is not installed")


def own_logprobs(model: PreTrainedModel, row: list[int]) -> Tensor:
    """The log-probabilities of all next tokens after each token of a row, (T, V), by the model's own forward."""
    return model(input_ids=torch.tensor([row]), use_cache=False).logits[0].log_softmax(-1)


def of_responses(model: PreTrainedModel) -> Tensor:
    """log π of the responses of `BATCH` by the model's own forward, (4, 4), 0 behind each."""
    logprobs = torch.zeros(BATCH.response_ids.shape, dtype=torch.float64)
    for number, (row, tokens) in enumerate(zip(BATCH.rows(), BATCH.response_mask.sum(1).tolist(), strict=True)):
        of_row = own_logprobs(model, row)[-tokens - 1 : -1]
        logprobs[number, :tokens] = of_row[torch.arange(tokens), row[-tokens:]]
    return logprobs


@families
def test_token_log_probabilities_are_those_of_the_models_own_forward(family: str):
    model = of_settings(family)
    close(Policy(model, value_heads=1)(BATCH).logprobs, of_responses(model), TOLERANCE)


@families
def test_the_distribution_of_the_next_token_is_that_of_the_models_own_forward(family: str):
    model, rows = of_settings(family), [prompt + RESPONSES[0] for prompt in PROMPTS]
    with torch.no_grad():
        logprobs = own_logits(model, last_states(model.base_model, rows)).log_softmax(-1)
        close(logprobs, torch.stack([own_logprobs(model, row)[-1] for row in rows]), TOLERANCE)


@pytest.mark.parametrize("family", sorted(SCALED))
def test_the_settings_of_a_scaled_family_change_its_log_probabilities(family: str):
    """The output embedding alone gives others, so the tests above would see a step that is left out."""
    model = of_settings(family)
    with torch.no_grad():
        states = last_states(model.base_model, [PROMPTS[0]])
        plain = states[:, : model.get_output_embeddings().weight.shape[1]] @ model.get_output_embeddings().weight.mT
        assert (plain.log_softmax(-1) - own_logprobs(model, PROMPTS[0])[-1]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["cohere", "falcon_h1", "gemma2", "granite", "opt"])
def test_gradients_are_those_of_the_models_own_forward(family: str):
    model = of_settings(family)
    gradients = []
    for logprobs in (lambda: Policy(model)(BATCH).logprobs, lambda: of_responses(model)):
        model.zero_grad()
        logprobs().pow(2).sum().backward()
        gradients.append([torch.zeros(1) if p.grad is None else p.grad.clone() for p in model.parameters()])
    assert max(float(gradient.abs().max()) for gradient in gradients[0]) > 0.1
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs, TOLERANCE)


@pytest.mark.parametrize("family", ["cohere", "gemma2", "granite"])
def test_a_temperature_divides_the_logits_that_the_model_gives(family: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(policies, "CHUNK_ELEMENTS", 2 * VOCABULARY)
    model = of_settings(family)
    output = Policy(model, temperature=0.5)(BATCH, with_entropy=True)
    logprobs = (2 * own_logprobs(model, PROMPTS[0])[-1]).log_softmax(-1)
    close(output.logprobs[:2, 0], logprobs[[RESPONSES[0][0], RESPONSES[1][0]]], TOLERANCE)
    close(output.entropy[0, 0], -(logprobs.exp() * logprobs).sum(), TOLERANCE)


@needs_peft
@pytest.mark.parametrize("family", ["cohere", "granite"])
def test_adapters_change_what_the_models_own_forward_changes(family: str):
    model = of_settings(family)
    before = of_responses(model).detach()
    LoRA(rank=2, target_modules=["q_proj", "lm_head"]).attach(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    model.double()
    assert (of_responses(model) - before).abs().max() > 0.01
    close(Policy(model)(BATCH).logprobs, of_responses(model), TOLERANCE)
    close(AdaptersOff(model)(BATCH).logprobs, before, TOLERANCE)


class Halved(LlamaForCausalLM):
    """A user's model: a step that no other family has."""

    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        output.logits = output.logits / 2
        return output


class NeverFive(LlamaForCausalLM):
    """A user's model that never writes token 5."""

    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        output.logits[..., 5] = -math.inf
        return output


class NoRepetition(LlamaForCausalLM):
    """A user's model whose logits depend on the tokens that it has read."""

    def forward(self, input_ids, **options):
        output = super().forward(input_ids=input_ids, **options)
        read = torch.nn.functional.one_hot(input_ids, output.logits.shape[-1]).cumsum(1)
        output.logits = output.logits - read
        return output


class Cooling(LlamaForCausalLM):
    """A user's model whose logits depend on the place of the token."""

    def forward(self, input_ids, **options):
        output = super().forward(input_ids=input_ids, **options)
        output.logits = output.logits * torch.arange(1, input_ids.shape[1] + 1)[:, None]
        return output


class Wordless(LlamaForCausalLM):
    """A user's model whose forward cannot read tokens."""

    def forward(self, input_ids, **options):  # noqa: ARG002
        raise TypeError("give inputs_embeds")


class Doubled(LlamaForSequenceClassification):
    """A user's classifier that doubles its score."""

    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        output.logits = 2 * output.logits
        return output


@pytest.mark.parametrize("kind", [Halved, NeverFive])
def test_a_step_of_a_users_own_model_is_applied(kind: type):
    model = llama(kind)
    logits = own_logits(model, last_states(model.base_model, [PROMPTS[0]]))
    close(logits.log_softmax(-1)[0], own_logprobs(model, PROMPTS[0])[-1])
    assert (
        logits.log_softmax(-1) - llama()(torch.tensor([PROMPTS[0]])).logits[:, -1].log_softmax(-1)
    ).abs().max() > 0.1
    Policy(model)


def test_a_model_that_reads_images_too_is_one_for_text():
    images = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**SIZES, **END, "final_logit_softcapping": None}
    tokens = {"boi_token_index": 20, "eoi_token_index": 21, "image_token_index": 22}
    config = Gemma3Config(text_config=text, vision_config={**images, "image_size": 28, "patch_size": 14}, **tokens)
    model = Gemma3ForConditionalGeneration(config).double().eval()
    close(Policy(model, value_heads=1)(BATCH).logprobs, of_responses(model), TOLERANCE)


def hooked() -> PreTrainedModel:
    model = llama()
    model.register_forward_hook(lambda _model, _input, output: CausalLMOutput(logits=output.logits / 3))
    return model


def replaced() -> PreTrainedModel:
    model = llama()
    own = model.forward
    model.forward = lambda **options: CausalLMOutput(logits=own(**options).logits / 3)
    return model


def maskless() -> PreTrainedModel:
    model = llama()
    own = model.model.forward
    model.model.forward = lambda input_ids, **_: own(input_ids=input_ids, use_cache=False)
    return model


def reading_ahead() -> PreTrainedModel:
    return of_settings("bert", is_decoder=False)


def xlm() -> PreTrainedModel:
    """A language model in which a token sees the tokens behind it, but no padding."""
    return of_settings("xlm")


REFUSED = {
    "tokens": (lambda: llama(NoRepetition), "differ by"),
    "places": (lambda: llama(Cooling), "differ by"),
    "forward fails": (lambda: llama(Wordless), r"could not be compared \(TypeError: give inputs_embeds\)"),
    "forward hook": (hooked, "differ by"),
    "forward replaced": (replaced, "differ by"),
    "later tokens": (reading_ahead, "differ by .*is_decoder=False"),
    "no masks": (maskless, "differ by"),
    "later tokens but no padding": (xlm, "differ by"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_would_be_another_one_is_refused(case: str):
    build, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        Policy(build())


def test_a_refusal_names_the_model_and_its_settings():
    class Louder(Gemma2ForCausalLM):
        def forward(self, input_ids, **options):
            output = super().forward(input_ids=input_ids, **options)
            output.logits = output.logits * input_ids.shape[1]
            return output

    model = Louder(Gemma2Config(**SIZES, **END, final_logit_softcapping=7.0)).double().eval()
    with pytest.raises(ModelError, match=r"^Louder \(family gemma2\) is not .*final_logit_softcapping=7.0.* Choose a"):
        Policy(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_reason_to_refuse_and_hides_none(dtype: torch.dtype):
    Policy(llama().to(dtype))
    Policy(of_settings("granite").to(dtype))
    for other in (llama(Cooling), llama(NoRepetition), reading_ahead(), xlm()):
        with pytest.raises(ModelError, match="differ by"):
            Policy(other.to(dtype))


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 5e-4), (torch.bfloat16, 0.03)])
def test_a_token_that_hardly_changes_the_states_before_it_is_found_beside_rounding(dtype: torch.dtype, share: float):
    """The differences lie below what rows that are read together may differ by."""

    def leak(_norm, _input, states):
        return states + share * states[:, -1:]

    model = llama().to(dtype)
    model.model.norm.register_forward_hook(leak)
    with pytest.raises(ModelError, match=r"differ by 0\.(00[1-9]|1|2[0-4])"):
        Policy(model)


def test_a_model_that_has_diverged_is_not_refused_for_its_family():
    model = llama()
    torch.nn.init.constant_(model.lm_head.weight, math.nan)
    Policy(model)


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rewards_that_are_not_the_classifiers_own_are_refused(dtype: torch.dtype, size: float):
    own, other = (llama(kind, num_labels=1).to(dtype) for kind in (LlamaForSequenceClassification, Doubled))
    for model in (own, other):
        model.score.weight.data *= size
    RewardModel(own)
    with pytest.raises(ModelError, match="Doubled"):
        RewardModel(other)


def test_the_comparison_draws_no_random_number_and_leaves_the_model_in_training():
    model = llama(attention_dropout=0.5).train()
    model.lm_head.eval()
    before = torch.get_rng_state()
    Policy(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [name for name, module in model.named_modules() if not module.training] == ["lm_head"]


def test_a_model_is_compared_once():
    model, passes = llama(), []
    model.base_model.register_forward_hook(lambda *_: passes.append(1))
    for _ in range(3):
        assert state_width(model) == 16
        Policy(model)
    assert len(passes) == 5  # rows together, and two rows twice, by the whole model and by its backbone


def test_every_family_with_plain_attention_is_compared():
    assert set(PLAIN_FAMILIES) <= set(FAMILIES)


def test_the_page_names_every_family_that_is_compared():
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith(("| a scale", "| a cap", "| layers", "| at most"))]
    assert set(re.findall(r"`(\w+)`", "".join(table))) == set(FAMILIES)
    assert set(re.findall(r"`(\w+)`", "".join(table[:3]))) == {*SCALED, "opt"}
