"""Pairs in tokens and the metrics of a ranking, worked by hand."""

import pytest
import torch

from rkd.records import PreferencePair, Query, Response, ScoredResponse
from rkd.stages.preference_batches import TokenizedPair, collate_pairs, kinds, ranking_metrics, tokenize_pairs
from tests.support.tiny_models import PROMPT


def side(generator: str, text: str, score: float) -> ScoredResponse:
    return ScoredResponse(Response("q", generator, 0, text, True), None, score)


def pair(chosen: tuple[str, str, float], rejected: tuple[str, str, float], number: int = 0) -> TokenizedPair:
    """A pair of (generator, text, score) each; its tokens do not matter."""
    own = PreferencePair(Query("q", "mini", "What?"), side(*chosen), side(*rejected))
    return TokenizedPair(number, own, [1], [2], [3], (chosen[2] == 1.0, rejected[2] == 1.0))


TEACHER, OTHER, RIGHT, WRONG, WORSE = (
    ("teacher", "t", 1.0), ("teacher", "u", 1.0), ("student", "a", 1.0), ("student", "b", 0.0), ("student", "c", 0.0)
)  # fmt: skip
PAIRS = [
    pair(RIGHT, WRONG), pair(RIGHT, WORSE), pair(TEACHER, WRONG), pair(TEACHER, RIGHT), pair(OTHER, RIGHT),
]  # fmt: skip
REWARDS = torch.tensor([[2.0, 0.5], [2.0, -1.0], [-0.5, 0.5], [-0.5, 2.0], [2.0, 2.0]])


def test_a_pair_is_of_each_kind_that_it_belongs_to():
    assert kinds(PAIRS) == {
        "pair_accuracy": [True] * 5,
        "right_over_wrong_accuracy": [True, True, True, False, False],
        "pos_neg_accuracy": [False, False, True, False, False],
        "student_pos_neg_accuracy": [True, True, False, False, False],
        "pos_pos_accuracy": [False, False, False, True, True],
    }


def test_each_kind_has_its_accuracy_and_a_tie_is_ranked_wrong():
    metrics = ranking_metrics(PAIRS, REWARDS)
    assert metrics["pair_accuracy"] == 2 / 5
    assert metrics["right_over_wrong_accuracy"] == 2 / 3
    assert (metrics["pos_neg_accuracy"], metrics["student_pos_neg_accuracy"]) == (0.0, 1.0)
    assert metrics["pos_pos_accuracy"] == 0.0


def test_each_response_is_classified_once_however_many_pairs_it_is_in():
    # Right: a 2, t −0.5, u 2. Wrong: b 0.5, c −1. σ(R) is above ½ where R is above 0: a, u and c are classified right.
    metrics = ranking_metrics(PAIRS, REWARDS)
    assert metrics["classification_accuracy"] == pytest.approx(3 / 5)
    # Of 3 × 2 comparisons, t against b is the one lost.
    assert metrics["auc"] == pytest.approx(5 / 6)


def test_without_pairs_there_is_nothing_to_measure():
    assert ranking_metrics([], torch.empty(0, 2)) == {}
    assert "auc" not in ranking_metrics(PAIRS[3:], REWARDS[3:])  # no wrong response


def test_a_pair_at_the_length_limit_is_kept_and_a_longer_one_dropped(tokenizer):
    own = PreferencePair(Query("q", "mini", "What is two?"), side("s", "4 4 4", 1.0), side("s", "5", 0.0))
    (whole,), dropped = tokenize_pairs(tokenizer, PROMPT, [own], 10_000)
    assert dropped == 0
    assert len(whole.chosen) > len(whole.rejected)
    longest = len(whole.prompt) + len(whole.chosen)
    assert tokenize_pairs(tokenizer, PROMPT, [own], longest) == ([whole], 0)
    assert tokenize_pairs(tokenizer, PROMPT, [own, own], longest - 1) == ([], 2)


def test_kept_pairs_are_numbered_without_gaps(tokenizer):
    pairs = [
        PreferencePair(Query("q", "mini", "What?"), side("s", text, 1.0), side("s", "5", 0.0))
        for text in ("4", "4 " * 50, "6")
    ]
    kept, dropped = tokenize_pairs(tokenizer, PROMPT, pairs, 40)
    assert ([one.number for one in kept], dropped) == ([0, 1], 1)
    assert [one.pair for one in kept] == [pairs[0], pairs[2]]


def test_the_highest_score_decides_what_is_right(tokenizer):
    graded = PreferencePair(Query("q", "mini", "What?"), side("s", "4", 5.0), side("s", "5", 4.0))
    (kept,), _ = tokenize_pairs(tokenizer, PROMPT, [graded], 10_000, highest_score=5.0)
    assert kept.is_correct == (True, False)


def test_a_batch_holds_chosen_before_rejected(tokenizer):
    pairs = [
        PreferencePair(Query("q", "mini", "What?"), side("s", good, 1.0), side("s", bad, 0.0))
        for good, bad in (("4", "5"), ("6", "A A"))
    ]
    kept, _ = tokenize_pairs(tokenizer, PROMPT, pairs, 10_000)
    batch = collate_pairs(kept)
    rows = [
        ids[mask].tolist()
        for ids, mask in zip(batch.responses.response_ids, batch.responses.response_mask, strict=True)
    ]
    assert rows == [kept[0].chosen, kept[0].rejected, kept[1].chosen, kept[1].rejected]
    assert batch.is_correct.tolist() == [True, False, True, False]
    assert batch.numbers.tolist() == [0, 1]
    part = batch.select_prompts(torch.tensor([1]))
    assert (part.is_correct.tolist(), part.numbers.tolist(), part.prompt_count) == ([True, False], [1], 1)
