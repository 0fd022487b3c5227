"""The stage of reinforcement learning: what is trained, kept and written, and that it learns."""

import csv
import dataclasses
import re

import pytest
import torch

from rkd.errors import ModelError
from rkd.generation.local import LocalModel, open_generator
from rkd.protocols import Rewards, Sampling
from rkd.records import Checkpoint
from rkd.rl.advantages import GAE, RLOO, GroupRelative, PerToken, ReinforcePlusPlus
from rkd.rl.kl_controller import AdaptiveKL, FixedKL
from rkd.rl.query_schedule import queries_of_rollouts
from rkd.rl.settings import KLPenalty, ResponseLog
from rkd.rl.stage import NoRL, RLInputs
from rkd.stages.sft import SFT
from rkd.store.fingerprint import fingerprint_digest
from rkd.training.tracking import RunDescription
from rkd.training.tracking_files import CsvTracker
from tests.support import tiny_world
from tests.support.fakes import context
from tests.support.tiny_calculations import CALCULATING
from tests.support.tiny_calculations import QUERIES as SUM_QUERIES
from tests.support.tiny_models import llama_folder, weights
from tests.support.tiny_rl import (
    GRPO,
    PPO,
    QUERIES,
    STAGE,
    changed,
    collect,
    fit,
    module,
    read,
    says_one,
    says_two,
    term,
)


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


ON_POLICY = dataclasses.replace(STAGE, advantages=PerToken(), kl=KLPenalty(controller=FixedKL(1.0), target="teacher"))


def test_on_policy_distillation_brings_the_student_to_the_teacher_without_a_reward(student, tmp_path):
    taught = [(query, tiny_world.response(answer)) for query in tiny_world.queries(0, 64) for answer in "2221"]
    sft = SFT(learning_rate=3e-3, epochs=1, batch_size=16, max_tokens=128)
    sft.fit(taught, context(student, tmp_path / "teacher", prompt=tiny_world.PROMPT))
    teacher = LocalModel(name="teacher", name_or_path=str(tmp_path / "teacher"), prompt=tiny_world.PROMPT)

    def nothing(queries, responses) -> Rewards:
        return Rewards(torch.zeros(len(responses)), says_two(queries, responses).components)

    fit(changed(ON_POLICY, episodes=320), student, tmp_path / "made", reward=nothing, teacher=teacher)
    rows = [row for row in read(tmp_path / "made" / "history.jsonl") if "kl" in row]
    # The student says one or two, each half of the time; the teacher says two three times of four.
    assert sum(row["kl"] for row in rows[:3]) / 3 > 0.1
    assert abs(sum(row["kl"] for row in rows[-3:])) / 3 < 0.05
    assert 0.7 < sum(row["reward/two"] for row in rows[-3:]) / 3 < 1


def test_a_teacher_with_another_vocabulary_is_refused(student, tmp_path):
    texts = ["Q: other words\nA: The answer is 1."]
    folder = llama_folder(tmp_path / "teacher", texts, 300).folder
    teacher = LocalModel(name="teacher", name_or_path=str(folder), prompt=tiny_world.PROMPT)
    with pytest.raises(ModelError, match="cannot read the tokens of the student"):
        fit(ON_POLICY, student, tmp_path / "made", teacher=teacher)


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
    assert [sample["rollout"] for sample in samples] == [at for at in (0, 1, 2) for _ in range(4)]
    questions = {query.id: query.question for query in QUERIES}
    for sample in samples:
        assert sample["question"] == questions[sample["query_id"]]
        assert sample["term"] == "two"
        assert sample["reward"] == sample["parts"]["two"] == float("2" in sample["response"])
        assert sample["parts"]["length"] == len(sample["response"])
        assert sample["parts"]["kl_penalty"] == pytest.approx(0, abs=1)
        assert 0 < sample["tokens"] <= STAGE.rollouts.max_response_tokens


def test_a_sample_has_its_answer_its_label_and_the_mean_advantage_of_its_tokens(student):
    labels = {query.id: "7" for query in QUERIES[:4]}
    own = module(student, dataclasses.replace(STAGE, advantages=GRPO))
    rollout = collect(own)
    samples = rollout.samples(len(rollout.responses), labels)
    assert [sample["label"] for sample in samples] == ["7"] * 16 + [None] * 16
    for row, sample in enumerate(samples):
        if found := re.match(r"The answer is (\d+)\.", sample["response"]):
            assert sample["answer"] == found[1]
        # A group-relative advantage is the same for all tokens of a response.
        assert sample["advantage"] == pytest.approx(float(rollout.advantages[row, 0]), abs=1e-4)
    assert any(sample["answer"] for sample in samples)
    broken = dataclasses.replace(rollout, advantages=rollout.advantages * float("nan"))
    assert [sample["advantage"] for sample in broken.samples(2, {})] == [None, None]
    assert len({sample["advantage"] for sample in samples}) > 1


