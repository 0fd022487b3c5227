"""A judge by likelihood: its score is how probable a response is under a model, given the question.

The score is the geometric mean of the response's token probabilities,

    score(q, a) = exp(1/T Σ_t log π(a_t | q, a_<t))

so it needs no judge prompt, and prefers what the model would say itself. The model must be in memory: servers have no
common way to give the probabilities of a text that was read, to tell which tokens are the response's, and to count its
end as a token. (llama-cpp-python 0.3.36 with `echo` lists the probability of each token as if it came once more.)
Shapes: B responses, T tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rkd.data.prompts import PromptTemplate
from rkd.generation.local import LocalModel
from rkd.judges.base import ConfiguredJudge, Remembered, Verdict
from rkd.judges.single_token import BATCH_RESPONSES
from rkd.models.batches import ResponseBatch, collate
from rkd.models.cpu_workers import map_over_copies
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.records import Query, Response


@dataclass(frozen=True)
class LocalLikelihood:
    """A `Judge` over a model in memory.

    Args:
        prompt: the prompt of the query; the model then reads the response as its own.
        advance: called with the number of responses just judged.
    """

    model: Policy
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptTemplate
    batch_responses: int = BATCH_RESPONSES
    advance: Callable[[int], None] = lambda _: None
    remembered: Remembered[Verdict | None] = field(default_factory=Remembered, repr=False)

    def judge(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[float | None]:
        """See `rkd.protocols.Judge`."""
        return [None if verdict is None else verdict.score for verdict in self.verdicts(queries, responses)]

    def verdicts(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[Verdict | None]:
        """The verdict on each response; `queries[i]` is the query of `responses[i]`.

        The token that ends a finished response counts as one of its tokens. A response without any token,
        empty and cut, has no verdict.
        """
        keys = [(q.question, r.text, r.is_finished) for q, r in zip(queries, responses, strict=True)]

        def read(places: list[int]) -> list[Verdict | None]:
            self.advance(len(keys) - len(places))
            in_order = sorted(places, key=lambda place: keys[place][0])  # a question's responses stand together
            scores = self._read([queries[place] for place in in_order], [responses[place] for place in in_order])
            by_place = dict(zip(in_order, scores, strict=True))
            return [None if (score := by_place[place]) is None else Verdict(score) for place in places]

        return self.remembered.recall(keys, read)

    def _read(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[float | None]:
        texts, finished = [response.text for response in responses], [response.is_finished for response in responses]
        rows = self.prompt.encode_responses(texts, finished, self.tokenizer)
        prompts = self.prompt.encode(queries, self.tokenizer)

        @torch.no_grad()
        def read(model: Policy, batch: ResponseBatch) -> Tensor:
            batch = batch.to(model.lm.device)
            logprobs, mask = model(batch).logprobs, batch.response_mask
            scores: Tensor = ((logprobs * mask).sum(1) / mask.sum(1)).exp().cpu()
            return scores

        readable = [row for row, tokens in enumerate(rows) if tokens]
        size = self.batch_responses
        parts = [readable[start : start + size] for start in range(0, len(readable), size)]
        batches = [collate([prompts[row] for row in part], [rows[row] for row in part]) for part in parts]
        scores: list[float | None] = [None] * len(rows)
        for part, of_batch in zip(parts, map_over_copies(read, self.model, batches), strict=True):
            for row, score in zip(part, of_batch.tolist(), strict=True):
                scores[row] = score
            self.advance(len(part))
        self.advance(len(rows) - len(readable))
        return scores


@dataclass(frozen=True, kw_only=True)
class LikelihoodJudge(LocalModel, ConfiguredJudge):
    """The judge of a configuration that reads responses as its own; see `LocalLikelihood`."""

    shares_prompts: ClassVar[bool] = True

    @property
    def reply_tokens(self) -> int:
        """See `ConfiguredJudge`."""
        return 0

    def content(self) -> dict[str, Any]:
        """What decides its verdicts: the content of its model's folder, not the path."""
        return {"model": self.source(), "prompt": self.prompt, "score": "likelihood", "options": self.options}

    def open(self, advance: Callable[[int], None] = lambda _: None) -> LocalLikelihood:
        """The judge, its model loaded."""
        folder = self.source().folder
        model = Policy(load_causal_lm(folder, self.options, placed=True)).eval()
        return LocalLikelihood(model, load_tokenizer(folder), self.prompt, advance=advance)
