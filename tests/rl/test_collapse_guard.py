"""The guard: a healthy training goes on, each sign of collapse ends one, and a single bad rollout does not."""

import re

import pytest

from rkd.rl.collapse_guard import Guard

GUARD = Guard(max_kl=10.0, min_length_share=0.5, max_repetition=0.3, max_accuracy_loss=0.05, rollouts=2)
HEALTHY = {"reward": 0.5, "kl": 1.0, "response_tokens": 40.0, "repetition": 0.05}


def history(*rollouts, accuracies=()):
    """Three healthy rollouts, then these; the accuracies behind the first ones."""
    rows = [HEALTHY] * 3 + [{**HEALTHY, **row} for row in rollouts]
    return [*({"validation_accuracy": one} for one in accuracies), *rows]


def test_a_healthy_training_goes_on():
    assert GUARD.reason(history({}, {}, {})) is None


@pytest.mark.parametrize(
    ("sign", "said"),
    [
        ({"kl": 11.0}, r"rl\.guard\.max_kl=10 nats in 2 rollouts in a row"),
        ({"response_tokens": 19.0}, r"fewer than rl\.guard\.min_length_share=0\.5 of the 40 tokens"),
        ({"repetition": 0.4}, r"repeated more than rl\.guard\.max_repetition=0\.3"),
    ],
)
def test_each_sign_ends_it_when_it_lasts(sign, said):
    assert GUARD.reason(history(sign, {})) is None
    assert GUARD.reason(history({}, sign)) is None
    reason = GUARD.reason(history(sign, sign))
    assert reason is not None
    assert re.search(said, reason)


@pytest.mark.parametrize("at_bound", [{"kl": 10.0}, {"response_tokens": 20.0}, {"repetition": 0.3}])
def test_a_value_at_its_bound_is_within_it(at_bound):
    assert GUARD.reason(history(at_bound, at_bound)) is None


def test_a_bound_that_is_none_is_not_looked_at():
    sign = {"kl": 1000.0, "response_tokens": 1.0, "repetition": 1.0, "reward": 2.0}
    assert Guard(rollouts=2).reason(history(sign, sign, accuracies=[0.9, 0.1, 0.1])) is None


def test_a_reward_that_rises_while_accuracy_falls_ends_it():
    better = {"reward": 0.9}
    reason = GUARD.reason(history(better, better, accuracies=[0.6, 0.5, 0.5]))
    assert "fell from 60.0% to 50.0%" in reason


@pytest.mark.parametrize(
    ("reward", "accuracies"),
    [
        (0.3, [0.6, 0.5, 0.5]),  # the reward falls with it: no gaming
        (0.5, [0.6, 0.5, 0.5]),  # it stays
        (0.9, [0.6, 0.57, 0.56]),  # within the bound
        (0.9, [0.6, 0.5, 0.58]),  # one validation alone
        (0.9, [0.6, 0.5]),  # too early to say
    ],
)
def test_what_is_no_gaming(reward, accuracies):
    row = {"reward": reward}
    assert GUARD.reason(history(row, row, accuracies=accuracies)) is None


def test_nothing_is_said_before_there_is_something_to_compare():
    assert GUARD.reason([{**HEALTHY, "kl": 100.0}] * 4) is None


def test_a_bound_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"rl\.guard\.min_length_share=1\.5"):
        Guard(min_length_share=1.5)
