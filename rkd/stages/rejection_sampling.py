"""Rejection sampling (docs/method.md 6.2): the student's samples and their rewards enter, further SFT examples leave.

In place of reinforcement learning the student is fine-tuned on its own responses that the row's reward accepts. A round
samples from the student of the last round and trains the untuned student anew, on the teacher's responses and on all
that was accepted until then.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from rkd.config import ABOVE_0, AT_LEAST_1, check_ranges
from rkd.protocols import Sampling, TextGenerator
from rkd.records import Query, Response
from rkd.stages.sft import SFT
from rkd.work import STUDENT, Sizes, Work, about, epochs_said

RANGES = {
    "rounds": AT_LEAST_1,
    "episodes": AT_LEAST_1,
    "responses_per_query": AT_LEAST_1,
    "max_response_tokens": AT_LEAST_1,
    "temperature": ABOVE_0,
}


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How much is sampled.

    Args:
        rounds: how often the student is sampled and trained.
        episodes: responses in all rounds, rounded up to whole queries.
        responses_per_query: of a round. If there are too few queries for the episodes, each is answered more often.
        max_response_tokens: tokens of the student's tokenizer.
        temperature: of the samples.
    """

    rounds: int = 1
    episodes: int
    responses_per_query: int
    max_response_tokens: int
    temperature: float

    def __post_init__(self) -> None:
        check_ranges("rl.rollouts", self, RANGES)
        if self.episodes < self.rounds * self.responses_per_query:
            raise ValueError(
                f"rl.rollouts: {self.episodes} episodes are fewer than {self.rounds} rounds with "
                f"{self.responses_per_query} responses to a query. Raise episodes, or take fewer rounds."
            )

    def tried(self) -> "Rounds":
        """One round that asks one query, for a dry pass."""
        return replace(self, rounds=1, episodes=self.responses_per_query)

    def asked(self, queries: Sequence[Query], seed: int, place: int) -> list[Query]:
        """The queries of a round, drawn at random from all."""
        wanted = math.ceil(self.episodes / self.rounds / self.responses_per_query)
        return random.Random(f"rejection {seed} {place}").sample(list(queries), min(wanted, len(queries)))

    def sampling(self, asked: int) -> Sampling:
        """The sampling settings of a round that asks so many queries."""
        per_query = math.ceil(self.episodes / self.rounds / asked)
        return Sampling(self.temperature, per_query, self.max_response_tokens)

    def sample(self, generator: TextGenerator, queries: Sequence[Query], seed: int) -> list[list[Response]]:
        """The responses of a round to each of its queries."""
        return generator.generate(queries, self.sampling(len(queries)), seed)


@dataclass(frozen=True, kw_only=True)
class RejectionSampling:
    """Fine-tuning of the student on its own accepted responses.

    Args:
        training: the training of each round.
        threshold: a response is accepted if its reward is above.
    """

    is_left_out: ClassVar[Literal[False]] = False
    reads_teacher: ClassVar[Literal[False]] = False

    rollouts: Rounds
    training: SFT
    threshold: float = 0.0

    def accepted(self, pairs: Sequence[tuple[Query, Response]], rewards: Sequence[float]) -> list[tuple[Query, str]]:
        """The whole responses with a reward above the threshold, each with its query."""
        return [
            (query, response.text)
            for (query, response), reward in zip(pairs, rewards, strict=True)
            if reward > self.threshold and response.defect is None
        ]

    @property
    def validations(self) -> int:
        """Number of validations in all rounds."""
        return self.rollouts.rounds * self.training.epochs * self.training.validations_per_epoch

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The samples, and the trainings on them; how many will be accepted is not known, so that all are counted."""
        own, epochs = self.rollouts, self.training.epochs
        asked = own.episodes / own.responses_per_query
        examples = own.rounds * sizes.examples + own.episodes * (own.rounds + 1) / 2
        sampling = Sampling(own.temperature, own.responses_per_query, own.max_response_tokens)
        rounds = "1 round" if own.rounds == 1 else f"{own.rounds} rounds"
        return [
            Work("rejection samples", f"{own.episodes:,} episodes, {rounds}", STUDENT, own.max_response_tokens,
                 [(asked, sampling)]),
            Work("rejection", f"at most {about(examples)} responses, {epochs_said(epochs)}", STUDENT,
                 self.training.max_tokens, [(self.validations * sizes.validated, sizes.greedy)],
                 trained=epochs * examples),
        ]  # fmt: skip
