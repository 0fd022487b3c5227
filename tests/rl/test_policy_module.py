"""The policy module: ratios, losses, gradients and value heads."""

import dataclasses
import itertools
import math

import pytest
import torch
from hydra.utils import instantiate

from rkd.models.policy import PolicyOutput
from rkd.rl.kl_controller import FixedKL
from rkd.rl.policy_module import PolicyModule, rollout_seed
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
from tests.support.tiny_world import composed


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


@pytest.mark.parametrize("option", ["reft", "reft_large"])
def test_the_recipe_of_reft_on_a_batch_worked_by_hand(student, option):
    # The source: the mean over the tokens of each response, then over responses; policy loss + 5 · ½ · value loss.
    own = module(student, dataclasses.replace(STAGE, optimisation=instantiate(reft(option).optimisation)))
    rollout = collect(own, QUERIES[:1])
    # Responses of 1 and of 3 tokens; 0 stands for padding.
    mask = torch.tensor([[True, False, False], [True, True, True]])
    batch = dataclasses.replace(rollout.batch, response_mask=mask)
    part = dataclasses.replace(
        rollout,
        batch=batch,
        old_logprobs=torch.zeros(2, 3),
        advantages=torch.tensor([[2.0, 0, 0], [1.0, -1.0, 0.5]]),
        values=torch.tensor([[0.5, 0, 0], [0.0, 0.0, 1.0]]),
        returns=torch.tensor([[0.0, 0, 0], [1.0, 0.5, 1.0]]),
    )
    logprobs = torch.tensor([[math.log(1.5), 0, 0], [0.0, math.log(0.5), 0.0]])
    values = torch.tensor([[1.0, 0, 0], [0.0, 0.0, 1.0]])
    own.policy.forward = lambda *_, **__: PolicyOutput(logprobs, values, None)
    loss, measured = own.loss(part)
    # Ratios 1.5 (clipped to 1.2) | 1, 0.5 (clipped to 0.8, which is worse), 1.
    assert float(measured["policy_loss"]) == pytest.approx(-(1.2 * 2 + (1 - 0.8 + 0.5) / 3) / 2)
    # Squared errors 1 (clipped value 0.7: 0.49 is less) | 1, 0.25, 0.
    assert float(measured["value_loss"]) == pytest.approx(0.5 * (1 + 1.25 / 3) / 2)
    assert float(loss) == pytest.approx(-1.316667 + 5 * 0.5 * 0.708333, abs=1e-5)


def reft(option: str):
    return composed(["scale=paper", "experiments=vr", f"rl={option}"]).rl


def test_the_recipe_of_reft_has_the_settings_of_its_source():
    small, large = reft("reft"), reft("reft_large")
    assert small.optimisation == {
        **small.optimisation, "learning_rate": 3e-6, "epochs_per_rollout": 2, "minibatches_per_epoch": 1,
        "clip_range": 0.2, "value_clip_range": 0.2, "value_coefficient": 5.0, "gradient_clip": 1.0,
        "reduction": "responses", "adam_betas": [0.9, 0.999], "warmup_rollouts": 0, "final_learning_rate_fraction": 1.0,
    }  # fmt: skip
    assert (small.kl.controller.coefficient, small.kl.place, small.kl.estimator) == (0.05, "reward", "k1")
    assert (small.advantages.discount, small.advantages.gae_lambda, small.advantages.whiten) == (1.0, 0.95, True)
    assert (small.rollouts.episodes, large.rollouts.episodes) == (700 * 7473, 300 * 7473)
    assert (small.rollouts.queries_per_rollout, large.rollouts.queries_per_rollout) == (256, 32)
    assert large.optimisation == {**small.optimisation, "learning_rate": 3e-7}


def test_no_two_rollouts_of_any_terms_and_trainings_share_a_seed():
    # The first 200 rollouts of three terms, of 20 trainings.
    seeds = [rollout_seed(*place) for place in itertools.product(range(20), range(200), range(3))]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**63


def test_each_term_samples_with_its_own_seed(student):
    own = module_of(student, [term("two", 0.5), term("one", 0.5)])
    own._set_learning_rate = lambda: None
    own.train_on = lambda _: {}
    own.log_dict = lambda *_, **__: None
    own.training_step([QUERIES[:4]] * 2, 0)
    by_term = [[sample["response"] for sample in own.samples[place : place + 2]] for place in (0, 2)]
    assert by_term[0] != by_term[1]
