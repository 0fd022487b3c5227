"""Packed rows: rows of tokens enter, lines of tokens leave that a large model reads on a CPU, each token once.

The rows are token trees (`rkd.models.prefix_trees`), whose trees stand in one line without padding. The linear layers
read the line. Attention is computed run by run: a run is what one row adds to a tree, and its tokens attend to their
way from the root and to each other. Runs of similar size are computed together, in float32.

Shapes: a line of N tokens; H heads of queries, of which R belong to each of H / R heads of keys, of width D. A group
has M runs of at most L tokens, which attend to at most K tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AttentionInterface, PreTrainedModel

from rkd.models.attention import takes_masks
from rkd.models.cpu_workers import is_small
from rkd.models.prefix_trees import Run, Tree, grow

RUNS = "rkd_runs"

# A group has at most so many pairs of tokens, each of which has a score for each head: they should stay in the cache of
# the processor. Padding may multiply the pairs of a group by no more than this, unless the group is small.
GROUP_PAIRS, PADDING, SMALL_GROUP_PAIRS = 2**17, 1.3, 2**13


@dataclass(frozen=True, slots=True)
class PackedLine:
    """Tokens that a model reads in one pass.

    Args:
        ids: the tokens, (1, N).
        positions: the place of each token in its row, (1, N).
        attention: what each token attends to.
        ways: for each row, by its number, the places of its tokens in the line.
    """

    ids: Tensor
    positions: Tensor
    attention: "RunAttention"
    ways: dict[int, list[int]]


def reads_lines(backbone: PreTrainedModel) -> bool:
    """Whether a backbone reads packed rows: it is large, whole and on a CPU, and attends plainly, without dropout.

    A backbone that computes its activations a second time, for the gradient, chooses its attention again at that time.
    """
    weights = list(backbone.parameters())
    is_whole = not any(isinstance(weight, DTensor) for weight in weights)
    is_large = not is_small(sum(weight.numel() for weight in weights))
    if not is_large or not is_whole or backbone.device.type != "cpu" or not takes_masks(backbone.config):
        return False
    return not (backbone.training and (backbone.is_activation_checkpointing or _drops(backbone)))


def lines(rows: Sequence[Sequence[int]], most_tokens: int) -> Iterator[PackedLine]:
    """The rows in lines of at most `most_tokens` tokens; a tree of more tokens has a line of its own."""
    kept: list[Tree] = []
    for tree in grow(rows, token_pairs=math.inf):
        if kept and sum(len(one.ids) for one in (*kept, tree)) > most_tokens:
            yield _line(kept)
            kept = []
        kept.append(tree)
    yield _line(kept)


def read_line(backbone: PreTrainedModel, line: PackedLine) -> Tensor:
    """The states of the tokens of a line, (N, width)."""
    before = backbone.config._attn_implementation
    backbone.set_attn_implementation(RUNS)
    try:
        read = backbone(input_ids=line.ids, position_ids=line.positions, use_cache=False, runs=line.attention)
    finally:
        backbone.set_attn_implementation(before)
    states: Tensor = read.last_hidden_state
    return states[0]


def _drops(backbone: nn.Module) -> bool:
    """Whether the backbone drops anything, attention included, which families do by a number or by a module."""
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0) or getattr(module, "attention_dropout", 0.0)
        for module in backbone.modules()
    )


def _line(trees: Sequence[Tree]) -> PackedLine:
    ids: list[int] = []
    positions: list[int] = []
    runs: list[Run] = []
    ways: dict[int, list[int]] = {}
    for tree in trees:
        start = len(ids)
        ids += tree.ids
        positions += tree.positions
        runs += [([start + place for place in way], start + first, length) for way, first, length in tree.runs]
        ways |= {row: [start + place for place in way] for row, way in tree.ways.items()}
    return PackedLine(torch.tensor([ids]), torch.tensor([positions]), RunAttention(_groups(runs), len(ids)), ways)


@dataclass(frozen=True, slots=True)
class _Group:
    """Runs that are computed together.

    Args:
        queries: the places of the runs' tokens, (M, L), padded with −1.
        keys: the places of the tokens that they attend to, (M, K), padded with −1: the way, then the run.
        hidden: whether a token of the second axis must not attend to one of the third, (M, L, K). Padding attends to
            the first token: a softmax over nothing is NaN.
    """

    queries: Tensor
    keys: Tensor
    hidden: Tensor


def _groups(runs: Sequence[Run]) -> list[_Group]:
    """The runs in groups, those of similar size together."""
    groups: list[list[Run]] = []
    most: tuple[int, int] = (0, 0)
    pairs = 0
    for run in sorted(runs, key=lambda run: (run[2], len(run[0]))):
        length, attended = run[2], len(run[0]) + run[2]
        larger = max(most[0], length), max(most[1], attended)
        padded = math.prod(larger) * (len(groups[-1]) + 1) if groups else 0
        pairs += length * attended
        if not groups or padded > GROUP_PAIRS or padded > max(SMALL_GROUP_PAIRS, PADDING * pairs):
            groups.append([])
            larger, pairs = (length, attended), length * attended
        groups[-1].append(run)
        most = larger
    return [_group(own) for own in groups]


def _group(runs: Sequence[Run]) -> _Group:
    most = max(length for _, _, length in runs), max(len(way) + length for way, _, length in runs)
    queries, keys = (np.full((len(runs), size), -1) for size in most)
    hidden = np.ones((len(runs), *most), dtype=bool)
    hidden[..., 0] = False
    for number, (way, first, length) in enumerate(runs):
        own = range(first, first + length)
        queries[number, :length] = own
        keys[number, : len(way) + length] = [*way, *own]
        hidden[number, :length, : len(way)] = False
        hidden[number, :length, len(way) : len(way) + length] = ~np.tri(length, dtype=bool)
    return _Group(*map(torch.from_numpy, (queries, keys, hidden)))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of D numbers among those of all tokens and heads, laid out as a group needs them.

    Args:
        queries: (M · H · L,): run, head of keys, head of queries that belongs to it, token.
        keys: (M · H / R · K,): run, head of keys, token.
        padding: which of `queries` are padding.
    """

    queries: Tensor
    keys: Tensor
    padding: Tensor


