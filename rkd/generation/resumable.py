"""Sampling that can resume: a generator and a stage's partial results enter, a generator that continues leaves."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedTokenizerBase

from rkd.protocols import Sampling, TextGenerator
from rkd.records import Query, Response, digest_of, read_jsonl, write_jsonl
from rkd.store.fingerprint import fingerprint_digest
from rkd.store.partial_results import PartialResults

RESPONSES_PER_SHARD = 4096  # seconds for a mini model; minutes for a large one, which an interruption may cost


@dataclass(frozen=True)
class InShards:
    """A `TextGenerator` that asks another one shard by shard, and keeps each shard until its stage is finished.

    Shards are the same in every attempt, so the responses are those of an attempt without interruption.

    Args:
        generator: the one that is asked; the queries given to it are distinct.
        partial: of the stage that the responses belong to.
        advance: called with the number of queries that an earlier attempt has finished.
        tokenizer: the partial results count the sampled text in its tokens; None counts nothing.
    """

    generator: TextGenerator
    partial: PartialResults
    advance: Callable[[int], None] = lambda _: None
    responses_per_shard: int = RESPONSES_PER_SHARD
    tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def name(self) -> str:
        """The name that is recorded with each response."""
        return self.generator.name

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:
        """See `TextGenerator`."""
        samples = sampling.samples_per_query
        per_shard = max(1, self.responses_per_shard // samples)
        responses: list[list[Response]] = []
        for start in range(0, len(queries), per_shard):
            shard = queries[start : start + per_shard]
            asked = {"queries": digest_of(shard), "sampling": sampling, "seed": seed}
            name = f"responses-{fingerprint_digest('responses', asked)}"
            kept = self.partial.find(name)
            if kept is None:
                own = self.generator.generate(shard, sampling, seed)
                self.partial.tokens += self._tokens(own)
                self.partial.save(name, partial(write_jsonl, records=[r for group in own for r in group]))
            else:
                flat = read_jsonl(kept, Response)
                own = [flat[at : at + samples] for at in range(0, len(flat), samples)]
                self.advance(len(shard))
            responses += own
        return responses

    def _tokens(self, responses: Sequence[Sequence[Response]]) -> int:
        """The number of tokens of the texts; equal samples are tokenized once."""
        if self.tokenizer is None:
            return 0
        counts = Counter(one.text for own in responses for one in own)
        ids = self.tokenizer(list(counts), add_special_tokens=False)["input_ids"]
        return sum(len(of_text) * count for of_text, count in zip(ids, counts.values(), strict=True))
