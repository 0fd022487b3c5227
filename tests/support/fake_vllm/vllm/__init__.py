"""A stand-in for vLLM: the part of its interface that `rkd.generation.vllm_worker` uses, over transformers.

It samples with whole passes: right and slow. A model named `broken` is refused; 666 tokens end the process.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM

__version__ = "stand-in"


@dataclass(kw_only=True)
class SamplingParams:
    """The settings of one request."""

    n: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int
    stop: list[str] | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    logprobs: int | None = None
    skip_special_tokens: bool = True


class LLM:
    """A model of a folder."""

    def __init__(self, model, **options):
        if Path(model).name == "broken":
            raise ValueError("no such architecture")
        self.dtype = getattr(torch, options["dtype"])
        self._load(model)

    def _load(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype).eval()

    def collective_rpc(self, method, kwargs):
        """Run a method of the workers."""
        assert method == "reload_weights"
        self._load(kwargs["weights_path"])

    def apply_model(self, function):
        """Run a function on the model."""
        function(self.model)

    def reset_prefix_cache(self):
        """Forget the prompts."""
        return True

    def generate(self, prompts, params, use_tqdm):
        """The samples of all prompts."""
        assert not use_tqdm
        if any(one.max_tokens == 666 for one in params):
            print("the engine has died", flush=True)
            os._exit(1)
        asked = zip(prompts, params, strict=True)
        return [
            SimpleNamespace(outputs=[self._sample(one["prompt_token_ids"], own, index) for index in range(own.n)])
            for one, own in asked
        ]

    @torch.inference_mode()
    def _sample(self, prompt, params, index):
        noise, tokens, logprobs, reason = torch.Generator().manual_seed(params.seed + index), [], [], "length"
        while reason == "length" and len(tokens) < params.max_tokens:
            logits = self.model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].float()
            of_all = (logits / (params.temperature or 1)).log_softmax(-1)
            greedy = params.temperature == 0
            token = int(of_all.argmax()) if greedy else int(torch.multinomial(of_all.exp(), 1, generator=noise))
            tokens.append(token)
            logprobs.append({token: SimpleNamespace(logprob=float(of_all[token]))})
            reason = "stop" if token in params.stop_token_ids else "length"
        return SimpleNamespace(
            token_ids=tokens, finish_reason=reason, logprobs=None if params.logprobs is None else logprobs
        )
