"""Hidden states: shared prompts and padding change none of them."""

import pytest
import torch

from rkd.models import hidden_states
from rkd.models.attention import attends_plainly
from rkd.models.batches import collate
from rkd.models.hidden_states import head_values, last_states, response_states
from tests.support.float64_models import PAD, PROMPTS, RESPONSES, Build, both, close, families, llama


@pytest.mark.usefixtures("passes")
@both
def test_a_shared_prompt_gives_the_states_and_gradients_of_separate_ones(build: Build):
    model = build()
    shared = collate(PROMPTS[:2], RESPONSES[:4], PAD)
    separate = collate([PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]], RESPONSES[:4], PAD)
    counts = torch.cat([torch.ones(4, 1, dtype=torch.bool), shared.response_mask], 1)[:, :, None]
    states, gradients = [], []
    for batch in (shared, separate):
        model.zero_grad()
        own = response_states(model.base_model, batch)
        (own.pow(3) * counts).sum().backward()
        states.append(own.detach() * counts)
        gradients.append([p.grad.clone() for p in model.base_model.parameters()])
    assert (shared.group_size, separate.group_size) == (2, 1)
    close(*states)
    for of_shared, of_separate in zip(*gradients, strict=True):
        close(of_shared, of_separate, tolerance=1e-5)  # a Llama normalises in float32, whatever its weights are


@families
def test_rows_read_together_have_the_states_that_each_has_alone(build: Build, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hidden_states, "PAIRS_PER_WIDTH", 10**6)
    backbone, read = build().base_model, []
    rows = [prompt + response for prompt in PROMPTS for response in RESPONSES]
    alone = [backbone(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0, -1] for row in rows]
    handle = backbone.register_forward_pre_hook(lambda *called: read.append(called[2]["input_ids"]), with_kwargs=True)
    close(last_states(backbone, rows), torch.stack(alone), tolerance=1e-6)  # some families normalise in float32
    handle.remove()
    # Five roots, each with what the responses add: no family but the plain ones shares them.
    is_shared = sum(ids.shape[0] for ids in read) == len({row[0] for row in rows})
    assert is_shared == attends_plainly(backbone.config)


def test_attention_that_keeps_its_scores_reads_rows_apart():
    backbone, rows = llama().base_model, [[5, 6, 7], [5, 6, 8]]
    together = last_states(backbone, rows)
    backbone.set_attn_implementation("eager")
    read = []
    backbone.register_forward_pre_hook(lambda *called: read.append(called[2]["input_ids"].shape), with_kwargs=True)
    close(last_states(backbone, rows), together, tolerance=1e-6)
    assert read == [(2, 3)]


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize("prompts", [PROMPTS[:2], [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]])
@both
def test_last_states_are_those_of_all_states(build: Build, prompts: list[list[int]]):
    backbone, responses = build().base_model, [*RESPONSES[:3], []]  # the last state of an empty one is its prompt's
    batch = collate(prompts, responses, PAD)
    states = response_states(backbone, batch)
    close(
        last_states(backbone, batch.rows()), torch.stack([states[row, len(own)] for row, own in enumerate(responses)])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_keeps_differences_that_bfloat16_would_round_away(dtype: torch.dtype):
    head = torch.nn.Linear(2, 1).to(dtype)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 2**-9]]))
        head.bias.copy_(torch.tensor([1.0]))
    # 3 + 2⁻⁹ needs 11 bits, bfloat16 has 8: it would be 3.
    with torch.autocast("cpu", torch.bfloat16):
        values = head_values(head, torch.tensor([[2.0, 1.0], [2.0, 0.0]], dtype=dtype))
    assert values.tolist() == [[3.001953125], [3.0]]


@pytest.mark.parametrize(
    ("dtype", "autocast", "trees_read"),
    [(torch.float32, False, 1), (torch.float32, True, 2), (torch.bfloat16, False, 2)],
)
def test_in_16_bits_rows_share_less_since_attention_gains_less_than_reading(dtype, autocast, trees_read):
    backbone, read = llama().to(dtype).base_model, []
    assert backbone.config.hidden_size == 16
    backbone.register_forward_pre_hook(lambda *called: read.append(called[2]["input_ids"].shape), with_kwargs=True)
    # Together 24 tokens, 14 in each row: 24² − 2 · 14² = 184 pairs more. Four common tokens save 4 · 16 · 6 = 384
    # pairs, or 4 · 16 · 2 = 128.
    rows = [[3, 4, 5, 6] + [own] * 10 for own in (7, 8)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        last_states(backbone, rows)
    assert read == [(trees_read, 24 if trees_read == 1 else 14)]
