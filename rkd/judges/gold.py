"""A judge that knows the gold answers, for comparisons only: it shows the gain of a mix whose judge never errs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from rkd.data.answers import answers_match, extract_answer
from rkd.data.datasets import Data
from rkd.judges.base import ConfiguredJudge, Verdict
from rkd.records import Query, Response, digest_of


@dataclass(frozen=True, kw_only=True)
class GoldJudge(ConfiguredJudge):
    """1 for a response with the gold answer, 0 for any other one; see `rkd.judges.base.ConfiguredJudge`.

    Args:
        dataset: has the queries of the judged responses. Its source must have the answers of the unlabelled ones too.
    """

    asks_model: ClassVar[bool] = False
    without_model: ClassVar[str] = "gold: it knows the answers, nothing is asked"

    name: str
    dataset: Data

    def content(self) -> dict[str, Any]:
        """What decides its verdicts.

        Raises:
            ValueError: a query has no gold answer.
        """
        return {"gold": digest_of(self._queries)}

    def open(self, advance: Callable[[int], None] = lambda _: None) -> "GoldJudge":
        """Itself: there is no model to load."""
        del advance
        return self

    def judge(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[float | None]:
        """See `rkd.protocols.Judge`."""
        return [verdict.score for verdict in self.verdicts(queries, responses)]

    def verdicts(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[Verdict]:
        """The verdict on each response; `queries[i]` is the query of `responses[i]`."""
        return [
            Verdict(float(answers_match(extract_answer(r.text, q.dataset), self._gold[q.question], q.dataset)))
            for q, r in zip(queries, responses, strict=True)
        ]

    @cached_property
    def _gold(self) -> dict[str, str]:
        golds = ((query.question, query.gold_answer) for query in self._queries)
        return {question: gold for question, gold in golds if gold is not None}  # no gold is None, see `_queries`

    @cached_property
    def _queries(self) -> list[Query]:
        data = self.dataset
        queries = [
            *data.training_queries(labelled=True),
            *data.unlabelled_queries(labelled=True),
            *data.validation_queries(labelled=True),
        ]
        unknown = sum(query.gold_answer is None for query in queries)
        if unknown:
            raise ValueError(
                f"judge=gold needs the gold answer of every query, and {unknown} of dataset={data.name} have none. "
                "Take a judge that reads the response, `python run.py judge=mini_judge`, or another dataset."
            )
        return queries
