"""vLLM in a process of its own: what it is asked, what it answers, how it ends. A stand-in answers for vLLM here.

`tests/engines` asks vLLM itself.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rkd.errors import EngineError
from rkd.generation.engines import LocalEngine
from rkd.generation.local import LocalGenerator
from rkd.generation.vllm_engine import VLLMEngine, VLLMPolicy
from rkd.models.loading import ModelOptions, load_causal_lm, load_tokenizer
from rkd.models.lora import LoRA
from rkd.models.policy import Policy
from rkd.protocols import Sampling
from rkd.rl.rollout import in_minibatches
from tests.support import tiny_rl, tiny_world
from tests.support.fakes import query

STAND_IN = Path(__file__).parents[1] / "support/fake_vllm"
ENGINE, BOTH = VLLMEngine(), VLLMEngine(samples_policy=True)
OPTIONS = ModelOptions(device="cpu")
QUERIES = tiny_world.queries(0, 6)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))


@pytest.fixture(scope="module")
def student(guessing_student):
    return guessing_student


def opened(engine, model):
    return engine.open(model, tiny_world.PROMPT, "student", lambda _: None, OPTIONS)


def is_alive(process: int) -> bool:
    """Whether a process still runs; one that has ended and was not waited for does not."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def ends(process: int, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while is_alive(process) and time.monotonic() < until:
        time.sleep(0.05)
    return not is_alive(process)


def policy_of(student, lora=None) -> LocalGenerator:
    options = dataclasses.replace(OPTIONS, lora=lora)
    lm = options.prepare(load_causal_lm(student.folder, options))
    return LocalGenerator("policy", lm, load_tokenizer(student.folder), tiny_world.PROMPT)


def first_weights_alone(policy, once=VLLMPolicy._hand_over):
    """An engine that says it has taken new weights, and has not."""
    if not policy.running:
        once(policy)


def test_greedy_responses_are_those_of_the_loop_and_each_sample_has_its_temperature(student):
    generator = opened(ENGINE, student)
    of_loop = opened(LocalEngine(), student).generate(QUERIES, Sampling(0.0, 1, 12), 0)
    assert generator.generate(QUERIES, Sampling(0.0, 1, 12), 0) == of_loop
    mixed = Sampling((0.0, 2.0, 2.0), 3, 12)
    first, same, other = (generator.generate(QUERIES, mixed, seed) for seed in (0, 0, 1))
    assert first == same != other
    assert [own[0].text for own in first] == [own[0].text for own in of_loop]
    assert any(own[1].text != own[2].text for own in first)


def test_each_temperature_draws_noise_of_its_own(student):
    drawn = opened(ENGINE, student).generate(QUERIES, Sampling((1.5, 1.5 + 1e-9), 2, 12), 0)
    assert [own[0].text for own in drawn] != [own[1].text for own in drawn]


def test_a_sample_does_not_depend_on_the_other_queries(student):
    generator, sampling = opened(ENGINE, student), Sampling(1.0, 2, 12)
    first = generator.generate(QUERIES, sampling, 0)
    assert generator.generate([query("new"), *QUERIES[1:]], sampling, 0)[1:] == first[1:]


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["all weights", "LoRA"])
def test_rollouts_follow_the_weights_of_the_policy(student, lora):
    if lora:
        pytest.importorskip("peft")
    policy, sampling = policy_of(student, lora), Sampling(0.8, 4, 10)
    of_trainer = Policy(policy.model, temperature=0.8).eval()
    with BOTH.over(policy) as sampler:
        for seed in range(3):
            batch = sampler.sample(QUERIES, sampling, seed)
            assert len(batch.response_ids) == 4 * len(QUERIES)
            expected = in_minibatches(of_trainer, batch, 4).logprobs
            assert torch.allclose(batch.sampler_logprobs * batch.chosen_mask, expected, atol=1e-4)
            with (
                torch.no_grad()
            ):  # an update that moves all probabilities, as fused optimisers make it: unseen by torch
                for parameter in policy.model.parameters():
                    if parameter.requires_grad:
                        parameter.data.add_(
                            0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                        )
        stale = in_minibatches(of_trainer, batch, 4).logprobs
        assert not torch.allclose(batch.sampler_logprobs * batch.chosen_mask, stale, atol=1e-2)
        again = sampler.sample(QUERIES, sampling, 0)
        assert torch.equal(sampler.sample(QUERIES, sampling, 0).response_ids, again.response_ids)
        folder = sampler.folder
    assert not folder.exists()


