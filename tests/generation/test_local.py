"""Local generators: the order of responses, seeds, batches, ends, and the digest of a model."""

import copy
import dataclasses
import os

import pytest
import torch
from transformers import (
    PreTrainedTokenizerBase,
)

from rkd.generation.local import LocalGenerator, LocalModel, open_generator
from rkd.models import cpu_workers as side_by_side
from rkd.protocols import Sampling
from tests.support import tiny_models, tiny_world
from tests.support.fakes import query
from tests.support.float64_models import llama
from tests.support.tiny_models import PROMPT


def generator(tokenizer: PreTrainedTokenizerBase, **options: object) -> LocalGenerator:
    settings = {"prompt": PROMPT, **options}
    return LocalGenerator("tiny", llama(vocabulary=len(tokenizer)), tokenizer, **settings)


QUERIES = [query("a long question, longer than all others"), query("q"), query("three words here"), query("two words")]
SAMPLING = Sampling(temperature=1.0, samples_per_query=3, max_response_tokens=12)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_few_queries_are_two_batches_on_however_many_cores(tokenizer: PreTrainedTokenizerBase, cores: int):
    done: list[int] = []
    with side_by_side.cores(cores, small_models=True):
        generator(tokenizer, advance=done.append).generate(QUERIES, SAMPLING, 0)
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


@pytest.mark.parametrize("responses", [1, 6, 100])
def test_a_rollout_is_the_same_in_one_batch_and_in_several(tokenizer, responses):
    sampling = Sampling(1.0, 3, 12)
    whole = generator(tokenizer, batch_responses=1000).sample(QUERIES, sampling, seed=0)
    parts = generator(tokenizer, batch_responses=responses).sample(QUERIES, sampling, seed=0)
    assert torch.equal(parts.response_ids, whole.response_ids)
    assert torch.equal(parts.response_mask, whole.response_mask)
    assert torch.equal(parts.prompt_ids, whole.prompt_ids)


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


def test_a_policy_in_mixed_precision_samples_as_its_weights_in_the_lower_one(tokenizer):
    model = tiny_models.llama(vocab_size=len(tokenizer), hidden=32).eval()
    with torch.autocast("cpu", torch.bfloat16):
        sampled = LocalGenerator("tiny", model, tokenizer, PROMPT).sample(QUERIES, SAMPLING, seed=0)
    low = copy.deepcopy(model).bfloat16()
    expected = LocalGenerator("tiny", low, tokenizer, PROMPT).sample(QUERIES, SAMPLING, seed=0)
    assert torch.equal(sampled.response_ids, expected.response_ids)
    assert model.dtype == torch.float32
