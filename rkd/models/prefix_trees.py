"""Token trees: rows of tokens enter, sequences leave in which rows with a common prefix stand side by side.

The common prefix is the trunk of a tree and is read once; where rows differ, each has a branch of its own. A token
attends only to the tokens on its way from the root, and has its position in the row: it is read as if its row stood by
itself. A row that shares nothing is a tree without branches. Shapes: K trees of at most N tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

LARGEST_TREE = 2**12  # tokens: their mask has 16 million entries

# A pass that has enough tokens ends before a tree with at most this share of the largest tree's tokens. Responses to
# math problems have 34 tokens on average, and one in 500 reaches the limit of 120.
ALIKE = 0.75
SMALLEST_PASS_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Pass:
    """Trees that a causal model reads together.

    Args:
        ids: the tokens, (K, N), padded on the right.
        positions: the place of each token in its row, (K, N); None if no tree has branches: it is the place in `ids`.
        attended: whether the token of the third axis attends to that of the fourth, (K, 1, N, N); None if no tree has
            branches: each token attends to all earlier ones.
        ways: for each row, by its number, the places of its tokens among the K · N.
    """

    ids: Tensor
    positions: Tensor | None
    attended: Tensor | None
    ways: dict[int, list[int]]


def passes(rows: Sequence[Sequence[int]], token_pairs: int | None, most_tokens: int | None) -> Iterator[Pass]:
    """The rows as trees, in passes of trees of similar size, the largest first.

    Args:
        rows: tokens, at least one in each.
        token_pairs: the attention of so many pairs of tokens, masked or not, takes as long as reading a token again. A
            row joins a tree if it saves more than it adds. None if the model cannot read trees: rows share nothing.
        most_tokens: in a pass of more than one tree, padding included; None to read all in a single pass.
    """
    trees = sorted(grow(rows, token_pairs), key=lambda tree: -len(tree.ids))
    start = 0
    for end in range(1, len(trees) + 1):
        if end == len(trees) or (most_tokens and _ends(end - start, trees[start], trees[end], most_tokens)):
            yield _pass(trees[start:end])
            start = end


Run = tuple[list[int], int, int]
"""Consecutive tokens that one row added to a tree: the way to them, place of the first, how many."""


@dataclass(slots=True)
class Tree:
    """Rows that are read together. A token stands after all others on its way from the root.

    Args:
        ways: for each row, by its number, the places of its tokens.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    ways: dict[int, list[int]] = field(default_factory=dict)

    def add(self, number: int, row: Sequence[int], way: list[int]) -> list[int]:
        """Add a row whose first tokens are those on `way`; returns the way of all its tokens."""
        first, new = len(self.ids), row[len(way) :]
        if new:
            self.runs.append((way, first, len(new)))
        self.ids += new
        self.positions += range(len(way), len(row))
        self.ways[number] = [*way, *range(first, len(self.ids))]
        return self.ways[number]


def grow(rows: Sequence[Sequence[int]], token_pairs: float | None) -> list[Tree]:
    """Trees of the rows; the arguments are those of `passes`."""
    trees: list[Tree] = []
    before: Sequence[int] = []
    way: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: list(rows[number])):  # sorted neighbours share the most
        row = rows[number]
        shared = _shared_tokens(before, row) if token_pairs else 0
        if not token_pairs or not shared or not _pays(len(trees[-1].ids), len(row), shared, token_pairs):
            trees.append(Tree())
            shared = 0
        before, way = row, trees[-1].add(number, row, way[:shared])
    return trees


def _shared_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _pays(tree: int, row: int, shared: int, token_pairs: float) -> bool:
    """Whether a row of `row` tokens is read faster with a tree of `tree` tokens than by itself."""
    together = tree + row - shared
    return together <= LARGEST_TREE and together**2 - tree**2 - row**2 <= token_pairs * shared


def _ends(count: int, largest: Tree, following: Tree, most_tokens: int) -> bool:
    """Whether a pass ends after `count` trees."""
    is_smaller = len(following.ids) <= ALIKE * len(largest.ids)
    return (count + 1) * len(largest.ids) > most_tokens or (
        is_smaller and count * len(largest.ids) >= SMALLEST_PASS_TOKENS
    )


def _pass(trees: Sequence[Tree]) -> Pass:
    has_branches = any(len(tree.runs) > 1 for tree in trees)
    size = len(trees[0].ids)  # the largest
    return Pass(
        ids=_padded([tree.ids for tree in trees], size),
        positions=_padded([tree.positions for tree in trees], size) if has_branches else None,
        attended=_attended(trees, size) if has_branches else None,
        ways={
            row: [number * size + place for place in way]
            for number, tree in enumerate(trees)
            for row, way in tree.ways.items()
        },
    )


def _padded(rows: Sequence[Sequence[int]], size: int) -> Tensor:
    padded = np.zeros((len(rows), size), dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(padded)


def _attended(trees: Sequence[Tree], size: int) -> Tensor:
    mask = np.zeros((len(trees), 1, size, size), dtype=bool)
    mask[..., 0] = True  # the root is on every way, and padding has to attend to something
    for tree, (own,) in zip(trees, mask, strict=True):
        for way, first, length in tree.runs:
            end = first + length
            own[first:end, way] = True
            own[first:end, first:end] = np.tri(length, dtype=bool)
    return torch.from_numpy(mask)
