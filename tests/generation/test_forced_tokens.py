"""Forced tokens in the decode loop, on random models, and a calculator in a generator, on a taught one."""

import dataclasses
import re

import pytest
import torch

from rkd.generation.decoding import sample_tokens
from rkd.generation.forced_tokens import ForcedTokens
from rkd.generation.local import LocalModel, open_generator
from rkd.models.batches import pad
from rkd.protocols import Sampling
from tests.support.float64_models import EOS, PAD, PROMPTS, VOCABULARY, Build, both
from tests.support.tiny_calculations import CALCULATING, QUERIES, SUMS, response
from tests.support.tiny_models import PROMPT

TRIGGERS, FORCED = frozenset(range(3, VOCABULARY, 3)), [2, 4, 2]


@both
@pytest.mark.parametrize(("temperature", "samples"), [(0.0, 1), (1.0, 1), (1.0, 4)])
def test_forced_tokens_follow_their_trigger_and_the_model_chooses_the_others(
    build: Build, temperature: float, samples: int
):
    model, steps = build(), 20
    ids, mask = pad(PROMPTS, PAD, left=True)
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand((len(ids) * samples, steps), dtype=torch.float64, generator=generator)
    tokens, counted = sample_tokens(
        model,
        ids,
        mask,
        Sampling(temperature, samples, steps),
        uniforms=noise if temperature else None,
        eos_ids=[EOS],
        pad_id=PAD,
        forced=ForcedTokens(lambda _: FORCED, TRIGGERS),
    )
    forced_count = 0
    for number, row in enumerate(tokens):
        prompt, own = PROMPTS[number // samples], row[counted[number]].tolist()
        logits = model(torch.tensor([prompt + own])).logits[0, len(prompt) - 1 :]
        waiting: list[int] = []
        for place, token in enumerate(own):
            if waiting:
                assert token == waiting.pop(0)
                forced_count += 1
                continue
            if temperature:
                cumulative = logits[place].float().softmax(-1).cumsum(-1, dtype=torch.float64)
                assert token == int(torch.searchsorted(cumulative, noise[number, place] * cumulative[-1], right=True))
            else:
                assert token == int(logits[place].argmax())
            waiting = list(FORCED) if token in TRIGGERS else []
    assert forced_count > len(FORCED)


@both
def test_without_a_trigger_no_token_changes(build: Build):
    model = build()
    ids, mask = pad(PROMPTS, PAD, left=True)
    noise = torch.rand((len(ids) * 2, 20), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    settings = {"uniforms": noise, "eos_ids": [EOS], "pad_id": PAD}
    plain, _ = sample_tokens(model, ids, mask, Sampling(1.0, 2, 20), **settings)
    never = ForcedTokens(lambda _: [], range(VOCABULARY))
    asked, _ = sample_tokens(model, ids, mask, Sampling(1.0, 2, 20), forced=never, **settings)
    assert torch.equal(plain, asked)


GREEDY = Sampling(0.0, 1, 60)


def test_a_calculator_writes_the_results_of_a_model_that_calculates_wrongly(calculating_student):
    alone = open_generator(calculating_student, PROMPT, "alone").generate(QUERIES, GREEDY, 0)
    helped = open_generator(calculating_student, CALCULATING, "helped").generate(QUERIES, GREEDY, 0)
    assert [own[0].text for own in alone] == [response(*pair, 99).strip() for pair in SUMS]
    assert all(f"{a} + {b} = {a + b} " in own[0].text for (a, b), own in zip(SUMS, helped, strict=True))


@pytest.mark.parametrize("limit", [60, 12])
def test_the_tokens_of_results_are_not_chosen_and_all_others_are(calculating_student, limit: int):
    generator = open_generator(calculating_student, CALCULATING, "helped")
    batch = generator.sample(QUERIES, Sampling(0.7, 3, limit), seed=0)
    assert not (batch.chosen_mask & ~batch.response_mask).any()
    texts = generator.texts(batch)
    for text, row, chosen, counted in zip(
        texts, batch.response_ids, batch.chosen_mask, batch.response_mask, strict=True
    ):
        written = generator.tokenizer.decode(row[counted & ~chosen])
        assert set(written) <= set("0123456789 ")
        # The first calculation is always one of numbers alone. The student may write a digit behind its result.
        stated = re.search("= ([0-9]*)", text)
        assert (stated is None) == (written == "")
        assert stated is None or stated[1].startswith(written.split()[0])
    assert batch.response_mask.sum() > batch.chosen_mask.sum()


def test_without_a_calculator_all_tokens_are_chosen(calculating_student):
    batch = open_generator(calculating_student, PROMPT, "alone").sample(QUERIES, Sampling(0.7, 3, 60), seed=0)
    assert torch.equal(batch.chosen_mask, batch.response_mask)


def test_the_calculator_of_a_model_is_that_of_its_prompt():
    model = LocalModel(name="m", name_or_path="m", prompt=PROMPT, calculator=CALCULATING.calculator)
    assert model.prompt == CALCULATING
    assert model.prompt.zero_shot().calculator == CALCULATING.calculator


def test_only_a_calculator_that_is_there_is_in_the_fingerprint_of_a_prompt():
    assert "calculator" not in PROMPT.fingerprint()
    assert CALCULATING.fingerprint() == {**PROMPT.fingerprint(), "calculator": CALCULATING.calculator}
    assert dataclasses.replace(CALCULATING, calculator=PROMPT.calculator).fingerprint() == PROMPT.fingerprint()
