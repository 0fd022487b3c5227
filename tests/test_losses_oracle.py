"""Our formulas against TRL's own, as recorded by `tests/oracle/record_trl.py` in `tests/oracle/trl.json`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rkd.losses import (
    bradley_terry_loss,
    center_and_scale,
    clipped_surrogate_loss,
    dpo_loss,
    kl_estimate,
    masked_mean,
    scale,
    sequence_logprobs,
    sft_loss,
    token_entropy,
    token_logprobs,
    value_loss,
)
from rkd.rl.advantages import GAE, GroupRelative

ENTRIES = json.loads(Path(__file__).with_name("oracle").joinpath("trl.json").read_text(encoding="utf-8"))["entries"]


def recorded(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of one entry; lists as tensors, scalars as they are."""

    def tensors(values: dict[str, Any]) -> dict[str, Any]:
        return {name: torch.tensor(value) if isinstance(value, list) else value for name, value in values.items()}

    return tensors(ENTRIES[name]["inputs"]), tensors(ENTRIES[name]["outputs"])


def close(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=1e-5, atol=1e-5)


def test_masked_mean_is_trls():
    inputs, outputs = recorded("masked_mean")
    close(masked_mean(**inputs), outputs["mean"])


@pytest.mark.parametrize("function", [center_and_scale, scale])
def test_whitening_is_trls_on_the_selected_tokens(function):
    inputs, outputs = recorded(function.__name__)
    selected = inputs["response_mask"]
    close(function(**inputs)[selected], outputs["whitened"][selected])


def test_token_logprobs_and_entropy_are_trls():
    inputs, outputs = recorded("token_logprobs")
    close(token_logprobs(**inputs), outputs["logprobs"])
    inputs, outputs = recorded("token_entropy")
    close(token_entropy(**inputs), outputs["entropy"])


def test_sft_loss_is_trls():
    inputs, outputs = recorded("sft")
    close(sft_loss(token_logprobs(inputs["logits"], inputs["tokens"]), inputs["response_mask"]), outputs["loss"])


def test_bradley_terry_loss_and_gradient_are_trls():
    inputs, outputs = recorded("bradley_terry")
    chosen, rejected = inputs["chosen"].requires_grad_(), inputs["rejected"].requires_grad_()
    loss = bradley_terry_loss(chosen, rejected)
    loss.backward()
    close(loss.detach(), outputs["loss"])
    close(chosen.grad, outputs["chosen_gradient"])
    close(rejected.grad, outputs["rejected_gradient"])


def test_dpo_from_logits_to_gradient_is_trls():
    inputs, outputs = recorded("dpo")
    logits = inputs["logits"].requires_grad_()
    logprobs = sequence_logprobs(token_logprobs(logits, inputs["tokens"]), inputs["response_mask"])
    loss = dpo_loss(
        *logprobs.chunk(2),
        inputs["reference_chosen_logprobs"],
        inputs["reference_rejected_logprobs"],
        beta=inputs["beta"],
    )
    loss.backward()
    close(loss.detach(), outputs["loss"])
    close(logits.grad, outputs["logits_gradient"])


@pytest.mark.parametrize("name", ["grpo_loss", "grpo_loss_with_kl"])
def test_clipped_surrogate_with_k3_in_the_loss_is_trls_grpo(name):
    inputs, outputs = recorded(name)
    logprobs, reference_logprobs = inputs.pop("logprobs").requires_grad_(), inputs.pop("reference_logprobs")
    kl_coefficient = inputs.pop("kl_coefficient")
    kl = masked_mean(kl_estimate(logprobs, reference_logprobs, estimator="k3"), inputs["response_mask"])
    loss = clipped_surrogate_loss(logprobs, **inputs) + kl_coefficient * kl
    loss.backward()
    close(loss.detach(), outputs["loss"])
    close(logprobs.grad, outputs["logprobs_gradient"])


def test_clipped_surrogate_loss_is_trls_ppo():
    inputs, outputs = recorded("clipped_surrogate")
    close(clipped_surrogate_loss(**inputs), outputs["loss"])


def test_value_loss_is_trls_ppo():
    inputs, outputs = recorded("value_loss")
    close(value_loss(**inputs), outputs["loss"])


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_estimates_are_trls_ppo(estimator):
    inputs, outputs = recorded(f"kl_{estimator}")
    close(kl_estimate(**inputs, estimator=estimator), outputs["kl"])


def test_k2_is_trls_approximate_kl():
    inputs, outputs = recorded("kl_k2")
    close(kl_estimate(**inputs, estimator="k2").mean(), outputs["mean_kl"])


def test_gae_is_trls_ppo():
    inputs, outputs = recorded("gae")
    estimator = GAE(inputs.pop("discount"), inputs.pop("gae_lambda"), whiten=False)
    advantages, returns = estimator(**inputs)
    close(advantages, outputs["advantages"])
    close(returns, outputs["returns"])


@pytest.mark.parametrize("name", ["group_relative", "group_relative_unscaled"])
def test_group_relative_advantages_are_trls_grpo(name):
    inputs, outputs = recorded(name)
    token_rewards = inputs["rewards"].unsqueeze(1)
    estimator = GroupRelative(inputs["group_size"], inputs["scale_by_std"])
    advantages, _ = estimator(token_rewards, None, torch.ones_like(token_rewards, dtype=torch.bool))
    close(advantages.squeeze(1), outputs["advantages"])
