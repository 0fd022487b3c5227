"""What `rl.py` compares at each scale: the model and its prompts, the jobs, and the settings of TRL that are tried."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from common import checkpoint, mini_stages, random_smollm2, smollm2_shape

FIXED, NATURAL = {"tokens": 30, "natural_end": False}, {"tokens": 120, "natural_end": True}


@dataclass(frozen=True)
class World:
    """Prompts, and the folder of the model with these prompts by whether its responses can end."""

    prompts: list[str]
    models: dict[bool, Path]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is compared, and which settings of TRL are tried.

    Args:
        result: the name of its result file.
        algorithms: those of TRL, in the order of their Pythons.
        world: makes it in a folder, with so many layers if the model is random.
        job: what every job says.
        compared: iterations of a comparison, and how many of them are not counted.
        searched: the same of a trial of settings.
        rounds: of a comparison.
        limit_seconds: for one process.
        defaults: TRL's settings by algorithm, from which the search starts.
        varied: choices by algorithm, in the order of their variation.
        beside: changes of the best settings that are compared too, by algorithm and name.
    """

    result: str
    algorithms: Sequence[str]
    world: Callable[[Path, int], World]
    job: Mapping[str, Any]
    compared: Mapping[str, int]
    searched: Mapping[str, int]
    rounds: int
    limit_seconds: int
    defaults: Mapping[str, Mapping[str, Any]]
    varied: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
    beside: Mapping[str, Mapping[str, Mapping[str, Any]]]
    cases: Sequence[Mapping[str, Any]]


def mini_world(folder: Path, _: int) -> World:
    """`mini_1`, and questions of the mini world."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stages, whole = mini_stages(), checkpoint("mini_1")
    prompts = [stages.zero_shot.render(query) for query in stages.dataset.training_queries()[:64]]
    model, tokenizer = (kind.from_pretrained(whole) for kind in (AutoModelForCausalLM, AutoTokenizer))
    return World(prompts, {True: whole, False: without_end(model, tokenizer, folder / "endless")})


def small_world(folder: Path, layers: int) -> World:
    """A random model of SmolLM2-135M's shape, and prompts of random words of one token."""
    from tests.gpu.world import tokenizer_of

    tokenizer = tokenizer_of(smollm2_shape()["vocab_size"])
    return World(small_prompts(), {False: without_end(random_smollm2(layers), tokenizer, folder / "endless")})


def small_prompts() -> list[str]:
    """32 prompts of 45 to 60 random words; any two letters behind a blank are a token of `tokenizer_of`."""
    draw = random.Random(0)
    words = [["".join(draw.choices(ascii_lowercase, k=2)) for _ in range(draw.randint(45, 60))] for _ in range(32)]
    return [" ".join(own) for own in words]


def without_end(model: Any, tokenizer: Any, folder: Path) -> Path:
    """The folder, with an end-of-sequence token beyond the model's vocabulary, so that no response ends by itself."""
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Several processes share out the responses, one thread each.
SCALES = {
    "mini": Scale(
        result="rl",
        algorithms=("ppo", "grpo"),
        world=mini_world,
        job={
            "model": "mini_1", "queries": 64, "samples": 8, "minibatches": 4, "temperature": 1.0, "learning_rate": 1e-4,
            "kl_coefficient": 0.02, "precision": "32-true", "small_models": True,
        },
        compared={"iterations": 3, "warm_up": 1},
        searched={"iterations": 3, "warm_up": 1},
        rounds=3,
        limit_seconds=600,
        defaults={
            "ppo": {"processes": 1, "threads": 2, "rows": 512, "attention": "sdpa", "tiny_value": False},
            "grpo": {"processes": 1, "threads": 2, "attention": "sdpa", "cache": None},
        },
        varied={
            "ppo": ([{"processes": 2, "threads": 1}], [{"rows": 64}], [{"attention": "eager"}]),
            "grpo": ([{"processes": 2, "threads": 1}], [{"attention": "eager"}], [{"cache": "static"}]),
        },
        beside={"ppo": {"trl_tiny_value": {"tiny_value": True}}, "grpo": {}},
        cases=(
            {"algorithm": "ppo", "epochs": 1, **FIXED},
            {"algorithm": "grpo", "epochs": 1, **FIXED},
            {"algorithm": "ppo", "epochs": 1, **NATURAL},
            {"algorithm": "grpo", "epochs": 1, **NATURAL},
            {"algorithm": "ppo", "epochs": 4, **FIXED},
        ),
    ),
    "small": Scale(
        result="rl_small",
        algorithms=("grpo",),
        world=small_world,
        job={
            "model": "random, shape of SmolLM2-135M", "queries": 32, "prompt_tokens": (45, 60), "samples": 8,
            "minibatches": 4, "temperature": 0.7, "learning_rate": 1e-5, "kl_coefficient": 0.02,
            "precision": "bf16-mixed", "small_models": False,
        },
        compared={"iterations": 2, "warm_up": 1},
        searched={"iterations": 1, "warm_up": 0},  # a warm-up is a small part of minutes
        rounds=3,
        limit_seconds=3600,
        defaults={
            "grpo": {
                "processes": 1, "threads": 2, "precision": "bf16-mixed", "rows": 64, "attention": "sdpa", "cache": None,
                "keeps_memory": False,
            },
        },
        varied={
            "grpo": (
                [{"precision": "bf16"}, {"precision": "32"}],
                [{"processes": 2, "threads": 1}],
                [{"rows": 32}, {"rows": 16}],
                [{"cache": "static"}],
                [{"attention": "eager"}],
                [{"keeps_memory": True}],
            ),
        },
        beside={"grpo": {"trl_mixed": {"precision": "bf16-mixed", "cache": None}}},  # the static cache needs one format
        cases=({"algorithm": "grpo", "epochs": 1, "tokens": 50, "natural_end": False},),
    ),
}  # fmt: skip
