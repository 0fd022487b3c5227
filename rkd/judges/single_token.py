"""The single-token judge (paper J's YoN): queries and responses enter, the share of Yes in the next token leaves.

A verdict is one forward pass without decoding. The text before the responses to one query is read once for all of them,
and equal responses are judged once. Shapes: B responses, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rkd.data.judge_prompts import ComparePrompt, JudgePrompt
from rkd.generation.local import ModelFolder
from rkd.judges.base import ConfiguredJudge, Remembered, Verdict
from rkd.models.cpu_workers import map_over_copies
from rkd.models.hidden_states import last_states
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.models.own_forward import own_logits, state_width
from rkd.records import Query, Response

BATCH_RESPONSES = 128


def verdict_of(logprobs: Mapping[str, float], prompt: JudgePrompt | ComparePrompt) -> Verdict | None:
    """The verdict of a judge behind a server, which lists its likeliest next tokens only.

    Args:
        logprobs: log-probabilities in nats by the text of the token. The marks that SentencePiece ("▁") and byte-level
            tokenizers ("Ġ") write for a blank count as blanks.

    Returns:
        None if neither word is listed: 0.5 would say that the judge is undecided. If one word is listed, the other
        counts as 0.
    """
    shares: dict[str, float] = {}
    for token, logprob in logprobs.items():
        text = token.replace("▁", " ").replace("Ġ", " ")
        shares[text] = shares.get(text, 0.0) + math.exp(logprob)
    yes, no = (sum(shares.get(one, 0.0) for one in prompt.written(w)) for w in (prompt.yes_word, prompt.no_word))
    mass = yes + no
    return Verdict(yes / mass, mass) if mass > 0 else None


@dataclass(frozen=True)
class LocalYesNo:
    """A `Judge` over a model in memory.

    Args:
        tokenizer: it must have a spelling of each word of the prompt as one token.
        is_hard: a verdict is 1 where Yes is likelier than No, else 0.
        advance: called with the number of responses just judged.
        remembered: the cache of verdicts.

    Raises:
        ModelError: its verdicts would differ from those of the model's own forward.
    """

    is_single_token: ClassVar[Literal[True]] = True

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: JudgePrompt | ComparePrompt
    is_hard: bool = False
    batch_responses: int = BATCH_RESPONSES
    advance: Callable[[int], None] = lambda _: None
    remembered: Remembered[Verdict] = field(default_factory=Remembered, repr=False)

    def __post_init__(self) -> None:
        state_width(self.model)  # compares the model with its own forward

    def with_prompt(self, prompt: JudgePrompt | ComparePrompt) -> "LocalYesNo":
        """The same model with another prompt."""
        return replace(self, prompt=prompt, remembered=Remembered())

    def judge(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[float | None]:
        """See `rkd.protocols.Judge`; a local model's verdict can always be read."""
        return [verdict.score for verdict in self.verdicts(queries, responses)]

    def verdicts(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[Verdict]:
        """The verdict on each response; `queries[i]` is the query of `responses[i]`. Known verdicts are looked up."""
        keys = [(query.question, response.text) for query, response in zip(queries, responses, strict=True)]

        def read(places: list[int]) -> list[Verdict]:
            self.advance(len(keys) - len(places))
            in_order = sorted(places, key=lambda place: keys[place][0])  # a question's responses stand together
            found = self._read([queries[place] for place in in_order], [keys[place][1] for place in in_order])
            by_place = dict(zip(in_order, found, strict=True))
            return [by_place[place] for place in places]

        verdicts = self.remembered.recall(keys, read)
        return [replace(one, score=float(one.score > 0.5)) for one in verdicts] if self.is_hard else verdicts

    def _read(self, queries: Sequence[Query], texts: Sequence[str]) -> list[Verdict]:
        rows = self.prompt.encode(queries, texts, self.tokenizer)
        yes, no = (self.prompt.spellings(word, self.tokenizer) for word in (self.prompt.yes_word, self.prompt.no_word))

        @torch.no_grad()
        def read(model: PreTrainedModel, own: slice) -> Tensor:
            logits = own_logits(model, last_states(model.base_model, rows[own]))
            logprobs = logits.float().log_softmax(-1)
            return torch.stack([logprobs[:, yes].logsumexp(-1), logprobs[:, no].logsumexp(-1)], -1).cpu()

        batches = [slice(start, start + self.batch_responses) for start in range(0, len(rows), self.batch_responses)]
        verdicts: list[Verdict] = []
        for of_batch in map_over_copies(read, self.model, batches):
            scores, masses = torch.sigmoid(of_batch[:, 0] - of_batch[:, 1]), of_batch.exp().sum(-1)
            verdicts += map(Verdict, scores.tolist(), masses.tolist())
            self.advance(len(of_batch))
        return verdicts


@dataclass(frozen=True, kw_only=True)
class YesNoJudge(ModelFolder, ConfiguredJudge):
    """The judge, or annotator, of a configuration: a model folder that is asked with its prompt; see `LocalYesNo`."""

    shares_prompts: ClassVar[bool] = True
    annotates: ClassVar[bool] = True
    is_single_token: ClassVar[bool] = True

    prompt: JudgePrompt | ComparePrompt
    is_hard: bool = False

    def content(self) -> dict[str, Any]:
        """What decides its verdicts: the content of its model's folder, not the path."""
        return {"model": self.source(), "prompt": self.prompt, "is_hard": self.is_hard, "options": self.options}

    def open(self, advance: Callable[[int], None] = lambda _: None) -> LocalYesNo:
        """The judge, its model loaded.

        Raises:
            ValueError: no spelling of Yes, or none of No, is one token of its tokenizer.
        """
        folder = self.source().folder
        model = load_causal_lm(folder, self.options, placed=True).eval()
        return LocalYesNo(model, load_tokenizer(folder), self.prompt, self.is_hard, advance=advance)
