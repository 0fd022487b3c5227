"""Preference pairs in tokens: `PreferencePair`s enter, batches leave; with rewards, ranking metrics leave.

Shapes: B pairs; 2 B responses in the order chosen, rejected, chosen, …. Both responses of a pair share its prompt,
which a model reads once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rkd.data.calculator_tokens import CalculatorTokens, chosen_tokens
from rkd.data.prompts import PromptTemplate
from rkd.evaluation.statistics import area_under_curve
from rkd.models.batches import ResponseBatch, collate
from rkd.records import PreferencePair

# The message of a stage that has no pair to train on.
NO_PAIR = (
    "each query's samples were all right or all wrong (Eq. 4), or the questions of `pairs.path` are others. Draw more "
    "samples, or take more queries: `python run.py dataset.max_training_queries=null`."
)


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """One pair in tokens; `number` is its place among the kept pairs, `is_correct` is 1[ℓ = ℓ*] of each side."""

    number: int
    pair: PreferencePair
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    is_correct: tuple[bool, bool]

    @property
    def length(self) -> int:
        """Number of tokens of the prompt and the longer response."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def longest_part(self) -> int:
        """Tokens of the longest of prompt and responses; batches of pairs of similar value need little padding."""
        return max(len(self.prompt), len(self.chosen), len(self.rejected))


@dataclass(frozen=True, slots=True)
class PairBatch:
    """B pairs for the reward model and for DPO.

    Args:
        responses: two rows for each pair, chosen before rejected.
        is_correct: 1[ℓ = ℓ*], (2 B,), boolean, in the order of the rows.
        numbers: `TokenizedPair.number`, (B,).
    """

    responses: ResponseBatch
    is_correct: Tensor
    numbers: Tensor

    @property
    def prompt_count(self) -> int:
        """B."""
        return self.responses.prompt_count

    @property
    def weight(self) -> int:
        """Number of pairs, over which a loss is averaged."""
        return self.prompt_count

    @property
    def tokens(self) -> int:
        """Number of tokens of prompts and responses."""
        return self.responses.tokens

    def select_prompts(self, indices: Tensor) -> "PairBatch":
        """The pairs at `indices`."""
        rows = self.responses.rows_of(indices)
        return PairBatch(self.responses.select_prompts(indices), self.is_correct[rows], self.numbers[indices])

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on another device."""
        return PairBatch(self.responses.to(device), self.is_correct.to(device), self.numbers.to(device))


def tokenize_pairs(
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptTemplate,
    pairs: Sequence[PreferencePair],
    max_tokens: int,
    highest_score: float = 1.0,
) -> tuple[list[TokenizedPair], int]:
    """The pairs whose responses both fit into `max_tokens`, and the number of the others."""
    prompts = prompt.encode([pair.query for pair in pairs], tokenizer)
    sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    responses = list({side.response: None for side in sides})
    rows = prompt.encode_responses(
        [response.text for response in responses], [response.is_finished for response in responses], tokenizer
    )
    tokens = dict(zip(responses, rows, strict=True))
    kept: list[TokenizedPair] = []
    for pair, own_prompt in zip(pairs, prompts, strict=True):
        tokenized = TokenizedPair(
            len(kept),
            pair,
            own_prompt,
            tokens[pair.chosen.response],
            tokens[pair.rejected.response],
            (pair.chosen.score == highest_score, pair.rejected.score == highest_score),
        )
        if tokenized.length <= max_tokens:
            kept.append(tokenized)
    return kept, len(pairs) - len(kept)


def collate_pairs(pairs: Sequence[TokenizedPair], calculator: CalculatorTokens | None = None) -> PairBatch:
    """The pairs as one batch; what `calculator` writes is not chosen."""
    responses = [tokens for pair in pairs for tokens in (pair.chosen, pair.rejected)]
    is_correct = torch.tensor([pair.is_correct for pair in pairs]).flatten()
    numbers = torch.tensor([pair.number for pair in pairs])
    is_chosen = chosen_tokens(calculator, responses)
    return PairBatch(collate([pair.prompt for pair in pairs], responses, is_chosen=is_chosen), is_correct, numbers)


def kinds(pairs: Sequence[TokenizedPair]) -> dict[str, list[bool]]:
    """For each kind of pair, whether each pair is of that kind; a kind is named by its ranking accuracy.

    - `pair_accuracy`: all pairs.
    - `right_over_wrong_accuracy`: ℓ = ℓ* on one side only.
    - `pos_neg_accuracy`: T⁺ over a wrong student response, Table 9 (docs/method.md 5.14).
    - `student_pos_neg_accuracy`: right over wrong, both from one generator (appendix E.1).
    - `pos_pos_accuracy`: T⁺ over S⁺, Table 9.
    """
    across = [pair.pair.chosen.response.generator != pair.pair.rejected.response.generator for pair in pairs]
    right_over_wrong = [pair.is_correct == (True, False) for pair in pairs]
    return {
        "pair_accuracy": [True] * len(pairs),
        "right_over_wrong_accuracy": right_over_wrong,
        "pos_neg_accuracy": [a and b for a, b in zip(across, right_over_wrong, strict=True)],
        "student_pos_neg_accuracy": [not a and b for a, b in zip(across, right_over_wrong, strict=True)],
        "pos_pos_accuracy": [a and pair.is_correct == (True, True) for a, pair in zip(across, pairs, strict=True)],
    }


def ranking_metrics(pairs: Sequence[TokenizedPair], rewards: Tensor) -> dict[str, float]:
    """Ranking metrics of `rewards` (B, 2), in [0, 1]; a tie counts as wrong, a kind without pairs has no entry.

    - the accuracies named in `kinds`.
    - `classification_accuracy`, `auc`: σ(R) against 1[ℓ = ℓ*] over the distinct responses of the pairs.
    """
    is_ranked_right = (rewards[:, 0] > rewards[:, 1]).tolist()
    metrics = {}
    for name, is_of_kind in kinds(pairs).items():
        outcomes = [right for right, counts in zip(is_ranked_right, is_of_kind, strict=True) if counts]
        if outcomes:
            metrics[name] = sum(outcomes) / len(outcomes)
    # A response can occur in many pairs, those of T⁺ in most; each counts once here.
    distinct = {
        side.response: (reward, correct)
        for pair, row in zip(pairs, rewards.tolist(), strict=True)
        for side, reward, correct in zip((pair.pair.chosen, pair.pair.rejected), row, pair.is_correct, strict=True)
    }
    scores, correct = torch.tensor(list(distinct.values())).T if distinct else (torch.empty(0), torch.empty(0))
    correct = correct.bool()
    if distinct:
        metrics["classification_accuracy"] = float(((scores > 0) == correct).float().mean())
    if correct.any() and not correct.all():
        metrics["auc"] = area_under_curve(scores, correct)
    return metrics
