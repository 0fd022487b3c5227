"""Rollouts: log-probabilities, rewards of tokens, metrics, and which queries are kept."""

import dataclasses

import pytest
import torch

from rkd.models.loading import load_causal_lm
from rkd.models.policy import Policy
from rkd.protocols import Rewards
from rkd.rl.advantages import PerToken
from rkd.rl.kl_controller import FixedKL
from rkd.rl.policy_module import PolicyModule
from rkd.rl.reward_mix import NoReward
from rkd.rl.settings import KLPenalty, RewardScaling
from tests.support.tiny_calculations import CALCULATING, untaught
from tests.support.tiny_calculations import QUERIES as SUM_QUERIES
from tests.support.tiny_rl import GRPO, QUERIES, STAGE, Recording, changed, collect, module, says_two, uneven


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_log_probabilities_of_a_rollout_are_those_that_were_sampled_from(student, temperature):
    own = module(student, changed(STAGE, temperature=temperature))
    rollout = collect(own, QUERIES[:4])
    batch = rollout.batch
    for row in range(len(batch.response_ids)):
        prompt = batch.prompt_ids[row // 4][batch.prompt_mask[row // 4]]
        response = batch.response_ids[row][batch.response_mask[row]]
        logits = own.policy.lm(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        expected = (logits / temperature).log_softmax(-1).gather(1, response[:, None]).squeeze(1)
        torch.testing.assert_close(rollout.old_logprobs[row][batch.response_mask[row]], expected, atol=1e-5, rtol=1e-5)


def test_the_reward_stands_on_the_last_response_token_and_not_on_padding(student):
    recorder = Recording()
    no_kl = KLPenalty(controller=FixedKL(0.0))
    own = module(student, dataclasses.replace(STAGE, advantages=recorder, kl=no_kl))
    rollout = collect(own)
    token_rewards, lengths = recorder.token_rewards, recorder.response_mask.sum(1)
    for row, reward in enumerate(rollout.rewards.total):
        expected = torch.zeros(token_rewards.shape[1])
        expected[lengths[row] - 1] = reward
        assert token_rewards[row].equal(expected)


@pytest.mark.parametrize("place", ["reward", "loss"])
def test_rewards_of_responses_of_two_lengths_worked_by_hand(student, place):
    kl = KLPenalty(controller=FixedKL(0.5), place=place, estimator="k1" if place == "reward" else "k3")
    collector = module(student, dataclasses.replace(STAGE, kl=kl)).terms[0].collector
    rewards, cut = Rewards(torch.tensor([2.0, 3.0]), {}), {"missing_end": torch.tensor([-1.0, 0.0])}
    mask = torch.tensor([[True, True, False], [True, True, True]])
    penalty = torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.4, 0.5]])
    expected = torch.tensor([[0.0, 2.0 - 1.0, 0.0], [0.0, 0.0, 3.0]])
    if place == "reward":
        expected -= torch.tensor([[0.05, 0.1, 0.0], [0.15, 0.2, 0.25]])
    torch.testing.assert_close(collector._token_rewards(rewards, cut, mask, penalty), expected)


def test_metrics_of_responses_of_two_lengths_worked_by_hand(student):
    rollout = collect(module(student, changed(STAGE, responses_per_query=2)), QUERIES[:1])
    junk = 100.0  # stands on padding, and must not show
    mask = torch.tensor([[True, False], [True, True]])
    rollout = dataclasses.replace(
        rollout,
        batch=dataclasses.replace(rollout.batch, response_mask=mask, chosen_mask=mask),
        rewards=Rewards(torch.tensor([1.0, 0.0]), {}),
        old_logprobs=torch.tensor([[-1.0, junk], [-2.0, -3.0]]),
        reference_logprobs=torch.tensor([[-1.5, -junk], [-2.0, -4.0]]),
        entropy=torch.tensor([[0.3, junk], [0.6, 0.9]]),
        values=torch.tensor([[0.0, junk], [1.0, 2.0]]),
        returns=torch.tensor([[1.0, -junk], [2.0, 6.0]]),
    )
    metrics = rollout.metrics()
    assert metrics["kl"] == pytest.approx((0.5 + 1.0) / 2)  # a sum over tokens, a mean over responses
    assert metrics["entropy"] == pytest.approx(0.6)
    assert metrics["response_tokens"] == 1.5
    assert metrics["share_with_signal"] == 1.0
    # Returns 1, 2, 6: variance 14/3. What the values leave: 1, 1, 4, variance 2.
    assert metrics["explained_variance"] == pytest.approx(1 - 2 / (14 / 3))


