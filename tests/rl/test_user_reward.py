"""A user's reward function: what it may return, and the message for everything else."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from rkd.errors import RewardFunctionError
from rkd.rl.user_reward import user_rewards
from tests.support.fakes import query, responses

FLOAT32_MAX = 3.4028234663852886e38


def user_function(values):
    """A function of a user that gives these values."""

    def score(*_):
        return values

    return score


@pytest.mark.parametrize(
    "values",
    [
        [0.5, -1],
        (0.5, -1),
        torch.tensor([0.5, -1.0], dtype=torch.bfloat16),
        torch.tensor([0.5, -1.0], requires_grad=True),
        np.array([0.5, -1.0], dtype=np.float64),
        [np.float32(0.5), np.int64(-1)],
        [torch.tensor(0.5), torch.tensor(-1)],
        [Fraction(1, 2), Decimal("-1")],
    ],
    ids=lambda values: type(values).__name__,
)
def test_a_users_function_may_return_its_numbers_in_any_sequence(values):
    rewards = user_rewards(user_function(values), [query("1")] * 2, responses("1", ["a", "b"]))
    assert rewards.tolist() == [0.5, -1.0]
    assert rewards.dtype == torch.float32
    assert not rewards.requires_grad


def test_a_users_function_may_be_a_generator():
    def score(_, responses):
        for response in responses:
            yield len(response.text)

    assert user_rewards(score, [query("1")] * 2, responses("1", ["a", "bcd"])).tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (None, "None"),
        ("0.5", "'0.5'"),
        ([0.5], r"\[0.5\]"),
        (1j, "1j"),
        (2 * FLOAT32_MAX, "6.8"),
        (10**400, "1000"),
        (torch.tensor(math.nan), r"tensor\(nan\)"),
    ],
)
def test_a_reward_that_is_no_finite_number_is_named_with_its_function_and_response(value, said):
    with pytest.raises(RewardFunctionError, match=rf"user_function.*score returned {said}.* for response 'wrong one'"):
        user_rewards(user_function([0.5, value]), [query("1")] * 2, responses("1", ["right", "wrong one"]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0], "1 values for 2 responses"),
        ([1.0, 2.0, 3.0], "3 values for 2 responses"),
        ([], "0 values for 2 responses"),
        (None, "None for 2 responses"),
        (0.5, "0.5 for 2 responses"),
        ("ab", "'ab' for 2 responses"),
        ({"a": 1.0, "b": 2.0}, "{'a': 1.0, 'b': 2.0} for 2 responses"),
        ({1.0, 2.0}, "{1.0, 2.0} for 2 responses"),
        (torch.tensor(0.5), "tensor(0.5000) for 2 responses"),
    ],
)
def test_anything_but_one_value_per_response_is_refused_with_what_was_returned(values, said):
    with pytest.raises(RewardFunctionError, match=f"score returned {re.escape(said)}, the first of which is .*'right'"):
        user_rewards(user_function(values), [query("1")] * 2, responses("1", ["right", "wrong"]))


def test_an_exception_of_a_users_function_names_the_response_that_causes_it():
    def score(_, responses):
        return [1 / len(response.text) for response in responses]

    said = r"score raised ZeroDivisionError: division by zero \(.*test_user_reward.py, line \d+\), for response ''"
    with pytest.raises(RewardFunctionError, match=said):
        user_rewards(score, [query("1")] * 2, responses("1", ["a", ""]))


def test_an_exception_that_no_single_response_causes_says_so():
    def score(_, responses):
        return [1.0 / (3 - len(responses))] * len(responses)

    with pytest.raises(RewardFunctionError, match="for 3 responses together, but for none of them alone"):
        user_rewards(score, [query("1")] * 3, responses("1", ["a", "b", "c"]))


def test_a_function_that_takes_other_arguments_is_named():
    with pytest.raises(RewardFunctionError, match=r"raised TypeError: .*takes 0 positional arguments"):
        user_rewards(lambda: [1.0], [query("1")], responses("1", ["a"]))


def test_a_long_response_is_cut_in_the_message():
    with pytest.raises(RewardFunctionError) as error:
        user_rewards(user_function([None]), [query("1")], responses("1", ["x" * 100_000]))
    assert "… (100,002 characters)" in str(error.value)  # with its quotes
    assert len(str(error.value)) < 1000
