"""Rewards of the controls: the student's vote, its confidence, coins, and labels corrected for noise."""

import dataclasses

import pytest
import torch

from rkd.protocols import Rewards
from rkd.records import Response
from rkd.rl.control_rewards import (
    Coin,
    CoinReward,
    Confidence,
    ConfidenceReward,
    CorrectedReward,
    NoiseCorrected,
    StudentVote,
    vote_reward,
)
from rkd.rl.noise_rates import NoiseRates
from rkd.rl.reward_mix import RewardInputs, RewardMix
from rkd.rl.rewards import RolloutReward, Sampled, WeightedReward, in_rollout
from tests.support.fakes import query, responses, says
from tests.support.tiny_rl import QUERIES, STAGE, collect, fit, module, says_two

INPUTS = RewardInputs({"q": "8"}, None, None, None, noise=NoiseRates(0.1, 0.3))
FOUR = responses("q", [says(8), says(9), says("8.0"), "I do not know"])


def mix(source) -> RewardMix:
    return RewardMix(lambda_=1.0, mu=0.0, rho=0.0, verifiable=source)


def test_the_answer_that_most_responses_to_a_query_state_is_rewarded():
    assert vote_reward([query("q")] * 4, FOUR).total.tolist() == [1, 0, 1, 0]


def test_each_query_has_a_vote_of_its_own():
    asked = [query(name) for name in "aaabbb"]
    texts = [*responses("a", [says(1), says(2), says(2)]), *responses("b", [says(1), says(1), says(2)])]
    assert vote_reward(asked, texts).total.tolist() == [0, 1, 1, 1, 1, 0]


def test_a_tied_vote_rewards_the_earliest_answer_and_no_answer_is_no_vote():
    tied = responses("q", ["I do not know", "I do not know", says(9), says(8)])
    assert vote_reward([query("q")] * 4, tied).total.tolist() == [0, 0, 1, 0]
    assert vote_reward([query("q")] * 2, tied[:2]).total.tolist() == [0, 0]


def test_the_vote_reads_no_label():
    (term,) = mix(StudentVote()).terms(dataclasses.replace(INPUTS, labels=None), {"all": [query("q")]})
    assert term.reward([query("q")] * 4, FOUR).total.tolist() == [1, 0, 1, 0]


def test_the_corrected_verdict_worked_by_hand():
    reward = NoiseCorrected().build(INPUTS)([query("q")] * 4, FOUR)
    # (1 − 0.1) / (1 − 0.1 − 0.3) = 1.5, (0 − 0.1) / 0.6 = −1/6.
    assert reward.total.tolist() == pytest.approx([1.5, -1 / 6, 1.5, -1 / 6])
    assert reward.components["verifiable"].tolist() == [1, 0, 1, 0]


def test_the_corrected_verdict_is_1_for_right_and_0_for_wrong_responses_on_average():
    noise = NoiseRates(0.2, 0.4)
    verdicts = torch.tensor([1.0, 0.0])
    reward = CorrectedReward(lambda *_: Rewards(verdicts, {}), noise)
    confirmed, rejected = reward([query("q")] * 2, FOUR[:2]).total.tolist()
    assert 0.6 * confirmed + 0.4 * rejected == pytest.approx(1)  # of a right response, ρ1 = 0.4 are rejected
    assert 0.2 * confirmed + 0.8 * rejected == pytest.approx(0)  # of a wrong one, ρ0 = 0.2 are confirmed


def of_rollout(seed: int, count: int, name: str = "q") -> list[float]:
    texts = [Response(name, "m", index, "the same", True) for index in range(count)]
    return CoinReward(0.5, seed)([query(name)] * count, texts).total.tolist()


def test_a_coin_is_fair_and_independent_of_text_rollout_and_query():
    tosses = torch.tensor([of_rollout(seed, 50, name) for seed in range(20) for name in "ab"]).flatten()
    assert tosses.unique().tolist() == [0, 1]
    assert float(tosses.mean()) == pytest.approx(0.5, abs=0.034)  # 3 standard errors of 2,000 tosses
    assert of_rollout(0, 50) != of_rollout(1, 50)
    assert of_rollout(0, 50, "a") != of_rollout(0, 50, "b")