def test_a_response_cut_at_the_limit_loses_the_penalty(student):
    recorder = Recording()
    stage = changed(STAGE, max_response_tokens=3, missing_eos_penalty=2.5)
    stage = dataclasses.replace(stage, advantages=recorder, kl=KLPenalty(controller=FixedKL(0.0)))
    rollout = collect(module(student, stage, reward=uneven))
    assert rollout.metrics()["share_truncated"] == 1.0
    assert rollout.metrics()["reward/missing_end"] == -2.5
    assert rollout.metrics()["reward_trained_on"] == rollout.metrics()["reward"] - 2.5
    # The reward itself is reported as it was given; 2.5 is taken off what is trained on.
    assert rollout.rewards.total.tolist() == list(range(32))
    torch.testing.assert_close(recorder.token_rewards[:, 2], torch.arange(32.0) - 2.5)


def test_rewards_are_clipped_before_the_penalty_and_whitened_tokens_keep_their_mean(student):
    recorder = Recording()
    stage = dataclasses.replace(STAGE, advantages=recorder, kl=KLPenalty(controller=FixedKL(0.0)))
    clipped = dataclasses.replace(stage, scaling=RewardScaling(clip=5.0))
    collect(module(student, clipped, reward=uneven))
    assert recorder.token_rewards.sum(1).tolist() == [min(row, 5) for row in range(32)]
    collect(module(student, clipped, reward=lambda *asked: Rewards(10 - uneven(*asked).total, {})))
    assert recorder.token_rewards.sum(1).tolist() == [max(-5, min(10 - row, 5)) for row in range(32)]
    collect(module(student, stage, reward=uneven))
    plain = recorder.token_rewards[recorder.response_mask]
    collect(module(student, dataclasses.replace(stage, scaling=RewardScaling(whiten=True)), reward=uneven))
    whitened = recorder.token_rewards[recorder.response_mask]
    assert float(whitened.mean()) == pytest.approx(float(plain.mean()), abs=1e-4)
    assert float(whitened.std()) == pytest.approx(1, abs=0.01)


def test_a_kl_in_the_reward_is_taken_off_every_token(student, other):
    recorder = Recording()
    stage = dataclasses.replace(STAGE, advantages=recorder, kl=KLPenalty(controller=FixedKL(0.5)))
    own = module(student, stage, reference=other, reward=lambda _, responses: Rewards(torch.zeros(len(responses)), {}))
    rollout = collect(own)
    mask = rollout.batch.response_mask
    difference = (rollout.old_logprobs - rollout.reference_logprobs) * mask
    torch.testing.assert_close(recorder.token_rewards, -0.5 * difference)
    assert rollout.metrics()["kl"] == pytest.approx(float(difference.sum(1).mean()), rel=1e-5)
    assert rollout.metrics()["kl"] > 1  # nats: the reference is another model
    assert rollout.metrics()["kl_trained_on"] == pytest.approx(
        rollout.metrics()["kl"], rel=1e-5
    )  # k1 is the difference
    assert rollout.metrics()["reward/kl_penalty"] == pytest.approx(-0.5 * rollout.metrics()["kl"], rel=1e-5)
    assert rollout.metrics()["reward_trained_on"] == rollout.metrics()["reward/kl_penalty"]
    _, measured = own.loss(rollout)
    assert "kl_trained_on" not in measured


