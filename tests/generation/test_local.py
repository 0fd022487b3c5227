"""Sampling, policies and reward models on tiny random models in float64, against `transformers` and against themselves.

Token 0 is padding, token 1 ends a sequence.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rkd.generation.decoding import choose, common_beginning, sample_tokens
from rkd.generation.local import LocalGenerator, LocalModel, open_generator
from rkd.mini.tokenizer import train_tokenizer
from rkd.models import cpu_workers as side_by_side
from rkd.models import policy as models
from rkd.models import prefix_trees as trees
from rkd.models.attention import PLAIN_FAMILIES, attends_plainly
from rkd.models.batches import ResponseBatch, collate, encode_responses, pad
from rkd.models.hidden_states import last_states, response_states
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.models.reward_model import RewardModel, load_reward_model, new_reward_model
from rkd.protocols import Sampling
from tests.support import tiny_models, tiny_world
from tests.support.fakes import query
from tests.support.tiny_models import PROMPT

PAD, EOS, VOCABULARY = 0, 1, 23
PROMPTS = [[5, 6, 7], [8], [3, 4, 5, 6, 7, 9, 2], [2, 2], [10, 11]]
RESPONSES = [[4, 5, 1], [6], [7, 8, 9, 10], [3, 1], [12, 13, 14]]
END = {"pad_token_id": PAD, "eos_token_id": EOS}
SPECIAL = {**END, "initializer_range": 0.5}


Build = Callable[..., PreTrainedModel]


def llama(kind: type = LlamaForCausalLM, vocabulary: int = VOCABULARY, **options: object) -> PreTrainedModel:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return tiny_models.llama(kind, vocab_size=vocabulary, **heads, **SPECIAL, **options).double().eval()


def gpt2(kind: type = GPT2LMHeadModel, vocabulary: int = VOCABULARY, **options: object) -> PreTrainedModel:
    # Of the first seeds the one whose greedy responses differ in length.
    return tiny_models.gpt2(kind, seed=7, vocab_size=vocabulary, **SPECIAL, **options).double().eval()


def llama_reward_model() -> PreTrainedModel:
    return llama(LlamaForSequenceClassification, num_labels=1)


def gpt2_reward_model() -> PreTrainedModel:
    return gpt2(GPT2ForSequenceClassification, num_labels=1)


def opt() -> PreTrainedModel:
    return tiny_models.opt(vocab_size=VOCABULARY, **END, init_std=0.5).double().eval()


def codegen() -> PreTrainedModel:
    return tiny_models.codegen(seed=2, vocab_size=VOCABULARY, **SPECIAL).double().eval()


def qwen2() -> PreTrainedModel:
    return tiny_models.qwen2(seed=3, vocab_size=VOCABULARY, **SPECIAL).double().eval()


def of_family(model_type: str, **options: object) -> PreTrainedModel:
    options = {"sliding_window": None, **options} if model_type in ("mistral", "phi3") else options
    return tiny_models.of_family(model_type, seed=3, vocab_size=VOCABULARY, **SPECIAL, **options).double().eval()


OTHER_FAMILIES = sorted({*PLAIN_FAMILIES} - {"gpt2", "llama", "opt", "qwen2"})
PLAIN = [llama, gpt2, opt, qwen2, *(functools.partial(of_family, family) for family in OTHER_FAMILIES)]
SLIDING = functools.partial(of_family, "mistral", sliding_window=4)
NAMES = ["llama", "gpt2", "opt", "qwen2", *OTHER_FAMILIES]

both = pytest.mark.parametrize("build", [llama, gpt2])
families = pytest.mark.parametrize("build", [*PLAIN, codegen, SLIDING], ids=[*NAMES, "codegen", "sliding window"])
both_reward_models = pytest.mark.parametrize("build", [llama_reward_model, gpt2_reward_model])


def greedy(model: PreTrainedModel, prompts=PROMPTS, tokens: int = 30, ends=(EOS,)) -> tuple[ResponseBatch, Tensor]:
    ids, mask = pad(prompts, PAD, left=True)
    sampled = sample_tokens(model, ids, mask, Sampling(0.0, 1, tokens), uniforms=None, eos_ids=ends, pad_id=PAD)
    return ResponseBatch(ids, mask, *sampled), sampled[1].sum(1)


def close(actual: Tensor, expected: object, tolerance: float = 1e-7) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)


# Sampling


@pytest.mark.parametrize("beginning", [0, 18], ids=["prompts apart", "prompts that begin alike"])
@families
def test_greedy_decoding_is_that_of_transformers_token_for_token(build: Build, beginning: int):
    model = build()
    prompts = [[3 + place % 20 for place in range(beginning)] + prompt for prompt in PROMPTS]
    ends = [EOS, *range(3, VOCABULARY, 3)]  # many, or random models would hardly end
    batch, lengths = greedy(model, prompts, ends=ends)
    expected = model.generate(
        input_ids=batch.prompt_ids,
        attention_mask=batch.prompt_mask.long(),
        max_new_tokens=30,
        do_sample=False,
        pad_token_id=PAD,
        eos_token_id=ends,
    )[:, batch.prompt_ids.shape[1] :]
    assert torch.equal(batch.response_ids, expected)
    assert len(set(lengths.tolist())) > 1  # rows ended at different steps, so rows were dropped on the way


@families
def test_samples_that_share_their_prompt_are_those_with_a_copy_each(build: Build, monkeypatch: pytest.MonkeyPatch):
    model, sampling = build(), Sampling(1.0, 3, 30)
    attention = model.config._attn_implementation
    ids, mask = pad(PROMPTS, PAD, left=True)
    noise = torch.rand((15, 30), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    draw = functools.partial(sample_tokens, model, ids, mask, sampling, uniforms=noise, eos_ids=[EOS, 4], pad_id=PAD)
    shared, lengths = draw()
    assert model.config._attn_implementation == attention
    monkeypatch.setattr("rkd.generation.decoding.attends_plainly", lambda _config: False)
    copied, _ = draw()
    assert torch.equal(shared, copied)
    assert len(set(lengths.sum(1).tolist())) > 2  # rows were dropped on the way


@pytest.mark.parametrize("samples", [1, 3])
@families
def test_a_beginning_that_is_read_once_changes_no_token(build: Build, samples: int, monkeypatch: pytest.MonkeyPatch):
    model, sampling = build(), Sampling(1.0, samples, 30)
    beginning = [3 + place % 20 for place in range(18)]
    ids, mask = pad([beginning + prompt for prompt in [*PROMPTS, PROMPTS[0][:1]]], PAD, left=True)
    noise = torch.rand((len(ids) * samples, 30), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    draw = functools.partial(sample_tokens, model, ids, mask, sampling, uniforms=noise, eos_ids=[EOS, 4], pad_id=PAD)
    assert common_beginning(ids, mask) == 18
    at_once, lengths = draw()
    monkeypatch.setattr("rkd.generation.decoding.SMALLEST_BEGINNING", 100)
    assert common_beginning(ids, mask) == 0
    apart, _ = draw()
    assert torch.equal(at_once, apart)
    assert len(set(lengths.sum(1).tolist())) > 2


@both
def test_samples_are_read_once_until_they_part(build: Build):
    model = build()
    ids, mask = pad(PROMPTS[:2], PAD, left=True)
    read: list[int] = []
    model.register_forward_pre_hook(lambda _, __, given: read.append(len(given["input_ids"])), with_kwargs=True)
    # Four samples of each prompt whose noise is the same, but for that of one sample from its third token on.
    noise = torch.full((8, 6), 0.3, dtype=torch.float64)
    noise[1, 2:] = 0.999
    tokens, _ = sample_tokens(model, ids, mask, Sampling(1.0, 4, 6), uniforms=noise, eos_ids=[-1], pad_id=PAD)
    assert read[-5:] == [2, 2, 3, 3, 3]
    first, parted, *others = tokens[:4]
    assert all(torch.equal(first, other) for other in others)
    assert torch.equal(first[:2], parted[:2])
    assert first[2] != parted[2]
    alone, _ = sample_tokens(
        model, ids[:1], mask[:1], Sampling(1.0, 1, 6), uniforms=noise[1:2], eos_ids=[-1], pad_id=PAD
    )
    assert torch.equal(alone[0], parted)


def test_of_equal_prompts_one_token_is_left_to_read():
    ids, mask = pad([[5] * 30, [5] * 30], PAD, left=True)
    assert common_beginning(ids, mask) == 29
    assert common_beginning(ids[:1], mask[:1]) == 0


@both
def test_each_sample_of_a_query_has_its_own_temperature(build: Build):
    model = build()
    ids, mask = pad(PROMPTS, PAD, left=True)
    noise = torch.rand((len(PROMPTS), 3, 20), dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def draw(temperature, samples: int, noise: Tensor | None) -> Tensor:
        sampling = Sampling(temperature, samples, 20)
        tokens, _ = sample_tokens(model, ids, mask, sampling, uniforms=noise, eos_ids=[-1], pad_id=PAD)
        return tokens.view(len(PROMPTS), samples, 20)

    mixed = draw((0.0, 0.5, 1.5), 3, noise.flatten(0, 1))
    assert torch.equal(mixed[:, 0], draw(0.0, 1, None)[:, 0])
    for place, temperature in ((1, 0.5), (2, 1.5)):
        assert torch.equal(mixed[:, place], draw(temperature, 1, noise[:, place])[:, 0])


@both
def test_the_end_token_counts_and_nothing_behind_it_does(build: Build):
    batch, lengths = greedy(build())
    ended = 0
    for tokens, mask, length in zip(batch.response_ids, batch.response_mask, lengths, strict=True):
        assert mask.tolist() == [True] * length + [False] * (len(mask) - length)
        assert EOS not in tokens[: length - 1]
        assert (tokens[length:] == PAD).all()
        ended += int(tokens[length - 1] == EOS)
    assert ended > 0


@both
def test_a_sampled_padding_token_counts_as_a_token(build: Build):
    # Noise 0 chooses the first token of the vocabulary, which is the padding token, at every step.
    ids, mask = pad(PROMPTS[:2], PAD, left=True)
    noise = torch.zeros((2, 4), dtype=torch.float64)
    sampled, counts = sample_tokens(build(), ids, mask, Sampling(1.0, 1, 4), uniforms=noise, eos_ids=[EOS], pad_id=PAD)
    assert (sampled == PAD).all()
    assert counts.tolist() == [[True] * 4] * 2


def test_dropout_is_off_while_sampling_and_the_training_mode_comes_back():
    model = gpt2(resid_pdrop=0.5, embd_pdrop=0.5)
    expected, _ = greedy(model)
    model.train()
    sampled, _ = greedy(model)
    assert torch.equal(sampled.response_ids, expected.response_ids)
    assert model.training


@both
@pytest.mark.parametrize("samples", [1, 2])
def test_a_policy_can_be_trained_on_what_was_sampled(build: Build, samples: int):
    model = build()
    ids, mask = pad(PROMPTS, PAD, left=True)
    noise = torch.rand((5 * samples, 6), dtype=torch.float64)
    sampling = Sampling(1.0, samples, 6)
    sampled = sample_tokens(model, ids, mask, sampling, uniforms=noise, eos_ids=[EOS], pad_id=PAD)
    Policy(model)(ResponseBatch(ids, mask, *sampled)).logprobs.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# The next token: probabilities 0.5, 0.3, 0.15, 0.05


LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def chosen(noise: list[float], temperature: float = 1.0, **options: object) -> list[int]:
    uniforms = torch.tensor(noise, dtype=torch.float64)
    return choose(
        LOGITS.expand(len(noise), -1),
        Sampling(temperature, 1, 1, **options),
        uniforms,
        torch.full((len(noise),), temperature),
    ).tolist()


def test_a_token_is_drawn_where_the_noise_falls_in_the_distribution_function():
    assert chosen([0.0, 0.49, 0.51, 0.79, 0.81, 0.94, 0.96, 0.999999]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_temperature_sharpens_the_distribution():
    # Temperature ½ squares: 0.25, 0.09, 0.0225, 0.0025 of 0.365, so the first has 0.6849, the first two 0.9315.
    assert chosen([0.68, 0.69, 0.93, 0.94], temperature=0.5) == [0, 1, 1, 2]


def test_top_k_keeps_the_k_likeliest_tokens():
    # 0.5 and 0.3 of 0.8: the first has 0.625.
    assert chosen([0.62, 0.63, 0.999999], top_k=2) == [0, 1, 1]
    assert chosen([0.999999], top_k=1) == [0]
    assert chosen([0.999999], top_k=9) == [3]


def test_top_p_keeps_the_fewest_tokens_that_reach_p():
    assert chosen([0.62, 0.63, 0.999999], top_p=0.75) == [0, 1, 1]
    assert chosen([0.999999], top_p=0.45) == [0]
    assert chosen([0.999999], top_p=0.85) == [2]


def test_top_p_finds_the_likeliest_tokens_wherever_they_stand():
    logits = torch.tensor([[0.05, 0.5, 0.15, 0.3]]).log().expand(3, -1)
    noise = torch.tensor([0.0, 0.62, 0.999999], dtype=torch.float64)
    assert choose(logits, Sampling(1.0, 1, 1, top_p=0.75), noise, torch.ones(3)).tolist() == [1, 1, 3]


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).expand(3, -1)
    noise = torch.tensor([0.0, 0.4, 1 - 1e-12], dtype=torch.float64)
    assert choose(logits, Sampling(1.0, 1, 1), noise, torch.ones(3)).tolist() == [1, 1, 2]


# Generators


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["What is two and two? The answer is 4.", "Q: 1 2 3 A: 4 5 6"] * 4, vocabulary_size=290)


def generator(tokenizer: PreTrainedTokenizerBase, **options: object) -> LocalGenerator:
    settings = {"prompt": PROMPT, **options}
    return LocalGenerator("tiny", llama(vocabulary=len(tokenizer)), tokenizer, **settings)


QUERIES = [query("a long question, longer than all others"), query("q"), query("three words here"), query("two words")]
SAMPLING = Sampling(temperature=1.0, samples_per_query=3, max_response_tokens=12)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_few_queries_are_two_batches_on_however_many_cores(tokenizer: PreTrainedTokenizerBase, cores: int):
    done: list[int] = []
    with side_by_side.cores(cores, small_models=True):
        generator(tokenizer, progress=done.append).generate(QUERIES, SAMPLING, 0)
    assert done == [2, 2]


def test_responses_come_in_the_order_of_the_queries_and_samples(tokenizer):
    responses = generator(tokenizer, batch_responses=6).generate(QUERIES, SAMPLING, seed=0)
    assert [[(one.query_id, one.sample_index) for one in own] for own in responses] == [
        [(asked.id, index) for index in range(3)] for asked in QUERIES
    ]


def test_a_sample_does_not_depend_on_its_neighbours(tokenizer):
    together = generator(tokenizer).generate(QUERIES, SAMPLING, seed=0)
    in_pairs = generator(tokenizer, batch_responses=6).generate(QUERIES[::-1], SAMPLING, seed=0)[::-1]
    alone = [generator(tokenizer).generate([asked], SAMPLING, seed=0)[0] for asked in QUERIES]
    assert together == in_pairs == alone


def test_more_samples_keep_the_first_ones(tokenizer):
    more = Sampling(temperature=1.0, samples_per_query=5, max_response_tokens=12)
    few = generator(tokenizer).generate(QUERIES, SAMPLING, seed=0)
    assert [own[:3] for own in generator(tokenizer).generate(QUERIES, more, seed=0)] == few


def test_samples_differ_from_each_other_and_by_seed(tokenizer):
    first, second = (generator(tokenizer).generate(QUERIES, SAMPLING, seed) for seed in (0, 1))
    texts = [one.text for own in first + second for one in own]
    assert len(set(texts)) == len(texts)


def test_no_queries_give_no_responses(tokenizer):
    assert generator(tokenizer).generate([], SAMPLING, seed=0) == []


def test_a_response_that_reaches_the_limit_is_not_finished(tokenizer):
    responses = generator(tokenizer).generate(QUERIES, SAMPLING, seed=0)
    assert not any(one.is_finished for own in responses for one in own)


def test_a_response_that_goes_on_to_the_next_question_is_cut_there_and_finished(tokenizer):
    ((whole,),) = generator(tokenizer).generate(QUERIES[:1], Sampling(1.0, 1, 12), seed=0)
    stop = whole.text[4:7]
    prompt = dataclasses.replace(PROMPT, stop=stop)
    ((cut,),) = generator(tokenizer, prompt=prompt).generate(QUERIES[:1], Sampling(1.0, 1, 12), seed=0)
    assert cut.text == whole.text[: whole.text.index(stop)].strip()
    assert cut.is_finished
    assert not whole.is_finished


@both
def test_a_row_is_decoded_no_further_than_its_stop_tokens(build: Build):
    ids, mask = pad(PROMPTS[:1], PAD, left=True)
    draw = functools.partial(sample_tokens, build(), ids, mask, Sampling(0.0, 1, 12), uniforms=None, pad_id=PAD)
    tokens = draw(eos_ids=[-1])[0][0].tolist()
    first = next(place for place in range(2, 12) if tokens[place - 2 : place] == tokens[3:5])
    assert draw(eos_ids=[-1], stop_ids=tokens[3:5])[0][0].tolist() == tokens[:first]


@pytest.mark.parametrize("responses", [1, 6, 100])
def test_a_rollout_is_the_same_in_one_batch_and_in_several(tokenizer, responses):
    sampling = Sampling(1.0, 3, 12)
    whole = generator(tokenizer, batch_responses=1000).sample(QUERIES, sampling, seed=0)
    parts = generator(tokenizer, batch_responses=responses).sample(QUERIES, sampling, seed=0)
    assert torch.equal(parts.response_ids, whole.response_ids)
    assert torch.equal(parts.response_mask, whole.response_mask)
    assert torch.equal(parts.prompt_ids, whole.prompt_ids)


# Batches


def test_prompts_are_padded_on_the_left_and_responses_on_the_right():
    batch = collate([[5, 6], [7]], [[2], [3, 4]], PAD)
    assert batch.prompt_ids.tolist() == [[5, 6], [0, 7]]
    assert batch.response_ids.tolist() == [[2, 0], [3, 4]]
    assert batch.prompt_mask.tolist() == [[True, True], [False, True]]
    assert batch.response_mask.tolist() == [[True, False], [True, True]]


def test_responses_that_cannot_be_shared_out_to_prompts_are_refused():
    with pytest.raises(ValueError, match="3 responses cannot be shared out to 2 prompts"):
        collate([[5], [6]], [[2], [3], [4]], PAD)


def test_selected_prompts_come_with_their_responses_and_no_more_padding_than_these_need():
    batch = collate([[5, 6, 7], [8]], [[2], [3], [4], [9, 9]], PAD).select_prompts(torch.tensor([1]))
    assert batch.prompt_ids.tolist() == [[8]]
    assert batch.response_ids.tolist() == [[4, 0], [9, 9]]
    assert batch.group_size == 2


def test_only_a_finished_response_ends_with_the_end_token(tokenizer):
    finished, cut = encode_responses(tokenizer, ["4", "4"], [True, False])
    assert finished == [*cut, tokenizer.eos_token_id]


# Policies


def expected_logprobs(model: PreTrainedModel, prompt: list[int], response: list[int]) -> Tensor:
    """log π of one response without any padding, from the model's own logits."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(response)), response]


