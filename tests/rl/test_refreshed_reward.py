"""A reward model that is trained on rollouts: on which pairs, when, and that a training goes on from where it was."""

import dataclasses
import math

import pytest
import torch

from rkd.judges.base import NoJudge
from rkd.models.loading import ModelOptions, load_tokenizer
from rkd.models.reward_model import new_reward_model
from rkd.records import Checkpoint, Response
from rkd.rl.refreshed_reward import Refresh, RefreshedReward
from rkd.rl.reward_mix import Check, Learned, RewardInputs, RewardMix
from rkd.rl.rewards import ConsistencyCheck, LearnedReward, learned_reward
from rkd.store.fingerprint import as_fingerprint
from tests.support import tiny_world
from tests.support.tiny_models import weights
from tests.support.tiny_rl import QUERIES, STAGE, fit, read, term

LABELS = {query.id: query.gold_answer for query in QUERIES}
REFRESH = Refresh(every_rollouts=2, learning_rate=1e-3, batch_size=4)


@pytest.fixture
def folder(student, tmp_path):
    """The folder of a reward model whose head is at zero: every reward is 0."""
    folder = tmp_path / "reward_model"
    new_reward_model(student.folder).save_pretrained(folder)
    load_tokenizer(student.folder).save_pretrained(folder)
    return folder


def opened(folder) -> LearnedReward:
    return learned_reward(folder, tiny_world.PROMPT, ModelOptions(), is_trained=True)


@pytest.fixture
def learned(folder) -> LearnedReward:
    return opened(folder)


def answered(*answers: str | None) -> tuple[list, list[Response]]:
    """Four responses to each of the first queries, whose labels are 1, 2, 1, 2, …, and their queries."""
    asked = [QUERIES[place // 4] for place in range(len(answers))]
    texts = ["" if answer is None else tiny_world.response(answer) for answer in answers]
    return asked, [Response(q.id, "p", i % 4, t, True) for i, (q, t) in enumerate(zip(asked, texts, strict=True))]


def refreshed(learned, **settings) -> RefreshedReward:
    return RefreshedReward(learned, learned, LABELS, dataclasses.replace(REFRESH, **settings))


def state(reward: RefreshedReward) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in reward.learned.reward_model.state_dict().items()}


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_right_and_wrong_responses_to_a_query_are_paired_each_at_most_once(learned):
    # Label 1: right, wrong, wrong, empty. Label 2: all wrong. Label 1: wrong, right, right, right.
    assert [QUERIES[i].gold_answer for i in range(3)] == ["1", "2", "1"]
    queries, responses = answered("1", "2", "2", None, "1", "1", "1", "1", "2", "1", "1", "1")
    found = refreshed(learned)._pairs(queries, responses)
    numbers = [(query.id, right.sample_index, wrong.sample_index) for query, right, wrong in found]
    assert numbers == [(QUERIES[0].id, 0, 1), (QUERIES[2].id, 1, 0)]


def test_it_is_trained_after_each_second_rollout_alone_and_the_loss_is_measured_before_the_step(learned):
    reward, batch = refreshed(learned), answered("1", "2", "1", "2")
    before = state(reward)
    assert reward.after_rollout(1, *batch) == {}
    assert same(state(reward), before)
    measured = reward.after_rollout(2, *batch)
    # R = 0 everywhere: log 2 + 1/2 log 2, and a tie is not ranked right.
    assert measured == {
        "refresh/pairs": 2,
        "refresh/loss": pytest.approx(1.5 * math.log(2)),
        "refresh/pair_accuracy": 0,
    }
    assert not same(state(reward), before)


def test_a_rollout_without_a_pair_trains_nothing(learned):
    reward = refreshed(learned)
    before = state(reward)
    assert reward.after_rollout(2, *answered("1", "1", "1", "1")) == {"refresh/pairs": 0}
    assert same(state(reward), before)


def test_it_learns_what_the_labels_say_of_the_samples_and_the_reward_reads_the_same_model(learned):
    reward, batch = refreshed(learned, every_rollouts=1, learning_rate=1e-2), answered("1", "2", "1", "2")
    assert reward(*batch).total.tolist() == [0, 0, 0, 0]
    for rollout in range(24):
        measured = reward.after_rollout(rollout + 1, *batch)
    assert measured["refresh/pair_accuracy"] == 1
    one, two, *_ = reward(*batch).total.tolist()
    assert one > 0.1 > -0.1 > two


def test_a_refresh_goes_on_from_its_saved_state(learned, folder, tmp_path):
    batch = answered("1", "2", "1", "2", "1", "2", "2", "2")
    reward = refreshed(learned, every_rollouts=1)
    reward.after_rollout(1, *batch)
    torch.save(reward.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    reward.after_rollout(2, *batch)
    own = opened(folder)
    other = RefreshedReward(own, own, LABELS, reward.settings)
    other.load_state_dict(saved)
    other.after_rollout(2, *batch)
    assert same(state(other), state(reward))


class Killed(BaseException):
    """What stands for the end of the process."""


def test_a_training_that_is_killed_ends_like_one_that_was_not_with_the_same_rewards(folder, student, tmp_path):
    made = {}

    def attempt(name: str, rollouts: int) -> None:
        own = opened(folder)
        left = iter(range(rollouts))

        def checked(queries, responses):
            if next(left, None) is None:
                raise Killed
            return ConsistencyCheck(own, LABELS)(queries, responses)

        made[name] = RefreshedReward(checked, own, LABELS, dataclasses.replace(REFRESH, every_rollouts=1))
        fit(
            STAGE, student, tmp_path / name, terms=[term(reward=made[name])], seconds=0,
            validate=lambda _: next(scores[name]),
        )  # fmt: skip

    scores = {name: iter([0.1, 0.2, 0.3, 0.4]) for name in ("whole", "killed")}
    attempt("whole", 3)
    for rollouts in (1, 1):
        with pytest.raises(Killed):
            attempt("killed", rollouts)
    attempt("killed", 1)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert same(state(made["whole"]), state(made["killed"]))
    rows = [read(tmp_path / name / "history.jsonl") for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    assert [row["refresh/pairs"] > 0 for row in rows[0] if "reward" in row] == [True] * 3


def test_the_mix_trains_the_model_under_its_checks_and_without_a_refresh_nothing_is_new(folder):
    inputs = RewardInputs(LABELS, Checkpoint(folder, "tiny"), NoJudge(), tiny_world.PROMPT)
    settings = {"queries": "labelled", "check": Check(), "is_probability": False}
    mix = RewardMix(lambda_=0.0, mu=0.0, rho=1.0, learned=Learned(**settings, refresh=REFRESH))
    (made,) = mix.terms(inputs, {"labelled": QUERIES})
    assert isinstance(made.reward, RefreshedReward)
    assert made.reward.reward.reward is made.reward.learned
    assert made.reward.learned.reward_model.head.weight.dtype == torch.float32
    frozen = as_fingerprint(Learned(**settings))
    assert "refresh" not in frozen
    assert as_fingerprint(Learned(**settings, refresh=REFRESH))["refresh"]["every_rollouts"] == 2


def test_a_refresh_on_queries_without_labels_is_refused():
    with pytest.raises(ValueError, match=r"reward_mix\.learned\.refresh trains R against labels"):
        Learned(queries="unlabelled", refresh=REFRESH)
