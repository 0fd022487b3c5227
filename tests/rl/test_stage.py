"""Reinforcement learning: what a rollout is trained on, what is kept, what is written, and that it learns at all."""

import csv
import dataclasses
import json
from collections import Counter
from typing import ClassVar

import pytest
import torch

from rkd.generation.local import open_generator
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.protocols import Rewards, Sampling
from rkd.records import Checkpoint
from rkd.rl.advantages import GAE, GroupRelative
from rkd.rl.kl_controller import AdaptiveKL, FixedKL
from rkd.rl.policy_module import PolicyModule
from rkd.rl.query_schedule import queries_of_rollouts
from rkd.rl.reward_mix import Term
from rkd.rl.rollout import Rollout
from rkd.rl.settings import KLPenalty, Optimisation, RewardScaling, Rollouts
from rkd.rl.stage import RL, NoRL
from rkd.store.fingerprint import as_fingerprint
from rkd.training.tracking import RunDescription
from rkd.training.tracking_files import CsvTracker
from rkd.training.trainer import Training
from tests.support import tiny_world
from tests.support.fakes import context
from tests.support.tiny_models import weights

QUERIES = tiny_world.queries(400, 16)
PPO, GRPO = GAE(), GroupRelative(group_size=4)
STAGE = RL(
    rollouts=Rollouts(episodes=96, queries_per_rollout=8, responses_per_query=4, max_response_tokens=10),
    optimisation=Optimisation(learning_rate=1e-3, epochs_per_rollout=2, minibatches_per_epoch=2),
    kl=KLPenalty(controller=FixedKL(0.01)),
    advantages=PPO,
    rollouts_between_validations=1,
)


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


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("rl")
    random = tiny_world.random_model(folder / "random")
    return tiny_world.taught(random, folder / "student", guesses=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Checkpoint:
    """A reference that the policy is far from."""
    return tiny_world.random_model(tmp_path_factory.mktemp("other"), seed=9)


def term(name="two", weight=1.0, queries=QUERIES, reward=says_two) -> Term:
    return Term(name=name, weight=weight, queries=queries, reward=reward)


def module(student, stage=STAGE, *, reward=says_two, reference=None) -> PolicyModule:
    return module_of(student, [term(reward=reward)], stage, reference=reference)


def module_of(student, terms, stage=STAGE, *, reference=None) -> PolicyModule:
    lm, reference_lm = (load_causal_lm(one.folder) for one in (student, reference or student))
    return stage.module(
        lm, reference_lm, load_tokenizer(student.folder), tiny_world.PROMPT, terms, validate=None, seed=0
    )


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
):
    return stage.fit(
        lambda _: terms or [term(queries=queries, reward=reward)],
        context(
            student,
            folder,
            prompt=tiny_world.PROMPT,
            validate=validate,
            training=Training(accelerator="cpu", seconds_between_checkpoints=seconds),
            logger=logger,
            seed=seed,
        ),
    )


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def changed(stage, **rollouts):
    return dataclasses.replace(stage, rollouts=dataclasses.replace(stage.rollouts, **rollouts))


# what a rollout is


@pytest.mark.parametrize("advantages", [PPO, GRPO], ids=["PPO", "GRPO"])
def test_the_first_ratio_is_1_and_nothing_is_clipped(student, advantages):
    own = module(student, dataclasses.replace(STAGE, advantages=advantages))
    rollout = collect(own)
    _, measured = own.loss(rollout.select_prompts(torch.tensor([5, 2, 7])))
    # To rounding: a minibatch is padded to its own longest response.
    assert float(measured["ratio"]) == pytest.approx(1, abs=1e-6)
    assert float(measured["clip_fraction"]) == 0


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


def uneven(_, responses) -> Rewards:
    """Rewards 0, 1, 2, …, so that rows can be told apart."""
    rewards = torch.arange(float(len(responses)))
    return Rewards(rewards, {"row": rewards})


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


