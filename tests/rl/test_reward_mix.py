"""The reward mix: weights that are no mix are refused, each term has its own queries and reward, both levels add up."""

import pytest

from rkd.errors import RewardFunctionError
from rkd.judges.base import NoJudge
from rkd.records import Checkpoint
from rkd.rl.reward_mix import Check, Judged, Learned, NoReward, Own, RewardInputs, RewardMix, Verifiable
from rkd.rl.rewards import ConsistencyCheck, LearnedReward, ProbabilityReward, VerifiableReward, WeightedReward
from rkd.store.fingerprint import as_fingerprint
from tests.support import tiny_world
from tests.support.fakes import query, responses, says

LABELLED, UNLABELLED = [query("q"), query("r")], [query("s")]
STREAMS = {"balanced": LABELLED[:1], "labelled": LABELLED, "unlabelled": UNLABELLED, "all": [*LABELLED, *UNLABELLED]}
RIGHT_WRONG_NONE = responses("q", [says(8, "a"), says(9, "b"), "I do not know"])


class OpenJudge:
    """A judge that is half sure of everything."""

    is_remote = False

    def open(self, advance):  # noqa: ARG002
        return self

    def judge(self, queries, responses):  # noqa: ARG002
        return [0.5] * len(responses)


def inputs(folder=None, judge=None) -> RewardInputs:
    return RewardInputs({"q": "8", "r": "9"}, Checkpoint(folder, "tiny"), judge or NoJudge(), tiny_world.PROMPT)


def mix(lambda_=0.0, mu=0.0, rho=0.0, **parts) -> RewardMix:
    return RewardMix(lambda_=lambda_, mu=mu, rho=rho, **parts)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward_model")
    tiny_world.random_model(folder)
    return folder


@pytest.mark.parametrize("weights", [(0.5, 0.25, 0.3), (0.5, 0.0, 0.0), (0.0, 0.0, 0.0)])
def test_weights_that_do_not_sum_to_1_are_refused_with_their_sum(weights):
    with pytest.raises(ValueError, match=rf"they sum to {sum(weights):g}.*make them sum to 1"):
        mix(*weights)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"reward_mix\.rho=-0\.5: a weight below 0"):
        mix(1.0, 0.5, -0.5)


def test_thirds_are_a_mix():
    assert mix(0.333333, 0.333333, 0.333334).used.keys() == {"verifiable", "judge", "learned"}


def test_each_term_has_its_weight_its_queries_and_its_reward(reward_model):
    terms = mix(0.5, 0.25, 0.25, learned=Learned(is_probability=True)).terms(inputs(reward_model, OpenJudge()), STREAMS)
    assert [(one.name, one.weight) for one in terms] == [("verifiable", 0.5), ("judge", 0.25), ("learned", 0.25)]
    assert [one.queries for one in terms] == [LABELLED, UNLABELLED, UNLABELLED]
    verifiable, judge, learned = (one.reward for one in terms)
    assert isinstance(verifiable, VerifiableReward)
    assert isinstance(learned, ProbabilityReward)
    assert judge([LABELLED[0]] * 3, RIGHT_WRONG_NONE).total.tolist() == [0.5] * 3


def test_a_reward_without_weight_is_not_built():
    # Neither a judge nor a reward model is there.
    (term,) = mix(1.0).terms(inputs(), STREAMS)
    assert term.reward([LABELLED[0]] * 3, RIGHT_WRONG_NONE).total.tolist() == pytest.approx([1, 0.1, 0])


def test_at_reward_level_one_term_asks_the_queries_of_all():
    own = mix(0.75, 0.25, level="reward")
    (term,) = own.terms(inputs(judge=OpenJudge()), STREAMS)
    assert [one.id for one in term.queries] == ["q", "r", "s"]
    assert term.weight == 1
    assert isinstance(term.reward, WeightedReward)
    answered = [*RIGHT_WRONG_NONE[:2], *responses("s", [says(8, "c")])]
    rewards = term.reward([LABELLED[0], LABELLED[0], UNLABELLED[0]], answered)
    # The label speaks of q, the judge of s.
    assert rewards.total.tolist() == pytest.approx([0.75 * 1, 0.75 * 0.1, 0.25 * 0.5])


