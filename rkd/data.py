"""Datasets: labelled queries enter, those of training, validation and test leave (paper D, section 4.1).

A training query carries no gold answer unless the row trains with labels.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from rkd.prompts import PromptTemplate
from rkd.records import Query
from rkd.rows import question_key
from rkd.sources import HUB, QuerySource

LIMITS = ("max_response_tokens", "max_tokens", "max_training_queries", "max_validation_queries", "max_test_queries")


@dataclass(frozen=True, kw_only=True)
class Data:
    """The queries of one row of a table: training, validation and test.

    Args:
        name: the dataset as a table's column names it.
        training: divided into training and validation queries, unless `validation` is given.
        validation: the validation queries of a dataset that has such a split.
        tests: by the name of each test set, in the order of the report.
        prompt: how its questions are put to models that bring no prompt of their own; None where all do.
        max_response_tokens: longest response, in all stages that refer to it.
        max_tokens: longest prompt + response, in the stages that train on examples.
        is_verifiable: whether its questions have answers that can be compared; instructions have none.
        source: where stored rows come from (`hub` or a folder); the parts refer to it.
        test_fraction: share of the training rows, in (0, 1), that becomes a further test set, named as the dataset:
            drawn by `split_seed`, from each category its share. None where there is no need of one.
        validation_fraction: share of the training rows, in (0, 1), that becomes validation.
        split_seed: draws that share, and the subsets below; it is no part of a run's seed, so all seeds share it.
        max_training_queries: at most so many, a random subset in the rows' order; None takes all.
    """

    name: str
    training: QuerySource
    tests: Mapping[str, QuerySource]
    validation: QuerySource | None = None
    prompt: PromptTemplate | None = None
    max_response_tokens: int = 512
    max_tokens: int = 512
    is_verifiable: bool = True
    source: str = HUB
    test_fraction: float | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    max_training_queries: int | None = None
    max_validation_queries: int | None = None
    max_test_queries: int | None = None

    def __post_init__(self) -> None:
        for which in ("validation_fraction", "test_fraction"):
            fraction = getattr(self, which)
            if fraction is not None and not 0 < fraction < 1:
                raise ValueError(f"dataset.{which}={fraction}: must be between 0 and 1.")
        for which in LIMITS:
            limit = getattr(self, which)
            if limit is not None and limit < 1:
                raise ValueError(f"dataset.{which}={limit}: must be at least 1, or null where that means no limit.")

    def training_queries(self, *, labelled: bool = False) -> list[Query]:
        """The queries to train on; without gold answers unless `labelled`."""
        return _labelled(_subset(self._split.training, self.max_training_queries, self.split_seed), labelled)

    def unlabelled_queries(self) -> list[Query]:
        return []

    def validation_queries(self, *, labelled: bool = False) -> list[Query]:
        """The queries to choose checkpoints by; without gold answers unless `labelled`."""
        return _labelled(_subset(self._split.validation, self.max_validation_queries, self.split_seed), labelled)

    def test_sets(self) -> dict[str, list[Query]]:
        """The queries of each test set, with gold answers; repeated questions stay, as in the published sets."""
        drawn = {self.name: self._split.test} if self.test_fraction is not None else {}
        tests = {name: test.queries() for name, test in self.tests.items()} | drawn
        return {name: _subset(queries, self.max_test_queries, self.split_seed) for name, queries in tests.items()}

    def ids(self) -> dict[str, Any]:
        """The ids of the queries in each split, which a result is published with."""
        return {
            "training": [query.id for query in self.training_queries()],
            "validation": [query.id for query in self.validation_queries()],
            "tests": {name: [query.id for query in queries] for name, queries in self.test_sets().items()},
        }

    @property
    def repeated_questions(self) -> int:
        """How many training rows were dropped because their question had occurred before."""
        return self._split.repeated

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
        held_out = max(1, round(len(distinct) * self.validation_fraction))
        if held_out >= len(distinct):
            raise ValueError(
                f"dataset={self.name} has {len(distinct)} distinct training questions: too few to keep back "
                f"validation_fraction={self.validation_fraction}. Give it at least 2, or a smaller fraction."
            )
        order = np.random.default_rng(self.split_seed).permutation(len(distinct))
        return _Split(
            training=[distinct[i] for i in sorted(order[held_out:])],
            validation=[distinct[i] for i in sorted(order[:held_out])],
            test=test,
            repeated=repeated,
        )


@dataclass(frozen=True, slots=True)
class _Split:
    training: list[Query] = field(repr=False)
    validation: list[Query] = field(repr=False)
    test: list[Query] = field(repr=False)
    repeated: int


def _stratified(queries: list[Query], fraction: float, seed: int) -> list[int]:
    """Indices of a share of the queries, in order: of each category its share, up to one, and of all exactly."""
    members: dict[str | None, list[int]] = defaultdict(list)
    for index, query in enumerate(queries):
        members[query.category].append(index)
    exact = {category: fraction * len(own) for category, own in members.items()}
    sizes = {category: math.floor(share) for category, share in exact.items()}
    by_remainder = sorted(members, key=lambda category: sizes[category] - exact[category])
    for category in by_remainder[: round(fraction * len(queries)) - sum(sizes.values())]:
        sizes[category] += 1
    generator = np.random.default_rng([seed, 1])  # another stream than that of the validation queries
    drawn = [own[i] for category, own in members.items() for i in generator.permutation(len(own))[: sizes[category]]]
    return sorted(drawn)


def _subset(queries: list[Query], limit: int | None, seed: int) -> list[Query]:
    """At most `limit` queries in their order; a smaller subset lies within every larger one."""
    if limit is None or limit >= len(queries):
        return queries
    order = np.random.default_rng(seed).permutation(len(queries))
    return [queries[i] for i in sorted(order[:limit])]


def _labelled(queries: list[Query], labelled: bool) -> list[Query]:
    return list(queries) if labelled else [replace(query, gold_answer=None) for query in queries]
