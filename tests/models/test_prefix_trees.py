"""Token trees: whatever rows are read together, each finds its own tokens on its way, and attends to these alone."""

import random

import pytest
import torch

from rkd.models.prefix_trees import Pass, passes

TOKEN_PAIRS = 96
TOGETHER = {"token_pairs": 10**6, "most_tokens": 10**6}  # all sharing pays


def sizes(read: list[Pass]) -> list[tuple[int, ...]]:
    return [tuple(one.ids.shape) for one in read]


def lengths(*counts: int) -> list[list[int]]:
    """Rows of so many tokens, which share none."""
    return [[10 + number] * count for number, count in enumerate(counts)]


def random_rows(seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    beginnings = [[rng.randrange(3) for _ in range(rng.randrange(6))] for _ in range(4)]
    return [[*rng.choice(beginnings), *(rng.randrange(3) for _ in range(rng.randrange(1, 9)))] for _ in range(12)]


def test_what_rows_begin_with_is_read_once():
    (one,) = passes([[5, 6, 8], [5, 6, 7, 9], [5, 6, 7]], **TOGETHER)
    assert one.ids.tolist() == [[5, 6, 7, 9, 8]]
    assert one.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert one.attended.long().tolist() == [
        [[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]]
    ]
    assert one.ways == {0: [0, 1, 4], 1: [0, 1, 2, 3], 2: [0, 1, 2]}


def test_equal_rows_are_one():
    (one,) = passes([[5, 6], [5, 6], [5, 6]], **TOGETHER)
    assert one.ids.tolist() == [[5, 6]]
    assert one.ways == {0: [0, 1], 1: [0, 1], 2: [0, 1]}
    assert one.attended is None  # every token attends to all before it


@pytest.mark.parametrize("most_tokens", [1, 40, None])
@pytest.mark.parametrize("token_pairs", [None, 6, TOKEN_PAIRS, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_every_row_is_on_its_way_and_attends_to_nothing_else(
    seed: int, token_pairs: int | None, most_tokens: int | None
):
    rows, found = random_rows(seed), set()
    for one in passes(rows, token_pairs, most_tokens):
        trees, size = one.ids.shape
        causal = torch.ones(size, size, dtype=torch.bool).tril().expand(trees, 1, size, size)
        attended = causal if one.attended is None else one.attended
        positions = torch.arange(size).expand(trees, size) if one.positions is None else one.positions
        assert attended.any(-1).all()  # padding too: a softmax over nothing is NaN
        for number, way in one.ways.items():
            assert one.ids.flatten()[way].tolist() == rows[number]
            assert positions.flatten()[way].tolist() == list(range(len(way)))
            for place, token in enumerate(way):
                tree, own = divmod(token, size)
                assert attended[tree, 0, own].nonzero().flatten().tolist() == [t % size for t in way[: place + 1]]
            found.add(number)
    assert found == set(range(len(rows)))


def test_a_model_that_cannot_read_trees_gets_rows():
    (one,) = passes([[5, 6], [5, 6], [5, 7]], None, None)
    assert one.ids.tolist() == [[5, 6], [5, 6], [5, 7]]
    assert (one.positions, one.attended) == (None, None)


@pytest.mark.parametrize(("token_pairs", "trees"), [(40, 2), (41, 1)])
def test_rows_share_their_beginning_where_comparing_with_each_others_tokens_costs_less(token_pairs: int, trees: int):
    short, long = [1, 2, 3, 4, 5, 5, 5], [1, 2, 3, 4, *[6] * 30]
    # 37 tokens compared with each other are 1369 pairs, 7 and 34 by themselves 1205: 164 more, 41 for each of the 4
    # tokens that are read once.
    (one,) = passes([short, long], token_pairs, None)
    assert len(one.ids) == trees


def test_no_tree_outgrows_its_mask(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rkd.models.prefix_trees.LARGEST_TREE", 5)
    rows = [[1, 2, 3], [1, 2, 4], [1, 2, 5], [1, 2, 6]]
    (one,) = passes(rows, **TOGETHER)
    assert one.ids.tolist() == [[1, 2, 3, 4, 5], [1, 2, 6, 0, 0]]


@pytest.mark.parametrize(
    ("smallest_pass", "expected"),
    [(1, [(3, 6), (1, 3)]), (18, [(3, 6), (1, 3)]), (19, [(4, 6)])],
)
def test_rows_are_read_with_those_of_alike_length(
    smallest_pass: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rkd.models.prefix_trees.SMALLEST_PASS_TOKENS", smallest_pass)
    # 5 is more than three quarters of 6, and 3 is not. The pass of 6, 5 and 5 takes 3 × 6 = 18 tokens.
    assert sizes(list(passes(lengths(5, 6, 3, 5), TOKEN_PAIRS, 10**6))) == expected


@pytest.mark.parametrize(
    ("most_tokens", "expected"),
    [(24, [(4, 6)]), (23, [(3, 6), (1, 5)]), (12, [(2, 6), (2, 5)]), (5, [(1, 6), (1, 6), (1, 5), (1, 5)])],
)
def test_a_pass_takes_so_many_tokens_or_one_tree(most_tokens: int, expected: list[tuple[int, int]]):
    assert sizes(list(passes(lengths(5, 6, 6, 5), TOKEN_PAIRS, most_tokens))) == expected


def test_all_is_one_pass_where_it_has_to_be():
    assert sizes(list(passes(lengths(400, 1, 1, 400), TOKEN_PAIRS, None))) == [(4, 400)]
