"""vLLM itself against the repository's own loop. RKD_VLLM_PYTHON names a Python with vLLM (`tests/engines/vllm.sh`).

    RKD_VLLM_PYTHON=vllm_env/bin/python pytest -m "" tests/engines/test_vllm.py

tests/engines/README.md has the last result.
"""

import dataclasses
import os

import pytest
import torch

from rkd.data.answers import answers_match, extract_answer
from rkd.generation.engines import LocalEngine
from rkd.generation.local import LocalGenerator
from rkd.generation.vllm_engine import VLLMEngine
from rkd.models.loading import ModelOptions, load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.pipeline.pipeline import build_stages
from rkd.protocols import Sampling
from rkd.records import Checkpoint
from rkd.rl.rollout import in_minibatches
from tests.support.tiny_world import REPOSITORY, composed

PYTHON = os.environ.get("RKD_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="RKD_VLLM_PYTHON names no Python with vLLM (tests/engines/vllm.sh)"),
]
FLOAT32 = ModelOptions(device="cpu", dtype="float32")
MODELS = {"mini_large": "rkd/mini/checkpoints/mini_large", "smollm2_135m": "checkpoints/smollm2_135m"}


@pytest.fixture(scope="module")
def stages():
    return build_stages(composed([]))


def model_named(name: str) -> Checkpoint:
    folder = REPOSITORY / MODELS[name]
    if not folder.is_dir():
        pytest.skip(f"no folder {MODELS[name]}: python -m rkd models get {name}")
    return Checkpoint(folder, name)


def engine(**options) -> VLLMEngine:
    return VLLMEngine(python=PYTHON, enforce_eager=True, kv_cache_gb=1, **options)


def opened(own, name, prompt):
    return own.open(model_named(name), prompt, name, lambda _: None, FLOAT32)


@pytest.mark.parametrize(("name", "queries", "tokens"), [("mini_large", 100, 120), ("smollm2_135m", 24, 48)])
def test_greedy_responses_are_those_of_the_loop(stages, name, queries, tokens):
    asked, greedy = stages.dataset.training_queries()[:queries], Sampling(0.0, 1, tokens)
    prompt = stages.zero_shot if name == "mini_large" else dataclasses.replace(stages.zero_shot, is_chat=False)
    of_loop, of_vllm = (opened(own, name, prompt).generate(asked, greedy, 0) for own in (LocalEngine(), engine()))
    texts = [(one[0].text, other[0].text) for one, other in zip(of_loop, of_vllm, strict=True)]
    # Two likeliest tokens that float32 cannot tell apart may fall either way.
    assert sum(one != other for one, other in texts) <= 0.02 * len(texts)


def test_sampled_accuracy_is_that_of_the_loop(stages):
    asked, sampling = stages.dataset.test_sets()["mini_math"][:250], Sampling(0.7, 4, 120)

    def right(own, seed: int) -> int:
        responses = opened(own, "mini_large", stages.zero_shot).generate(asked, sampling, seed)
        pairs = [(query, one) for query, drawn in zip(asked, responses, strict=True) for one in drawn]
        return sum(answers_match(extract_answer(one.text, q.dataset), q.gold_answer, q.dataset) for q, one in pairs)

    of_loop, of_vllm, n = right(LocalEngine(), 0), right(engine(), 0), 4 * len(asked)
    mean = (of_loop + of_vllm) / 2 / n
    # Samples of one query are alike, so that their deviation may be that of a quarter as many.
    assert abs(of_loop - of_vllm) / n < 3 * (2 * mean * (1 - mean) / len(asked)) ** 0.5


@pytest.mark.parametrize(("name", "atol"), [("mini_large", 1e-3), ("smollm2_135m", 1e-3)])
def test_rollouts_have_the_weights_of_each_update(stages, name, atol):
    lm = load_causal_lm(model_named(name).folder, FLOAT32)
    policy = LocalGenerator("policy", lm, load_tokenizer(model_named(name).folder), stages.zero_shot)
    of_trainer = Policy(lm, temperature=0.8).eval()
    asked = stages.dataset.training_queries()[:8]
    with engine(samples_policy=True).over(policy) as sampler:
        for seed in range(3):
            batch = sampler.sample(asked, Sampling(0.8, 4, 24), seed)
            expected = in_minibatches(of_trainer, batch, 4).logprobs
            difference = ((batch.sampler_logprobs - expected) * batch.chosen_mask).abs()
            assert float(difference.max()) < atol
            with torch.no_grad():
                for parameter in lm.parameters():
                    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                    parameter.add_(0.1 * parameter.std(correction=0) * noise)