def test_responses_are_logged_every_few_rollouts_as_they_are_sampled(student, tmp_path):
    calls, rewarded = [], []

    def reward(queries, responses):
        rewarded.append(len(responses))
        return says_two(queries, responses)

    stage = dataclasses.replace(changed(STAGE, episodes=160), log_responses=ResponseLog(every=2, rows=3))
    fit(stage, student, tmp_path, reward=reward, log_rows=lambda rows: calls.append((len(rewarded), list(rows))))
    assert [at for at, _ in calls] == [1, 3, 5]  # the first, the third and the fifth rollout, before the next begins
    assert [{row["rollout"] for row in rows} for _, rows in calls] == [{0}, {2}, {4}]
    assert [row for _, rows in calls for row in rows] == read(tmp_path / "samples.jsonl")


def test_without_a_number_at_most_50_rollouts_are_logged():
    for rollouts, logged in ((1, 1), (40, 40), (50, 50), (51, 26), (5000, 50)):
        assert sum(ResponseLog().is_due(rollout, rollouts) for rollout in range(rollouts)) == logged


def test_what_is_logged_decides_nothing(student, tmp_path):
    silent = dataclasses.replace(STAGE, log_responses=ResponseLog(every=1000, rows=1))
    own, same, other = (
        fingerprint_digest("rl", {"stage": one}) for one in (STAGE, silent, changed(STAGE, episodes=64))
    )
    assert own == same != other
    for name, stage in (("logged", STAGE), ("silent", silent)):
        scores = iter([0.1, 0.2, 0.3, 0.4])
        fit(stage, student, tmp_path / name, validate=lambda _, scores=scores: next(scores))
    assert (tmp_path / "logged" / "history.jsonl").read_bytes() == (tmp_path / "silent" / "history.jsonl").read_bytes()
    logged, silent = (weights(tmp_path / name) for name in ("logged", "silent"))
    assert all(logged[name].equal(silent[name]) for name in logged)


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


@pytest.mark.parametrize("advantages", [RLOO(group_size=4), ReinforcePlusPlus()], ids=["RLOO", "REINFORCE++"])
def test_a_simple_reward_rises_without_a_critic(student, tmp_path, advantages):
    optimisation = dataclasses.replace(STAGE.optimisation, learning_rate=3e-3)
    stage = dataclasses.replace(changed(STAGE, episodes=320), advantages=advantages, optimisation=optimisation)
    fit(stage, student, tmp_path)
    rewards = [row["reward"] for row in read(tmp_path / "history.jsonl") if "reward" in row]
    assert rewards[0] < 0.75
    assert sum(rewards[-3:]) / 3 > 0.9


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


def test_no_rl_hands_the_student_on_and_needs_no_reward(student, tmp_path):
    def refuse(_):
        raise AssertionError("no reward is needed")

    report = NoRL().fit(RLInputs(build_terms=refuse), context(student, tmp_path))
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

    logged = []

    def attempt(name: str, rollouts: int) -> None:
        left = iter(range(rollouts))
        logged.clear()  # each attempt logs the whole training

        def reward(queries, responses):
            if next(left, None) is None:
                raise Killed
            return says_two(queries, responses)

        given = {"validate": lambda _: next(scores[name]), "log_rows": logged.extend}
        fit(stage, student, tmp_path / name, reward=reward, seconds=0, **given)

    attempt("whole", 3)
    for _ in range(2):
        with pytest.raises(Killed):
            attempt("killed", 1)
    attempt("killed", 1)
    assert next(scores["killed"], None) is None  # no validation twice
    assert logged == read(tmp_path / "whole" / "samples.jsonl")
    for file in ("model.safetensors", "history.jsonl", "samples.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize("advantages", [PPO, GRPO], ids=["ppo", "grpo"])
def test_a_policy_with_a_calculator_is_trained(calculating_student, tmp_path, advantages):
    stage, scores = changed(STAGE, episodes=32, queries_per_rollout=4, max_response_tokens=40), iter([0.1, 0.2, 0.3])
    report = dataclasses.replace(stage, advantages=advantages).fit(
        RLInputs(build_terms=lambda _: [term(queries=SUM_QUERIES)]),
        context(calculating_student, tmp_path, prompt=CALCULATING, validate=lambda _: next(scores)),
    )
    assert report.rollouts == 2
    before, after = weights(calculating_student.folder), weights(tmp_path)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    texts = [sample["response"] for sample in read(tmp_path / "samples.jsonl")]
    sums = [found for text in texts if (found := re.match(r"It is (\d+) \+ (\d+) = (\d+)", text))]
    assert sums
    assert all(found[3].startswith(str(int(found[1]) + int(found[2]))) for found in sums)