def test_the_distilled_reward_stands_under_its_checks(reward_model):
    (term,) = mix(rho=1.0, learned=Learned(queries="balanced", check=Check())).terms(inputs(reward_model), STREAMS)
    assert term.queries == LABELLED[:1]
    assert isinstance(term.reward, ConsistencyCheck)
    assert isinstance(term.reward.reward, LearnedReward)
    assert term.reward([LABELLED[0]] * 3, RIGHT_WRONG_NONE).total[2] == -5


def test_the_label_alone_gives_plus_or_minus_one():
    source = Verifiable(queries="balanced", right=1.0, wrong=-1.0, unanswered=-1.0)
    (term,) = mix(1.0, verifiable=source).terms(inputs(), STREAMS)
    assert term.reward([LABELLED[0]] * 3, RIGHT_WRONG_NONE).total.tolist() == [1, -1, -1]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (lambda: Verifiable(queries="unlabelled"), r"reward_mix\.verifiable\.queries=unlabelled: .*labels"),
        (lambda: Learned(queries="all", check=Check()), r"reward_mix\.learned\.queries=all: .*labels"),
        (lambda: Judged(queries="some"), r"reward_mix\.judge\.queries=some: choose one of balanced, labelled"),
    ],
)
def test_queries_that_a_reward_cannot_score_are_refused(source, said):
    with pytest.raises(ValueError, match=said):
        source()


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match=r"reward_mix\.level=both: choose loss or reward"):
        mix(1.0, level="both")


def test_what_has_no_weight_is_no_part_of_the_fingerprint():
    assert as_fingerprint(mix(1.0, judge=Judged(right=1.0))) == as_fingerprint(mix(1.0, judge=Judged(right=2.0)))
    assert as_fingerprint(mix(0.5, 0.5)) != as_fingerprint(mix(0.5, 0.5, level="reward"))
    assert as_fingerprint(mix(1.0)) == as_fingerprint(mix(1.0, level="reward"))  # of one term both levels are the same


def count_words(_, responses):
    return [len(response.text.split()) for response in responses]


def one_number(*_):
    return [1.0]


def test_a_function_of_the_users_own_is_a_reward():
    (term,) = mix(1.0, verifiable=Own(function=count_words)).terms(inputs(), STREAMS)
    rewards = term.reward([LABELLED[0]] * 2, responses("q", ["a b c", "d"]))
    assert rewards.total.tolist() == [3.0, 1.0]
    assert list(rewards.components) == ["own"]


def test_without_a_reward_every_response_to_every_query_gets_0():
    (term,) = mix(1.0, verifiable=NoReward()).terms(inputs(), STREAMS)
    assert term.queries == STREAMS["all"]
    assert term.reward([LABELLED[0]] * 2, RIGHT_WRONG_NONE[:2]).total.tolist() == [0.0, 0.0]


def test_a_function_that_returns_the_wrong_number_of_rewards_is_refused_by_name():
    reward = Own(function=one_number).build(inputs())
    with pytest.raises(RewardFunctionError, match=r"function=one_number returned 1 values for 2 responses"):
        reward([LABELLED[0]] * 2, responses("q", ["a", "b"]))


def test_the_code_of_ones_own_function_is_part_of_the_fingerprint():
    assert "return [1.0]" in as_fingerprint(Own(function=one_number))["source"]


def test_a_function_without_source_code_is_refused_by_name():
    with pytest.raises(RewardFunctionError, match=r"function=len has no source code to read .*with `def`"):
        as_fingerprint(Own(function=len))
