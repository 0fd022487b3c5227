"""The nearest-neighbour overlap of test questions with training questions."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rkd.evaluation.contamination import nearest_overlap, summarize_overlap
from rkd.evaluation.results import EvaluationResult, Overlap
from rkd.mini.math import generate_split
from rkd.pipeline.evaluate import Evaluating
from rkd.records import Query, digest_of


def evaluation_result(outcomes):
    n, correct = len(outcomes), sum(outcomes)
    return EvaluationResult("sums", n, correct, correct / n, 0, 1, None, outcomes, ["1"] * n, list("abcd"), 0.0, 0.0)


def test_share_of_trigrams_with_the_nearest_question_is_as_counted_by_hand():
    # "Ada has 3 red pens" has the trigrams (Ada has 3), (has 3 red), (3 red pens). The first training question has
    # the first two of them, the second one the last: not added up, 2 of 3 is the largest.
    assert nearest_overlap(["Ada has 3 red pens"], ["Ada has 3 red cups", "Bo sees 3 red pens"]) == [
        pytest.approx(2 / 3)
    ]


def test_other_numbers_and_names_are_other_words():
    assert nearest_overlap(["Ada has 3"], ["Ada has 4", "Bo has 3"]) == [0.0]


def test_decimal_is_one_word():
    # (costs $2.5 now): "$2.5" must not be read as "$2", ".", "5".
    assert nearest_overlap(["costs $2.5 now"], ["costs $2 . 5 now"]) == [0.0]


def test_repeated_trigram_counts_once():
    # Trigrams (a b a), (b a b): both are in the training text, once or more.
    assert nearest_overlap(["a b a b a b"], ["a b a b"]) == [1.0]


def test_no_training_question_overlaps_with_nothing():
    assert nearest_overlap(["Ada has 3 pens"], []) == [0.0]
    assert nearest_overlap([], ["Ada has 3 pens"]) == []


def test_short_and_empty_questions_have_an_overlap():
    assert nearest_overlap(["Why?", "", "How?"], ["Why?", ""]) == [1.0, 1.0, 0.0]


def test_summary_states_mean_percentile_and_duplicates():
    summary = summarize_overlap(["a b c", "a b d", "x y z"], ["a b c", "q r s"])
    # Overlaps 1, 0, 0; 95th percentile between the two largest of three: 0 + (1 - 0) · 0.9.
    assert summary.mean == pytest.approx(1 / 3)
    assert summary.percentile_95 == pytest.approx(0.9)
    assert summary.exact_duplicates == 1
    assert "1 of 3 questions" in str(summary)


def test_a_story_with_other_numbers_is_a_near_duplicate_and_one_with_half_as_many_trigrams_is_not():
    # "Ada has 3 red pens" has three trigrams. With numbers masked the first question has all of them in training, the
    # second two of three, the third one of three. $2 and 1,200 are one masked word each.
    training = ["Ada has 7 red pens", "Bo pays 5 now"]
    asked = ["Ada has 1,200 red pens", "Ada has 3 red cups", "Ada had 3 red pens now", "Bo pays $2.50 now"]
    summary = summarize_overlap(asked, training)
    assert summary.near_duplicate_places == [0, 1, 3]
    assert summary.near_duplicates == 3
    assert "3 tell the story of one" in str(summary)


def test_accuracy_without_near_duplicates_is_over_the_other_questions():
    test = evaluation_result([True, True, False, False])
    overlap = Overlap(4, 0.5, 0.5, 0, near_duplicate_places=[0, 2])
    assert overlap.accuracy_without_near_duplicates(test) == 0.5  # places 1 and 3
    assert replace(overlap, near_duplicate_places=[0, 1, 2, 3]).accuracy_without_near_duplicates(test) is None
    assert replace(overlap, near_duplicate_places=None).accuracy_without_near_duplicates(test) is None


def test_summary_of_no_question_is_refused():
    with pytest.raises(ValueError, match="at least one test question"):
        summarize_overlap([], ["a b c"])


def test_unseen_families_overlap_less_than_the_test_split():
    training = [problem.question for problem in generate_split("train", 300, 0)]
    seen, unseen = (
        summarize_overlap([p.question for p in generate_split(split, 60, 0)], training) for split in ("test", "unseen")
    )
    assert unseen.mean < seen.mean / 2


def test_thousand_by_six_thousand_questions_take_seconds():
    training = [problem.question for problem in generate_split("train", 6000, 0)]
    questions = [problem.question for problem in generate_split("test", 1000, 0)]
    start = time.perf_counter()
    nearest_overlap(questions, training)
    assert time.perf_counter() - start < 10


class Dataset:
    """One labelled training question, perhaps one without a label, and a test set that asks the latter."""

    def __init__(self, *, has_unlabelled):
        self.unlabelled = [Query("u", "sums", "Bo sees 4 cups")] if has_unlabelled else []

    def training_queries(self):
        return [Query("t", "sums", "Ada has 3 pens")]

    def unlabelled_queries(self):
        return self.unlabelled

    def test_sets(self):
        return {"sums": [Query("q", "sums", "Bo sees 4 cups")]}


class NoStore:
    """A runner that keeps nothing but the fingerprint of what it was last asked for."""

    def value(self, name, fingerprint, make, *, shown):  # noqa: ARG002
        self.fingerprint = fingerprint
        return make(None)

    def say(self, text):
        pass


@pytest.mark.parametrize(("has_unlabelled", "duplicates"), [(False, 0), (True, 1)])
def test_test_questions_among_the_unlabelled_ones_are_found(has_unlabelled, duplicates):
    dataset, runner = Dataset(has_unlabelled=has_unlabelled), NoStore()
    overlap = Evaluating(SimpleNamespace(dataset=dataset), runner, None).overlaps()["sums"]
    assert (overlap.questions, overlap.exact_duplicates, overlap.mean) == (1, duplicates, duplicates)
    # Where all have a label, the fingerprint is that of the training queries alone: what was measured before is reused.
    assert (runner.fingerprint["training"] == digest_of(dataset.training_queries())) is not has_unlabelled
