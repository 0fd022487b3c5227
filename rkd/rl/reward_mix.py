"""The reward mix of a row: its rewards, their weights and their queries enter, the terms of the loss leave.

    L(θ) = λ L_verifiable(θ) + μ L_judge(θ) + ρ L_learned(θ),    λ, μ, ρ ≥ 0,    λ + μ + ρ = 1        (paper J)

L_k is the policy loss under the reward r_k. It has its own stream of queries, its own rollouts, advantages and
normalisation (`level=loss`). With `level=reward` there is one loss, under the reward

    r(q, a) = Σ_k w_k r_k(q, a) 1[q is in the stream of k],    w = (λ, μ, ρ)

Paper D's reward is the mix (0, 0, 1) with the checks of Eq. 10 on the learned reward.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor

from rkd.data.prompts import PromptTemplate
from rkd.errors import RewardFunctionError
from rkd.judges.base import ConfiguredJudge, NoJudge, OpenJudge, WithoutGaps, open_judge
from rkd.models.loading import ModelOptions
from rkd.protocols import RewardFunction, Rewards
from rkd.records import Checkpoint, Query, Response
from rkd.rl.noise_rates import NoiseRates
from rkd.rl.refreshed_reward import Refresh, RefreshedReward
from rkd.rl.rewards import (
    ConsistencyCheck,
    ExistenceCheck,
    JudgedReward,
    OpenReward,
    ProbabilityReward,
    VerifiableReward,
    WeightedReward,
    cap_at_zero,
    learned_reward,
)
from rkd.rl.user_reward import name_of, user_rewards
from rkd.store.partial_results import PartialResults

Stream = Literal["balanced", "labelled", "unlabelled", "all"]
"""Training queries: those with right and wrong student samples (D_R), with a label, without a label, or all."""

WITH_LABELS: tuple[Stream, ...] = ("balanced", "labelled")


@dataclass(frozen=True)
class RewardInputs:
    """The inputs of a reward: y* by query id, reward model, judge, and the student's prompt and options.

    `labels` is None for an open-ended task, whose responses have no answer to compare. `partial` holds the training's
    partial results: a judge behind a server keeps its paid replies there. In a dry pass an unreadable verdict is 0.5.
    `noise` says how often the labels mislead, for a reward that corrects for it.
    """

    labels: Mapping[str, str] | None
    reward_model: Checkpoint
    judge: ConfiguredJudge | NoJudge
    prompt: PromptTemplate
    options: ModelOptions = field(default_factory=ModelOptions)
    partial: PartialResults | None = None
    is_dry_pass: bool = False
    open_reward: OpenReward = learned_reward
    noise: NoiseRates | None = None

    @property
    def of_reward_model(self) -> tuple[Path, PromptTemplate, ModelOptions]:
        """What opens the learned reward."""
        return self.reward_model.folder, self.prompt, self.options

    def open_judge(self) -> OpenJudge:
        """The judge, its model loaded."""
        judge = open_judge(self.judge, partial=self.partial)
        return WithoutGaps(judge) if self.is_dry_pass else judge


class Source(Protocol):
    """The settings of one of the three rewards, from which the reward function is built."""

    @property
    def queries(self) -> Stream:
        """The stream that the reward trains on."""
        ...

    def build(self, inputs: RewardInputs) -> RewardFunction:
        """The reward function."""
        ...


class VerifiableSource(Source, Protocol):
    """What can stand in the place of the verifiable reward; `compares_answers` excludes open-ended tasks."""

    compares_answers: ClassVar[bool]


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of the loss: its weight, its training queries, and the reward of responses to them."""

    name: str
    weight: float
    queries: Sequence[Query]
    reward: RewardFunction

    def __post_init__(self) -> None:
        if not self.queries:
            raise ValueError(f"the term {self.name!r} of the loss has no queries to train on.")