def test_a_policy_is_sampled_by_the_loop_unless_the_engine_is_told_to(student):
    policy = policy_of(student)
    for engine in (ENGINE, LocalEngine()):
        with engine.over(policy) as sampler:
            assert sampler is policy


def test_training_logs_how_far_the_sampler_is_from_the_trainer_and_resumes(student, tmp_path):
    stage = tiny_rl.changed(tiny_rl.STAGE, episodes=64, importance_cap=2.0)
    tiny_rl.fit(stage, student, tmp_path / "whole", engine=BOTH, seconds=0)
    rows = [row for row in tiny_rl.read(tmp_path / "whole/history.jsonl") if "reward" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["sampler_difference"] < 1e-4
        assert row["importance"] == pytest.approx(1, abs=1e-3)
        assert row["importance_capped"] == 0

    class Killed(BaseException):
        pass

    def attempt(rollouts: int) -> None:
        left = iter(range(rollouts))

        def reward(queries, responses):
            if next(left, None) is None:
                raise Killed
            return tiny_rl.says_two(queries, responses)

        tiny_rl.fit(stage, student, tmp_path / "killed", reward=reward, engine=BOTH, seconds=0)

    with pytest.raises(Killed):
        attempt(1)
    attempt(1)
    for file in ("model.safetensors", "history.jsonl", "samples.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_an_engine_that_keeps_old_weights_is_found_out(student, tmp_path, monkeypatch):
    monkeypatch.setattr("rkd.generation.vllm_engine.VLLMPolicy._hand_over", first_weights_alone)
    stage = tiny_rl.changed(tiny_rl.STAGE, episodes=320)
    stage = dataclasses.replace(stage, optimisation=dataclasses.replace(stage.optimisation, learning_rate=0.05))
    with pytest.raises(EngineError, match="It has other weights"):
        tiny_rl.fit(stage, student, tmp_path, engine=BOTH)


def test_the_process_ends_with_its_generator(student):
    generator = opened(ENGINE, student)
    process = generator.process.pid
    assert is_alive(process)
    del generator
    assert ends(process)


def test_the_process_ends_when_this_one_is_killed_and_leaves_nothing(student, tmp_path):
    left_behind = tmp_path / "weights"
    left_behind.mkdir()
    (left_behind / "model.safetensors").write_bytes(b"")
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rkd.generation.vllm_process import VLLMProcess\n"
        f"own = VLLMProcess(sys.executable, left_behind=[Path({str(left_behind)!r})])\n"
        f"own.ask('open', model={str(student.folder)!r}, kv_cache_gb=1, dtype='float32')\n"
        "print(own.pid, own.log, flush=True)\n"
        "own.ask('generate', prompts=[[5]] * 1000, seeds=list(range(1000)), with_logprobs=False, shared=dict(\n"
        "    n=100, temperature=1.0, top_p=1.0, top_k=0, max_tokens=100))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        process, log = parent.stdout.readline().split()
        assert is_alive(int(process))
        assert Path(log).exists()
        os.kill(parent.pid, signal.SIGKILL)
    assert ends(int(process))
    assert not left_behind.exists()
    assert not Path(log).exists()


def test_what_vllm_refuses_is_told_in_its_words(tmp_path, student):
    broken = tmp_path / "broken"
    broken.symlink_to(student.folder)
    with pytest.raises(EngineError, match="vLLM refused: ValueError: no such architecture"):
        opened(ENGINE, dataclasses.replace(student, folder=broken))
    generator = opened(ENGINE, student)
    with pytest.raises(EngineError, match="vLLM refused: TypeError"):
        generator.process.ask("generate", prompts=[[5]], seeds=[0], shared={}, with_logprobs=False)
    assert ends(generator.process.pid)  # what it holds is free for the next
    with pytest.raises(EngineError, match=r"(?s)the process of vLLM has ended.*the engine has died"):
        opened(ENGINE, student).generate(QUERIES, Sampling(0.0, 1, 666), 0)


def test_without_vllm_the_choice_is_refused_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(ModuleNotFoundError, match=r"requirements-vllm\.txt.*generation\.python.*generation=local"):
        ENGINE.check()
    with pytest.raises(EngineError, match=r"generation\.python=.*it cannot be started"):
        VLLMEngine(python=str(tmp_path / "python")).check()
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    ENGINE.check()
