"""Reinforcement learning in the tiny world: a stage, its rewards, and ways to build and run its parts."""

import dataclasses
import json
from typing import ClassVar

import torch

from rkd.data.prompts import PromptTemplate
from rkd.generation.engines import LocalEngine
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.protocols import Rewards
from rkd.rl.advantages import GAE, GroupRelative
from rkd.rl.kl_controller import FixedKL
from rkd.rl.policy_module import PolicyModule
from rkd.rl.reward_mix import Term
from rkd.rl.rollout import Rollout
from rkd.rl.settings import KLPenalty, Optimisation, ResponseLog, Rollouts
from rkd.rl.stage import RL, RLInputs
from rkd.training.stage import log_nothing
from rkd.training.trainer import Training
from tests.support import tiny_world
from tests.support.fakes import context

QUERIES = tiny_world.queries(400, 16)
PPO, GRPO = GAE(), GroupRelative(group_size=4)
STAGE = RL(
    rollouts=Rollouts(episodes=96, queries_per_rollout=8, responses_per_query=4, max_response_tokens=10),
    optimisation=Optimisation(learning_rate=1e-3, epochs_per_rollout=2, minibatches_per_epoch=2),
    kl=KLPenalty(controller=FixedKL(0.01)),
    advantages=PPO,
    rollouts_between_validations=1,
    log_responses=ResponseLog(every=1, rows=4),
)

LOCAL = LocalEngine()


def says_two(_, responses) -> Rewards:
    """1 for each response that says two, whatever was asked; its components say what it is made of."""
    says = torch.tensor([float("2" in response.text) for response in responses])
    return Rewards(says, {"two": says, "length": torch.tensor([float(len(response.text)) for response in responses])})


class Recording:
    """An `AdvantageEstimator` that notes what it is given and finds every advantage 0."""

    needs_values: ClassVar[bool] = False

    def __call__(self, token_rewards, _, response_mask):
        self.token_rewards, self.response_mask = token_rewards, response_mask
        return torch.zeros_like(token_rewards), torch.zeros_like(token_rewards)


def term(name="two", weight=1.0, queries=QUERIES, reward=says_two, **more) -> Term:
    return Term(name=name, weight=weight, queries=queries, reward=reward, **more)


def module(
    student, stage=STAGE, *, reward=says_two, reference=None, prompt: PromptTemplate = tiny_world.PROMPT
) -> PolicyModule:
    return module_of(student, [term(reward=reward)], stage, reference=reference, prompt=prompt)


def module_of(
    student, terms, stage=STAGE, *, reference=None, prompt: PromptTemplate = tiny_world.PROMPT
) -> PolicyModule:
    lm, reference_lm = (load_causal_lm(one.folder) for one in (student, reference or student))
    sampler = stage.sampler(lm, load_tokenizer(student.folder), prompt)
    return stage.module(sampler, reference_lm, terms, validate=None, seed=0)


def collect(own: PolicyModule, queries=QUERIES[:8]) -> Rollout:
    return own.terms[0].collector.collect(queries, seed=0)


def fit(
    stage,
    student,
    folder,
    *,
    validate=lambda _: 0.5,
    seed=0,
    queries=QUERIES,
    reward=says_two,
    terms=None,
    logger=False,
    seconds=30,
    engine=LOCAL,
    log_rows=log_nothing,
    teacher=None,
):
    return stage.fit(
        RLInputs(build_terms=lambda _: terms or [term(queries=queries, reward=reward)], engine=engine, teacher=teacher),
        context(
            student,
            folder,
            prompt=tiny_world.PROMPT,
            validate=validate,
            training=Training(accelerator="cpu", seconds_between_checkpoints=seconds),
            logger=logger,
            seed=seed,
            log_rows=log_rows,
        ),
    )


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def changed(stage, **rollouts):
    return dataclasses.replace(stage, rollouts=dataclasses.replace(stage.rollouts, **rollouts))


def uneven(_, responses) -> Rewards:
    """Rewards 0, 1, 2, …, so that rows can be told apart."""
    rewards = torch.arange(float(len(responses)))
    return Rewards(rewards, {"row": rewards})


def says_one(_, responses) -> Rewards:
    says = torch.tensor([float("1" in response.text) for response in responses])
    return Rewards(says, {"one": says})
