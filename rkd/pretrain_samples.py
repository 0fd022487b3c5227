"""Responses that models sampled, with the verdict on each, for the text that the judge learns from.

What it is to judge later is sampled from a model, and sampled mistakes are unlike those that a program writes
(`rkd.mini.mistakes`): a judge that learnt from written ones alone tells a trained student's responses hardly apart.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rkd.answers import answers_match, extract_answer
from rkd.generation import content_files, open_generator
from rkd.mini import corpus as mini_corpus
from rkd.prompts import PromptTemplate
from rkd.protocols import Sampling
from rkd.recipes import digest_of_files
from rkd.records import Checkpoint, Query, Response

DATASET = "mini_math"
MAX_RESPONSE_TOKENS = 200


@dataclass(frozen=True, kw_only=True)
class JudgedSamples:
    """How many problems each model solves, and how.

    Args:
        problems: by the name of the model's checkpoint; each model has problems of its own.
        temperatures: of the samples of a problem, of which equal ones are kept once. Right and wrong responses to one
            problem teach what the difference is, and hot ones make the slips of a weaker model.
    """

    problems: Mapping[str, int] = field(hash=False)
    temperatures: Sequence[float] = field(hash=False)

    def digests(self, checkpoints: Path) -> dict[str, str]:
        """The digest of each model in the folder `checkpoints`.

        Raises:
            FileNotFoundError: one of them is not there.
        """
        for name in self.problems:
            if not (checkpoints / name / "config.json").is_file():
                raise FileNotFoundError(
                    f"corpus.judged_samples.problems names {name}: {checkpoints / name} holds no model. Make it first: "
                    f"`python -m rkd.pretrain pretrain={name}`."
                )
        return {name: digest_of_files(content_files(checkpoints / name)) for name in self.problems}

    def documents(
        self, seed: int, prompts: Mapping[str, PromptTemplate], checkpoints: Path
    ) -> Iterator[mini_corpus.Document]:
        """Problem, response and verdict, model by model.

        Args:
            prompts: by dataset and without examples, how a problem is put to the models.
        """
        problems = mini_corpus.stream({"problem": 1.0}, seed)
        sampling = Sampling(tuple(self.temperatures), len(self.temperatures), MAX_RESPONSE_TOKENS)
        for name, count in self.problems.items():
            queries = [
                Query(f"{name}-{place}", DATASET, document.question, extract_answer(document.text, DATASET))
                for place, document in enumerate(itertools.islice(problems, count))
            ]
            generator = open_generator(Checkpoint(checkpoints / name, name), prompts[DATASET], name)
            for query, responses in zip(queries, generator.generate(queries, sampling, seed), strict=True):
                yield from _judged(query, responses)


def answers_rightly(query: Query, text: str) -> bool:
    """Whether the text answers the query rightly."""
    return answers_match(extract_answer(text, query.dataset), query.gold_answer, query.dataset)


def _judged(query: Query, responses: list[Response]) -> Iterator[mini_corpus.Document]:
    for text in dict.fromkeys(response.text for response in responses):
        verdict = mini_corpus.YES if answers_rightly(query, text) else mini_corpus.NO
        yield mini_corpus.Document(query.question, verdict, judged=text)
