"""Both sides of appendix A's bound, worked by hand; and that it holds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rkd.evaluation.reward_bound import sides

REWARDS = st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), min_size=1, max_size=20)


def test_both_sides_of_a_handful_of_responses():
    found = sides(
        true_before=torch.tensor([1.0, 0.0, 0.0, 1.0]),
        proxy_before=torch.tensor([0.75, 0.25, 0.0, 1.0]),
        true_after=torch.tensor([1.0, 1.0, 0.0, 1.0]),
        proxy_after=torch.tensor([1.0, 0.5, 0.5, 1.0]),
    )
    assert found.true_gain == pytest.approx(0.25)
    assert found.proxy_gain == pytest.approx(0.25)
    assert found.by_mean_error == pytest.approx(0.25 - 0.125 - 0.25)
    assert found.by_largest_error == pytest.approx(0.25 - 2 * 0.5)


@given(REWARDS)
def test_the_true_gain_is_at_least_what_the_errors_promise(rewards):
    found = sides(*torch.tensor(rewards).unbind(1))
    assert found.true_gain >= found.by_mean_error - 1e-5
    assert found.by_mean_error >= found.by_largest_error - 1e-5
