"""A dry pass (`trainer.fast_dev_run`) reaches every stage: what the models do not give is made up here, and marked.

In: queries and labels. Out: short right and wrong responses to each query. They are never
stored as responses of a model, and the stages that train on them have `fast_dev_run` in their fingerprint.
"""

from collections.abc import Sequence

from rkd.data.answers import is_choice
from rkd.records import PseudoLabel, Query, Response, ScoredResponse

OF_EACH_KIND = 8  # responses: their products are more than any number of pairs per query that a config sets


def made_up_labels(queries: Sequence[Query], labels: Sequence[PseudoLabel]) -> list[PseudoLabel]:
    """The labels, and a made-up one of consensus 0 for each query that has none."""
    return [
        PseudoLabel(query.id, "A" if is_choice(query.dataset) else "1", 0.0) if label.answer is None else label
        for query, label in zip(queries, labels, strict=True)
    ]


def made_up_responses(role: str, queries: Sequence[Query], best_score: float) -> list[list[ScoredResponse]]:
    """Right and wrong responses to each query, in the name of no model; `best_score` is the score of a right one."""
    return [
        [
            ScoredResponse(Response(query.id, f"made up ({role})", index, f"{role} {word} {index}.", True), None, score)
            for word, score in (("right", best_score), ("wrong", 0.0))
            for index in range(OF_EACH_KIND)
        ]
        for query in queries
    ]
