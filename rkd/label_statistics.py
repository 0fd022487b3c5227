"""How good labels and verdicts are, for the report alone: nothing that trains may see what is made here.

Labels, or scored responses, and the gold answers enter; counts leave (paper D: Table 5, Table 10, Fig. 9).
"""

import dataclasses
from collections.abc import Sequence

import torch

from rkd.answers import answers_match
from rkd.pairs import area_under_curve
from rkd.records import PseudoLabel, Query, ScoredResponse
from rkd.results import CONSENSUS_BINS, JudgeQuality, LabelStatistics, VerdictCounts


def label_statistics(labels: Sequence[PseudoLabel], labelled_queries: Sequence[Query]) -> LabelStatistics:
    """How many queries have a label, how many labels are right, and how p* is spread (Table 10).

    Args:
        labelled_queries: the queries with their gold answers, in the order of the labels.

    Raises:
        ValueError: there is no query, one has no gold answer, or the labels belong to other queries.
    """
    if not labelled_queries:
        raise ValueError("label statistics of no queries: pass the labelled copies of the training queries.")
    _check(labelled_queries, [label.query_id for label in labels])
    given = [(label, query) for label, query in zip(labels, labelled_queries, strict=True) if label.answer is not None]
    histogram = [0] * CONSENSUS_BINS
    for label in labels:
        histogram[min(int(label.consensus * CONSENSUS_BINS), CONSENSUS_BINS - 1)] += 1
    return LabelStatistics(
        queries=len(labels),
        labelled=len(given),
        right=sum(answers_match(label.answer, query.gold_answer, query.dataset) for label, query in given),
        consensus_histogram=histogram,
    )


def verdict_counts(
    labelled_queries: Sequence[Query], scored: Sequence[Sequence[ScoredResponse]], *, best_score: float = 1.0
) -> VerdictCounts:
    """The teacher's verdicts on responses against the truth, response by response (Table 5; Fig. 9).

    A query without y* has verdicts None, so its responses are in none of the four shares of Fig. 9.

    Args:
        labelled_queries: the queries with their gold answers.
        scored: the responses to each query with the teacher's scores ℓ, in the order of the queries.
        best_score: ℓ*, which calls a response right: 1 of a vote or a yes/no judge, 5 of the rubric.

    Raises:
        ValueError: a query has no gold answer, or the responses belong to other queries.
    """
    named = [own[0].response.query_id if own else query.id for query, own in zip(labelled_queries, scored, strict=True)]
    _check(labelled_queries, named)
    counts = {(called, truth): 0 for called in (True, False) for truth in (True, False)}
    without = 0
    for query, own in zip(labelled_queries, scored, strict=True):
        for one in own:
            if one.score is None:
                without += 1
            else:
                counts[one.score == best_score, answers_match(one.answer, query.gold_answer, query.dataset)] += 1
    return VerdictCounts(
        right_called_right=counts[True, True],
        wrong_called_right=counts[True, False],
        right_called_wrong=counts[False, True],
        wrong_called_wrong=counts[False, False],
        without_verdict=without,
    )


def judge_quality(
    labelled_queries: Sequence[Query],
    judged: Sequence[Sequence[ScoredResponse]],
    scores: Sequence[float],
    masses: Sequence[float],
) -> JudgeQuality:
    """A single-token judge's verdicts against the truth (Table 5); above 0.5 it calls a response right.

    Args:
        judged: the responses to each query; their own scores do not matter.
        scores, masses: P(Yes) / (P(Yes) + P(No)) of each response, all queries' in one row, and P(Yes) + P(No).
    """
    in_turn = iter(scores)
    called = [[dataclasses.replace(one, score=float(next(in_turn) > 0.5)) for one in own] for own in judged]
    truth = [
        answers_match(one.answer, query.gold_answer, query.dataset)
        for query, own in zip(labelled_queries, judged, strict=True)
        for one in own
    ]
    return JudgeQuality(
        verdicts=verdict_counts(labelled_queries, called),
        area_under_curve=area_under_curve(torch.tensor(scores), torch.tensor(truth)) if len(set(truth)) == 2 else None,
        mean_yes_no_mass=sum(masses) / len(masses),
    )


def _check(queries: Sequence[Query], ids: Sequence[str]) -> None:
    without = [query.id for query in queries if query.gold_answer is None]
    if without:
        raise ValueError(
            f"label statistics need gold answers: {len(without)} of {len(queries)} queries have none "
            f"(first: {without[0]}). Pass the labelled copies of the training queries."
        )
    expected = [query.id for query in queries]
    if expected != list(ids):
        place = next((at for at, (a, b) in enumerate(zip(expected, ids, strict=False)) if a != b), len(ids))
        raise ValueError(f"labels and queries part at place {place}: statistics need them in the same order.")