def test_every_process_measures_the_same_metrics_whatever_its_rewards(student):
    def alike(_, responses) -> Rewards:
        return Rewards(torch.ones(len(responses)), {})

    rollouts = [collect(module(student, reward=reward)) for reward in (says_two, alike)]
    assert rollouts[0].metrics().keys() - {"reward/two", "reward/length"} == rollouts[1].metrics().keys()


def test_rewards_that_are_all_alike_are_no_divergence(student, tmp_path):
    def nothing(_, responses):
        return Rewards(torch.zeros(len(responses)), {})

    whole_trace = dataclasses.replace(STAGE, advantages=GAE(gae_lambda=1.0), kl=KLPenalty(controller=FixedKL(0.0)))
    report = fit(whole_trace, student, tmp_path, reward=nothing)
    assert report.rollouts == STAGE.rollouts.count
    assert "explained_variance" not in next(row for row in read(tmp_path / "history.jsonl") if "reward" in row)


def test_every_rollout_reaches_the_tracker(student, tmp_path):
    tracker = CsvTracker()
    tracker.start({}, RunDescription(name="row", group="group", job_type="row"), tmp_path, run_id="0")
    stage = changed(STAGE, episodes=12 * STAGE.rollouts.responses_per_rollout)
    fit(stage, student, tmp_path / "rl", logger=tracker.logger_for("rl"))
    tracker.finish()
    with (tmp_path / "tracking" / "history" / "rl" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["rl/reward"]]
    assert len(rows) == 12


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


def test_a_kl_to_the_sampling_policy_is_refused_in_the_reward():
    with pytest.raises(ValueError, match="use place=loss with target=old"):
        KLPenalty(controller=FixedKL(0.1), target="old", place="reward")


def test_k1_is_refused_in_the_loss():
    with pytest.raises(ValueError, match="estimator=k2 or k3"):
        KLPenalty(controller=FixedKL(0.1), place="loss", estimator="k1")


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


def test_episodes_are_rounded_up_to_whole_rollouts():
    # 96 are three rollouts of 32; with one more there is a fourth.
    assert STAGE.rollouts.count == 3
    more = changed(STAGE, episodes=97).rollouts
    assert more.count == 4
    assert len(queries_of_rollouts([term()], more, seed=0)) == 4


def test_rollouts_ask_every_query_before_any_is_repeated():
    rollouts = Rollouts(episodes=40, queries_per_rollout=4, responses_per_query=1, max_response_tokens=4)
    asked = [query.id for (queries,) in queries_of_rollouts([term()], rollouts, seed=0) for query in queries]
    assert len(asked) == 40
    # 16 queries: two whole passes, in two orders, and half a third one.
    passes = [asked[:16], asked[16:32], asked[32:]]
    assert set(passes[0]) == set(passes[1]) == {query.id for query in QUERIES}
    assert passes[0] != passes[1]
    assert set(Counter(passes[2]).values()) == {1}


