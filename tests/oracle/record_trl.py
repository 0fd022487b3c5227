"""Record what TRL computes on small fixed inputs, as an oracle for `rkd.losses` and `rkd.rl.advantages`.

    python -m venv .venv-trl && .venv-trl/bin/pip install -r tests/oracle/requirements.txt
    .venv-trl/bin/python tests/oracle/record_trl.py

Writes `trl.json` beside this file: per entry the TRL function that ran, its inputs and its outputs, in our names. TRL's
own code makes every output. Where a formula is a function, it is called; where it stands inside a trainer's method, the
method runs, on a stand-in for `self` or in a real trainer with models of a few hundred weights, and its local variables
are read from the frame.
"""

import json
import os
import sys
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from unittest import mock

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "CUDA_VISIBLE_DEVICES": ""}

import torch
from accelerate import Accelerator
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import DPOTrainer, GRPOConfig, GRPOTrainer, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

PACKAGES = ("torch", "trl", "transformers", "accelerate", "datasets", "tokenizers", "numpy")
WORDS = 16  # of the toy vocabulary, pad and end of sequence included
B, T, V = 4, 5, 7
RESPONSE_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """One word, one token: `w0` is padding, `w1` the end of sequence."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="w0", eos_token="w1", unk_token="w2", padding_side="left"
    )


def toy_model(kind: type, seed: int) -> Any:
    """A random model of one layer; weights larger than usual, so that probabilities are far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        num_labels=1,
        initializer_range=0.5,
    )
    return kind(config)


def entry(function: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    """One entry of the fixture; tensors become nested lists."""

    def plain(value: Any) -> Any:
        return value.detach().cpu().tolist() if isinstance(value, Tensor) else value

    return {
        "function": function,
        "inputs": {name: plain(value) for name, value in inputs.items()},
        "outputs": {name: plain(value) for name, value in outputs.items()},
    }


def record_functions() -> dict[str, Any]:
    """The formulas that TRL exposes as functions."""
    values = 3 * torch.randn(B, T) + 1
    logits, tokens = 4 * torch.randn(2, T, V), torch.randint(V, (2, T))
    masked = {"values": values, "response_mask": RESPONSE_MASK}
    module = "trl.experimental.ppo.ppo_trainer"
    return {
        "masked_mean": entry(f"{module}.masked_mean", masked, {"mean": ppo_trainer.masked_mean(values, RESPONSE_MASK)}),
        "center_and_scale": entry(
            f"{module}.masked_whiten(shift_mean=True)",
            masked,
            {"whitened": ppo_trainer.masked_whiten(values, RESPONSE_MASK, shift_mean=True)},
        ),
        "scale": entry(
            f"{module}.masked_whiten(shift_mean=False)",
            masked,
            {"whitened": ppo_trainer.masked_whiten(values, RESPONSE_MASK, shift_mean=False)},
        ),
        "token_logprobs": entry(
            "trl.trainer.utils.selective_log_softmax",
            {"logits": logits, "tokens": tokens},
            {"logprobs": selective_log_softmax(logits, tokens)},
        ),
        "token_entropy": entry(
            "trl.trainer.utils.entropy_from_logits", {"logits": logits}, {"entropy": entropy_from_logits(logits)}
        ),
    }


def stand_in(**attributes: Any) -> SimpleNamespace:
    """What a loss method reads of `self`."""
    return SimpleNamespace(
        accelerator=Accelerator(cpu=True),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=1,
        **attributes,
    )


def record_bradley_terry() -> dict[str, Any]:
    """The reward trainer's loss, on rewards given by a stand-in for the model."""
    rewards = (2 * torch.randn(2 * B, 1)).requires_grad_()
    inputs = {"attention_mask": torch.ones(2 * B, 3, dtype=torch.long)}
    trainer = stand_in(args=SimpleNamespace(center_rewards_coefficient=None))
    loss = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=rewards), inputs)
    (gradient,) = torch.autograd.grad(loss, rewards)
    chosen, rejected = rewards.squeeze(-1).chunk(2)
    return entry(
        "trl.RewardTrainer.compute_loss",
        {"chosen": chosen, "rejected": rejected},
        {"loss": loss, "chosen_gradient": gradient[:B, 0], "rejected_gradient": gradient[B:, 0]},
    )


