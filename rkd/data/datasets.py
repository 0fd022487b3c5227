"""Datasets: labelled queries enter, those of training, validation and test leave (paper D, section 4.1).

A training query carries no gold answer unless the row trains with labels. Paper J trains on unlabelled queries as well:
training queries left without a label, and an augmentation, which is questions of another source without their answers.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from rkd.config import NOT_NEGATIVE, check_ranges
from rkd.data.jsonl import question_key
from rkd.data.prompts import PromptTemplate
from rkd.data.sources import HUB, QuerySource
from rkd.records import Query

LIMITS = (
    "max_response_tokens",
    "max_tokens",
    "max_training_queries",
    "max_unlabelled_queries",
    "max_validation_queries",
    "max_test_queries",
)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The queries of one row of a table: training with and without labels, validation and test.

    Args:
        name: the dataset as a table's column names it.
        training: divided into training and validation queries, unless `validation` is given.
        validation: the validation queries of a dataset that has such a split.
        tests: by the name of each test set, in the order of the report.
        prompt: the prompt for models that have no prompt of their own; None if all models have one.
        max_response_tokens: longest response, in all stages that refer to it.
        max_tokens: longest prompt + response, in the stages that train on examples.
        is_verifiable: whether its questions have answers that can be compared; instructions have none.
        rubric: scores a response to a question of a generated world without such answers; for reports only.
        source: where stored rows come from (`hub` or a folder); the parts refer to it.
        test_fraction: share of the training rows, in (0, 1), that becomes a further test set with the dataset's name.
            `split_seed` draws it, the same share from each category. None: no further test set.
        validation_fraction: share of the training rows, in (0, 1), that becomes validation.
        split_seed: draws that share, and the subsets below; it is no part of a run's seed, so all seeds share them.
        max_training_queries: at most so many, a random subset in the rows' order; None takes all.
        labelled_fraction: share of the training queries, in (0, 1], that get a label: the teacher's vote, or the gold
            answer. `split_seed` draws it, a smaller share within every larger one. The others stay unlabelled.
        unlabelled: the augmentation: questions that are unlabelled even if the source has their answers.
        max_unlabelled_queries: at most so many of both kinds together, drawn as above.
        transductive: unlabelled questions may be test questions too; a table that says so differs from all others
            (docs/method.md 5.20).
    """

    name: str
    training: QuerySource
    tests: Mapping[str, QuerySource]
    validation: QuerySource | None = None
    prompt: PromptTemplate | None = None
    max_response_tokens: int = 512
    max_tokens: int = 512
    is_verifiable: bool = True
    rubric: Callable[[str, str], int] | None = None
    source: str = HUB
    test_fraction: float | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    labelled_fraction: float = 1.0
    unlabelled: QuerySource | None = None
    transductive: bool = False
    max_training_queries: int | None = None
    max_unlabelled_queries: int | None = None
    max_validation_queries: int | None = None
    max_test_queries: int | None = None

    def __post_init__(self) -> None:
        for which in ("validation_fraction", "test_fraction"):
            fraction = getattr(self, which)
            if fraction is not None and not 0 < fraction < 1:
                raise ValueError(f"dataset.{which}={fraction}: must be between 0 and 1.")
        if not 0 < self.labelled_fraction <= 1:
            raise ValueError(
                f"dataset.labelled_fraction={self.labelled_fraction}: must be above 0 and at most 1, since the warm-up "
                "learns from the labelled queries. For a reward without labels take `reward_mix=yon`."
            )
        check_ranges("dataset", self, {"split_seed": NOT_NEGATIVE})
        for which in LIMITS:
            limit = getattr(self, which)
            if limit is not None and limit < 1:
                raise ValueError(f"dataset.{which}={limit}: must be at least 1, or null where that means no limit.")

    @property
    def is_labelled_throughout(self) -> bool:
        """Whether every training query has a label, and no unlabelled query is added."""
        return self.unlabelled is None and self.labelled_fraction == 1

    def training_queries(self, *, labelled: bool = False) -> list[Query]:
        """The training queries that get a label; without gold answers unless `labelled`."""
        return _labelled(self._training.labelled, labelled)

    def unlabelled_queries(self, *, labelled: bool = False) -> list[Query]:
        """The training queries without a label, then the augmentation; without gold answers unless `labelled`.

        Questions that occurred before, or that training, validation or test queries ask, are left out.

        Raises:
            ValueError: two of the queries to train on have one id.
        """
        return _labelled(_subset(self._unlabelled.queries, self.max_unlabelled_queries, self.split_seed), labelled)

    def validation_queries(self, *, labelled: bool = False) -> list[Query]:
        """The queries to choose checkpoints by; without gold answers unless `labelled`."""
        return _labelled(_subset(self._split.validation, self.max_validation_queries, self.split_seed), labelled)

    def test_sets(self) -> dict[str, list[Query]]:
        """The queries of each test set, with gold answers; repeated questions stay, as in the published sets."""
        tests = self._whole_tests()
        return {name: _subset(queries, self.max_test_queries, self.split_seed) for name, queries in tests.items()}

    def ids(self) -> dict[str, Any]:
        """The ids of the queries in each split, which are published with a result; `unlabelled` if there are any."""
        unlabelled = [query.id for query in self.unlabelled_queries()]
        return {
            "training": [query.id for query in self.training_queries()],
            **({"unlabelled": unlabelled} if unlabelled else {}),
            "validation": [query.id for query in self.validation_queries()],
            "tests": {name: [query.id for query in queries] for name, queries in self.test_sets().items()},
        }

    @property
    def repeated_questions(self) -> int:
        """How many training rows were dropped because their question had occurred before."""
        return self._split.repeated

    @property
    def dropped_unlabelled(self) -> dict[str, int]:
        """How many unlabelled queries were dropped: training, validation or test questions, and repeated ones."""
        return dict(self._unlabelled.dropped)

    def _whole_tests(self) -> dict[str, list[Query]]:
        drawn = {self.name: self._split.test} if self.test_fraction is not None else {}
        return {name: test.queries() for name, test in self.tests.items()} | drawn

    @cached_property
    def _training(self) -> "_Training":
        queries = _subset(self._split.training, self.max_training_queries, self.split_seed)
        # A random stream of its own: the validation queries have 0, a test set 1.
        labelled = _subset(queries, max(1, round(self.labelled_fraction * len(queries))), [self.split_seed, 2])
        ids = {query.id for query in labelled}
        return _Training(labelled, [query for query in queries if query.id not in ids])

    @cached_property
    def _unlabelled(self) -> "_Unlabelled":
        labelled, rest = self._training.labelled, self._training.rest
        candidates = [*rest, *(self.unlabelled.queries() if self.unlabelled is not None else [])]
        if not candidates:
            return _Unlabelled([], {})
        # Whole splits, without the limits: the questions left out here must not depend on the limits.
        tests = {} if self.transductive else self._whole_tests()
        of_tests = [query for queries in tests.values() for query in queries]
        asked: dict[str, str] = {}
        for split, queries in (("training", labelled), ("validation", self._split.validation), ("test", of_tests)):
            for query in queries:
                asked.setdefault(question_key(query.question), split)
        ids = {query.id for query in labelled}
        kept: list[Query] = []
        dropped: Counter[str] = Counter()
        for query in candidates:
            key = question_key(query.question)
            if key in asked:
                dropped[asked[key]] += 1
                continue
            if query.id in ids:  # labels are looked up by id: this one would get the label of another question
                raise ValueError(
                    f"dataset.unlabelled: the id {query.id!r} occurs a second time, with another question. Give its "
                    "rows ids of their own, by `columns.id` or another `name` of the source."
                )
            kept.append(query)
            asked[key] = "repeated"
            ids.add(query.id)
        return _Unlabelled(kept, dropped)

    @cached_property
    def _split(self) -> "_Split":
        queries = self.training.queries()
        first: dict[str, Query] = {}
        for query in queries:
            first.setdefault(question_key(query.question), query)
        distinct = list(first.values())
        repeated = len(queries) - len(distinct)
        test: list[Query] = []
        if self.test_fraction is not None:
            held_out = _stratified(distinct, self.test_fraction, self.split_seed)
            test = [distinct[i] for i in held_out]
            distinct = [distinct[i] for i in sorted(set(range(len(distinct))) - set(held_out))]
        if self.validation is not None:
            return _Split(distinct, self.validation.queries(), test, repeated)
        validated = max(1, round(len(distinct) * self.validation_fraction))
        if validated >= len(distinct):
            raise ValueError(
                f"dataset={self.name} has {len(distinct)} distinct training questions: too few to keep back "
                f"validation_fraction={self.validation_fraction}. Give it at least 2, or a smaller fraction."
            )
        order = np.random.default_rng(self.split_seed).permutation(len(distinct))
        return _Split(
            training=[distinct[i] for i in sorted(order[validated:])],
            validation=[distinct[i] for i in sorted(order[:validated])],
            test=test,
            repeated=repeated,
        )


