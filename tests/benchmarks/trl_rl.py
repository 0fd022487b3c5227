"""Some iterations of TRL's PPO or GRPO on a CPU; `rl.py` runs this with TRL's own Python and compares.

    python tests/benchmarks/trl_rl.py JOB.json RESULT.json

The job: `algorithm` (ppo or grpo), `folder` with model and tokenizer, `prompts` as texts, `samples` of each, at most
`tokens`, `natural_end`, `minibatches`, `epochs`, `temperature`, `learning_rate`, `kl_coefficient`, `iterations`, how
many of them are `warm_up`, and the `settings` that are searched. The result: seconds of each iteration after the
warm-up, by the wall clock and of the processor, peak memory, response tokens of an iteration, and the versions. No rkd
is imported here. With several processes it runs under `torch.distributed.run`; the responses are shared out among them,
and processor seconds, memory and tokens are sums over the processes. Libraries that processes share count in each.

Settings: `processes`, `threads` of each, `attention`, `cache`, `rows` of a pass in all processes together (GRPO
accumulates gradients over those of a minibatch), and `precision`: "32", "bf16-mixed" (TRL's `bf16`: autocast over
float32 weights) or "bf16" (weights, gradients and the optimiser's moments in bfloat16).

TRL's PPO demands a value model and a reward model, both networks in its eyes. The reward is a module without weights
that counts tokens. The value model is the policy's size, as TRL's examples have it, or, with `settings.tiny_value`, one
of a few hundred weights: what is left then is close to TRL's cost without a value model.
"""

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true",
    "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip

import torch
from accelerate.utils import gather_object
from common import Clock, resident
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

CLIP_RANGE = 0.2
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))


class Iterations(TrainerCallback):
    """Marks the beginning, and the end of each `steps`-th step: an iteration."""

    def __init__(self, steps: int) -> None:
        self.clock, self.steps, self.done = Clock(), steps, 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """See `TrainerCallback`."""
        self.clock.mark()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """See `TrainerCallback`."""
        self.done += 1
        if self.done % self.steps == 0:
            self.clock.mark()


