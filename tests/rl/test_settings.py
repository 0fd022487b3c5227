"""Settings of the stage: what is refused, and with which message."""

import dataclasses
import math

import pytest
import torch

from rkd.rl.advantages import RLOO, GroupRelative
from rkd.rl.kl_controller import AdaptiveKL, FixedKL
from rkd.rl.settings import KLPenalty
from rkd.store.fingerprint import as_fingerprint
from tests.support.tiny_rl import STAGE, changed


def test_a_kl_to_the_sampling_policy_is_refused_in_the_reward():
    with pytest.raises(ValueError, match="use place=loss with target=old"):
        KLPenalty(controller=FixedKL(0.1), target="old", place="reward")


def test_k1_is_refused_in_the_loss():
    with pytest.raises(ValueError, match="estimator=k2 or k3"):
        KLPenalty(controller=FixedKL(0.1), place="loss", estimator="k1")


def test_the_kl_is_that_of_response_tokens_alone():
    logprobs, reference = torch.tensor([[-1.0, -50.0]]), torch.tensor([[-3.0, 50.0]])
    for estimator, expected in (("k1", 2.0), ("k2", 2.0), ("k3", math.exp(-2) - 1 + 2)):  # d = 2
        penalty = KLPenalty(controller=FixedKL(0.1), estimator=estimator)
        kl = penalty.per_token(logprobs, reference, torch.tensor([[True, False]]))
        assert kl[0].tolist() == [pytest.approx(expected), 0.0]


def test_an_adaptive_coefficient_has_a_fingerprint():
    kl = KLPenalty(controller=AdaptiveKL(coefficient=0.1, target=6.0, horizon=320))
    before = as_fingerprint(kl)
    kl.controller.update(100.0, 32)
    assert as_fingerprint(kl) == before


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match=r"rl\.optimisation\.reduction=words: choose one of tokens, responses"):
        dataclasses.replace(STAGE.optimisation, reduction="words")


@pytest.mark.parametrize("part", ["optimisation", "rollouts"])
def test_a_setting_outside_its_range_is_refused(part):
    name = {"optimisation": "learning_rate", "rollouts": "temperature"}[part]
    with pytest.raises(ValueError, match=rf"^rl\.{part}\.{name}=0\.0: must be above 0"):
        dataclasses.replace(getattr(STAGE, part), **{name: 0.0})


def test_fewer_episodes_than_a_rollout_are_refused():
    with pytest.raises(ValueError, match="4 episodes are fewer than one rollout of 8 × 4"):
        changed(STAGE, episodes=4)


def test_more_minibatches_than_queries_are_refused():
    with pytest.raises(ValueError, match=r"minibatches_per_epoch=2: .*rl\.rollouts\.queries_per_rollout=1"):
        changed(STAGE, queries_per_rollout=1)


@pytest.mark.parametrize("estimator", [GroupRelative, RLOO])
def test_a_group_that_mixes_queries_is_refused(estimator):
    with pytest.raises(ValueError, match=r"set it to rl\.rollouts\.responses_per_query=4"):
        dataclasses.replace(STAGE, advantages=estimator(group_size=8))


def test_a_cap_that_is_not_set_leaves_the_fingerprint_as_it_was_before_there_were_caps():
    assert "importance_cap" not in as_fingerprint(STAGE)["rollouts"]
    assert as_fingerprint(changed(STAGE, importance_cap=2.0))["rollouts"]["importance_cap"] == 2.0
