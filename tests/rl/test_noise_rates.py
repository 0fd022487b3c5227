"""The rates at which labels mislead, estimated from votes, worked by hand."""

import pytest

from rkd.errors import LabelNoiseError
from rkd.records import PseudoLabel
from rkd.rl.noise_rates import NoiseRates, estimated_noise


def rates(*consensus: float) -> NoiseRates:
    """The rates of labels with these shares of votes."""
    return estimated_noise([PseudoLabel(f"q{place}", "8", share) for place, share in enumerate(consensus)])


def test_labels_mislead_as_often_as_votes_are_against_them():
    found = rates(0.75, 1.0, 0.875)
    assert (found.false_positive, found.false_negative) == (0.125, 0.125)  # 1 − (0.75 + 1 + 0.875) / 3
    assert found.margin == 0.75


def test_unanimous_votes_correct_nothing():
    found = rates(1.0, 1.0)
    assert (found.false_positive, found.false_negative, found.margin) == (0, 0, 1)


@pytest.mark.parametrize("consensus", [0.5, 0.54])
def test_labels_that_say_too_little_are_refused(consensus):
    with pytest.raises(LabelNoiseError, match=r"1 − ρ0 − ρ1 = 0\.0.* reject .*Raise labels\.threshold"):
        rates(consensus)


def test_the_smallest_margin_is_a_tenth():
    assert NoiseRates(0.375, 0.5).margin == 0.125
    with pytest.raises(LabelNoiseError, match=r"1 − ρ0 − ρ1 = 0\.06"):
        NoiseRates(0.4375, 0.5)