class RunAttention:
    """The attention of all runs of a line: the same for each layer of a model."""

    def __init__(self, groups: Sequence[_Group], tokens: int) -> None:
        self.groups, self.tokens = groups, tokens
        self.heads: tuple[int, int] = (0, 0)  # of queries and of keys, for which the following are laid out
        self.rows: list[_Rows] = []
        # Where the row of each token and head stands among the queries of all groups. A key has several places.
        self.places = self.copies = self.first_copies = torch.empty(0)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """The attended values, (N, H, D), for queries (N, H, D), keys and values (N, H / R, D)."""
        heads = query.shape[1], key.shape[1]
        if self.heads != heads:
            self._lay_out(*heads)
        attended: Tensor = _Attend.apply(query, key, value, self, scaling)
        return attended

    def _lay_out(self, of_queries: int, of_keys: int) -> None:
        self.heads = of_queries, of_keys
        queries = [_of_heads(group.queries, of_queries) for group in self.groups]
        keys = [_of_heads(group.keys, of_keys) for group in self.groups]
        self.rows = [_Rows(own.clamp(min=0), of.clamp(min=0), own < 0) for own, of in zip(queries, keys, strict=True)]
        (self.places, _), (self.copies, self.first_copies) = (
            _places(torch.cat(rows), self.tokens * heads) for rows, heads in ((queries, of_queries), (keys, of_keys))
        )


def _of_heads(tokens: Tensor, heads: int) -> Tensor:
    """The rows (M · heads · X,) of all heads of tokens (M, X) among (N, heads); −1 where a token is padding."""
    rows = tokens[:, None] * heads + torch.arange(heads)[:, None]
    return rows.masked_fill(tokens[:, None] < 0, -1).flatten()


