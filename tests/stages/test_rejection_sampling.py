"""Rejection sampling: what a round asks, and what is accepted."""

import dataclasses

import pytest

from rkd.records import Response
from rkd.stages.rejection_sampling import RejectionSampling, Rounds
from rkd.stages.sft import SFT
from tests.support.fakes import ScriptedGenerator, query

QUERIES = [query(f"q{place}") for place in range(10)]
ROUNDS = Rounds(rounds=2, episodes=24, responses_per_query=3, max_response_tokens=16, temperature=0.7)
STAGE = RejectionSampling(
    rollouts=ROUNDS, training=SFT(learning_rate=1e-3, epochs=2, batch_size=4, max_tokens=64), threshold=0.5
)


def test_the_rounds_share_the_episodes():
    asked = [ROUNDS.asked(QUERIES, 0, place) for place in range(2)]
    # 24 episodes in 2 rounds of 3 responses to a query: 4 queries in each.
    assert [len(own) for own in asked] == [4, 4]
    assert len({one.id for one in asked[0]}) == 4
    assert ROUNDS.sampling(4).samples_per_query == 3


def test_too_few_queries_are_answered_more_often():
    assert len(ROUNDS.asked(QUERIES[:2], 0, 0)) == 2
    assert ROUNDS.sampling(2).samples_per_query == 6  # 12 episodes of a round


def test_a_dry_pass_asks_one_query_in_one_round():
    tried = ROUNDS.tried()
    assert (tried.rounds, len(tried.asked(QUERIES, 0, 0)), tried.sampling(1).samples_per_query) == (1, 1, 3)


def test_the_queries_of_a_round_depend_on_seed_and_round_alone():
    first = ROUNDS.asked(QUERIES, 0, 0)
    assert ROUNDS.asked(QUERIES, 0, 0) == first
    assert [ROUNDS.asked(QUERIES, *other) == first for other in ((1, 0), (0, 1))] == [False, False]


def test_a_round_samples_each_query_as_often():
    generator = ScriptedGenerator(sampled={one.id: ["a", "b"] for one in QUERIES})
    drawn = ROUNDS.sample(generator, QUERIES[:4], seed=5)
    assert [len(own) for own in drawn] == [3] * 4
    ((_, sampling, seed),) = generator.asked
    assert (sampling.temperatures, sampling.max_response_tokens, seed) == ((0.7, 0.7, 0.7), 16, 5)


def test_whole_responses_above_the_threshold_are_accepted():
    texts = [("right", True), ("near", True), ("cut", False), ("", True)]
    pairs = [
        (QUERIES[0], Response("q0", "student", place, text, is_finished))
        for place, (text, is_finished) in enumerate(texts)
    ]
    assert STAGE.accepted(pairs, [1.0, 0.5, 1.0, 1.0]) == [(QUERIES[0], "right")]


@pytest.mark.parametrize(
    ("settings", "said"), [({"rounds": 0}, "rounds=0: must be at least 1"), ({"rounds": 9}, "fewer than 9 rounds")]
)
def test_impossible_rounds_are_refused_with_their_key(settings, said):
    with pytest.raises(ValueError, match=rf"^rl\.rollouts.*{said}"):
        dataclasses.replace(ROUNDS, **settings)