def record_dpo(beta: float) -> dict[str, Any]:
    """DPO from logits to loss: rows are the chosen responses, then the rejected ones; one token of prompt."""
    pairs = 3
    logits = (2 * torch.randn(2 * pairs, T + 1, V)).requires_grad_()
    input_ids = torch.randint(V, (2 * pairs, T + 1))
    response_mask = RESPONSE_MASK[[0, 1, 2, 3, 1, 0]]
    completion_mask = torch.cat([torch.zeros(2 * pairs, 1, dtype=torch.bool), response_mask], dim=1).long()
    reference = {"chosen": -8 * torch.rand(pairs), "rejected": -8 * torch.rand(pairs)}
    trainer = stand_in(
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
    )
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "completion_mask": completion_mask,
        "ref_chosen_logps": reference["chosen"],
        "ref_rejected_logps": reference["rejected"],
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs, return_outputs=False)
    (gradient,) = torch.autograd.grad(loss, logits)
    return entry(
        "trl.DPOTrainer._compute_loss(loss_type=sigmoid)",
        {
            "logits": logits[:, :-1],
            "tokens": input_ids[:, 1:],
            "response_mask": response_mask,
            "reference_chosen_logprobs": reference["chosen"],
            "reference_rejected_logprobs": reference["rejected"],
            "beta": beta,
        },
        {"loss": loss, "logits_gradient": gradient[:, :-1]},
    )


def record_grpo_loss(kl_coefficient: float, clip_range: float, clip_range_high: float) -> dict[str, Any]:
    """GRPO's loss as a mean over tokens (`bnpo`), on given log-probabilities; the KL term, if any, is k3."""
    logprobs = (-3 * torch.rand(B, T)).requires_grad_()
    old_logprobs = logprobs.detach() + 0.3 * torch.randn(B, T)
    reference_logprobs = logprobs.detach() + 0.5 * torch.randn(B, T)
    advantages = torch.randn(B)
    trainer = stand_in(
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros(B, T), None),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=kl_coefficient,
        loss_type="bnpo",
        epsilon_low=clip_range,
        epsilon_high=clip_range_high,
        use_vllm=False,
        _entropy_bonus_enabled=False,
    )
    inputs = {
        "prompt_ids": torch.zeros(B, 1, dtype=torch.long),
        "prompt_mask": torch.ones(B, 1, dtype=torch.long),
        "completion_ids": torch.zeros(B, T, dtype=torch.long),
        "completion_mask": RESPONSE_MASK.long(),
        "advantages": advantages,
        "old_per_token_logps": old_logprobs,
        "ref_per_token_logps": reference_logprobs,
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return entry(
        "trl.GRPOTrainer._compute_loss(loss_type=bnpo)",
        {
            "logprobs": logprobs,
            "old_logprobs": old_logprobs,
            "reference_logprobs": reference_logprobs,
            "advantages": advantages.unsqueeze(1),
            "response_mask": RESPONSE_MASK,
            "clip_range": clip_range,
            "clip_range_high": clip_range_high,
            "kl_coefficient": kl_coefficient,
        },
        {"loss": loss, "logprobs_gradient": gradient},
    )


def record_group_relative(folder: str, scale_by_std: bool) -> dict[str, Any]:
    """GRPO's advantages from a real trainer that samples from a toy model; its reward function reads a script."""
    group_size, rewards = 4, [0.0, 1.0, 0.25, -2.0, 3.0, 3.0, 3.0, 3.0]
    args = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=len(rewards),
        num_generations=group_size,
        max_completion_length=3,
        scale_rewards="group" if scale_by_std else "none",
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
    )
    dataset = Dataset.from_dict({"prompt": ["w3 w4", "w5 w6"]})
    trainer = GRPOTrainer(
        model=toy_model(LlamaForCausalLM, seed=0),
        reward_funcs=lambda completions, **_: rewards[: len(completions)],
        args=args,
        train_dataset=dataset,
        processing_class=toy_tokenizer(),
    )
    queries = [dataset[i // group_size] for i in range(len(rewards))]
    outputs = trainer._generate_and_score_completions(queries)
    return entry(
        f"trl.GRPOTrainer._generate_and_score_completions(scale_rewards={args.scale_rewards})",
        {"rewards": rewards, "group_size": group_size, "scale_by_std": scale_by_std},
        {"advantages": outputs["advantages"]},
    )


def record_sft(folder: str) -> dict[str, Any]:
    """The SFT trainer's loss on two responses of unlike length."""
    model = toy_model(LlamaForCausalLM, seed=1)
    input_ids = torch.randint(3, WORDS, (2, T + 1))
    response_mask = RESPONSE_MASK[:2]
    labels = torch.cat([torch.full((2, 1), -100), input_ids[:, 1:].masked_fill(~response_mask, -100)], dim=1)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True),
        train_dataset=Dataset.from_dict({"prompt": ["w3"], "completion": [" w4"]}),
        processing_class=toy_tokenizer(),
    )
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    with torch.no_grad():
        loss = trainer.compute_loss(model, dict(inputs))
        logits = LlamaForCausalLM.forward(model, input_ids=input_ids).logits
    return entry(
        "trl.SFTTrainer.compute_loss",
        {"logits": logits[:, :-1], "tokens": input_ids[:, 1:], "response_mask": response_mask},
        {"loss": loss},
    )


