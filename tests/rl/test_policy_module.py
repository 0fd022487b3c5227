"""The policy module: ratios, losses, gradients and value heads."""

import dataclasses

import pytest
import torch

from rkd.rl.kl_controller import FixedKL
from rkd.rl.policy_module import PolicyModule
from rkd.rl.settings import KLPenalty
from tests.support.tiny_rl import (
    GRPO,
    PPO,
    QUERIES,
    STAGE,
    Recording,
    collect,
    module,
    module_of,
    says_one,
    says_two,
    term,
)


@pytest.mark.parametrize("advantages", [PPO, GRPO], ids=["PPO", "GRPO"])
def test_the_first_ratio_is_1_and_nothing_is_clipped(student, advantages):
    own = module(student, dataclasses.replace(STAGE, advantages=advantages))
    rollout = collect(own)
    _, measured = own.loss(rollout.select_prompts(torch.tensor([5, 2, 7])))
    # To rounding: a minibatch is padded to its own longest response.
    assert float(measured["ratio"]) == pytest.approx(1, abs=1e-6)
    assert float(measured["clip_fraction"]) == 0


@pytest.mark.parametrize(("target", "is_zero"), [("reference", False), ("old", True)])
def test_a_kl_in_the_loss_leaves_the_reward_alone_and_has_its_target(student, other, target, is_zero):
    recorder = Recording()
    kl = KLPenalty(controller=FixedKL(0.5), place="loss", estimator="k3", target=target)
    own = module(student, dataclasses.replace(STAGE, advantages=recorder, kl=kl), reference=other)
    rollout = collect(own)
    assert recorder.token_rewards.sum() == rollout.rewards.total.sum()
    loss, measured = own.loss(rollout)
    loss = loss.detach()
    # Advantages are 0 here, so the KL is all there is. To the policy that has just sampled it is 0.
    assert float(loss) == pytest.approx(0.5 * float(measured["kl_trained_on"]), abs=1e-6)
    assert (float(measured["kl_trained_on"]) < 1e-6) == is_zero


def test_ppo_has_a_value_head_and_grpo_none(student):
    assert module(student).policy.value_head is not None
    own = module(student, dataclasses.replace(STAGE, advantages=GRPO))
    assert own.policy.value_head is None
    rollout = collect(own)
    assert rollout.values is None
    assert "explained_variance" not in rollout.metrics()
    assert "value_loss" not in own.loss(rollout)[1]


def test_the_reference_is_no_part_of_what_is_trained_or_kept(student):
    own = module(student)
    assert all(name.startswith("policy.") for name in own.state_dict())


def gradient_of(own: PolicyModule, queries) -> list[torch.Tensor]:
    """The gradient of the language model's weights in the first update on rollouts of these queries."""
    rollouts = [one.collector.collect(asked, seed=0) for one, asked in zip(own.terms, queries, strict=True)]
    own.manual_backward = lambda loss: loss.backward()
    for one, rollout in zip(own.terms, rollouts, strict=True):
        own._add_gradient(one.weight, rollout)
    return [weight.grad for weight in own.policy.lm.parameters()]


def test_the_gradient_of_a_mix_is_the_weighted_sum_of_its_terms(student):
    no_head = dataclasses.replace(STAGE, advantages=GRPO)
    parts = [(QUERIES[:4], says_two), (QUERIES[8:12], says_one)]
    alone = [
        gradient_of(module_of(student, [term(queries=asked, reward=reward)], no_head), [asked])
        for asked, reward in parts
    ]
    terms = [
        term("two", 0.75, parts[0][0], says_two),
        term("one", 0.25, parts[1][0], says_one),
    ]
    mixed = gradient_of(module_of(student, terms, no_head), [asked for asked, _ in parts])
    assert any(gradient.abs().max() > 1e-4 for gradient in alone[0])
    for two, one, both in zip(*alone, mixed, strict=True):
        torch.testing.assert_close(both, 0.75 * two + 0.25 * one, atol=1e-6, rtol=1e-4)


def test_each_term_has_a_value_head_of_its_own(student):
    own = module_of(student, [term("two", 0.5), term("one", 0.5, reward=says_one)])
    assert own.policy.value_head.out_features == 2
    with torch.no_grad():
        own.policy.value_head.bias.copy_(torch.tensor([1.0, 2.0]))
    values = [one.collector.collect(QUERIES[:4], seed=0).values for one in own.terms]
    for place, head in enumerate(values):
        assert head[head != 0].unique().tolist() == [place + 1.0]


@pytest.mark.parametrize("reduction", ["tokens", "responses", "constant"])
def test_a_batch_in_parts_has_the_loss_of_the_whole(student, reduction):
    optimisation = dataclasses.replace(STAGE.optimisation, reduction=reduction)
    own = module(student, dataclasses.replace(STAGE, advantages=GRPO, optimisation=optimisation))
    rollout = collect(own)
    whole, _ = own.loss(rollout)
    whole = whole.detach()
    parts = [rollout.select_prompts(torch.tensor(indices)) for indices in ([0, 3, 5], [1, 2, 4, 6, 7])]
    total = sum(part.weight for part in parts)
    assert rollout.weight == total == {"tokens": int(rollout.batch.response_mask.sum())}.get(reduction, 32)
    mean = sum(part.weight / total * own.loss(part)[0].detach() for part in parts)
    assert float(mean) == pytest.approx(float(whole), abs=1e-6)