@dataclass(frozen=True, slots=True)
class _Split:
    training: list[Query] = field(repr=False)
    validation: list[Query] = field(repr=False)
    test: list[Query] = field(repr=False)
    repeated: int


@dataclass(frozen=True, slots=True)
class _Training:
    """The training queries with a label, and the rest."""

    labelled: list[Query] = field(repr=False)
    rest: list[Query] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Unlabelled:
    """The unlabelled queries, and how many were dropped for each reason."""

    queries: list[Query] = field(repr=False)
    dropped: Mapping[str, int]


def _stratified(queries: list[Query], fraction: float, seed: int) -> list[int]:
    """Indices of a share of the queries, in order; each category gets its share up to one query, the total exactly."""
    members: dict[str | None, list[int]] = defaultdict(list)
    for index, query in enumerate(queries):
        members[query.category].append(index)
    exact = {category: fraction * len(own) for category, own in members.items()}
    sizes = {category: math.floor(share) for category, share in exact.items()}
    by_remainder = sorted(members, key=lambda category: sizes[category] - exact[category])
    for category in by_remainder[: round(fraction * len(queries)) - sum(sizes.values())]:
        sizes[category] += 1
    generator = np.random.default_rng([seed, 1])  # a stream other than that of the validation queries
    drawn = [own[i] for category, own in members.items() for i in generator.permutation(len(own))[: sizes[category]]]
    return sorted(drawn)


def _subset(queries: list[Query], limit: int | None, seed: int | Sequence[int]) -> list[Query]:
    """At most `limit` queries in their order; a smaller subset lies within every larger one."""
    if limit is None or limit >= len(queries):
        return queries
    order = np.random.default_rng(seed).permutation(len(queries))
    return [queries[i] for i in sorted(order[:limit])]


def _labelled(queries: list[Query], labelled: bool) -> list[Query]:
    return list(queries) if labelled else [replace(query, gold_answer=None) for query in queries]
