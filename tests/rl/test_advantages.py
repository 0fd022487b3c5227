"""Advantages: recursions worked by hand, and what must not matter."""

from math import nan, sqrt

import pytest
import torch
from torch import Tensor

from rkd.rl.advantages import GAE, RLOO, AdvantageEstimator, GroupRelative, PerToken, ReinforcePlusPlus

OF_RESPONSES = [
    GAE(),
    GAE(whiten=False),
    GroupRelative(2),
    GroupRelative(2, scale_by_std=False),
    RLOO(2),
    ReinforcePlusPlus(),
]
ESTIMATORS = [*OF_RESPONSES, PerToken()]


def mask(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype))


def test_gae_follows_its_recursion():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.5, 0.5]])
    advantages, returns = GAE(discount=1.0, gae_lambda=0.5, whiten=False)(rewards, values, mask([1, 1, 1]))
    # δ = (0, 0, ½); A_2 = ½, A_1 = ½ · ½, A_0 = ½ · ¼; R = A + ½.
    close(advantages, [[0.125, 0.25, 0.5]])
    close(returns, [[0.625, 0.75, 1.0]])


def test_gae_discounts_each_token():
    rewards, values = torch.tensor([[1.0, 0.0, 4.0]]), torch.zeros(1, 3)
    _, returns = GAE(discount=0.5, gae_lambda=1.0, whiten=False)(rewards, values, mask([1, 1, 1]))
    close(returns, [[2.0, 2.0, 4.0]])  # 1 + 4/4, 4/2, 4


def test_full_traces_make_the_returns_the_reward_to_go_whatever_the_values():
    rewards = torch.tensor([[1.0, 2.0, 3.0]])
    for values in torch.tensor([[[0.0, 0.0, 0.0]], [[5.0, -3.0, 0.7]]]):
        advantages, returns = GAE(gae_lambda=1.0, whiten=False)(rewards, values, mask([1, 1, 1]))
        close(returns, [[6.0, 5.0, 3.0]])
        close(advantages, returns - values)


def test_no_trace_makes_the_advantage_the_one_step_error():
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 4.0]])
    advantages, _ = GAE(discount=0.5, gae_lambda=0.0, whiten=False)(rewards, values, mask([1, 1]))
    close(advantages, [[2.5, -2.0]])  # 1 + ½ · 4 − ½;  2 + 0 − 4


def test_nothing_is_bootstrapped_after_the_last_response_token():
    rewards, values = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 100.0]])
    advantages, returns = GAE(gae_lambda=1.0, whiten=False)(rewards, values, mask([1, 1, 0]))
    close(advantages, [[1.0, 1.0, 0.0]])
    close(returns, [[1.0, 1.0, 0.0]])


def test_an_unselected_token_inside_a_response_is_stepped_over():
    estimator = GAE(discount=0.9, gae_lambda=0.8, whiten=False)
    with_gap = estimator(torch.tensor([[1.0, 7.0, 2.0]]), torch.tensor([[0.3, 9.0, 0.4]]), mask([1, 0, 1]))
    without = estimator(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.3, 0.4]]), mask([1, 1]))
    for gap, bare in zip(with_gap, without, strict=True):
        close(gap[:, [0, 2]], bare)
        close(gap[:, 1], [0.0])


def test_whitening_touches_the_advantages_and_not_the_returns():
    rewards, values, selected = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1), mask([1], [1])
    advantages, returns = GAE(whiten=True)(rewards, values, selected)
    close(advantages, [[-1 / sqrt(2)], [1 / sqrt(2)]])  # mean 2, variance 2 over n − 1 = 1
    close(returns, [[1.0], [3.0]])


def test_gae_without_values_says_what_to_do():
    with pytest.raises(ValueError, match="GAE needs values: give the policy a value head"):
        GAE()(torch.zeros(2, 3), None, torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize("wrong", [{"discount": 1.1}, {"gae_lambda": -0.1}])
def test_gae_refuses_factors_outside_the_unit_interval(wrong):
    with pytest.raises(ValueError, match=r"must both be in \[0, 1\]"):
        GAE(**wrong)


def test_group_advantage_is_the_distance_to_the_groups_mean_in_its_deviations():
    rewards = torch.tensor([[0.0, 0.0], [0.25, 0.75], [5.0, 0.0], [3.0, 0.0]])
    selected = mask([1, 1], [1, 1], [1, 0], [1, 0])
    advantages, returns = GroupRelative(group_size=2)(rewards, None, selected)
    # Rewards (0, 1): mean ½, deviation √((¼ + ¼) / 1) = √½. Rewards (5, 3): mean 4, deviation √2.
    low, high = 0.5 / (sqrt(0.5) + 1e-4), 1 / (sqrt(2) + 1e-4)
    close(advantages, [[-low, -low], [low, low], [high, 0.0], [-high, 0.0]])
    close(returns, [[0.0, 0.0], [1.0, 1.0], [5.0, 0.0], [3.0, 0.0]])


def test_group_advantage_can_keep_the_scale_of_the_reward():
    rewards = torch.tensor([[0.0], [1.0], [5.0], [3.0]])
    advantages, _ = GroupRelative(2, scale_by_std=False)(rewards, None, torch.ones(4, 1, dtype=torch.bool))
    close(advantages, [[-0.5], [0.5], [1.0], [-1.0]])


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_equal_rewards_give_zero_advantage(scale_by_std):
    rewards = torch.full((8, 1), 0.7)
    advantages, _ = GroupRelative(4, scale_by_std)(rewards, None, torch.ones(8, 1, dtype=torch.bool))
    close(advantages, torch.zeros(8, 1))


def test_another_querys_rewards_do_not_matter():
    selected = torch.ones(4, 1, dtype=torch.bool)
    alone, _ = GroupRelative(2)(torch.tensor([[0.0], [1.0], [0.0], [0.0]]), None, selected)
    beside, _ = GroupRelative(2)(torch.tensor([[0.0], [1.0], [9.0], [-9.0]]), None, selected)
    close(alone[:2], beside[:2])


@pytest.mark.parametrize("estimator", [GroupRelative, RLOO])
def test_responses_that_do_not_fill_groups_are_refused(estimator):
    with pytest.raises(ValueError, match="6 responses do not divide into groups of group_size=4"):
        estimator(4)(torch.zeros(6, 2), None, torch.ones(6, 2, dtype=torch.bool))


@pytest.mark.parametrize("estimator", [GroupRelative, RLOO])
def test_a_group_of_one_is_refused(estimator):
    with pytest.raises(ValueError, match="group_size=1: a group of one has no baseline"):
        estimator(1)


def test_leave_one_out_subtracts_the_mean_reward_of_the_other_responses():
    rewards = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.5, 5.5]])
    advantages, returns = RLOO(group_size=3)(rewards, None, mask([1, 1], [1, 0], [1, 1]))
    # Rewards 1, 2, 6: 1 − (2 + 6)/2, 2 − (1 + 6)/2, 6 − (1 + 2)/2.
    close(advantages, [[-3.0, -3.0], [-1.5, 0.0], [4.5, 4.5]])
    close(returns, [[1.0, 1.0], [2.0, 0.0], [6.0, 6.0]])


