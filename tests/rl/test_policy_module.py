"""The policy module: ratios, losses, gradients and value heads."""

import dataclasses
import itertools
import math

import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning.core.optimizer import LightningOptimizer

from rkd.models.policy import PolicyOutput
from rkd.rl.kl_controller import FixedKL
from rkd.rl.policy_module import PolicyModule, joined_metrics, rollout_seed
from rkd.rl.rollout import Rollout
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


def by_hand(own: PolicyModule, *, logprobs, advantages, values=None, old_values=None, returns=None) -> Rollout:
    """A rollout of a response of 1 and one of 3 tokens, with old log-probabilities of 0; 0 stands for padding.

    The policy then gives these log-probabilities and values, whatever it is asked.
    """
    rollout = collect(own, QUERIES[:1])
    mask = torch.tensor([[True, False, False], [True, True, True]])
    batch = dataclasses.replace(rollout.batch, response_mask=mask, chosen_mask=mask)
    new, values = torch.tensor(logprobs), None if values is None else torch.tensor(values)
    own.policy.forward = lambda *_, **__: PolicyOutput(new, values, None)
    return dataclasses.replace(
        rollout,
        batch=batch,
        old_logprobs=torch.zeros(2, 3),
        advantages=torch.tensor(advantages),
        values=None if old_values is None else torch.tensor(old_values),
        returns=torch.zeros(2, 3) if returns is None else torch.tensor(returns),
    )


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("tokens", -(2 + 1 - 1 + 0.5) / 4),
        ("responses", -(2 + 0.5 / 3) / 2),
        ("constant", -(2 + 0.5) / 2 / 10),  # 10 is the longest response that STAGE allows; the batch is 3 wide
    ],
)
def test_each_reduction_on_a_batch_worked_by_hand(student, reduction, expected):
    optimisation = dataclasses.replace(STAGE.optimisation, reduction=reduction)
    own = module(student, dataclasses.replace(STAGE, advantages=GRPO, optimisation=optimisation))
    part = by_hand(own, logprobs=[[0.0] * 3] * 2, advantages=[[2.0, 0, 0], [1.0, -1.0, 0.5]])
    assert float(own.loss(part)[0]) == pytest.approx(expected)


def test_the_value_is_clipped_around_that_of_the_rollout_and_weighed_by_its_coefficient(student):
    optimisation = dataclasses.replace(STAGE.optimisation, value_clip_range=0.2, value_coefficient=0.25)
    own = module(student, dataclasses.replace(STAGE, optimisation=optimisation))
    new, old = [[1.0, 0, 0], [0.0, 0.0, 0.0]], [[0.5, 0, 0], [0.0, 0.0, 0.0]]
    zeros = [[0.0] * 3] * 2
    part = by_hand(own, logprobs=zeros, advantages=zeros, values=new, old_values=old, returns=[[1.2, 0, 0], [0.0] * 3])
    loss, measured = own.loss(part)
    # The value is clipped to 0.5 + 0.2 = 0.7: its error (0.7 − 1.2)² = 0.25 is the larger one. 3 tokens have none.
    assert float(measured["value_loss"]) == pytest.approx(0.5 * 0.25 / 4)
    assert float(loss) == pytest.approx(0.25 * 0.5 * 0.25 / 4)


def test_the_clip_fraction_counts_ratios_beyond_either_bound(student):
    optimisation = dataclasses.replace(STAGE.optimisation, clip_range=0.2, clip_range_high=0.4)
    own = module(student, dataclasses.replace(STAGE, advantages=GRPO, optimisation=optimisation))
    # Ratios 1.5 | 0.7, 1.3 and 0.9, within 0.8 to 1.4 or not.
    logprobs = [[math.log(1.5), 0, 0], [math.log(0.7), math.log(1.3), math.log(0.9)]]
    _, measured = own.loss(by_hand(own, logprobs=logprobs, advantages=[[0.0] * 3] * 2))
    assert float(measured["clip_fraction"]) == 2 / 4
    assert float(measured["ratio"]) == pytest.approx((1.5 + 0.7 + 1.3 + 0.9) / 4)


class PlainOptimizer(LightningOptimizer):
    """Steps without a trainer."""

    def step(self) -> None:
        self._optimizer.step()