def test_a_coin_is_the_same_however_the_rollout_is_shared_out():
    assert of_rollout(3, 8)[:4] == of_rollout(3, 4)


def test_a_coin_has_the_seed_of_its_rollout():
    sampled = Sampled(responses=[], policy=None, batch=None, prompts_per_pass=1, seed=7)
    assert in_rollout(CoinReward(0.25), sampled) == CoinReward(0.25, seed=7)


def test_a_coin_has_its_probability():
    texts = [Response("q", "m", index, "", True) for index in range(2000)]
    tosses = CoinReward(0.9)([query("q")] * 2000, texts).total
    assert float(tosses.mean()) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1])
def test_a_coin_that_always_falls_the_same_way_is_refused(probability):
    with pytest.raises(ValueError, match=r"reward_mix\.verifiable\.probability=.*above 0 and below 1"):
        Coin(probability=probability)


@pytest.mark.parametrize("source", [StudentVote, Confidence, Coin, NoiseCorrected])
def test_a_stream_that_there_is_not_is_refused(source):
    with pytest.raises(ValueError, match=r"reward_mix\.verifiable\.queries=some: choose one of"):
        source(queries="some")


def test_a_corrected_label_needs_labels():
    with pytest.raises(ValueError, match=r"queries=unlabelled: .*labels, which such queries lack"):
        NoiseCorrected(queries="unlabelled")


def test_the_confidence_of_a_response_is_that_of_its_own_tokens(student):
    own = module(student, reward=ConfidenceReward())
    rollout = collect(own)
    batch, policy = rollout.batch, own.policy
    for row in range(0, len(rollout.responses), 5):
        prompt = batch.prompt_ids[row // 4][batch.prompt_mask[row // 4]]
        response = batch.response_ids[row][batch.response_mask[row]]
        logits = policy.lm(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        uniform = torch.full_like(logits, 1 / logits.shape[1])
        by_token = (uniform * (uniform.log() - logits.log_softmax(-1))).sum(1).detach()
        assert float(rollout.rewards.total[row]) == pytest.approx(float(by_token.mean()), rel=1e-4)
    assert rollout.rewards.components["confidence"].equal(rollout.rewards.total)
    assert len(rollout.rewards.total.unique()) > 1


def test_a_weighted_reward_binds_its_parts_to_the_rollout(student):
    own = module(student, reward=ConfidenceReward())
    alone = collect(own).rewards.total
    ids = frozenset(query.id for query in QUERIES[:4])
    parts = {"confidence": (0.5, ConfidenceReward(), ids), "two": (0.5, says_two, ids)}
    mixed = collect(module(student, reward=WeightedReward(parts))).rewards
    assert mixed.components["confidence"][:16].equal(alone[:16])
    assert mixed.components["confidence"][16:].tolist() == [0.0] * 16


def test_a_reward_of_texts_alone_is_left_as_it_is():
    assert in_rollout(vote_reward, None) is vote_reward
    assert not isinstance(vote_reward, RolloutReward)


class Killed(BaseException):
    """What stands for the end of the process; nothing may catch it."""


class Dying:
    """A reward whose process ends after some rollouts."""

    def __init__(self, reward, rollouts: int) -> None:
        self.reward, self.left = reward, iter(range(rollouts))

    def in_rollout(self, sampled):
        if next(self.left, None) is None:
            raise Killed
        return self.reward.in_rollout(sampled)

    def __call__(self, *_):
        raise AssertionError("the reward is bound to each rollout first")


@pytest.mark.parametrize("reward", [CoinReward(0.5), ConfidenceReward()], ids=["coin", "confidence"])
def test_a_training_that_is_killed_after_each_rollout_gets_the_same_rewards(student, tmp_path, reward):
    def attempt(name: str, rollouts: int) -> None:
        fit(STAGE, student, tmp_path / name, reward=Dying(reward, rollouts), seconds=0)

    attempt("whole", 3)
    for _ in range(2):
        with pytest.raises(Killed):
            attempt("killed", 1)
    attempt("killed", 1)
    for file in ("model.safetensors", "history.jsonl", "samples.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