def _places(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where each of `count` rows stands, in their order, and where its first place stands among these, (count,)."""
    order = rows.argsort(stable=True)[int((rows < 0).sum()) :]
    counts = rows[order].bincount(minlength=count)
    return order, counts.cumsum(0) - counts


class _Attend(torch.autograd.Function):
    """softmax(scaling · q kᵀ) v of all runs. The gradient computes the scores again, so that none is kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, runs: RunAttention, scaling: float) -> Tensor:
        parts = []
        with torch.autocast("cpu", enabled=False):
            for group, rows in zip(runs.groups, runs.rows, strict=True):
                _, _, own_values, attention = _attention(query, key, value, group, rows, runs, scaling)
                parts.append((attention @ own_values).to(value.dtype).view(-1, query.shape[-1]))
            attended = torch.cat(parts).index_select(0, runs.places).view(query.shape)
        ctx.save_for_backward(query, key, value, attended)
        ctx.runs, ctx.scaling = runs, scaling
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, attended = ctx.saved_tensors
        runs, width = ctx.runs, query.shape[-1]
        of_queries, of_keys, of_values = [], [], []
        with torch.autocast("cpu", enabled=False):
            for group, rows in zip(runs.groups, runs.rows, strict=True):
                own_queries, own_keys, own_values, attention = _attention(
                    query, key, value, group, rows, runs, ctx.scaling
                )
                own_gradient, own_attended = (
                    _rows(of, rows.queries).masked_fill_(rows.padding[:, None], 0).view(own_queries.shape)
                    for of in (gradient, attended)
                )
                of_values.append((attention.mT @ own_gradient).view(-1, width))
                # dL/ds = p · (dL/dp − Σ p · dL/dp), and the sum is the product of the output and its gradient.
                of_scores = (own_gradient @ own_values.mT).sub_((own_gradient * own_attended).sum(-1, keepdim=True))
                of_scores.mul_(attention)
                of_queries.append((of_scores @ own_keys).mul_(ctx.scaling).to(query.dtype).view(-1, width))
                of_keys.append((of_scores.mT @ own_queries).view(-1, width))
            to_keys, to_values = (
                nn.functional.embedding_bag(runs.copies, torch.cat(parts), runs.first_copies, mode="sum")
                .to(of.dtype)
                .view(of.shape)
                for parts, of in ((of_keys, key), (of_values, value))
            )
            return torch.cat(of_queries).index_select(0, runs.places).view(query.shape), to_keys, to_values, None, None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, group: _Group, rows: _Rows, runs: RunAttention, scaling: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scaled queries (M · H / R, R · L, D), keys and values (M · H / R, K, D), attention (M · H / R, R · L, K)."""
    (count, length, attended), (of_queries, of_keys), width = group.hidden.shape, runs.heads, query.shape[-1]
    own_queries = _rows(query, rows.queries).view(count * of_keys, -1, width).mul_(scaling)
    own_keys, own_values = (_rows(of, rows.keys).view(count * of_keys, attended, width) for of in (key, value))
    scores = own_queries @ own_keys.mT
    scores.view(count, of_queries, length, attended).masked_fill_(group.hidden[:, None], -math.inf)
    return own_queries, own_keys, own_values, scores.softmax(-1)


def _rows(of: Tensor, rows: Tensor) -> Tensor:
    """Rows of (N, heads, D) at indices over tokens and heads, in at least float32."""
    chosen = of.reshape(-1, of.shape[-1]).index_select(0, rows)
    return chosen.to(torch.promote_types(of.dtype, torch.float32))


def _run_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    runs: RunAttention,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention of a line, (1, heads, N, D), as transformers calls it; (1, N, heads, D)."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
    return runs.attend(queries, keys, values, scaling)[None], None


AttentionInterface.register(RUNS, _run_attention)