class FrameSpy:
    """Stands before a function of TRL's, and notes the local variables of each caller before it is called."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.calls: list[dict[str, Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        caller: FrameType = sys._getframe(1)
        self.calls.append(
            {name: value.detach().clone() for name, value in caller.f_locals.items() if isinstance(value, Tensor)}
        )
        return self.function(*args, **kwargs)


def run_ppo(folder: str, kl_estimator: str, stop_at_end: bool) -> tuple[dict, dict, dict, PPOConfig]:
    """One rollout and two passes over it: local variables after advantages, and after the last loss; the metrics."""
    args = PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=B,
        num_ppo_epochs=2,
        num_mini_batches=1,
        total_episodes=B,
        response_length=7,
        local_rollout_forward_batch_size=B,
        learning_rate=0.02,  # large: the second pass has ratios and values outside the clip ranges
        kl_estimator=kl_estimator,
        kl_coef=0.2,
        gamma=0.98,
        lam=0.9,
        cliprange=0.1,
        cliprange_value=0.05,
        stop_token="eos" if stop_at_end else None,
        num_sample_generations=0,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        seed=3,
    )
    policy = toy_model(LlamaForCausalLM, seed=2)
    policy.lm_head = torch.nn.Linear(policy.config.hidden_size, WORDS)
    with torch.no_grad():  # no padding is sampled, and the end of sequence often, or never
        policy.lm_head.bias[:2] = torch.tensor([-30.0, 1.5 if stop_at_end else -30.0])
    metrics: dict[str, float] = {}
    whiten, mean = FrameSpy(ppo_trainer.masked_whiten), FrameSpy(ppo_trainer.masked_mean)
    with (
        mock.patch.object(ppo_trainer, "masked_whiten", whiten),
        mock.patch.object(ppo_trainer, "masked_mean", mean),
        mock.patch.object(PPOTrainer, "log", lambda _self, logs, *_: metrics.update(logs)),
    ):
        PPOTrainer(
            args=args,
            processing_class=toy_tokenizer(),
            model=policy,
            ref_model=toy_model(LlamaForCausalLM, seed=4),
            reward_model=toy_model(LlamaForSequenceClassification, seed=5),
            value_model=toy_model(LlamaForSequenceClassification, seed=6),
            train_dataset=Dataset.from_dict({"input_ids": [[3, 4], [5, 6], [7, 8], [9, 10]]}),
        ).train()
    after_loss = [call for call in mean.calls if "pg_loss" in call and "vf_loss" in call][-1]
    return whiten.calls[0], after_loss, metrics, args


def record_ppo(folder: str) -> dict[str, Any]:
    """KL estimates, GAE and both PPO losses, from the trainer's own run."""
    entries = {}
    source = "trl.experimental.ppo.PPOTrainer.train"
    for estimator in ("k1", "k3"):
        rollout, loss, metrics, args = run_ppo(folder, estimator, stop_at_end=False)
        entries[f"kl_{estimator}"] = entry(
            f"{source}(kl_estimator={estimator})",
            {"logprobs": rollout["logprobs"], "reference_logprobs": rollout["ref_logprobs"]},
            {"kl": rollout["kl"]},
        )
    # Two passes, the first on-policy with difference 0: the mean of the second is twice the logged average.
    entries["kl_k2"] = entry(
        f"{source}, metric policy/approxkl_avg",
        {"logprobs": loss["new_logprobs"], "reference_logprobs": loss["mb_logprobs"]},
        {"mean_kl": args.num_ppo_epochs * metrics["policy/approxkl_avg"]},
    )
    rollout, loss, _, args = run_ppo(folder, "k1", stop_at_end=True)
    # TRL's `padding_mask_p1` keeps one position past the end of sequence, where it puts the reward: with that mask the
    # recursion is the one that we define on the response itself.
    past_end_mask = ~rollout["padding_mask_p1"]
    entries["gae"] = entry(
        source,
        {
            "token_rewards": rollout["rewards"],
            "values": rollout["values"],
            "response_mask": past_end_mask,
            "discount": args.gamma,
            "gae_lambda": args.lam,
        },
        {"advantages": rollout["advantages"], "returns": rollout["returns"]},
    )
    entries["clipped_surrogate"] = entry(
        source,
        {
            "logprobs": loss["new_logprobs"],
            "old_logprobs": loss["mb_logprobs"],
            "advantages": loss["mb_advantage"],
            "response_mask": ~loss["padding_mask"][loss_rows(loss)],
            "clip_range": args.cliprange,
        },
        {"loss": loss["pg_loss"]},
    )
    entries["value_loss"] = entry(
        source,
        {
            "values": loss["vpred"],
            "old_values": loss["mb_values"],
            "returns": loss["mb_return"],
            "response_mask": ~loss["padding_mask_p1"][loss_rows(loss)],
            "value_clip_range": args.cliprange_value,
        },
        {"loss": loss["vf_loss"]},
    )
    return entries


def loss_rows(loss: dict[str, Tensor]) -> list[int]:
    """The order of the shuffled minibatch: for each of its rows, the row of the rollout that it is."""
    return [int((loss["values"] == row).all(dim=1).nonzero()) for row in loss["mb_values"]]


def main() -> None:
    """Write `trl.json`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    entries = record_functions() | {
        "bradley_terry": record_bradley_terry(),
        "dpo": record_dpo(beta=0.1),
        "grpo_loss": record_grpo_loss(kl_coefficient=0.0, clip_range=0.2, clip_range_high=0.28),
        "grpo_loss_with_kl": record_grpo_loss(kl_coefficient=0.3, clip_range=0.2, clip_range_high=0.2),
    }
    with tempfile.TemporaryDirectory() as folder:
        entries["sft"] = record_sft(folder)
        entries["group_relative"] = record_group_relative(folder, scale_by_std=True)
        entries["group_relative_unscaled"] = record_group_relative(folder, scale_by_std=False)
        entries |= record_ppo(folder)
    fixture = {"versions": {name: version(name) for name in PACKAGES}, "entries": entries}
    path = Path(__file__).with_name("trl.json")
    text = json.dumps(fixture, indent=None, separators=(",", ":")).replace('{"function"', '\n{"function"')
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