class CountingReward(nn.Module):
    """A reward model to `get_reward`: the share of tokens with a low id; it notes how many tokens it saw."""

    base_model_prefix = "backbone"

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []

    def backbone(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        """The running share at each position as the only "hidden state"."""
        self.tokens.append(int(attention_mask.sum()))
        low = ((input_ids < 100) & attention_mask).cumsum(1) / attention_mask.cumsum(1).clamp(min=1)
        return SimpleNamespace(hidden_states=(low[..., None],))

    def score(self, hidden: Tensor) -> Tensor:
        """See `get_reward`."""
        return hidden


def run_ppo(job: dict[str, Any], model: Any, tokenizer: PreTrainedTokenizerBase, folder: str) -> tuple[Clock, int]:
    """Train; the clock, and the response tokens of this process in all iterations."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    settings, iterations, reward = job["settings"], Iterations(1), CountingReward()
    responses = len(job["prompts"]) * job["samples"]
    if settings.get("tiny_value"):
        tiny = LlamaConfig(
            vocab_size=model.config.vocab_size, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, num_labels=1, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        value = LlamaForSequenceClassification(tiny)
    else:
        value = LlamaForSequenceClassification.from_pretrained(job["folder"], num_labels=1, dtype=dtype_of(job))
    value.set_attn_implementation(settings.get("attention", "sdpa"))
    args = PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=responses // PROCESSES,
        num_mini_batches=job["minibatches"],
        num_ppo_epochs=job["epochs"],
        total_episodes=responses * job["iterations"],
        response_length=job["tokens"],
        stop_token="eos" if job["natural_end"] else None,
        local_rollout_forward_batch_size=settings.get("rows", 512) // PROCESSES,
        temperature=job["temperature"],
        kl_coef=job["kl_coefficient"],
        cliprange=CLIP_RANGE,
        lam=1.0,
        gradient_checkpointing=False,
        num_sample_generations=0,
        **everywhere(job),
    )
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=model,
        ref_model=load(job),
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict(
            {"input_ids": [row for row in tokenizer(job["prompts"])["input_ids"] for _ in range(job["samples"])]}
        ),
        callbacks=[iterations],
    )
    trainer.log = lambda *_, **__: None
    trainer.train()
    prompt_tokens = sum(map(len, tokenizer(job["prompts"])["input_ids"])) * job["samples"] * job["iterations"]
    return iterations.clock, sum(reward.tokens) - prompt_tokens // PROCESSES


def run_grpo(job: dict[str, Any], model: Any, tokenizer: PreTrainedTokenizerBase, folder: str) -> tuple[Clock, int]:
    """Train; the clock, and the response tokens of this process in all iterations."""
    from trl import GRPOConfig, GRPOTrainer

    settings, iterations, tokens = job["settings"], Iterations(job["minibatches"] * job["epochs"]), []
    responses = len(job["prompts"]) * job["samples"]
    minibatch = responses // job["minibatches"]
    rows = settings.get("rows", minibatch)

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in completions]

    args = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=rows // PROCESSES,
        gradient_accumulation_steps=minibatch // rows,
        steps_per_generation=responses // rows,
        num_iterations=job["epochs"],
        num_generations=job["samples"],
        max_steps=job["minibatches"] * job["epochs"] * job["iterations"],
        max_completion_length=job["tokens"],
        temperature=job["temperature"],
        beta=job["kl_coefficient"],
        epsilon=CLIP_RANGE,
        loss_type="bnpo",
        cache_implementation=settings.get("cache"),
        gradient_checkpointing=False,
        logging_strategy="no",
        **everywhere(job),
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": job["prompts"]}),
        processing_class=tokenizer,
        callbacks=[iterations],
    )
    trainer.train()
    return iterations.clock, sum(tokens)


def everywhere(job: dict[str, Any]) -> dict[str, Any]:
    """What both trainers are told: a CPU, the precision and the learning rate, nothing logged or saved."""
    return {
        "use_cpu": True, "bf16": job["settings"].get("precision") == "bf16-mixed", "report_to": "none",
        "disable_tqdm": True, "save_strategy": "no", "seed": 0, "adam_beta2": 0.95, "lr_scheduler_type": "constant",
        "learning_rate": job["learning_rate"],
    }  # fmt: skip


def dtype_of(job: dict[str, Any]) -> torch.dtype:
    """The format of the weights."""
    return torch.bfloat16 if job["settings"].get("precision") == "bf16" else torch.float32


def load(job: dict[str, Any]) -> Any:
    """The model of the job."""
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=dtype_of(job))
    model.set_attn_implementation(job["settings"].get("attention", "sdpa"))
    return model


def main() -> None:
    """Run the job that the first argument names, write what the second one names."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["settings"].get("threads", 2))
    tokenizer = AutoTokenizer.from_pretrained(job["folder"], padding_side="left")
    with tempfile.TemporaryDirectory() as folder:
        run = {"ppo": run_ppo, "grpo": run_grpo}[job["algorithm"]]
        clock, tokens = run(job, load(job), tokenizer, folder)
    own = {**clock.steps(warm_up=job["warm_up"]), "peak_mb": resident("VmHWM") / 2**20, "tokens": tokens}
    of_processes = gather_object([own])
    if int(os.environ.get("RANK", "0")) == 0:
        of_iterations = zip(*(one["processor_seconds"] for one in of_processes), strict=True)
        result = {
            "seconds": own["seconds"],
            "processor_seconds": [sum(iteration) for iteration in of_iterations],
            "peak_mb": sum(one["peak_mb"] for one in of_processes),
            "response_tokens": sum(one["tokens"] for one in of_processes) / job["iterations"],
            "versions": {name: version(name) for name in ("trl", "torch", "transformers", "accelerate")},
        }
        Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