def test_on_policy_distillation_has_the_teachers_log_ratio_as_the_advantage_of_each_token(student, other):
    stage = dataclasses.replace(STAGE, advantages=PerToken(), kl=KLPenalty(controller=FixedKL(1.0), target="teacher"))
    rollout = collect(module(student, stage, reference=other, reward=NoReward().build(None)))
    of_teacher = Policy(load_causal_lm(other.folder))(rollout.batch).logprobs.detach()
    expected = of_teacher - rollout.old_logprobs
    torch.testing.assert_close(rollout.advantages, expected * rollout.batch.response_mask)
    assert float(rollout.advantages.std()) > 0.1


def test_every_process_measures_the_same_metrics_whatever_its_rewards(student):
    def alike(_, responses) -> Rewards:
        return Rewards(torch.ones(len(responses)), {})

    rollouts = [collect(module(student, reward=reward)) for reward in (says_two, alike)]
    assert rollouts[0].metrics().keys() - {"reward/two", "reward/length"} == rollouts[1].metrics().keys()


def test_a_selection_keeps_the_rows_of_a_prompt_together(student):
    own = module(student, reward=uneven)
    rollout = collect(own)
    part = rollout.select_prompts(torch.tensor([6, 1]))
    rows = [24, 25, 26, 27, 4, 5, 6, 7]  # four responses each
    assert part.rewards.total.tolist() == rows
    assert part.rewards.components["row"].tolist() == rows
    width = part.batch.response_ids.shape[1]
    for name in ("old_logprobs", "reference_logprobs", "values", "advantages", "returns"):
        assert getattr(part, name).equal(getattr(rollout, name)[rows, :width]), name
    assert part.batch.response_ids.equal(rollout.batch.response_ids[rows, :width])
    # Cut no further than the longest response: what is left out is padding.
    assert rollout.batch.response_mask[rows].sum() == part.batch.response_mask.sum()


def test_a_query_that_stands_twice_in_a_rollout_is_answered_anew(other):
    # Random weights: two responses are alike only if their noise is.
    rollout = collect(module(other), [*QUERIES[:2], QUERIES[0]])
    assert [response.sample_index for response in rollout.responses] == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]
    assert len({tuple(tokens) for tokens in rollout.batch.response_ids.tolist()}) == 12
    once = collect(module(other), QUERIES[:2])
    assert rollout.responses[:8] == once.responses


def test_responses_without_an_answer_are_counted(student, other):
    assert collect(module(student)).metrics()["share_without_answer"] < 0.3
    assert collect(module(other)).metrics()["share_without_answer"] == 1.0


def only_of(*ids):
    """Rewards that differ for these queries alone."""

    def reward(_, responses) -> Rewards:
        rewards = torch.tensor([float(one.query_id in ids and one.sample_index % 2) for one in responses])
        return Rewards(rewards, {"own": rewards})

    return reward


def test_queries_without_signal_are_drawn_again(student):
    with_signal = [QUERIES[1].id, QUERIES[4].id, QUERIES[5].id]
    own = module(student, changed(STAGE, queries_per_rollout=4, dynamic_sampling=1), reward=only_of(*with_signal))
    rollout = collect(own, QUERIES[:8])  # four, and four more
    asked = list(dict.fromkeys(one.id for one in rollout.queries))
    # 1 of the first four; 4 and 5 of the next three; 7, the last of the eight, has none, so 0 makes up the number.
    assert asked == [QUERIES[1].id, QUERIES[4].id, QUERIES[5].id, QUERIES[0].id]
    assert rollout.sampled == 8 * 4
    assert rollout.metrics()["share_with_signal"] == 0.75
    for row, (one, response) in enumerate(zip(rollout.queries, rollout.responses, strict=True)):
        assert response.query_id == one.id
        assert float(rollout.rewards.total[row]) == float(one.id in with_signal and response.sample_index % 2)
        tokens = rollout.batch.response_ids[row][rollout.batch.response_mask[row]]
        assert own.terms[0].collector.generator.tokenizer.decode(tokens, skip_special_tokens=True) == response.text


def test_no_more_is_drawn_than_is_needed(student):
    own = module(
        student, changed(STAGE, queries_per_rollout=4, dynamic_sampling=1), reward=only_of(*(q.id for q in QUERIES))
    )
    rollout = collect(own, QUERIES[:8])
    assert [one.id for one in rollout.queries[::4]] == [one.id for one in QUERIES[:4]]
    assert rollout.sampled == 16


