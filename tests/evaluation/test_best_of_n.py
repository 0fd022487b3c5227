"""Answering test queries: greedily, or with the best of n samples."""

import pytest
import torch

from rkd.evaluation.accuracy import Evaluation
from rkd.evaluation.best_of_n import AsAsked, BestOfN
from rkd.protocols import Rewards, Sampling
from tests.support.fakes import ScriptedGenerator, query, says

QUERIES = [query("a", "1"), query("b", "2")]
GREEDY = Sampling(0.0, 1, 64)


def longest(_, responses) -> Rewards:
    """A reward model that likes long responses."""
    total = torch.tensor([float(len(response.text)) for response in responses])
    return Rewards(total, {"length": total})


def generator() -> ScriptedGenerator:
    sampled = {"a": [says(3), says(1, "long"), says(4, "long")], "b": [says(2, "longest"), says(5), says(6)]}
    return ScriptedGenerator(greedy={"a": says(9), "b": says(9)}, sampled=sampled)


def test_the_response_with_the_highest_reward_is_the_answer_and_the_first_of_equal_ones():
    drawn = generator()
    answered = BestOfN(samples_per_query=3).over(drawn, lambda: longest).generate(QUERIES, GREEDY, seed=4)
    assert [[one.text for one in own] for own in answered] == [[says(1, "long")], [says(2, "longest")]]
    assert drawn.asked == [(["a", "b"], Sampling(0.7, 3, 64), 4)]


def test_the_best_of_n_is_tested_as_one_response():
    best = BestOfN(samples_per_query=3).over(generator(), lambda: longest)
    stage = Evaluation(max_response_tokens=64, pass_at_k_samples=0)
    assert stage.evaluate(best, QUERIES, 0, test_set="test").outcomes == [True, True]
    assert stage.evaluate(generator(), QUERIES, 0, test_set="test").outcomes == [False, False]


def test_greedy_answers_ask_no_reward_model():
    def no_reward():
        raise AssertionError

    assert AsAsked().over(drawn := generator(), no_reward) is drawn
    assert AsAsked().drawn(GREEDY) == GREEDY


@pytest.mark.parametrize("wrong", [{"samples_per_query": 1}, {"samples_per_query": 4, "temperature": 0.0}])
def test_samples_that_cannot_differ_are_refused(wrong):
    with pytest.raises(ValueError, match=r"inference\.samples_per_query=.*the best of n needs at least 2 samples"):
        BestOfN(**wrong)
