"""The single-token judge (paper J's YoN): queries and responses enter, the share of Yes in the next token leaves.

A verdict is one forward pass without decoding. Responses to one query share the reading of what stands before them, and
equal responses are judged once. Shapes: B responses, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rkd.batches import ResponseBatch, collate, even_groups
from rkd.generation import LocalModel
from rkd.loading import load_causal_lm, load_tokenizer
from rkd.models import response_states
from rkd.prompts import JudgePrompt
from rkd.records import Query, Response
from rkd.side_by_side import map_over_copies

BATCH_RESPONSES = 128


@dataclass(frozen=True, slots=True)
class Verdict:
    """P(Yes) / (P(Yes) + P(No)), and how much of the next token's probability these two have together, `mass`."""

    score: float
    mass: float


@dataclass(frozen=True)
class LocalYesNo:
    """A `Judge` over a model in memory.

    Args:
        tokenizer: in which a spelling of each word of the prompt is one token.
        is_hard: a verdict is 1 where Yes is likelier than No, else 0.
        progress: called with the number of responses just judged.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: JudgePrompt
    is_hard: bool = False
    batch_responses: int = BATCH_RESPONSES
    progress: Callable[[int], None] = lambda _: None
    _known: dict[tuple[str, str], Verdict] = field(default_factory=dict, repr=False)

    def judge(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[float | None]:
        """See `rkd.protocols.Judge`; a local model's verdict can always be read."""
        scores = [verdict.score for verdict in self.verdicts(queries, responses)]
        return [float(score > 0.5) for score in scores] if self.is_hard else scores

    def verdicts(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[Verdict]:
        """The verdict on each response, `queries[i]` being the query of `responses[i]`; what is known is looked up."""
        keys = [(query.question, response.text) for query, response in zip(queries, responses, strict=True)]
        asked = {key: query for key, query in zip(keys, queries, strict=True) if key not in self._known}
        in_order = sorted(asked, key=lambda key: key[0])  # a question's responses stand together
        found = self._read([asked[key] for key in in_order], [text for _, text in in_order])
        self._known.update(zip(in_order, found, strict=True))
        self.progress(len(keys) - len(asked))
        return [self._known[key] for key in keys]

    def _read(self, queries: Sequence[Query], texts: Sequence[str]) -> list[Verdict]:
        rows = self.prompt.encode(queries, texts, self.tokenizer)
        yes, no = (self.prompt.spellings(word, self.tokenizer) for word in (self.prompt.yes_word, self.prompt.no_word))

        @torch.no_grad()
        def read(model: PreTrainedModel, batch: ResponseBatch) -> Tensor:
            batch = batch.to(model.device)
            states = response_states(model.base_model, batch)
            last = states[torch.arange(len(states), device=states.device), batch.response_mask.sum(1)]
            logprobs = model.get_output_embeddings()(last).float().log_softmax(-1)
            return torch.stack([logprobs[:, yes].logsumexp(-1), logprobs[:, no].logsumexp(-1)], -1).cpu()

        groups = even_groups([query.question for query in queries], self.batch_responses)
        flat = [[row for group in zip(*places, strict=True) for row in group] for places in groups]
        batches = [self._batch([[rows[row] for row in group] for group in zip(*p, strict=True)]) for p in groups]
        verdicts: dict[int, Verdict] = {}
        for own, of_batch in zip(flat, map_over_copies(read, self.model, batches), strict=True):
            scores, masses = torch.sigmoid(of_batch[:, 0] - of_batch[:, 1]), of_batch.exp().sum(-1)
            verdicts.update(zip(own, map(Verdict, scores.tolist(), masses.tolist()), strict=True))
            self.progress(len(own))
        return [verdicts[row] for row in range(len(rows))]

    def _batch(self, groups: Sequence[Sequence[list[int]]]) -> ResponseBatch:
        """Groups of token rows, all of one size; what the rows of a group begin with alike is read once."""
        shared = [_shared_tokens(group) for group in groups]
        prompts = [group[0][:length] for group, length in zip(groups, shared, strict=True)]
        rests = [row[length:] for group, length in zip(groups, shared, strict=True) for row in group]
        return collate(prompts, rests, self.tokenizer.pad_token_id)


def _shared_tokens(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens the rows begin with alike, short of the last token of any."""
    shared = min(map(len, rows)) - 1
    columns = zip(*(row[:shared] for row in rows), strict=True)
    return next((place for place, column in enumerate(columns) if len(set(column)) > 1), shared)


@dataclass(frozen=True, kw_only=True)
class YesNoJudge(LocalModel):
    """The judge of a configuration: a model folder that is asked in a judge's prompt; see `LocalYesNo`."""

    prompt: JudgePrompt
    is_hard: bool = False

    def content(self) -> dict[str, Any]:
        """What decides its verdicts: the content of its model's folder, not the place."""
        return {"model": self.source(), "prompt": self.prompt, "is_hard": self.is_hard, "options": self.options}

    def open(self, progress: Callable[[int], None] = lambda _: None) -> LocalYesNo:
        """The judge, its model loaded.

        Raises:
            ValueError: neither spelling of Yes or No is one token of its tokenizer.
        """
        folder = self.source().folder
        model = load_causal_lm(folder, self.options, placed=True).eval()
        return LocalYesNo(model, load_tokenizer(folder), self.prompt, self.is_hard, progress=progress)


@dataclass(frozen=True)
class NoJudge:
    """No judge: pseudo-labels come from the vote, and rewards without verdicts."""
