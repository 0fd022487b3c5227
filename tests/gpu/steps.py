"""A step of every stage on a pretended GPU, with the numbers of the CPU; `test_devices.py` runs this in a process.

    python -m tests.gpu.steps

A step that mixes tensors of the two devices fails with the traceback of the place.
"""

import copy
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import Example, PromptTemplate
from rkd.generation.local import LocalGenerator
from rkd.judges.likelihood import LocalLikelihood
from rkd.judges.single_token import LocalYesNo
from rkd.models.batches import collate
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.models.reward_model import RewardModel
from rkd.protocols import Sampling
from rkd.records import PreferencePair, Response, ScoredResponse
from rkd.rl.kl_controller import FixedKL
from rkd.rl.rewards import LearnedReward
from rkd.rl.settings import KLPenalty, RewardScaling
from rkd.stages.dpo import DPO, DPOModule, pair_logprobs
from rkd.stages.preference_batches import collate_pairs, tokenize_pairs
from rkd.stages.reward_model import RewardModelModule, RewardModelTraining, score_pairs
from rkd.stages.sft import SFT, SFTModule
from tests.gpu.step_names import NAMES
from tests.gpu.world import PROMPT, TINY, questions, random_folder
from tests.support import tiny_rl
from tests.support.pretend_gpu import GPU, OnGPU, pretended_gpu

QUERIES = [query for query, _ in questions(4)]
SETTINGS = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "max_tokens": 256}


