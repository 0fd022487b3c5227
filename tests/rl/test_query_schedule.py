"""The query schedule: which queries each rollout asks, and in what order."""

from collections import Counter

import pytest

from rkd.rl.query_schedule import queries_of_rollouts
from rkd.rl.settings import Rollouts
from tests.support.tiny_rl import QUERIES, STAGE, changed, term


def test_episodes_are_rounded_up_to_whole_rollouts():
    # 96 are three rollouts of 32; with one more there is a fourth.
    assert STAGE.rollouts.count == 3
    more = changed(STAGE, episodes=97).rollouts
    assert more.count == 4
    assert len(queries_of_rollouts([term()], more, seed=0)) == 4


def test_rollouts_ask_every_query_before_any_is_repeated():
    rollouts = Rollouts(episodes=40, queries_per_rollout=4, responses_per_query=1, max_response_tokens=4)
    asked = [query.id for (queries,) in queries_of_rollouts([term()], rollouts, seed=0) for query in queries]
    assert len(asked) == 40
    # 16 queries: two whole passes, in two orders, and half a third one.
    passes = [asked[:16], asked[16:32], asked[32:]]
    assert set(passes[0]) == set(passes[1]) == {query.id for query in QUERIES}
    assert passes[0] != passes[1]
    assert set(Counter(passes[2]).values()) == {1}


def test_the_seed_decides_the_order_of_the_queries():
    orders = [queries_of_rollouts([term()], STAGE.rollouts, seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_queries_of_a_rollout_are_shared_out_to_the_terms():
    terms = [term("a", 0.5, QUERIES[:8]), term("b", 0.25, QUERIES[8:]), term("c", 0.25, QUERIES[8:])]
    first, *_ = rollouts = queries_of_rollouts(terms, STAGE.rollouts, seed=0)
    assert len(rollouts) == STAGE.rollouts.count
    assert [len(own) for own in first] == [3, 3, 2]
    orders = [[query.id for own in rollouts for query in own[place]] for place in (1, 2)]
    assert orders[0][: len(orders[1])] != orders[1]  # the same queries, in an order of their own
    assert all(query in QUERIES[:8] for own, *_ in rollouts for query in own)
    # Two processes share out each term's queries.
    assert [len(own) for own in queries_of_rollouts(terms, STAGE.rollouts, 0, processes=2)[0]] == [4, 2, 2]


def test_a_term_without_queries_is_refused():
    with pytest.raises(ValueError, match="the term 'two' of the loss has no queries"):
        term(queries=[])