def test_leave_one_out_is_the_distance_to_the_groups_mean_times_g_over_g_less_1():
    rewards, selected = torch.tensor([[1.0], [2.0], [6.0], [-4.0]]), torch.ones(4, 1, dtype=torch.bool)
    own, _ = RLOO(4)(rewards, None, selected)
    to_mean, _ = GroupRelative(4, scale_by_std=False)(rewards, None, selected)
    close(own, to_mean * 4 / 3)


def test_reinforce_plus_plus_whitens_the_rewards_to_go_over_the_rollout():
    rewards = torch.tensor([[1.0, 2.0], [0.0, 7.0]])
    advantages, returns = ReinforcePlusPlus()(rewards, None, mask([1, 1], [1, 0]))
    # Rewards to go 3, 2 and 0, the 7 being padding: mean 5/3, variance ((4/3)² + (1/3)² + (5/3)²) / 2 = 7/3.
    close(returns, [[3.0, 2.0], [0.0, 0.0]])
    close(advantages, torch.tensor([[4.0, 1.0], [-5.0, 0.0]]) / 3 / sqrt(7 / 3))


def test_reinforce_plus_plus_is_gae_with_full_traces_and_no_values():
    rewards, selected = torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 9.0]]), mask([1, 1, 1], [1, 1, 0])
    own, _ = ReinforcePlusPlus()(rewards, None, selected)
    close(own, GAE(gae_lambda=1.0)(rewards, torch.zeros(2, 3), selected)[0])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_padding_changes_nothing(estimator: AdvantageEstimator):
    rewards, values = torch.tensor([[0.0, 1.0], [0.5, 0.0]]), torch.tensor([[0.2, 0.1], [0.4, 0.3]])
    selected = mask([1, 1], [1, 0])
    junk = torch.full((2, 3), nan)
    padded = estimator(
        torch.cat([rewards, junk], 1),
        torch.cat([values, junk], 1),
        torch.cat([selected, torch.zeros_like(junk) > 0], 1),
    )
    left_padded = estimator(
        torch.cat([junk, rewards], 1),
        torch.cat([junk, values], 1),
        torch.cat([torch.zeros_like(junk) > 0, selected], 1),
    )
    for bare, right, left in zip(estimator(rewards, values, selected), padded, left_padded, strict=True):
        close(right[:, :2], bare)
        close(left[:, 3:], bare)
        assert (right[:, 2:] == 0).all()
        assert (left[:, :3] == 0).all()


@pytest.mark.parametrize("estimator", OF_RESPONSES)
def test_a_better_response_gets_the_higher_advantage(estimator: AdvantageEstimator):
    rewards = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    advantages, _ = estimator(rewards, torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    assert (advantages[0] > 0).all()
    assert (advantages[1] < 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_advantages_and_returns_carry_no_gradient(estimator: AdvantageEstimator):
    values = torch.zeros(2, 2, requires_grad=True)
    rewards = torch.ones(2, 2, requires_grad=True)
    results = estimator(rewards, values, torch.ones(2, 2, dtype=torch.bool))
    assert not any(result.requires_grad for result in results)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_mask_of_another_shape_is_refused(estimator: AdvantageEstimator):
    with pytest.raises(ValueError, match=r"token_rewards \(2, 3\).*response_mask \(2, 2\)"):
        estimator(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool))


def test_only_gae_needs_a_value_head():
    assert GAE.needs_values
    assert not any(estimator.needs_values for estimator in (GroupRelative, RLOO, ReinforcePlusPlus))


def test_per_token_the_reward_of_a_token_is_its_advantage_whatever_follows():
    rewards = torch.tensor([[-0.5, 2.0, 7.0], [1.0, nan, 3.0]])
    advantages, returns = PerToken()(rewards, None, mask([1, 1, 0], [1, 0, 1]))
    close(advantages, [[-0.5, 2.0, 0.0], [1.0, 0.0, 3.0]])
    close(returns, advantages)
