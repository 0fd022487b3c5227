"""Rewards, Eq. 10 above all: every expected number is worked by hand."""

import pytest
import torch

from rkd.models.batches import collate, encode, encode_responses
from rkd.models.loading import load_tokenizer
from rkd.models.reward_model import RewardModel, load_reward_model
from rkd.protocols import Rewards
from rkd.records import Response
from rkd.rl.rewards import (
    ConsistencyCheck,
    ExistenceCheck,
    JudgedReward,
    LearnedReward,
    ProbabilityReward,
    VerifiableReward,
    VerifierReward,
    WeightedReward,
    cap_at_zero,
    minus_one,
    unchanged,
)
from tests.support import tiny_world
from tests.support.fakes import query, responses, says

# Two responses agree with the label 8, two contradict it, one has no answer.
QUERY = query("q")
RESPONSES = responses("q", [says(8, "a"), says(8, "b"), says(9, "c"), says(9, "d"), "I do not know"])
LEARNED = torch.tensor([1.5, -0.5, 2.0, -3.0, 4.0])


class FixedReward:
    """A reward function that returns what it was given."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __call__(self, *_) -> Rewards:
        return Rewards(self.values, {"learned": self.values})


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (cap_at_zero, [1.5, -0.5, 0.0, -3.0, -5.0]),  # min(r, 0) where the answer contradicts the label
        (minus_one, [1.5, -0.5, 1.0, -4.0, -5.0]),  # r − 1 there
        (unchanged, [1.5, -0.5, 2.0, -3.0, -5.0]),  # r there; −5 without an answer stays
    ],
)
def test_the_checks_of_eq_10(penalty, expected):
    check = ConsistencyCheck(FixedReward(LEARNED), {"q": "8"}, penalty)
    assert check([QUERY] * 5, RESPONSES).total.tolist() == expected


def test_every_component_of_the_checked_reward_is_reported():
    components = ConsistencyCheck(FixedReward(LEARNED), {"q": "8"})([QUERY] * 5, RESPONSES).components
    assert {name: part.tolist() for name, part in components.items()} == {
        "learned": LEARNED.tolist(),
        "answered": [1, 1, 1, 1, 0],
        "consistent": [1, 1, 0, 0, 0],
        "check": [0, 0, -2, 0, -9],  # what the checks change of 1.5, -0.5, 2, -3, 4
    }


def test_each_response_is_compared_with_the_label_of_its_own_query():
    both = [query("a"), query("b")]
    reward = VerifiableReward({"a": "8", "b": "9"})(both, [*responses("a", [says(9)]), *responses("b", [says(9)])])
    assert reward.total.tolist() == pytest.approx([0.1, 1.0])


def test_an_answer_is_compared_by_value():
    (reward,) = VerifiableReward({"q": "8"})([QUERY], responses("q", [says("8.00")])).total.tolist()
    assert reward == 1.0


def test_the_verifiable_reward_of_paper_j():
    reward = VerifiableReward({"q": "8"})([QUERY] * 5, RESPONSES)
    assert reward.total.tolist() == pytest.approx([1, 1, 0.1, 0.1, 0])
    assert list(reward.components) == ["verifiable"]


class ScriptedJudge:
    """A judge that gives its verdicts in turn, and notes what it was asked."""

    def __init__(self, *verdicts: float | None) -> None:
        self.verdicts, self.asked = verdicts, []

    def judge(self, queries, responses):  # noqa: ARG002
        self.asked += [response.text for response in responses]
        return list(self.verdicts)


def test_a_verdict_is_a_reward_between_those_of_right_and_wrong():
    judge = ScriptedJudge(1.0, 0.5, 0.25, 0.0)
    rewards = JudgedReward(judge, right=1.0, wrong=-1.0, unanswered=-1.0)([QUERY] * 5, RESPONSES)
    assert rewards.total.tolist() == [1.0, 0.0, -0.5, -1.0, -1.0]
    assert judge.asked == [response.text for response in RESPONSES[:4]]  # the last one has no answer


def test_a_judge_may_be_asked_about_responses_without_an_answer_too():
    judge = ScriptedJudge(1.0, 0.5, 0.25, 0.0, 0.75)
    rewards = JudgedReward(judge)([QUERY] * 5, RESPONSES)
    assert rewards.total.tolist() == [1.0, 0.5, 0.25, 0.0, 0.75]  # the verdicts themselves
    assert len(judge.asked) == 5


def test_a_probability_is_the_sigmoid_of_what_the_model_says():
    rewards = ProbabilityReward(FixedReward(torch.tensor([0.0, 20.0, -20.0])))([QUERY] * 3, RESPONSES[:3])
    assert rewards.total.tolist() == pytest.approx([0.5, 1.0, 0.0], abs=1e-6)
    assert rewards.components["learned"].tolist() == [0, 20, -20]
    assert rewards.components["probability"].equal(rewards.total)


class Length:
    """A reward of a letter each, which notes the queries it is asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, queries, responses) -> Rewards:
        self.asked += [one.id for one in queries]
        lengths = torch.tensor([float(len(response.text)) for response in responses])
        return Rewards(lengths, {"length": lengths})


