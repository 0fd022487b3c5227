"""Packed rows: each token is read once, without padding, and has the state and the gradient that its row gives it."""

import random

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rkd.models import hidden_states, packed_rows
from rkd.models.batches import collate
from rkd.models.hidden_states import last_states, response_states
from rkd.models.packed_rows import RunAttention, lines, reads_lines
from tests.models.test_prefix_trees import random_rows
from tests.support.float64_models import PAD, PROMPTS, RESPONSES, Build, close, families, gpt2, llama

ROWS = [prompt + response for prompt in PROMPTS for response in RESPONSES]


@pytest.fixture(autouse=True)
def every_model_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_rows, "is_small", lambda _: False)


def gradients(model: PreTrainedModel) -> list[Tensor]:
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return found


@pytest.mark.parametrize("most_tokens", [1, 20, 10**6])
@families
def test_states_and_gradients_are_those_of_rows_read_alone(
    build: Build, most_tokens: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hidden_states, "LARGE_CPU_PASS_TOKENS", most_tokens)
    backbone = build().base_model
    alone = torch.stack([backbone(input_ids=torch.tensor([row]), use_cache=False)[0][0, -1] for row in ROWS])
    alone.pow(3).sum().backward()
    expected = gradients(backbone)
    together = last_states(backbone, ROWS)
    together.pow(3).sum().backward()
    close(together, alone, tolerance=1e-6)  # some families normalise in float32
    for own, other in zip(gradients(backbone), expected, strict=True):
        close(own, other, tolerance=1e-5)


def test_every_state_of_a_response_is_that_of_its_row():
    backbone = llama().base_model
    rows = [[5, 6, 7, *response] for response in RESPONSES[:3]]
    batch = collate([row[:3] for row in rows], [row[3:] for row in rows], PAD)
    states = response_states(backbone, batch)
    for own, row in zip(states, rows, strict=True):
        alone = backbone(input_ids=torch.tensor([row]), use_cache=False)[0][0]
        close(own[: len(row) - 2], alone[2:])


@pytest.mark.parametrize("most_tokens", [1, 40, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_a_line_has_each_token_once_and_none_beside(seed: int, most_tokens: int):
    rows, found, read = random_rows(seed), set(), 0
    for line in lines(rows, most_tokens):
        count = line.ids.shape[1]
        assert {place for way in line.ways.values() for place in way} == set(range(count))
        for number, way in line.ways.items():
            assert line.ids[0, way].tolist() == rows[number]
            assert line.positions[0, way].tolist() == list(range(len(way)))
        found |= line.ways.keys()
        read += count
    assert found == set(range(len(rows)))
    assert read == len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})


@pytest.mark.parametrize("pairs", [1, 60, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_a_token_attends_to_its_way_alone(seed: int, pairs: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed_rows, "GROUP_PAIRS", pairs)
    monkeypatch.setattr(packed_rows, "SMALL_GROUP_PAIRS", pairs)
    (line,) = lines(random_rows(seed), 10**6)
    tokens, draws = line.ids.shape[1], torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(tokens, heads, 3, dtype=torch.float64, generator=draws, requires_grad=True) for heads in (4, 2, 2)
    )
    hidden = torch.ones(tokens, tokens, dtype=torch.bool)
    for way in line.ways.values():
        for place, token in enumerate(way):
            hidden[token, way[: place + 1]] = False
    scores = torch.einsum("nhd,mhd->hnm", query, key.repeat_interleave(2, 1)) * 0.7
    attention = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    expected = torch.einsum("hnm,mhd->nhd", attention, value.repeat_interleave(2, 1))
    attended = line.attention.attend(query, key, value, 0.7)
    close(attended, expected)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=draws)
    found, right = (torch.autograd.grad((of * weights).sum(), (query, key, value)) for of in (attended, expected))
    for own, other in zip(found, right, strict=True):
        close(own, other)


def test_a_line_serves_models_with_other_heads():
    (line,) = lines([[3, 4], [3, 5]], 10**6)
    for heads in (1, 2, 1):
        same = torch.ones(3, heads, 2)
        close(line.attention.attend(same, same, same, 1.0), same)


def test_padding_of_groups_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed_rows, "SMALL_GROUP_PAIRS", 0)
    draw = random.Random(0)
    rows = [[place, *[draw.randrange(9)] * draw.randrange(1, 40)] for place in range(100)]
    (line,) = lines(rows, 10**6)
    padded = sum(group.hidden.numel() for group in line.attention.groups)
    assert 1 <= padded / sum(len(row) ** 2 for row in rows) < packed_rows.PADDING
    assert len(line.attention.groups) < 20


def test_in_bfloat16_states_are_as_near_to_the_exact_ones_as_those_of_rows_read_alone():
    exact, backbone = (llama(hidden=64).base_model.to(dtype) for dtype in (torch.float64, torch.float32))
    expected = last_states(exact, ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        together = last_states(backbone, ROWS)
        alone = torch.stack([backbone(input_ids=torch.tensor([row]), use_cache=False)[0][0, -1] for row in ROWS])
    errors = [(states - expected).abs().mean().item() for states in (together, alone)]
    assert errors[0] < 1.2 * errors[1]


def test_who_reads_lines(monkeypatch: pytest.MonkeyPatch):
    assert reads_lines(llama().base_model)
    assert reads_lines(llama().base_model.train())  # it has no dropout
    eager = llama().base_model
    eager.set_attn_implementation("eager")
    recomputed = llama()
    recomputed.activation_checkpointing_enable()
    assert reads_lines(recomputed.base_model.eval())
    drops = gpt2().base_model
    drops_attention = llama(attention_dropout=0.1).base_model
    assert reads_lines(drops)
    for backbone in (eager, recomputed.base_model.train(), drops.train(), drops_attention.train()):
        assert not reads_lines(backbone)
    monkeypatch.setattr(packed_rows, "is_small", lambda _: True)
    assert not reads_lines(llama().base_model)


def test_the_attention_of_a_model_is_its_own_again_after_a_failure():
    backbone = llama().base_model
    (line,) = lines([[3, 4]], 10**6)
    line.attention.__class__ = Broken
    with pytest.raises(RuntimeError, match="broken"):
        packed_rows.read_line(backbone, line)
    assert backbone.config._attn_implementation == "sdpa"


class Broken(RunAttention):
    def attend(self, *_: object) -> Tensor:
        raise RuntimeError("broken")
