"""Open-ended tests (paper D, Table 4): instructions with reference responses, a model and an annotator enter.

The result leaves: the annotator's mean preference for the model's greedy responses over the references, counted as in
AlpacaEval 2. An annotator that compares is asked in both orders, and the mean of both verdicts counts, so that a bias
towards one place cancels. An annotator that grades sees each response by itself; equal grades are a draw. Lengths are
in characters; n: instructions of a test set.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rkd.data.judge_prompts import ComparePrompt
from rkd.evaluation.accuracy import Evaluation, by_category
from rkd.evaluation.alpaca_eval import Annotation, length_controlled_win_rate, win_rate
from rkd.evaluation.annotators import OpenAnnotator
from rkd.evaluation.results import NORMAL_95, EvaluationResult, WinRate
from rkd.judges.endpoint_single_token import EndpointYesNo
from rkd.judges.single_token import LocalYesNo
from rkd.judges.written import Written
from rkd.protocols import TextGenerator
from rkd.records import Query, Response

EVEN = 0.5

Rubric = Callable[[str, str], float]
"""The score of a response to an instruction by the rubric of a generated world."""


def evaluate_open_ended(
    stage: Evaluation,
    generator: TextGenerator,
    queries: Sequence[Query],
    annotator: OpenAnnotator,
    *,
    test_set: str,
    rubric: Rubric | None = None,
) -> EvaluationResult:
    """The result on one test set; the references are the queries' `gold_answer`.

    An empty response is judged like any other; `share_without_answer` is the share of empty responses.

    Raises:
        ValueError: there is no query, or a query has no reference.
    """
    if not queries:
        raise ValueError(f"test set {test_set} has no queries. Evaluate on `Data.test_sets()`.")
    responses = [own[0] for own in generator.generate(queries, stage.greedy, 0)]
    texts = [response.text for response in responses]
    if without := [query.id for query in queries if query.gold_answer is None]:
        raise ValueError(f"test set {test_set}: {len(without)} queries have no reference (first: {without[0]}).")
    references = [_reference(query) for query in queries]
    preferences, of_annotator = (
        _compared(annotator, queries, responses)
        if annotator.is_single_token
        else _graded(annotator, queries, responses)
    )
    annotations = [
        Annotation(_index(query, place), "model", 1 + preference, len(reference), len(text))
        for place, (query, preference, reference, text) in enumerate(
            zip(queries, preferences, references, texts, strict=True)
        )
    ]
    rate, n = win_rate(annotations), len(queries)
    margin = NORMAL_95 * rate.standard_error if n > 1 else 1.0
    return EvaluationResult(
        test_set=test_set,
        n=n,
        correct=sum(preference > EVEN for preference in preferences),
        accuracy=rate.rate,
        interval_low=max(0.0, rate.rate - margin),
        interval_high=min(1.0, rate.rate + margin),
        pass_at_8=None,
        outcomes=preferences,
        answers=[text or None for text in texts],
        question_ids=[query.id for query in queries],
        share_without_answer=sum(not text for text in texts) / n,
        share_truncated=sum(not response.is_finished for response in responses) / n,
        by_category=by_category(queries, preferences),
        responses=texts,
        win_rate=WinRate(
            length_controlled=length_controlled_win_rate(annotations, stage.difficulties()).rate,
            characters=sum(map(len, texts)) / n,
            reference_characters=sum(map(len, references)) / n,
            **of_annotator,
            rubric=None if rubric is None else sum(map(rubric, (q.question for q in queries), texts)) / n,
        ),
    )


def _compared(
    annotator: LocalYesNo | EndpointYesNo, queries: Sequence[Query], responses: Sequence[Response]
) -> tuple[list[float], dict[str, Any]]:
    """The preference for each response, 0.5 if unreadable, and the fields of `WinRate` on the annotator."""
    prompt = annotator.prompt
    assert isinstance(prompt, ComparePrompt)  # `check_annotator` refuses others
    verdicts = [
        annotator.with_prompt(replace(prompt, reference_first=reference_first)).judge(queries, responses)
        for reference_first in (True, False)
    ]
    second, first = (np.array([EVEN if one is None else one for one in own]) for own in verdicts)
    return ((first + second) / 2).tolist(), {
        "first_preferred": float((first + 1 - second).mean() / 2),
        "orders_agree": float(((first > EVEN) == (second > EVEN)).mean()),
        "unreadable": sum(one is None for own in verdicts for one in own),
    }


def _graded(
    annotator: Written, queries: Sequence[Query], responses: Sequence[Response]
) -> tuple[list[float], dict[str, Any]]:
    """As `_compared`, from the grades of both responses; equal grades or an unreadable one give 0.5."""
    references = [replace(own, text=_reference(query)) for query, own in zip(queries, responses, strict=True)]
    graded, of_references = (annotator.judge(queries, texts) for texts in (responses, references))
    preferences = [
        EVEN if own is None or other is None else EVEN + float(np.sign(own - other)) / 2
        for own, other in zip(graded, of_references, strict=True)
    ]
    return preferences, {
        "even": sum(preference == EVEN for preference in preferences) / len(preferences),
        "unreadable": sum(grade is None for own in (graded, of_references) for grade in own),
    }


def _reference(query: Query) -> str:
    assert query.gold_answer is not None  # an open-ended test has references
    return query.gold_answer


def _index(query: Query, place: int) -> int:
    """AlpacaEval's number of an instruction, the end of a stored query's id; without one, its place."""
    number = query.id.rpartition("-")[2]
    return int(number) if number.isdecimal() else place
