"""How near test questions are to training questions: texts enter, the overlap with the nearest neighbour leaves.

The overlap of a test question with a training question is the share of its distinct word trigrams that the training
question has too. Names and numbers count as words. At 1 the training question has every trigram.

A near duplicate is a test question that has half of its trigrams in common with one training question when all numbers
count as the same word. So a problem is found whose numbers alone were changed, as SVAMP changed ASDiv's.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rkd.evaluation.results import Overlap

NEAR = 0.5  # an overlap with masked numbers; from here on two questions mostly tell one story
MASK = "0"

_NUMBER = re.compile(r"\$?\d+(?:,\d{3})*(?:\.\d+)?")
_WORD = re.compile(r"\$?\d+(?:\.\d+)?|\w+|[^\w\s]")


def nearest_overlap(questions: Sequence[str], training_questions: Sequence[str]) -> list[float]:
    """The largest overlap of each question with a training question, in [0, 1]; 0 without training questions."""
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, question in enumerate(training_questions):
        for trigram in _trigrams(question):
            holders[trigram].append(index)
    indices = {trigram: np.asarray(own) for trigram, own in holders.items()}
    overlaps = []
    for question in questions:
        trigrams = _trigrams(question)
        found = [indices[trigram] for trigram in trigrams if trigram in indices]
        shared = int(np.bincount(np.concatenate(found)).max()) if found else 0
        overlaps.append(shared / len(trigrams))
    return overlaps


def summarize_overlap(questions: Sequence[str], training_questions: Sequence[str]) -> Overlap:
    """A summary of `nearest_overlap` in four numbers, and the places of the near duplicates.

    Raises:
        ValueError: there is no question.
    """
    if not questions:
        raise ValueError("the overlap of no question at all has no mean: give at least one test question.")
    overlaps = nearest_overlap(questions, training_questions)
    known = {_words(question) for question in training_questions}
    return Overlap(
        questions=len(questions),
        mean=float(np.mean(overlaps)),
        percentile_95=float(np.percentile(overlaps, 95)),
        exact_duplicates=sum(_words(question) in known for question in questions),
        near_duplicate_places=_near_duplicates(questions, training_questions),
    )


def _near_duplicates(questions: Sequence[str], training_questions: Sequence[str]) -> list[int]:
    """The places of the test questions whose story a training question tells, whatever the numbers in it."""
    masked = [[_NUMBER.sub(MASK, text) for text in texts] for texts in (questions, training_questions)]
    return [place for place, overlap in enumerate(nearest_overlap(*masked)) if overlap >= NEAR]


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text))


def _trigrams(text: str) -> set[tuple[str, ...]]:
    """The word trigrams of a text; a text of fewer than three words counts as one trigram."""
    words = _words(text)
    return {words[start : start + 3] for start in range(max(1, len(words) - 2))}