@both
def test_left_padded_prompts_give_the_log_probabilities_of_unpadded_ones(build: Build):
    model = build()
    logprobs = Policy(model)(collate(PROMPTS, RESPONSES, PAD)).logprobs
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        close(logprobs[row, : len(response)], expected_logprobs(model, prompt, response))


@pytest.fixture(params=[1, 10**6], ids=["by length", "in one pass"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read in as many passes as they differ in length, or all together."""
    monkeypatch.setattr(trees, "SMALLEST_PASS_TOKENS", request.param)


@pytest.mark.usefixtures("passes")
@both
def test_padding_changes_no_gradient(build: Build):
    model = build()
    batch = collate(PROMPTS, RESPONSES, PAD)
    (Policy(model)(batch).logprobs * batch.response_mask).sum().backward()
    padded = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        expected_logprobs(model, prompt, response).sum().backward()
    for actual, parameter in zip(padded, model.parameters(), strict=True):
        close(actual, parameter.grad)


@pytest.mark.usefixtures("passes")
@both
def test_a_shared_prompt_gives_the_states_and_gradients_of_separate_ones(build: Build):
    model = build()
    shared = collate(PROMPTS[:2], RESPONSES[:4], PAD)
    separate = collate([PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]], RESPONSES[:4], PAD)
    counts = torch.cat([torch.ones(4, 1, dtype=torch.bool), shared.response_mask], 1)[:, :, None]
    states, gradients = [], []
    for batch in (shared, separate):
        model.zero_grad()
        own = response_states(model.base_model, batch)
        (own.pow(3) * counts).sum().backward()
        states.append(own.detach() * counts)
        gradients.append([p.grad.clone() for p in model.base_model.parameters()])
    assert (shared.group_size, separate.group_size) == (2, 1)
    close(*states)
    for of_shared, of_separate in zip(*gradients, strict=True):
        close(of_shared, of_separate, tolerance=1e-5)  # a Llama normalises in float32, whatever its weights are


@families
def test_rows_read_together_have_the_states_that_each_has_alone(build: Build, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trees, "PRODUCTS_PER_WIDTH", 10**6)
    backbone, read = build().base_model, []
    rows = [prompt + response for prompt in PROMPTS for response in RESPONSES]
    alone = [backbone(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0, -1] for row in rows]
    handle = backbone.register_forward_pre_hook(lambda *called: read.append(called[2]["input_ids"]), with_kwargs=True)
    close(last_states(backbone, rows), torch.stack(alone), tolerance=1e-6)  # some families normalise in float32
    handle.remove()
    # Five roots, each with what the responses add: no family but the plain ones shares them.
    is_shared = sum(ids.shape[0] for ids in read) == len({row[0] for row in rows})
    assert is_shared == attends_plainly(backbone.config)


def test_attention_that_keeps_its_scores_reads_rows_apart():
    backbone, rows = llama().base_model, [[5, 6, 7], [5, 6, 8]]
    together = last_states(backbone, rows)
    backbone.set_attn_implementation("eager")
    read = []
    backbone.register_forward_pre_hook(lambda *called: read.append(called[2]["input_ids"].shape), with_kwargs=True)
    close(last_states(backbone, rows), together, tolerance=1e-6)
    assert read == [(2, 3)]


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize("prompts", [PROMPTS[:2], [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]])
@both
def test_last_states_are_those_of_all_states(build: Build, prompts: list[list[int]]):
    backbone, responses = build().base_model, [*RESPONSES[:3], []]  # the last state of an empty one is its prompt's
    batch = collate(prompts, responses, PAD)
    states = response_states(backbone, batch)
    close(
        last_states(backbone, batch.rows()), torch.stack([states[row, len(own)] for row, own in enumerate(responses)])
    )


@pytest.mark.parametrize("chunk", [1, 2, 3, 12])
@both
def test_chunks_of_logits_change_no_value_and_no_gradient(build: Build, chunk: int, monkeypatch: pytest.MonkeyPatch):
    policy, batch = Policy(build(), temperature=0.7), collate(PROMPTS, RESPONSES, PAD)
    outputs, gradients = [], []
    for elements in (models.CHUNK_ELEMENTS, chunk * VOCABULARY):
        monkeypatch.setattr(models, "CHUNK_ELEMENTS", elements)
        policy.zero_grad()
        output = policy(batch, with_entropy=True)
        output.logprobs.pow(2).sum().backward()
        outputs.append(output)
        gradients.append([parameter.grad.clone() for parameter in policy.parameters()])
    assert not output.entropy.requires_grad
    close(outputs[0].logprobs, outputs[1].logprobs)
    close(outputs[0].entropy, outputs[1].entropy)
    for whole, chunked in zip(*gradients, strict=True):
        close(whole, chunked)


@pytest.mark.parametrize(("chunk", "most"), [(20, 20), (1000, 4 * 13)])
def test_no_more_logits_than_a_chunk_are_made_or_kept(chunk: int, most: int, monkeypatch: pytest.MonkeyPatch):
    """Of all tensors of a policy with a vocabulary of 499, in both passes, logits are the largest."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.elements = max(self.elements, result.numel())
            return result

    kept = []
    monkeypatch.setattr(models, "CHUNK_ELEMENTS", chunk * 499)
    policy, batch = Policy(llama(vocabulary=499), temperature=0.7), collate(PROMPTS, RESPONSES * 4, PAD)
    with Largest() as made, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        policy(batch, with_entropy=True).logprobs.sum().backward()
    assert made.elements == most * 499
    assert any(tensor.shape[-1] == 499 and tensor.shape[-2] == most for tensor in kept) == (chunk == 1000)


def test_entropy_is_that_of_the_distribution_a_token_was_chosen_from():
    model = llama()
    policy = Policy(model)
    output = policy(collate(PROMPTS[:1], RESPONSES[:1], PAD), with_entropy=True)
    logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    close(output.entropy[0, 0], -(logits.softmax(-1) * logits.log_softmax(-1)).sum())


def test_the_value_head_starts_at_zero():
    policy = Policy(llama().float(), value_heads=1)
    values = policy(collate(PROMPTS, RESPONSES, PAD)).values
    assert values.shape == (5, 4)
    assert (values == 0).all()


# Reward models


@both_reward_models
def test_a_reward_is_read_at_the_last_response_token_and_not_at_padding(build: Build):
    model = build()
    rewards = RewardModel(model)(collate(PROMPTS, RESPONSES, PAD))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        # Transformers reads its score at the last token of an unpadded sequence.
        close(rewards[row], model(input_ids=torch.tensor([prompt + response])).logits.item())


@both_reward_models
def test_a_mean_reward_is_that_of_the_head_on_all_response_tokens(build: Build):
    model = build()
    model.config.reward_pooling = "mean"
    rewards = RewardModel(model)(collate(PROMPTS, RESPONSES, PAD))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        states = model.base_model(torch.tensor([prompt + response])).last_hidden_state[:, len(prompt) :]
        close(rewards[row], model.score(states).mean().item())


@pytest.mark.parametrize("pooling", ["last", "mean"])
@both_reward_models
def test_what_stands_in_the_padding_does_not_matter_to_a_reward(build: Build, pooling: str):
    batch = collate(PROMPTS, RESPONSES, PAD)
    other = collate(PROMPTS, RESPONSES, 9)
    assert not torch.equal(batch.response_ids, other.response_ids)
    reward_model = RewardModel(build())
    reward_model.model.config.reward_pooling = pooling
    close(reward_model(other), reward_model(batch))


@both_reward_models
def test_responses_to_one_prompt_get_the_rewards_of_separate_prompts(build: Build):
    reward_model = RewardModel(build())
    shared = reward_model(collate(PROMPTS[:1], RESPONSES, PAD))
    close(shared, reward_model(collate(PROMPTS[:1] * 5, RESPONSES, PAD)))


def test_a_new_reward_model_gives_every_response_zero(tmp_path):
    llama().float().save_pretrained(tmp_path)
    assert (new_reward_model(tmp_path)(collate(PROMPTS, RESPONSES, PAD)) == 0).all()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_saved_reward_model_gives_the_same_rewards(tmp_path, pooling):
    reward_model = RewardModel(llama_reward_model().float())
    reward_model.model.config.reward_pooling = pooling
    reward_model.save_pretrained(tmp_path)
    batch = collate(PROMPTS, RESPONSES, PAD)
    close(load_reward_model(tmp_path).float()(batch), reward_model(batch))


# Folders


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


def test_a_models_digest_follows_its_files_and_is_computed_once(tmp_path):
    llama().save_pretrained(tmp_path)
    model = LocalModel(name="tiny", name_or_path=str(tmp_path), prompt=PROMPT)
    file = tmp_path / "model.safetensors"
    content, first = file.read_bytes(), model.source().digest
    other = content[:-1] + bytes([content[-1] ^ 1])
    file.write_bytes(other)
    os.utime(file, ns=(0, 0))
    second = model.source().digest
    assert second != first
    (file.parent / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert model.source().digest != second
    (file.parent / "chat_template.jinja").unlink()
    # Same size and time: nobody reads it again.
    file.write_bytes(content)
    os.utime(file, ns=(0, 0))
    assert model.source().digest == second
    os.utime(file, ns=(0, 1))
    assert model.source().digest == first


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
def test_without_a_token_for_padding_any_but_the_end_of_sequence_will_do(tokenizer, tmp_path, has_pad):
    saved(tokenizer, tmp_path, tokenizer.eos_token if has_pad else None)
    for file in tmp_path.glob("tokenizer*.json"):  # no name that a vocabulary reserves for padding
        file.write_text(file.read_text().replace(tokenizer.pad_token, "<|other|>"))
    assert load_tokenizer(tmp_path).pad_token == "<|other|>"  # the first of the vocabulary


def test_a_tokenizer_without_an_end_of_sequence_is_refused(tokenizer, tmp_path):
    saved(tokenizer, tmp_path, None)
    for file in tmp_path.glob("tokenizer_config.json"):
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token"}))
    with pytest.raises(ValueError, match="has no end of sequence"):
        load_tokenizer(tmp_path)


def test_every_end_token_that_the_model_names_ends_a_response(tmp_path):
    generator = open_generator(tiny_world.random_model(tmp_path), PROMPT, "random")
    queries, sampling = tiny_world.queries(0, 4), Sampling(0.0, 1, 8)
    whole = generator.sample(queries, sampling, seed=0)
    third = whole.response_ids[0, 2].item()
    generator.model.generation_config.eos_token_id = [generator.tokenizer.eos_token_id, third]
    cut = generator.sample(queries, sampling, seed=0)
    at = whole.response_ids[0].tolist().index(third)
    assert cut.response_ids[0][cut.response_mask[0]].tolist() == whole.response_ids[0, : at + 1].tolist()
    assert generator.is_finished(cut)[0]
    assert generator.generate(queries, sampling, seed=0)[0][0].is_finished


def test_a_special_token_spelled_out_in_a_response_does_not_end_it(tmp_path):
    tokenizer = load_tokenizer(tiny_world.random_model(tmp_path).folder)
    (tokens,) = encode_responses(tokenizer, [f"1{tokenizer.eos_token}2"], [True])
    assert tokens.count(tokenizer.eos_token_id) == 1
    assert tokens[-1] == tokenizer.eos_token_id
