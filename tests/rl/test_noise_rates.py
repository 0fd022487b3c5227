"""The rates at which labels mislead, estimated from votes, worked by hand."""

import pytest

from rkd.errors import LabelNoiseError
from rkd.records import PseudoLabel, ScoredResponse
from rkd.rl.noise_rates import NoiseRates, estimated_noise
from tests.support.fakes import query, responses, says


def scored(query_id: str, label: str, *answers: str | None) -> list[ScoredResponse]:
    texts = ["I do not know" if answer is None else says(answer) for answer in answers]
    return [
        ScoredResponse(response, answer, float(answer == label))
        for response, answer in zip(responses(query_id, texts), answers, strict=True)
    ]


def rates(*of_queries: tuple[str, float, list[str | None]]) -> NoiseRates:
    """The rates of queries, each with its label, its consensus and the teacher's answers."""
    ids = [f"q{place}" for place in range(len(of_queries))]
    labels = [PseudoLabel(name, label, consensus) for name, (label, consensus, _) in zip(ids, of_queries, strict=True)]
    given = [scored(name, label, *answers) for name, (label, _, answers) in zip(ids, of_queries, strict=True)]
    return estimated_noise([query(name) for name in ids], labels, given)


def test_labels_are_as_often_wrong_as_votes_are_against_them_and_wrong_answers_agree_as_those_do():
    found = rates(
        ("8", 0.7, ["8"] * 7 + ["9", "9.0", "5"]),  # of three pairs against the label, one agrees
        ("3", 0.9, ["3"] * 9 + ["4"]),  # no pair
        ("2", 0.8, ["2"] * 8 + ["1", None]),  # no answer is no answer against the label
    )
    assert found.false_negative == pytest.approx(0.2)  # 1 − (0.7 + 0.9 + 0.8) / 3
    assert found.false_positive == pytest.approx(0.2 / 3)
    assert found.margin == pytest.approx(1 - 0.2 - 0.2 / 3)


def test_without_pairs_against_the_label_wrong_answers_are_taken_to_agree():
    found = rates(("8", 1.0, ["8"] * 4), ("3", 0.75, ["3"] * 3 + ["4"]))
    assert (found.false_positive, found.false_negative) == (0.125, 0.125)


def test_unanimous_votes_correct_nothing():
    found = rates(("8", 1.0, ["8"] * 4))
    assert (found.false_positive, found.false_negative, found.margin) == (0, 0, 1)


@pytest.mark.parametrize("consensus", [0.5, 0.54])
def test_labels_that_say_too_little_are_refused(consensus):
    with pytest.raises(LabelNoiseError, match=r"1 − ρ0 − ρ1 = 0\.0.* reject .*Raise labels\.threshold"):
        rates(("8", consensus, ["8", "9"]))


def test_the_smallest_margin_is_a_tenth():
    assert NoiseRates(0.375, 0.5).margin == 0.125
    with pytest.raises(LabelNoiseError, match=r"1 − ρ0 − ρ1 = 0\.06"):
        NoiseRates(0.4375, 0.5)