def test_the_seed_decides_the_order_of_the_queries():
    orders = [queries_of_rollouts([term()], STAGE.rollouts, seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


# training


@pytest.mark.parametrize("advantages", [PPO, GRPO], ids=["PPO", "GRPO"])
def test_a_simple_reward_rises(student, tmp_path, advantages):
    optimisation = dataclasses.replace(STAGE.optimisation, learning_rate=3e-3)
    stage = dataclasses.replace(changed(STAGE, episodes=320), advantages=advantages, optimisation=optimisation)
    fit(stage, student, tmp_path)
    rewards = [row["reward"] for row in read(tmp_path / "history.jsonl") if "reward" in row]
    assert len(rewards) == 10
    # The student guesses: half of its responses say two.
    assert rewards[0] < 0.75
    assert sum(rewards[-3:]) / 3 > 0.9


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


def test_same_seed_gives_same_weights_whatever_ran_before(student, tmp_path):
    # Each validation is better than the one before, so that the last weights are kept.
    def rising():
        calls = []
        return lambda _: float(len(calls.append(0) or calls))

    fit(STAGE, student, tmp_path / "a", seed=3, validate=rising())
    torch.rand(7)
    fit(STAGE, student, tmp_path / "b", seed=3, validate=rising())
    fit(STAGE, student, tmp_path / "c", seed=4, validate=rising())
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    assert read(tmp_path / "a" / "history.jsonl") == read(tmp_path / "b" / "history.jsonl")


@pytest.mark.parametrize(
    ("scores", "kept"), [([0.9, 0.5, 0.5, 0.5], 0), ([0.1, 0.2, 0.8, 0.8], 2)], ids=["the start", "a later one"]
)
def test_the_best_validation_is_kept_the_start_included(student, tmp_path, scores, kept):
    seen = []

    def validate(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return scores[len(seen) - 1]

    report = fit(STAGE, student, tmp_path, validate=validate)
    # 96 episodes are three rollouts of 32; a validation before them and one after each.
    assert dataclasses.astuple(report) == (3, 96, pytest.approx(max(scores)), None)
    assert len(seen) == 4
    final = weights(tmp_path)
    assert all(final[name].equal(seen[kept][name]) for name in final)
    assert not list(tmp_path.glob("*.pt"))


def test_patience_ends_training_early(student, tmp_path):
    stage = dataclasses.replace(changed(STAGE, episodes=320), patience=2)
    # The start is the best; the second validation after it ends the training.
    assert fit(stage, student, tmp_path).rollouts == 2


def test_history_holds_every_metric_of_every_rollout(student, tmp_path):
    fit(STAGE, student, tmp_path)
    history = read(tmp_path / "history.jsonl")
    validations = [row for row in history if "validation_accuracy" in row]
    rollouts = [row for row in history if "reward" in row]
    assert [row["episodes"] for row in validations] == [0, 32, 64, 96]
    assert [row["episodes"] for row in rollouts] == [32, 64, 96]
    wanted = (
        "reward reward/two reward/length reward/kl_penalty reward_trained_on kl kl_trained_on kl_coefficient entropy "
        "clip_fraction ratio policy_loss value_loss "
        "explained_variance response_tokens share_without_answer share_truncated gradient_norm"
    )
    for row in rollouts:
        assert set(wanted.split()) <= set(row)
        assert row["reward"] == row["reward/two"]
        assert 0 <= row["share_without_answer"] <= 1


def test_samples_are_kept_to_be_read(student, tmp_path):
    fit(STAGE, student, tmp_path)
    samples = read(tmp_path / "samples.jsonl")
    assert [sample["episodes"] for sample in samples] == [at for at in (0, 32, 64) for _ in range(4)]
    questions = {query.question for query in QUERIES}
    for sample in samples:
        assert sample["question"] in questions
        assert sample["reward"] == float("2" in sample["response"])


def test_responses_without_an_answer_are_counted(student, other):
    assert collect(module(student)).metrics()["share_without_answer"] < 0.3
    assert collect(module(other)).metrics()["share_without_answer"] == 1.0


def test_the_kept_folder_samples_in_plain_form(student, tmp_path):
    fit(STAGE, student, tmp_path)
    generator = open_generator(Checkpoint(tmp_path, "rl"), tiny_world.PROMPT, "policy")
    (own,) = generator.generate(QUERIES[:1], Sampling(0.0, 1, 16), 0)
    assert own[0].text.startswith("The answer is")


def test_an_adaptive_coefficient_rises_above_its_target_and_falls_below(student, tmp_path):
    for name, target, rises in (("above", 1e-6, True), ("below", 1e6, False)):
        kl = KLPenalty(controller=AdaptiveKL(coefficient=0.1, target=target, horizon=320))
        stage = dataclasses.replace(STAGE, kl=kl)
        fit(stage, student, tmp_path / name)
        coefficients = [row["kl_coefficient"] for row in read(tmp_path / name / "history.jsonl") if "reward" in row]
        assert coefficients[0] == 0.1
        # Each rollout of 32 episodes moves it by 0.2 × 32 / 320 = 2 %; its first KL is 0, below any target.
        assert coefficients[1] == pytest.approx(0.098, rel=1e-4)
        assert (coefficients[2] > coefficients[1]) == rises
        assert kl.controller.coefficient == 0.1  # the stage's own is not touched: the next row starts from it


def test_an_adaptive_coefficient_has_a_fingerprint():
    kl = KLPenalty(controller=AdaptiveKL(coefficient=0.1, target=6.0, horizon=320))
    before = as_fingerprint(kl)
    kl.controller.update(100.0, 32)
    assert as_fingerprint(kl) == before


# several terms, and the variants of GRPO


def says_one(_, responses) -> Rewards:
    says = torch.tensor([float("1" in response.text) for response in responses])
    return Rewards(says, {"one": says})


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


def test_a_training_under_two_terms_tells_of_each_and_of_both(student, tmp_path):
    terms = [term("two", 0.75, QUERIES[:8]), term("one", 0.25, QUERIES[8:], says_one)]
    report = fit(STAGE, student, tmp_path, terms=terms)
    assert report.episodes == 96
    row = next(row for row in read(tmp_path / "history.jsonl") if "reward" in row)
    assert row["reward"] == pytest.approx(0.75 * row["two/reward"] + 0.25 * row["one/reward"])
    assert row["two/reward/two"] == row["two/reward"]
    assert row["responses_sampled"] == 32
    questions = {query.question for query in QUERIES[:8]}
    shown = read(tmp_path / "samples.jsonl")
    assert 0 < sum(sample["question"] in questions for sample in shown) < len(shown)


def test_queries_of_a_rollout_are_shared_out_to_the_terms():
    terms = [term("a", 0.5, QUERIES[:8]), term("b", 0.25, QUERIES[8:]), term("c", 0.25, QUERIES[8:])]
    first, *_ = rollouts = queries_of_rollouts(terms, STAGE.rollouts, seed=0)
    assert len(rollouts) == STAGE.rollouts.count
    assert [len(own) for own in first] == [3, 3, 2]
    assert first[1] != first[2][: len(first[1])]  # the same queries, in an order of their own
    assert all(query in QUERIES[:8] for own, *_ in rollouts for query in own)
    # Two processes share out each term's queries.
    assert [len(own) for own in queries_of_rollouts(terms, STAGE.rollouts, 0, processes=2)[0]] == [4, 2, 2]


def test_more_terms_than_a_rollout_has_queries_for_are_refused(student, tmp_path):
    terms = [term(name, 1 / 5) for name in "abcde"]
    with pytest.raises(ValueError, match="each of the 5 terms of the reward mix"):
        fit(STAGE, student, tmp_path, terms=terms)


@pytest.mark.parametrize(
    "settings",
    [
        {"reduction": "responses"},
        {"reduction": "constant"},
        {"clip_range": 0.2, "clip_range_high": 0.28},
    ],
    ids=["GRPO", "Dr. GRPO", "DAPO"],
)
def test_a_simple_reward_rises_under_each_variant(student, tmp_path, settings):
    optimisation = dataclasses.replace(STAGE.optimisation, learning_rate=3e-3, **settings)
    advantages = GroupRelative(group_size=4, scale_by_std=settings.get("reduction") != "constant")
    stage = dataclasses.replace(changed(STAGE, episodes=320), advantages=advantages, optimisation=optimisation)
    fit(stage, student, tmp_path)
    rewards = [row["reward"] for row in read(tmp_path / "history.jsonl") if "reward" in row]
    assert rewards[0] < 0.75
    assert sum(rewards[-3:]) / 3 > 0.9


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


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match=r"rl\.optimisation\.reduction=words: choose one of tokens, responses"):
        dataclasses.replace(STAGE.optimisation, reduction="words")


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


def test_redraws_do_not_change_the_episodes(student, tmp_path):
    stage = changed(STAGE, dynamic_sampling=1)
    assert [len(own) for (own,) in queries_of_rollouts([term()], stage.rollouts, seed=0)] == [16] * 3
    assert fit(stage, student, tmp_path).episodes == 96


def test_a_guard_ends_the_training_and_what_was_best_is_kept(student, tmp_path):
    class Tripped:
        def reason(self, history):
            return "enough" if sum("reward" in row for row in history) == 2 else None

    scores = iter([0.1, 0.3, 0.2])
    stage = dataclasses.replace(STAGE, guard=Tripped())
    report = fit(stage, student, tmp_path, validate=lambda _: next(scores))
    assert (report.rollouts, report.stopped, report.best_validation) == (2, "enough", pytest.approx(0.3))


# what is refused


def test_a_term_without_queries_is_refused():
    with pytest.raises(ValueError, match="the term 'two' of the loss has no queries"):
        term(queries=[])


@pytest.mark.parametrize("part", ["optimisation", "rollouts"])
def test_a_setting_outside_its_range_is_refused(part):
    name = {"optimisation": "learning_rate", "rollouts": "temperature"}[part]
    with pytest.raises(ValueError, match=rf"^rl\.{part}\.{name}=0\.0: must be above 0"):
        dataclasses.replace(getattr(STAGE, part), **{name: 0.0})


def test_the_temperature_decides_what_is_sampled(student):
    cold, warm = (collect(module(student, changed(STAGE, temperature=t))) for t in (1e-6, 1.0))
    assert float(cold.metrics()["entropy"]) == pytest.approx(0, abs=1e-3)
    assert float(warm.metrics()["entropy"]) > 0.01


def test_fewer_episodes_than_a_rollout_are_refused():
    with pytest.raises(ValueError, match="4 episodes are fewer than one rollout of 8 × 4"):
        changed(STAGE, episodes=4)


def test_more_minibatches_than_queries_are_refused():
    with pytest.raises(ValueError, match=r"minibatches_per_epoch=2: .*rl\.rollouts\.queries_per_rollout=1"):
        changed(STAGE, queries_per_rollout=1)


def test_a_group_that_mixes_queries_is_refused():
    with pytest.raises(ValueError, match=r"set it to rl\.rollouts\.responses_per_query=4"):
        dataclasses.replace(STAGE, advantages=GroupRelative(group_size=8))


def test_no_rl_hands_the_student_on_and_needs_no_reward(student, tmp_path):
    def refuse():
        raise AssertionError("no reward is needed")

    report = NoRL().fit(refuse, context(student, tmp_path))
    assert dataclasses.astuple(report) == (0, 0, None, None)
    before, after = weights(student.folder), weights(tmp_path)
    assert all(before[name].equal(after[name]) for name in before)


class Killed(BaseException):
    """What stands for the end of the process; nothing may catch it."""


@pytest.mark.parametrize("advantages", [PPO, GroupRelative(group_size=4)], ids=["PPO", "GRPO"])
def test_a_training_that_is_killed_after_each_rollout_ends_like_one_that_was_not(student, tmp_path, advantages):
    kl = KLPenalty(controller=AdaptiveKL(coefficient=0.1, target=0.01, horizon=320))
    stage = dataclasses.replace(STAGE, kl=kl, advantages=advantages)
    scores = {"whole": iter([0.1, 0.3, 0.2, 0.1]), "killed": iter([0.1, 0.3, 0.2, 0.1])}  # the start, then each rollout

    def attempt(name: str, rollouts: int) -> None:
        left = iter(range(rollouts))

        def reward(queries, responses):
            if next(left, None) is None:
                raise Killed
            return says_two(queries, responses)

        fit(stage, student, tmp_path / name, reward=reward, validate=lambda _: next(scores[name]), seconds=0)

    attempt("whole", 3)
    for _ in range(2):
        with pytest.raises(Killed):
            attempt("killed", 1)
    attempt("killed", 1)
    assert next(scores["killed"], None) is None  # no validation twice
    for file in ("model.safetensors", "history.jsonl", "samples.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
