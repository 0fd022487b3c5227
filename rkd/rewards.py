"""Rewards for reinforcement learning: queries and responses enter, one number per response and its parts leave.

A `RewardFunction` is any callable of this shape (`rkd.protocols`); a user's own is a plain function named in the
config. A reward mix says which rewards a row trains on; it is built once labels and reward model exist. Shapes: B
responses.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rkd.answers import answers_match, extract_answer
from rkd.batches import ResponseBatch, collate, encode_responses, even_groups
from rkd.judge import NoJudge, YesNoJudge
from rkd.loading import ModelOptions, load_tokenizer
from rkd.models import Scorer, load_scorer
from rkd.prompts import PromptTemplate
from rkd.protocols import Judge, RewardFunction, Rewards
from rkd.records import Checkpoint, Query, Response
from rkd.side_by_side import map_over_copies


@dataclass(frozen=True)
class VerifiableReward:
    """The extracted answer against a known one, a pseudo-label or the gold answer (paper J's VR).

    Args:
        labels: the answer to each query, by query id.
        right, wrong, unanswered: the rewards of a right answer, a wrong one and none. Paper J's line of work gives
            1, 0.1 and 0.
    """

    labels: Mapping[str, str]
    right: float = 1.0
    wrong: float = 0.1
    unanswered: float = 0.0

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`."""
        has_answer, agrees = _answers(queries, responses, self.labels)
        reward = torch.where(agrees, self.right, torch.where(has_answer, self.wrong, self.unanswered))
        return Rewards(reward, {"verifiable": reward})


@dataclass(frozen=True)
class LearnedReward:
    """The scalar R(q, a) of a reward model (METHOD 2.6)."""

    scorer: Scorer
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptTemplate
    batch_responses: int = 128

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`; consecutive responses to one query share the reading of its prompt."""

        @torch.no_grad()
        def score(scorer: Scorer, batch: ResponseBatch) -> Tensor:
            return scorer(batch.to(scorer.model.device)).cpu()

        groups = even_groups([query.id for query in queries], self.batch_responses)
        flat = [[row for group in zip(*rows, strict=True) for row in group] for rows in groups]
        batches = []
        for rows, own in zip(groups, flat, strict=True):
            prompts = self.prompt.encode([queries[first] for first in rows[0]], self.tokenizer)
            texts, finished = [responses[row].text for row in own], [responses[row].is_finished for row in own]
            tokens = encode_responses(self.tokenizer, texts, finished)
            batches.append(collate(prompts, tokens, self.tokenizer.pad_token_id))
        scores = torch.zeros(len(responses))
        for own, of_batch in zip(flat, map_over_copies(score, self.scorer, batches), strict=True):
            scores[own] = of_batch
        return Rewards(scores, {"learned": scores})


def learned_reward(folder: Path, prompt: PromptTemplate, options: ModelOptions) -> LearnedReward:
    """R of a reward model's folder, for queries that are put to the student in this prompt."""
    return LearnedReward(load_scorer(folder, options, placed=True).eval(), load_tokenizer(folder), prompt)


@dataclass(frozen=True)
class JudgedReward:
    """A judge's verdict p, from `wrong` at 0 to `right` at 1 (paper J's YoN).

    Args:
        unanswered: the reward of a response without an answer, which the judge is not asked about.
    """

    judge: Judge
    right: float = 1.0
    wrong: float = -1.0
    unanswered: float = -1.0

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`.

        Raises:
            ValueError: a verdict could not be read.
        """
        answers = [
            extract_answer(response.text, query.dataset) for query, response in zip(queries, responses, strict=True)
        ]
        asked = [place for place, answer in enumerate(answers) if answer is not None]
        verdicts = self.judge.judge([queries[place] for place in asked], [responses[place] for place in asked])
        if None in verdicts:
            raise ValueError(f"{verdicts.count(None)} of {len(asked)} verdicts of the judge could not be read.")
        reward = torch.full((len(responses),), self.unanswered)
        reward[asked] = self.wrong + (self.right - self.wrong) * torch.tensor(verdicts)
        return Rewards(reward, {"judge": reward})


def cap_at_zero(rewards: Tensor) -> Tensor:
    """min(r, 0): the consistency penalty of Eq. 10."""
    return rewards.clamp(max=0)


def minus_one(rewards: Tensor) -> Tensor:
    """r − 1: the variant "Minus" of paper D's appendix E.5."""
    return rewards - 1


def unchanged(rewards: Tensor) -> Tensor:
    """r: no consistency check, the variant "None"."""
    return rewards


@dataclass(frozen=True)
class ConsistencyCheck:
    """Answer-existence and consistency checks around a reward: Eq. 10 of paper D.

        −5 when no answer can be extracted;  penalty(r) when ŷ ≠ y*;  r otherwise

    Args:
        reward: the reward r that is checked.
        labels: y* of each query, by query id.
        penalty: what becomes of r when the answer contradicts y*.
        unanswered: the reward of a response without an answer.
    """

    reward: RewardFunction
    labels: Mapping[str, str] = field(repr=False)
    penalty: Callable[[Tensor], Tensor] = cap_at_zero
    unanswered: float = -5.0

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`."""
        inner = self.reward(queries, responses)
        has_answer, agrees = _answers(queries, responses, self.labels)
        checked = torch.where(agrees, inner.total, self.penalty(inner.total))
        total = torch.where(has_answer, checked, torch.full_like(checked, self.unanswered))
        parts = {"answered": has_answer.float(), "consistent": agrees.float(), "check": total - inner.total}
        return Rewards(total, {**inner.components, **parts})


@dataclass(frozen=True)
class RewardInputs:
    """What a reward may be made of: y* by query id, reward model and judge, the student's prompt and options."""

    labels: Mapping[str, str]
    reward_model: Checkpoint
    judge: YesNoJudge | NoJudge
    prompt: PromptTemplate
    options: ModelOptions = field(default_factory=ModelOptions)


class RewardMix(Protocol):
    """The reward of a row, before there are labels and a reward model."""

    def build(self, inputs: RewardInputs) -> RewardFunction:
        """The reward function."""
        ...


@dataclass(frozen=True, kw_only=True)
class DistilledReward:
    """Paper D: the reward model under the checks of Eq. 10."""

    penalty: Callable[[Tensor], Tensor] = cap_at_zero
    unanswered: float = -5.0

    def build(self, inputs: RewardInputs) -> RewardFunction:
        """See `RewardMix`."""
        folder = inputs.reward_model.folder
        if not (folder / "config.json").is_file():
            raise ValueError(
                "reward_mix=distilled needs a reward model, and reward_model=none makes none. Take "
                "`python run.py reward_model=mini`, or the label alone as reward, `python run.py reward_mix=label`."
            )
        learned = learned_reward(folder, inputs.prompt, inputs.options)
        return ConsistencyCheck(learned, inputs.labels, self.penalty, self.unanswered)


@dataclass(frozen=True, kw_only=True)
class LabelReward:
    """The labels alone: the pseudo-label in a label-free row, the gold answer with labels=gold."""

    right: float = 1.0
    wrong: float = -1.0
    unanswered: float = -1.0

    def build(self, inputs: RewardInputs) -> RewardFunction:
        """See `RewardMix`."""
        return VerifiableReward(inputs.labels, self.right, self.wrong, self.unanswered)


@dataclass(frozen=True, kw_only=True)
class JudgeReward:
    """The judge's verdicts alone, without labels and without a reward model."""

    right: float = 1.0
    wrong: float = -1.0
    unanswered: float = -1.0

    def build(self, inputs: RewardInputs) -> RewardFunction:
        """See `RewardMix`."""
        return JudgedReward(inputs.judge.open(), self.right, self.wrong, self.unanswered)


@dataclass(frozen=True, kw_only=True)
class OwnReward:
    """A function of yours, given by its dotted path: (queries, responses) to one number per response."""

    function: Callable[[Sequence[Query], Sequence[Response]], Sequence[float]]

    def build(self, inputs: RewardInputs) -> RewardFunction:  # noqa: ARG002
        """See `RewardMix`."""

        def reward(queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
            values = torch.as_tensor(self.function(queries, responses), dtype=torch.float32)
            if values.shape != (len(responses),):
                raise ValueError(
                    f"reward_mix.function={self.function.__qualname__} returned shape {tuple(values.shape)} for "
                    f"{len(responses)} responses: return one number per response."
                )
            return Rewards(values, {"own": values})

        return reward

    def recipe(self) -> dict[str, Any]:
        """The function's name and code, so that an edit makes the stage anew."""
        return {"function": self.function.__qualname__, "source": inspect.getsource(self.function)}


def _answers(
    queries: Sequence[Query], responses: Sequence[Response], labels: Mapping[str, str]
) -> tuple[Tensor, Tensor]:
    """Whether each response has an answer, and whether it is the label; (B,) booleans."""
    answers = [extract_answer(response.text, query.dataset) for query, response in zip(queries, responses, strict=True)]
    agrees = [answers_match(a, labels[q.id], q.dataset) for a, q in zip(answers, queries, strict=True)]
    return torch.tensor([answer is not None for answer in answers]), torch.tensor(agrees)
