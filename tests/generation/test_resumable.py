"""Sampling in shards: what was finished is not asked for again, and changes nothing."""

import pytest

from rkd.generation.local import open_generator
from rkd.generation.resumable import InShards
from rkd.protocols import Sampling
from rkd.store.partial_results import PartialResults
from tests.support import tiny_world

QUERIES = tiny_world.queries(0, 10)
SAMPLING = Sampling((0.0, 0.7, 0.7), 3, 8)


class Counting:
    """Counts the queries that a generator answers, and stops after so many calls."""

    name = "counted"

    def __init__(self, generator, calls=99):
        self.generator, self.calls, self.asked = generator, calls, []

    def generate(self, queries, sampling, seed):
        if self.calls == 0:
            raise InterruptedError
        self.calls -= 1
        self.asked += [query.id for query in queries]
        return self.generator.generate(queries, sampling, seed)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return open_generator(tiny_world.random_model(tmp_path_factory.mktemp("model")), tiny_world.PROMPT, "random")


def test_shards_change_no_response(generator, tmp_path):
    whole = generator.generate(QUERIES, SAMPLING, seed=1)
    assert InShards(generator, PartialResults(tmp_path), responses_per_shard=9).generate(QUERIES, SAMPLING, 1) == whole


def test_an_interrupted_sampling_goes_on_behind_its_last_shard(generator, tmp_path):
    whole, advance = generator.generate(QUERIES, SAMPLING, seed=1), []
    first, second = Counting(generator, calls=2), Counting(generator)
    with pytest.raises(InterruptedError):
        InShards(first, PartialResults(tmp_path), responses_per_shard=9).generate(QUERIES, SAMPLING, 1)
    resumed = InShards(second, PartialResults(tmp_path), advance.append, responses_per_shard=9).generate(
        QUERIES, SAMPLING, 1
    )
    assert resumed == whole
    assert [len(first.asked), len(second.asked), advance] == [6, 4, [3, 3]]


@pytest.mark.parametrize(("sampling", "seed"), [(SAMPLING, 2), (Sampling(0.7, 3, 8), 1)])
def test_another_seed_or_sampling_finds_no_shard_of_this_one(generator, tmp_path, sampling, seed):
    InShards(generator, PartialResults(tmp_path)).generate(QUERIES, SAMPLING, 1)
    other = Counting(generator)
    assert InShards(other, PartialResults(tmp_path)).generate(QUERIES, sampling, seed) == generator.generate(
        QUERIES, sampling, seed
    )
    assert len(other.asked) == len(QUERIES)


def test_more_samples_than_a_shard_holds_are_drawn_query_by_query(generator, tmp_path):
    own = Counting(generator)
    InShards(own, PartialResults(tmp_path), responses_per_shard=1).generate(QUERIES, SAMPLING, 1)
    assert own.calls == 99 - len(QUERIES)


def test_the_tokens_of_all_samples_count_those_of_an_earlier_attempt_too(generator, tmp_path):
    class Words:
        """A tokenizer whose tokens are words."""

        def __call__(self, texts, **_):
            return {"input_ids": [text.split() for text in texts]}

    whole = generator.generate(QUERIES, SAMPLING, seed=1)
    words = sum(len(response.text.split()) for own in whole for response in own)
    with pytest.raises(InterruptedError):
        InShards(
            Counting(generator, calls=2), PartialResults(tmp_path), responses_per_shard=9, tokenizer=Words()
        ).generate(QUERIES, SAMPLING, 1)
    partial = PartialResults(tmp_path)
    InShards(generator, partial, responses_per_shard=9, tokenizer=Words()).generate(QUERIES, SAMPLING, 1)
    assert partial.tokens == words > 0