def test_the_temperature_decides_what_is_sampled(student):
    cold, warm = (collect(module(student, changed(STAGE, temperature=t))) for t in (1e-6, 1.0))
    assert float(cold.metrics()["entropy"]) == pytest.approx(0, abs=1e-3)
    assert float(warm.metrics()["entropy"]) > 0.01


def of_calculating(student, stage=STAGE, *, reference=None, **kl) -> PolicyModule:
    """A policy whose results a calculator writes."""
    stage = changed(stage, max_response_tokens=40, queries_per_rollout=4, temperature=0.7)
    stage = dataclasses.replace(stage, kl=KLPenalty(controller=FixedKL(0.1), **kl))
    return module(student, stage, reference=reference, prompt=CALCULATING)


def test_calculated_tokens_have_no_log_probability_reward_advantage_or_kl(calculating_student):
    rollout = collect(of_calculating(calculating_student, reference=untaught(calculating_student)), SUM_QUERIES)
    calculated = rollout.batch.response_mask & ~rollout.batch.chosen_mask
    assert calculated.any(1).all()
    for of_tokens in (rollout.old_logprobs, rollout.reference_logprobs, rollout.entropy, rollout.advantages):
        assert not of_tokens[calculated].any()
    chosen = rollout.batch.chosen_mask
    difference = ((rollout.old_logprobs - rollout.reference_logprobs) * chosen).sum(1)
    torch.testing.assert_close(rollout.kl_estimates, difference)
    assert rollout.metrics()["kl"] == pytest.approx(float(difference.mean()), rel=1e-5)
    assert rollout.metrics()["response_tokens"] == float(rollout.batch.response_mask.sum(1).float().mean())
    assert rollout.weight == int(chosen.sum())


def test_the_policy_reads_calculated_tokens(calculating_student):
    own = of_calculating(calculating_student)
    rollout = collect(own, SUM_QUERIES[:1])
    batch = rollout.batch
    prompt = batch.prompt_ids[0][batch.prompt_mask[0]]
    for row, counted in enumerate(batch.response_mask):
        response, chosen = batch.response_ids[row][counted], batch.chosen_mask[row][counted]
        logits = own.policy.lm(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1).gather(1, response[:, None]).squeeze(1)
        torch.testing.assert_close(rollout.old_logprobs[row][counted][chosen], expected[chosen], atol=1e-5, rtol=1e-5)


def test_the_reward_stands_on_the_last_chosen_token(student):
    collector = module(student, dataclasses.replace(STAGE, kl=KLPenalty(controller=FixedKL(0.0)))).terms[0].collector
    # The second response was cut inside a result.
    chosen = torch.tensor([[True, False, False, True], [True, True, False, False]])
    rewards = collector._token_rewards(Rewards(torch.tensor([2.0, 3.0]), {}), {}, chosen, torch.zeros(2, 4))
    assert rewards.tolist() == [[0.0, 0.0, 0.0, 2.0], [0.0, 3.0, 0.0, 0.0]]


@pytest.mark.parametrize("stage", [STAGE, dataclasses.replace(STAGE, advantages=GRPO)], ids=["ppo", "grpo"])
def test_the_logits_at_calculated_tokens_get_no_gradient(calculating_student, stage):
    own = of_calculating(calculating_student, stage, place="loss", estimator="k3", target="old")
    rollout = collect(own, SUM_QUERIES)
    rollout = dataclasses.replace(rollout, advantages=torch.ones_like(rollout.advantages))
    own.loss(rollout)[0].backward()
    gradient = own.policy.lm.lm_head.weight.grad.clone()
    # By hand: with advantages of 1 the mean log-probability of the chosen tokens; the KL to itself has no gradient.
    own.policy.zero_grad()
    chosen = rollout.batch.chosen_mask
    total = own.policy(rollout.batch).logprobs[chosen].sum() / chosen.sum()
    (-total).backward()
    torch.testing.assert_close(gradient, own.policy.lm.lm_head.weight.grad, rtol=1e-4, atol=1e-6)
