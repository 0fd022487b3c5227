"""Decoding, against `transformers` and against itself, on tiny random models in float64."""

import functools
import math

import pytest
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
)

from rkd.generation.decoding import choose, common_beginning, sample_tokens
from rkd.models.batches import ResponseBatch, pad
from rkd.models.policy import Policy
from rkd.protocols import Sampling
from tests.support.float64_models import EOS, PAD, PROMPTS, VOCABULARY, Build, both, families, gpt2


def greedy(model: PreTrainedModel, prompts=PROMPTS, tokens: int = 30, ends=(EOS,)) -> tuple[ResponseBatch, Tensor]:
    ids, mask = pad(prompts, PAD, left=True)
    sampled = sample_tokens(model, ids, mask, Sampling(0.0, 1, tokens), uniforms=None, eos_ids=ends, pad_id=PAD)
    return ResponseBatch(ids, mask, *sampled, sampled[1]), sampled[1].sum(1)


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
    Policy(model)(ResponseBatch(ids, mask, *sampled, sampled[1])).logprobs.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


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


@pytest.mark.parametrize("vocabulary", [2**15, 2**15 + 1], ids=["whole blocks", "a last block of one token"])
def test_in_a_large_vocabulary_noise_falls_on_the_token_of_its_place(vocabulary: int):
    # All tokens are equally likely, so that token t has the noise from t / V to (t + 1) / V.
    tokens = torch.tensor([0, 1, 255, 256, 1000, 32_767, vocabulary - 1])
    noise = (tokens.double() + 0.5) / vocabulary
    logits = torch.zeros(len(tokens), vocabulary)
    assert choose(logits, Sampling(1.0, 1, 1), noise, torch.ones(len(tokens))).equal(tokens)


def test_in_a_large_vocabulary_a_token_of_probability_zero_is_never_drawn():
    # Tokens 700 and 20,000 have half of the probability each, in blocks of tokens that have none.
    logits = torch.full((5, 2**15), float("-inf"))
    logits[:, [700, 20_000]] = 0.0
    noise = torch.tensor([0.0, 0.499999, 0.5, 0.500001, math.nextafter(1, 0)], dtype=torch.float64)
    drawn = choose(logits, Sampling(1.0, 1, 1), noise, torch.ones(5)).tolist()
    assert drawn == [700, 700, 20_000, 20_000, 20_000]


@both
def test_tokens_of_few_samples_at_a_time_are_those_of_all_at_once(build: Build, monkeypatch: pytest.MonkeyPatch):
    ids, mask = pad(PROMPTS, PAD, left=True)
    noise = torch.rand((15, 20), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampling = Sampling((0.0, 1.0, 1.0), 3, 20)
    draw = functools.partial(sample_tokens, build(), ids, mask, sampling, uniforms=noise, eos_ids=[EOS], pad_id=PAD)
    at_once, _ = draw()
    monkeypatch.setattr("rkd.generation.decoding.CACHED_LOGITS", 4 * VOCABULARY)
    assert torch.equal(draw()[0], at_once)


@both
def test_a_row_is_decoded_no_further_than_its_stop_tokens(build: Build):
    ids, mask = pad(PROMPTS[:1], PAD, left=True)
    draw = functools.partial(sample_tokens, build(), ids, mask, Sampling(0.0, 1, 12), uniforms=None, pad_id=PAD)
    tokens = draw(eos_ids=[-1])[0][0].tolist()
    first = next(place for place in range(2, 12) if tokens[place - 2 : place] == tokens[3:5])
    assert draw(eos_ids=[-1], stop_ids=tokens[3:5])[0][0].tolist() == tokens[:first]


@families
def test_the_output_layer_reads_states_that_lie_side_by_side(build: Build):
    """A CPU would copy frozen weights of 16 bits for each prompt: gigabytes at a real vocabulary."""
    model, side_by_side = build(), []
    head = model.get_output_embeddings()
    own = head.forward

    def forward(states: Tensor) -> Tensor:
        side_by_side.append(states.is_contiguous())
        return own(states)

    head.forward = forward
    greedy(model, tokens=3, ends=())
    assert side_by_side == [True] * 3
    assert not head._forward_pre_hooks