def optimised(own: PolicyModule) -> LightningOptimizer:
    """Its optimiser, for a module without a trainer."""
    optimizer = PlainOptimizer(own.configure_optimizers())
    own.optimizers = lambda: optimizer
    own.manual_backward = lambda loss: loss.backward()
    return optimizer


@pytest.mark.parametrize(
    ("warmup", "factors"),
    # From 1 to a tenth in three rollouts of equal steps, and the end after them; a warm-up of two is half and whole.
    [(0, [1.0, 0.7, 0.4, 0.1]), (2, [0.5, 0.7, 0.4, 0.1])],
)
def test_the_learning_rate_falls_in_equal_steps_after_the_warm_up(student, warmup, factors):
    schedule = {"learning_rate": 1e-3, "final_learning_rate_fraction": 0.1, "warmup_rollouts": warmup}
    own = module(student, dataclasses.replace(STAGE, optimisation=dataclasses.replace(STAGE.optimisation, **schedule)))
    optimizer = optimised(own)
    for rollouts, factor in enumerate(factors):
        own.rollouts_done = rollouts
        own._set_learning_rate()
        assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(1e-3 * factor)]


def test_each_epoch_trains_on_every_query_once_in_an_order_of_its_own(student):
    optimisation = dataclasses.replace(STAGE.optimisation, epochs_per_rollout=3, minibatches_per_epoch=2)
    own = module(student, dataclasses.replace(STAGE, advantages=GRPO, optimisation=optimisation))
    optimised(own)
    rollout = collect(own)
    seen = []
    own._add_gradient = lambda _, part: seen.append([query.id for query in part.queries[::4]]) or {}

    def epochs(rollouts_done: int):
        own.rollouts_done = rollouts_done
        seen.clear()
        own.train_on([rollout])
        assert [len(minibatch) for minibatch in seen] == [4] * 6
        return [seen[at] + seen[at + 1] for at in (0, 2, 4)]

    first = epochs(0)
    assert all(sorted(epoch) == sorted(query.id for query in QUERIES[:8]) for epoch in first)
    assert len({tuple(epoch) for epoch in first}) == 3
    assert epochs(0) == first  # the order belongs to the rollout, so that a resumed training repeats it
    assert epochs(1) != first


def test_an_update_starts_from_no_gradient(student):
    # At so small a learning rate both epochs have the gradient of the first; left over, it would be doubled.
    optimisation = dataclasses.replace(STAGE.optimisation, learning_rate=1e-12, minibatches_per_epoch=1)
    norms = []
    for epochs in (1, 2):
        stage = dataclasses.replace(STAGE, optimisation=dataclasses.replace(optimisation, epochs_per_rollout=epochs))
        own = module(student, stage)
        optimised(own)
        norms.append(own.train_on([collect(own)])["gradient_norm"])
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_metrics_of_a_mix_are_weighted_means_and_responses_are_counted():
    of_terms = {
        "two": {"reward": 1.0, "kl": 4.0, "responses_sampled": 8.0, "own": 1.0},
        "one": {"reward": 0.5, "kl": 8.0, "responses_sampled": 4.0},
    }
    joined = joined_metrics(of_terms, {"two": 0.75, "one": 0.25})
    assert (joined["reward"], joined["kl"], joined["responses_sampled"]) == (0.875, 5.0, 12.0)
    assert (joined["two/reward"], joined["one/kl"], joined["two/own"]) == (1.0, 8.0, 1.0)
    assert "own" not in joined
    assert joined_metrics({"two": of_terms["two"]}, {"two": 1.0}) == of_terms["two"]


@pytest.mark.parametrize("option", ["reft", "reft_large"])
def test_the_recipe_of_reft_on_a_batch_worked_by_hand(student, option):
    # The source: the mean over the tokens of each response, then over responses; policy loss + 5 · ½ · value loss.
    own = module(student, dataclasses.replace(STAGE, optimisation=instantiate(reft(option).optimisation)))
    part = by_hand(
        own,
        logprobs=[[math.log(1.5), 0, 0], [0.0, math.log(0.5), 0.0]],
        advantages=[[2.0, 0, 0], [1.0, -1.0, 0.5]],
        values=[[1.0, 0, 0], [0.0, 0.0, 1.0]],
        old_values=[[0.5, 0, 0], [0.0, 0.0, 1.0]],
        returns=[[0.0, 0, 0], [1.0, 0.5, 1.0]],
    )
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