class Steps:
    """The steps, by name; each compares what it gives on the GPU with what it gives on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.folder = random_folder(folder, TINY, torch.device("cpu"))
        self.tokenizer = load_tokenizer(self.folder)

    def refusal(self) -> None:
        """What a GPU refuses is refused here."""
        there, here = torch.ones(3, device=GPU), torch.ones(3)
        for mixed in (lambda: there + here, lambda: torch.where(there > 0, there, here), lambda: there.numpy()):
            try:
                mixed()
            except (RuntimeError, TypeError):
                continue
            raise AssertionError("tensors of two devices were mixed")
        assert (there + here.sum() + there[torch.tensor([0, 1, 2])]).tolist() == [5.0, 5.0, 5.0]

    def sampling(self) -> None:
        """All ways of the decode loop: shared and copied prompts, several temperatures, top-k and top-p, a stop."""
        shown = replace(PROMPT, examples=(Example("One and one?", "The answer is 2."),), stop="\nQ:")
        for prompt in (PROMPT, shown):
            for sampling in (
                Sampling(0.0, 1, 6), Sampling((0.0, 1.0, 1.5), 3, 6), Sampling(1.0, 2, 6, top_p=0.5, top_k=20),
            ):  # fmt: skip
                self._same_texts(prompt, sampling)

    def _same_texts(self, prompt: PromptTemplate, sampling: Sampling) -> None:
        lm = load_causal_lm(self.folder)
        expected = LocalGenerator("cpu", lm, self.tokenizer, prompt).generate(QUERIES, sampling, 3)
        found = LocalGenerator("cpu", lm.to(GPU), self.tokenizer, prompt).generate(QUERIES, sampling, 3)
        assert found == expected

    def sft(self) -> None:
        """A training step, with clipping and AdamW."""
        batch = collate(
            PROMPT.encode(QUERIES, self.tokenizer),
            PROMPT.encode_responses([text for _, text in questions(4)], [True] * 4, self.tokenizer),
        )

        def step(module: SFTModule) -> Tensor:
            return module.training_step(batch.to(module.device), 0)

        self._same_training(SFTModule(Policy(load_causal_lm(self.folder)), SFT(**SETTINGS), None), step)

    def reward_model(self) -> None:
        """A training step for both poolings, and the scores of a validation."""
        for pooling in ("last", "mean"):
            torch.manual_seed(0)
            classifier = AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=1)
            classifier.config.reward_pooling = pooling
            pairs = self._pairs()

            def step(module: RewardModelModule, pairs: list = pairs) -> Tensor:
                assert score_pairs(module.reward_model, pairs, 3).device.type == "cpu"
                return module.training_step(collate_pairs(pairs).to(module.device), 0)

            settings = RewardModelTraining(**SETTINGS)
            self._same_training(RewardModelModule(RewardModel(classifier), settings, None), step)

    def dpo(self) -> None:
        """The loss beside the reference's log-probabilities."""
        pairs = self._pairs()

        def step(module: DPOModule) -> Tensor:
            batch = collate_pairs(pairs).to(module.device)
            module.reference_logprobs = pair_logprobs(module.policy, batch).detach() - 1.0
            return module.loss(batch)[0]

        self._same_training(DPOModule(Policy(load_causal_lm(self.folder)), DPO(**SETTINGS), None, len(pairs)), step)

    def ppo(self) -> None:
        """A rollout under a reward model, with every adjustment of the reward, and the loss on a part of it."""
        torch.manual_seed(0)
        classifier = AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=1).eval()
        reward = LearnedReward(RewardModel(classifier), self.tokenizer, tiny_rl.tiny_world.PROMPT)
        stage = replace(
            tiny_rl.changed(tiny_rl.STAGE, missing_eos_penalty=0.5, temperature=0.7),
            scaling=RewardScaling(clip=0.5, whiten=True),
        )
        self._rollout(stage, reward, reward.reward_model)

    def grpo(self) -> None:
        """A rollout with dynamic sampling, and the loss with its KL, on a part of it."""
        kl = KLPenalty(controller=FixedKL(0.1), place="loss", estimator="k3")
        stage = tiny_rl.changed(replace(tiny_rl.STAGE, advantages=tiny_rl.GRPO, kl=kl), dynamic_sampling=1)
        self._rollout(stage, tiny_rl.uneven)

    def judge(self) -> None:
        """Verdicts of a single token, and by likelihood."""
        lm = load_causal_lm(self.folder)
        asked = [query for query in QUERIES for _ in range(2)]
        answered = [Response(query.id, "made", place % 2, f"It is {place}.", True) for place, query in enumerate(asked)]
        judges: list[Callable] = [
            lambda own: LocalYesNo(own, self.tokenizer, JudgePrompt(is_chat=False)),
            lambda own: LocalLikelihood(Policy(own), self.tokenizer, PROMPT),
        ]
        expected = [make(lm).judge(asked, answered) for make in judges]
        on_gpu = lm.to(GPU)
        for make, scores in zip(judges, expected, strict=True):
            torch.testing.assert_close(make(on_gpu).judge(asked, answered), scores)

    def _pairs(self) -> list:
        pairs = [
            PreferencePair(
                query,
                ScoredResponse(Response(query.id, "teacher", 0, text, True), None, 1.0),
                ScoredResponse(Response(query.id, "student", 0, f"It is {query.id}.", True), None, 0.0),
            )
            for query, text in questions(4)
        ]
        return tokenize_pairs(self.tokenizer, PROMPT, pairs, 256)[0]

    def _same_training(self, module: torch.nn.Module, step: Callable) -> None:
        """A step on both devices gives the same gradients."""
        there = copy.deepcopy(module).to(GPU)
        for part in there.modules():
            if isinstance(part, PreTrainedModel):
                part.tie_weights()  # moved one by one, tied weights have become two
        for own in (module, there):
            optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3)
            step(own).backward()
            torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
            optimizer.step()
        for expected, found in zip(module.parameters(), there.parameters(), strict=True):
            assert found.device == GPU
            torch.testing.assert_close(found.grad.cpu(), expected.grad, rtol=1e-3, atol=1e-6)

    def _rollout(self, stage: tiny_rl.RL, reward: Callable, of_reward: torch.nn.Module | None = None) -> None:
        found = []
        for device in ("cpu", GPU):
            lm, reference = (load_causal_lm(self.folder) for _ in range(2))
            terms = [tiny_rl.term(reward=reward)]
            sampler = stage.sampler(lm, self.tokenizer, tiny_rl.tiny_world.PROMPT)
            module = stage.module(sampler, reference, terms, validate=None, seed=0).to(device)
            if of_reward is not None:
                of_reward.to(device)
            count = 8 * (1 + stage.rollouts.dynamic_sampling)
            rollout = module.terms[0].collector.collect(tiny_rl.QUERIES[:count], seed=0)
            loss, measured = module.loss(rollout.select_prompts(torch.tensor([0, 3, 5])))
            loss.backward()
            rollout.samples(2, {})
            found.append({**rollout.metrics(), **{name: float(one) for name, one in measured.items()}})
        assert isinstance(rollout.advantages, OnGPU)
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4, equal_nan=True)


def main() -> int:
    """Run all steps, name each; the exit code."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(Path(folder))
        for name in NAMES:
            try:
                with pretended_gpu():
                    getattr(steps, name)()
                print(f"{name}: as on the CPU", flush=True)
            except Exception:  # the others run all the same
                failed += 1
                print(f"{name}: failed", flush=True)
                traceback.print_exc()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