def test_a_weighted_reward_asks_each_reward_about_its_own_queries():
    length, parts = Length(), [query("a"), query("b"), query("c")]
    fixed = FixedReward(torch.tensor([10.0, 20.0]))
    mixed = WeightedReward(
        {"fixed": (0.25, fixed, frozenset("ab")), "length": (0.75, length, frozenset("bc"))},
    )
    rewards = mixed(parts, [Response(one.id, "m", 0, "x" * (i + 1), True) for i, one in enumerate(parts)])
    assert length.asked == ["b", "c"]
    assert rewards.components["fixed"].tolist() == [10, 20, 0]
    assert rewards.components["length"].tolist() == [0, 2, 3]
    assert rewards.total.tolist() == [2.5, 0.25 * 20 + 0.75 * 2, 0.75 * 3]


def test_a_weighted_reward_has_all_its_components_whatever_is_asked():
    mixed = WeightedReward({"length": (1.0, Length(), frozenset("a")), "other": (0.0, Length(), frozenset("b"))})
    assert list(mixed([query("a")], responses("a", ["x"])).components) == ["length", "other"]


def test_a_verdict_that_could_not_be_read_says_nothing_of_a_response():
    queries = [query("a"), query("a"), query("a"), query("b"), query("b")]
    texts = [Response(one.id, "m", i, "The answer is 4.", True) for i, one in enumerate(queries)]
    rewards = JudgedReward(ScriptedJudge(0.5, None, 1.0, None, 0.0))(queries, texts)
    assert rewards.total.tolist() == [0.5, 0.75, 1.0, 0.0, 0.0]
    assert rewards.components["unreadable"].tolist() == [0, 1, 0, 1, 0]
    alone = JudgedReward(ScriptedJudge(0.5, 1.0, 0.0, 0.5, None))([*queries[:4], query("c")], texts)
    assert alone.total[-1] == 0.5  # no other response to this query: the mean of all


def test_a_judge_whose_verdicts_cannot_be_read_is_no_reward():
    with pytest.raises(ValueError, match=r"None of the judge's 4 verdicts .* experiments=judge_quality"):
        JudgedReward(ScriptedJudge(None, None, None, None), unanswered=0.0)([QUERY] * 5, RESPONSES)


def test_the_reward_of_a_verifier_is_its_log_odds_and_finite():
    reward = VerifierReward(ScriptedJudge(0.5, 0.75, 0.2, 1.0, 0.0))([QUERY] * 5, RESPONSES).total
    # log(3/4 : 1/4) = log 3, log(1/5 : 4/5) = -log 4; shares of 0 and 1 count as one in a million.
    assert reward.tolist() == pytest.approx([0.0, 1.0986, -1.3863, 13.8155, -13.8155], abs=1e-4)


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> LearnedReward:
    folder = tmp_path_factory.mktemp("reward_model")
    tiny_world.random_model(folder, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the new head
        reward_model = load_reward_model(folder)
    reward_model.save_pretrained(folder)
    return LearnedReward(RewardModel(reward_model.model.eval()), load_tokenizer(folder), tiny_world.PROMPT)


def test_the_learned_reward_is_that_of_each_response_alone_in_its_place(learned):
    # Groups of 3, 1 and 2 responses, one query twice apart, one response cut: order and grouping must not show.
    counts = [("a", 3), ("b", 1), ("c", 2), ("a", 1)]
    asked = [query(name) for name, count in counts for _ in range(count)]
    texts = ["The answer is 1.", "two", "", "The answer is 2. say one", "Ada", "Ben 7:", "say two"]
    answered = [Response(one.id, "m", i, text, i != 5) for i, (one, text) in enumerate(zip(asked, texts, strict=True))]
    together = learned(asked, answered)
    for index, (one, response) in enumerate(zip(asked, answered, strict=True)):
        prompt = encode(learned.tokenizer, [learned.prompt.render(one)])
        tokens = encode_responses(learned.tokenizer, [response.text], [response.is_finished])
        alone = learned.reward_model(collate(prompt, tokens, learned.tokenizer.pad_token_id)).detach()
        assert float(together.total[index]) == pytest.approx(float(alone), abs=1e-5)
    assert len({round(value, 4) for value in together.total.tolist()}) == 7  # seven responses, seven rewards
    assert together.components["learned"].equal(together.total)


def test_small_batches_give_the_same_learned_reward(learned):
    asked = [query(name) for name in "abc" for _ in range(2)]
    answered = [Response(one.id, "m", i, f"say {i}", True) for i, one in enumerate(asked)]
    small = LearnedReward(learned.reward_model, learned.tokenizer, learned.prompt, batch_responses=2)
    torch.testing.assert_close(small(asked, answered).total, learned(asked, answered).total, atol=1e-5, rtol=1e-5)


def test_what_is_no_valid_answer_costs_five_and_nothing_else_changes():
    texts = [
        Response("a", "m", 0, "A list.", True),
        Response("a", "m", 1, " ", True),
        Response("a", "m", 2, "Cu", False),
    ]
    inner = torch.tensor([-1.5, 2.0, 3.0])
    checked = ExistenceCheck(lambda *_: Rewards(inner, {"learned": inner}))([query("a")] * 3, texts)
    assert checked.total.tolist() == [-1.5, -5.0, -5.0]
    assert checked.components["answered"].tolist() == [1, 0, 0]
    assert checked.components["check"].tolist() == [0, -7, -8]
