"""Stand-ins with the shape of a protocol, and short ways to write records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query, Response, ScoredResponse
from rkd.store.partial_results import PartialResults
from rkd.training.stage import TrainingContext
from rkd.training.trainer import Training
from tests.support.tiny_models import PROMPT


@dataclass
class ScriptedGenerator:
    """A `TextGenerator` that reads its texts from a script and notes what it was asked.

    Args:
        greedy: the text of each query at temperature 0, by query id.
        sampled: its texts at other temperatures, used in turn.
        cut: texts that the length limit has cut.
    """

    greedy: Mapping[str, str] = field(default_factory=dict)
    sampled: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()
    name: str = "scripted"
    asked: list[tuple[list[str], Sampling, int]] = field(default_factory=list)

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:
        """See `TextGenerator`."""
        self.asked.append(([query.id for query in queries], sampling, seed))
        return [
            [self._response(query, sampling, index) for index in range(sampling.samples_per_query)] for query in queries
        ]

    def _response(self, query: Query, sampling: Sampling, index: int) -> Response:
        texts = self.sampled[query.id] if sampling.temperatures[index] > 0 else [self.greedy[query.id]]
        text = texts[index % len(texts)]
        return Response(query.id, self.name, index, text, text not in self.cut)


def query(query_id: str, gold: str | None = None, category: str | None = None) -> Query:
    """A word problem."""
    return Query(query_id, "gsm8k", f"What is {query_id}?", gold, category)


def says(answer: object, how: str = "") -> str:
    """The text of a response that states `answer`; `how` makes it another text."""
    return f"Step 1: {how}\nThe answer is {answer}."


def responses(query_id: str, texts: Sequence[str]) -> list[Response]:
    """Finished responses to one query, in order of sampling."""
    return [Response(query_id, "model", index, text, True) for index, text in enumerate(texts)]


def scored(query_id: str, *text_and_score: tuple[str, float | None]) -> list[ScoredResponse]:
    """Scored responses to one query; their answers do not matter."""
    own = responses(query_id, [text for text, _ in text_and_score])
    return [ScoredResponse(response, None, score) for response, (_, score) in zip(own, text_and_score, strict=True)]


def progress_beside(folder: Path) -> PartialResults:
    """The progress of a stage that fills `folder`, as the store would place it."""
    return PartialResults(folder.with_name(f".{folder.name}.progress"))


def context(start: Checkpoint, folder: Path, **settings: Any) -> TrainingContext:
    """What a training on a CPU is given, its progress beside the folder."""
    usual = {"prompt": PROMPT, "training": Training(accelerator="cpu"), "logger": False, "seed": 0}
    return TrainingContext(start=start, folder=folder, **{**usual, "partial": progress_beside(folder), **settings})
