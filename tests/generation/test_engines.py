"""Engines: whatever samples from a model, greedy responses are the same and every query has its samples."""

from dataclasses import replace

import pytest

from rkd.generation.engines import HFEngine, LocalEngine
from rkd.generation.vllm_engine import VLLMEngine
from rkd.models.loading import ModelOptions
from rkd.protocols import Sampling
from rkd.store.fingerprint import as_fingerprint
from tests.support import tiny_world
from tests.support.fakes import query

QUERIES = tiny_world.queries(0, 12)
OPTIONS = ModelOptions(device="cpu")


@pytest.fixture
def model(guessing_student):
    return guessing_student


def opened(engine, model, prompt=tiny_world.PROMPT, advance=lambda _: None):
    return engine.open(model, prompt, "student", advance, OPTIONS)


@pytest.mark.parametrize("batch_responses", [1, 5, 256])
def test_greedy_responses_are_those_of_the_loop(model, batch_responses):
    greedy = Sampling(0.0, 1, 12)
    of_loop = opened(LocalEngine(), model).generate(QUERIES, greedy, 0)
    assert opened(HFEngine(batch_responses=batch_responses), model).generate(QUERIES, greedy, 0) == of_loop


def test_the_size_of_a_batch_of_the_loop_changes_neither_samples_nor_fingerprint(model):
    usual, small = LocalEngine(), LocalEngine(batch_responses=3)
    assert opened(small, model).batch_responses == 3
    sampling = Sampling(1.0, 2, 12)
    assert opened(small, model).generate(QUERIES, sampling, 0) == opened(usual, model).generate(QUERIES, sampling, 0)
    # That of engines without this setting, by which stored responses are found.
    assert as_fingerprint(small) == as_fingerprint(usual) == {"_class_": "LocalEngine"}


def test_each_sample_has_its_own_temperature_and_greedy_ones_are_one_text(model):
    advance = []
    drawn = opened(HFEngine(), model, advance=advance.append).generate(
        QUERIES, Sampling((0.0, 2.0, 0.0, 2.0), 4, 12), 0
    )
    assert advance == [len(QUERIES)]
    assert all([one.sample_index for one in own] == [0, 1, 2, 3] for own in drawn)
    assert all(own[0].text == own[2].text for own in drawn)
    assert any(own[1].text != own[3].text for own in drawn)


def test_the_seed_decides_the_samples_and_torchs_own_generator_stays(model):
    import torch

    sampling = Sampling(1.5, 4, 12)
    before = torch.random.get_rng_state()
    first, same, other = (opened(HFEngine(), model).generate(QUERIES, sampling, seed) for seed in (0, 0, 1))
    assert first == same
    assert first != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_response_ends_where_the_next_question_begins(model):
    prompt = replace(tiny_world.PROMPT, stop="swer")
    of_loop, of_hf = (
        opened(engine, model, prompt).generate(QUERIES, Sampling(0.0, 1, 12), 0)
        for engine in (LocalEngine(), HFEngine())
    )
    assert of_hf == of_loop
    assert all(own[0].is_finished for own in of_hf)


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        (HFEngine, {"batch_responses": 0}, "generation.batch_responses=0"),
        (VLLMEngine, {"gpu_memory_utilization": 1.5}, "gpu_memory_utilization=1.5"),
        (VLLMEngine, {"kv_cache_gb": 0}, "generation.kv_cache_gb=0"),
    ],
)
def test_a_setting_outside_its_range_is_refused(engine, options, words):
    with pytest.raises(ValueError, match=words):
        engine(**options)


def test_a_query_in_place_of_another_changes_nothing_but_itself_in_the_loop(model):
    sampling = Sampling(1.0, 2, 12)
    first = opened(LocalEngine(), model).generate(QUERIES, sampling, 0)
    other = opened(LocalEngine(), model).generate([query("new"), *QUERIES[1:]], sampling, 0)
    assert first[1:] == other[1:]