@dataclass(frozen=True, kw_only=True)
class Verifiable:
    """Compares the extracted answer with the label: the gold answer with labels=gold, else the pseudo-label."""

    compares_answers: ClassVar[bool] = True

    queries: Stream = "labelled"
    right: float = 1.0
    wrong: float = 0.1
    unanswered: float = 0.0

    def __post_init__(self) -> None:
        check_stream("verifiable", self.queries, WITH_LABELS)

    def build(self, inputs: RewardInputs) -> RewardFunction:
        """See `Source`."""
        assert inputs.labels is not None  # a row whose mix compares answers has labels
        return VerifiableReward(inputs.labels, self.right, self.wrong, self.unanswered)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The judge's verdict, from `wrong` to `right`. With `unanswered` None it also judges responses without answer."""

    queries: Stream = "unlabelled"
    right: float = 1.0
    wrong: float = 0.0
    unanswered: float | None = None

    def __post_init__(self) -> None:
        check_stream("judge", self.queries)

    def build(self, inputs: RewardInputs) -> RewardFunction:
        """See `Source`."""
        if inputs.labels is not None:
            return JudgedReward(inputs.open_judge(), self.right, self.wrong, self.unanswered)
        reward = JudgedReward(inputs.open_judge(), self.right, self.wrong)
        return reward if self.unanswered is None else ExistenceCheck(reward, self.unanswered)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Eq. 10 applied to the learned reward; for an open-ended task, Eq. 11.

    See `rkd.rl.rewards.ConsistencyCheck` and `rkd.rl.rewards.ExistenceCheck`.
    """

    penalty: Callable[[Tensor], Tensor] = cap_at_zero
    unanswered: float = -5.0


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The reward model R: paper D's, or paper J's reranker.

    Args:
        is_probability: True rewards σ(R), the probability of a right response by a model trained as a classifier; False
            rewards R itself.
        check: the check of the answer against the label; None: no check.
        refresh: trains R on the rollouts (docs/method.md 6.6); None: R stays as it was trained.
    """

    queries: Stream = "unlabelled"
    is_probability: bool = False
    check: Check | None = None
    refresh: Refresh | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Its fields; a refresh that is not set is left out, as in what was stored before there was one."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in own.items() if name != "refresh" or value is not None}

    def __post_init__(self) -> None:
        if self.refresh is not None and self.queries not in WITH_LABELS:
            raise ValueError(
                f"reward_mix.learned.refresh trains R against labels, which reward_mix.learned.queries={self.queries} "
                f"lack: choose one of {', '.join(WITH_LABELS)}."
            )
        check_stream("learned", self.queries, get_args(Stream) if self.check is None else WITH_LABELS)

    def build(self, inputs: RewardInputs) -> RewardFunction:
        """See `Source`."""
        if self.refresh is None:
            return self._checked(inputs.open_reward(*inputs.of_reward_model), inputs)
        assert inputs.labels is not None  # `Stages` refuses a row without them
        learned = learned_reward(*inputs.of_reward_model, is_trained=True)
        return RefreshedReward(self._checked(learned, inputs), learned, inputs.labels, self.refresh)

    def _checked(self, reward: RewardFunction, inputs: RewardInputs) -> RewardFunction:
        if self.is_probability:
            reward = ProbabilityReward(reward)
        if self.check is None:
            return reward
        if inputs.labels is None:
            return ExistenceCheck(reward, self.check.unanswered)
        return ConsistencyCheck(reward, inputs.labels, self.check.penalty, self.check.unanswered)


