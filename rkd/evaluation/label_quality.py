"""The quality of labels and verdicts, for the report only: no training may see these numbers.

Labels or scored responses and the gold answers enter, counts leave (paper D: Table 5, Table 10, Fig. 9).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import spearmanr

from rkd.data.answers import answers_match
from rkd.evaluation.statistics import area_under_curve
from rkd.evaluation.verdict_counts import (
    CONSENSUS_BINS,
    RELIABILITY_BINS,
    GradeStatistics,
    JudgeQuality,
    LabelStatistics,
    ReliabilityBin,
    VerdictCounts,
)
from rkd.records import PseudoLabel, Query, ScoredResponse


def label_statistics(labels: Sequence[PseudoLabel], labelled_queries: Sequence[Query]) -> LabelStatistics:
    """The numbers of labels and of right labels, and the distribution of p* (Table 10).

    Args:
        labelled_queries: the queries with their gold answers, in the order of the labels.

    Raises:
        ValueError: there is no query, a query has no gold answer, or the labels belong to other queries.
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
    """The teacher's verdict on each response, compared with the truth (Table 5; Fig. 9).

    A query without y* has verdicts None, so the four shares of Fig. 9 leave its responses out.

    Args:
        labelled_queries: the queries with their gold answers.
        scored: the responses to each query with the teacher's scores ℓ, in the order of the queries.
        best_score: ℓ*, the score of a right response: 1 for a vote or a yes/no judge, 5 for the rubric.

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


def grade_statistics(
    queries: Sequence[Query],
    scored: Sequence[Sequence[ScoredResponse]],
    highest: int,
    rubric: Callable[[str, str], int] | None = None,
) -> GradeStatistics:
    """The grades of responses, and their agreement with the rubric of a generated world, if there is one.

    Args:
        scored: the responses to each query, in the order of the queries.
        rubric: the score of a response to a question.
    """
    graded = [(q, one) for q, own in zip(queries, scored, strict=True) for one in own if one.score is not None]
    given = np.array([one.score for _, one in graded])
    counts = Counter(given.tolist())
    agreement: dict[str, float | None] = {}
    if rubric is not None and graded:
        true = np.array([rubric(query.question, one.response.text) for query, one in graded])
        varies = len(set(given)) > 1 and len(set(true)) > 1
        agreement = {
            "exact": float((given == true).mean()),
            "within_one": float((np.abs(given - true) <= 1).mean()),
            "rank_correlation": float(spearmanr(given, true).statistic) if varies else None,
            "mean_by_rubric": float(true.mean()),
        }
    return GradeStatistics(
        responses=len(graded),
        unreadable=sum(map(len, scored)) - len(graded),
        mean=float(given.mean()) if graded else None,
        counts={str(grade): counts[grade] for grade in range(highest + 1)},
        **agreement,
    )


def judge_quality(
    labelled_queries: Sequence[Query],
    judged: Sequence[Sequence[ScoredResponse]],
    scores: Sequence[float | None],
    masses: Sequence[float | None],
    attacks: Sequence[tuple[str, float | None]] = (),
    threshold: float = 0.5,
) -> JudgeQuality:
    """A judge's verdicts compared with the truth (Table 5).

    Args:
        judged: the responses to each query, scored by the pseudo-label.
        scores: the judge's score of each response, in one list over all queries; None if it is unreadable.
        masses: P(Yes) + P(No) of each response, in the same order; None for a judge without these tokens.
        attacks: the kind of each attack on the judge, and its score.
        threshold: the judge calls a response right if its score is above this.
    """
    rows = [(query, one) for query, own in zip(labelled_queries, judged, strict=True) for one in own]
    truth = [answers_match(one.answer, query.gold_answer, query.dataset) for query, one in rows]
    in_turn = iter(scores)
    called = [[replace(one, score=_called(next(in_turn), threshold)) for one in own] for own in judged]
    both = [
        (one.score, by_label.score)
        for one, (_, by_label) in zip((one for own in called for one in own), rows, strict=True)
        if one.score is not None and by_label.score is not None
    ]
    read = [(score, is_right) for score, is_right in zip(scores, truth, strict=True) if score is not None]
    has_both = len({is_right for _, is_right in read}) == 2
    of_tokens = [mass for mass in masses if mass is not None]
    tried = Counter(kind for kind, _ in attacks)
    accepted: dict[str, list[bool]] = defaultdict(list)
    for kind, score in attacks:
        if score is not None:
            accepted[kind].append(score > threshold)
    return JudgeQuality(
        verdicts=verdict_counts(labelled_queries, called),
        area_under_curve=area_under_curve(*map(torch.tensor, zip(*read, strict=True))) if has_both else None,
        mean_yes_no_mass=sum(of_tokens) / len(of_tokens) if of_tokens else None,
        reliability=_reliability(read),
        agreement_with_label=sum(a == b for a, b in both) / len(both) if both else None,
        attacked_queries=max(tried.values(), default=0),
        attacks_accepted={kind: sum(own) / len(own) for kind, own in accepted.items()},
    )


def _called(score: float | None, threshold: float) -> float | None:
    return None if score is None else float(score > threshold)


def _reliability(read: Sequence[tuple[float, bool]]) -> dict[str, ReliabilityBin]:
    """The bins of a reliability diagram; `read` holds each score and whether its response is right."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(RELIABILITY_BINS)]
    for score, is_right in read:
        bins[min(int(score * RELIABILITY_BINS), RELIABILITY_BINS - 1)].append((score, is_right))
    return {
        str(place): ReliabilityBin(len(own), *(sum(column) / len(own) for column in zip(*own, strict=True)))
        if own
        else ReliabilityBin(0, None, None)
        for place, own in enumerate(bins)
    }


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
