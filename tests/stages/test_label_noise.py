"""Labels with mistakes on purpose: how many, which, and that they are wrong."""

import pytest

from rkd.data.answers import answers_match
from rkd.records import Query
from rkd.stages.label_noise import NoisyLabels
from rkd.stages.labels import GoldLabels, MajorityVote
from tests.support.fakes import query, responses, says

VOTE = MajorityVote(threshold=0.5)
QUERIES = [query(f"q{i}") for i in range(1000)]
ALIKE = [responses(one.id, [says(7)] * 4) for one in QUERIES]


def noisy(noise: float, seed: int = 0) -> NoisyLabels:
    return NoisyLabels(labels=VOTE, noise=noise, seed=seed)


def spoilt(noise: float, seed: int = 0) -> dict[str, str]:
    """The labels that are not 7."""
    return {one.query_id: one.answer for one in noisy(noise, seed).label(QUERIES, ALIKE) if one.answer != "7"}


def test_without_noise_the_labels_stay():
    assert noisy(0.0).label(QUERIES, ALIKE) == VOTE.label(QUERIES, ALIKE)


def test_about_so_many_labels_are_wrong_as_the_share_says():
    # Of 1,000 with chance 0.1, 100 with standard deviation 9.5; of 0.4, 400 with 15.5.
    assert len(spoilt(0.1)) == pytest.approx(100, abs=40)
    assert len(spoilt(0.4)) == pytest.approx(400, abs=60)
    assert len(spoilt(1.0)) == 1000


def test_the_wrong_labels_of_a_lower_share_are_among_those_of_a_higher_one():
    assert spoilt(0.05).items() <= spoilt(0.2).items()


def test_the_seed_says_which_labels_are_wrong():
    assert spoilt(0.1) == spoilt(0.1)
    assert spoilt(0.1).keys() != spoilt(0.1, seed=1).keys()


def test_a_querys_label_does_not_depend_on_the_other_queries():
    assert noisy(0.4).label(QUERIES[500:], ALIKE[500:]) == noisy(0.4).label(QUERIES, ALIKE)[500:]


def test_a_wrong_label_is_an_answer_that_another_response_gave():
    own = [responses(one.id, [says(7)] * 4 + [says(12), says("7.0"), "no idea"]) for one in QUERIES]
    assert {label.answer for label in noisy(1.0).label(QUERIES, own)} == {"12"}


def test_where_all_responses_agree_a_wrong_label_is_a_number_near_the_right_one():
    # 7 ± 1, ± 2, + 10; a count does not fall below 0.
    assert set(spoilt(1.0).values()) == {"8", "6", "9", "5", "17"}


@pytest.mark.parametrize("answer", ["0", "-3", "3/4", "1000.5", "$\\sqrt{5}$"])
def test_a_wrong_label_never_matches_the_right_one(answer):
    own = [responses(one.id, [says(answer)] * 4) for one in QUERIES[:50]]
    labels = zip(VOTE.label(QUERIES[:50], own), noisy(1.0).label(QUERIES[:50], own), strict=True)
    assert not any(answers_match(right.answer, wrong.answer, "gsm8k") for right, wrong in labels)


def test_a_wrong_letter_is_another_option_of_the_question():
    asked = [Query(f"q{i}", "mmlu_pro", "Which?\nOptions:\n(A) one\n(B) two\n(C) three") for i in range(100)]
    own = [responses(one.id, ["The answer is B."] * 3) for one in asked]
    assert {label.answer for label in noisy(1.0).label(asked, own)} == {"A", "C"}


def test_a_query_without_label_gets_none_and_consensus_stays():
    undecided = [responses("q0", [says(1), says(2), says(3)])]
    (label,) = noisy(1.0).label(QUERIES[:1], undecided)
    assert label.answer is None
    assert {one.consensus for one in noisy(1.0).label(QUERIES, ALIKE)} == {1.0}


def test_gold_labels_can_be_spoilt_too():
    labels = NoisyLabels(labels=GoldLabels(), noise=1.0)
    assert labels.uses_gold
    assert labels.label([query("q", "4")], [[]])[0].answer != "4"


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"labels\.noise=1\.5: must be in \[0, 1\]"):
        noisy(1.5)
