"""The expected score of a written verdict (docs/method.md 6.8): replies with their scores enter, their means leave.

A judge that writes its grade says the likeliest one. Its probabilities of all grades in that place say more:

    s(q, a) = Σ_k k p(k),    p(k) = P(k | question, reply up to the grade) / Σ_j P(j | question, reply up to the grade)

This is the mean of the judgment distribution (arXiv:2503.03064). The model must be in memory. Shapes: K grades.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rkd.data.prompts import PromptTemplate
from rkd.judges.replies import ReadReply
from rkd.models.batches import ResponseBatch, collate
from rkd.models.cpu_workers import map_over_copies
from rkd.models.policy import Policy
from rkd.records import Query

BATCH_REPLIES = 32  # each is read once for each grade; what they share is read once
DIGIT = re.compile(r"(?<!\d)\d(?!\d)")


def graded(reply: str, read_reply: ReadReply) -> dict[str, float]:
    """The score of each text that the reply would be with another grade, up to the grade; empty if it states none.

    The grade is the last number of one digit whose replacement the reader reads as another score.
    """
    score = read_reply(reply)
    for number in reversed(list(DIGIT.finditer(reply))) if score is not None else ():
        texts = [f"{reply[: number.start()]}{grade}" for grade in range(10)]
        scores = {text: own for text in texts if (own := read_reply(text)) is not None}
        if scores.get(reply[: number.end()]) == score and len(set(scores.values())) > 1:
            return scores
    return {}


def expected_score(scores: Tensor, logprobs: Tensor) -> float:
    """Σ_k s_k p_k with p = softmax(log P), from the scores and the log-probabilities of the K grades; (K,) each."""
    return float(logprobs.double().softmax(-1) @ scores.double())


@dataclass(frozen=True)
class ExpectedScore:
    """The expected scores of a model's replies.

    Args:
        model: the model that wrote the replies.
        prompt: how it was asked.
        read_reply: reads the score of a reply.
    """

    model: Policy
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptTemplate
    read_reply: ReadReply

    def __call__(self, asked: Sequence[Query], replies: Sequence[str]) -> list[float | None]:
        """The expected score of each reply to its question, in [0, 1].

        A reply that says right or wrong in words, without a number, keeps the score that is read. None: it states none.
        """
        found = [graded(reply, self.read_reply) for reply in replies]
        scores = [self.read_reply(reply) for reply in replies]
        places = [place for place, own in enumerate(found) if own]
        prompts = self.prompt.encode([asked[place] for place in places], self.tokenizer)
        rows = [self.prompt.encode_responses(list(found[i]), [False] * len(found[i]), self.tokenizer) for i in places]

        @torch.no_grad()
        def read(model: Policy, batch: ResponseBatch) -> Tensor:
            logprobs: Tensor = model(batch.to(model.lm.device)).logprobs.sum(1).cpu()
            return logprobs

        parts = [slice(start, start + BATCH_REPLIES) for start in range(0, len(rows), BATCH_REPLIES)]
        batches = [_batch(prompts[part], rows[part]) for part in parts]
        for part, logprobs in zip(parts, map_over_copies(read, self.model, batches), strict=True):
            own = places[part]
            for place, of_reply in zip(own, logprobs.split([len(found[place]) for place in own]), strict=True):
                scores[place] = expected_score(torch.tensor(list(found[place].values())), of_reply)
        return scores


def _batch(prompts: Sequence[list[int]], rows: Sequence[list[list[int]]]) -> ResponseBatch:
    """The texts of several replies; the tokens that those of a reply do not share count."""
    chosen = []
    for own in rows:
        shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*own, strict=False)))
        chosen += [[place >= shared for place in range(len(row))] for row in own]
    repeated = [prompt for prompt, own in zip(prompts, rows, strict=True) for _ in own]
    return collate(repeated, [row for own in rows for row in own], is_chosen=chosen)