@dataclass(frozen=True, kw_only=True)
class Own:
    """A user's function, given by its dotted path; it maps (queries, responses) to one number per response."""

    compares_answers: ClassVar[bool] = False

    function: Callable[[Sequence[Query], Sequence[Response]], Sequence[float]]
    queries: Stream = "balanced"

    def __post_init__(self) -> None:
        check_stream("verifiable", self.queries)

    def build(self, inputs: RewardInputs) -> RewardFunction:  # noqa: ARG002
        """See `Source`."""

        def reward(queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
            values = user_rewards(self.function, queries, responses)
            return Rewards(values, {"own": values})

        return reward

    def fingerprint(self) -> dict[str, Any]:
        """The function's name and source code, so that the stage runs again after an edit.

        Raises:
            RewardFunctionError: it has no source code.
        """
        name = name_of(self.function)
        try:
            source = inspect.getsource(self.function)
        except (TypeError, OSError) as error:
            raise RewardFunctionError(
                f"reward_mix.verifiable.function={name} has no source code to read ({error}): write a plain function "
                "in a file of yours, with `def`, and name it by its dotted path."
            ) from error
        return {"function": name, "source": source, "queries": self.queries}


@dataclass(frozen=True, kw_only=True)
class NoReward:
    """A reward of 0: the KL term alone decides, as in on-policy distillation (docs/method.md 6.1)."""

    compares_answers: ClassVar[bool] = False

    queries: Stream = "all"

    def __post_init__(self) -> None:
        check_stream("verifiable", self.queries)

    def build(self, inputs: RewardInputs) -> RewardFunction:  # noqa: ARG002
        """See `Source`."""
        return lambda _, responses: Rewards(torch.zeros(len(responses)), {})


@dataclass(frozen=True, kw_only=True)
class RewardMix:
    """λ, μ and ρ with their rewards; a reward of weight 0 is neither built nor computed.

    Args:
        lambda_, mu, rho: the weights, dimensionless; they sum to 1.
        level: whether losses or rewards are mixed; see the equations above.
    """

    lambda_: float
    mu: float
    rho: float
    verifiable: VerifiableSource = field(default_factory=Verifiable)
    judge: Judged = field(default_factory=Judged)
    learned: Learned = field(default_factory=Learned)
    level: Literal["loss", "reward"] = "loss"

    def __post_init__(self) -> None:
        weights = {"lambda_": self.lambda_, "mu": self.mu, "rho": self.rho}
        said = ", ".join(f"reward_mix.{name}={weight}" for name, weight in weights.items())
        if min(weights.values()) < 0:
            raise ValueError(f"{said}: a weight below 0 would train towards bad responses; take 0 or more.")
        if not math.isclose(total := sum(weights.values()), 1.0, abs_tol=1e-6):
            raise ValueError(f"{said}: they sum to {total:g}, and the mix is a mean: make them sum to 1.")
        if self.level not in ("loss", "reward"):
            raise ValueError(f"reward_mix.level={self.level}: choose loss or reward.")

    @property
    def used(self) -> dict[str, tuple[float, Source]]:
        """The weight and the reward of each term whose weight is not 0."""
        terms: dict[str, tuple[float, Source]] = {
            "verifiable": (self.lambda_, self.verifiable),
            "judge": (self.mu, self.judge),
            "learned": (self.rho, self.learned),
        }
        return {name: (weight, source) for name, (weight, source) in terms.items() if weight}

    @property
    def streams(self) -> set[Stream]:
        """The streams that the terms train on."""
        return {source.queries for _, source in self.used.values()}

    def terms(self, inputs: RewardInputs, queries: Mapping[Stream, Sequence[Query]]) -> list[Term]:
        """The terms of the loss, with their reward functions built.

        Args:
            queries: the queries of each stream that the mix uses.
        """
        own = [
            Term(name=name, weight=weight, queries=queries[source.queries], reward=source.build(inputs))
            for name, (weight, source) in self.used.items()
        ]
        if self.level == "loss" or len(own) == 1:
            return own
        asked = {query.id: query for term in own for query in term.queries}
        parts = {term.name: (term.weight, term.reward, frozenset(query.id for query in term.queries)) for term in own}
        return [Term(name="mixed", weight=1.0, queries=list(asked.values()), reward=WeightedReward(parts))]

    def fingerprint(self) -> dict[str, Any]:
        """What decides the training: the level and the rewards whose weight is not 0."""
        used = {name: {"weight": weight, "source": source} for name, (weight, source) in self.used.items()}
        return {"terms": used, "level": self.level if len(used) > 1 else "loss"}


def check_stream(term: str, stream: str, allowed: Sequence[str] = get_args(Stream)) -> None:
    """Refuse a stream that there is not, or that lacks what the term's reward compares with.

    Raises:
        ValueError: the stream is not among those allowed.
    """
    if stream not in get_args(Stream):
        raise ValueError(f"reward_mix.{term}.queries={stream}: choose one of {', '.join(get_args(Stream))}.")
    if stream not in allowed:
        raise ValueError(
            f"reward_mix.{term}.queries={stream}: this reward compares answers with labels, which such queries lack; "
            f"choose one of {', '.join(allowed)}."
        )
