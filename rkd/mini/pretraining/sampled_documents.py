"""Responses sampled from models, with a verdict or a grade, for the training text of a judge or a grader.

A judge later reads sampled responses, whose mistakes differ from those that a program writes (`rkd.mini.mistakes`). A
judge trained only on written mistakes can hardly tell a trained student's right and wrong responses apart.
"""

import itertools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rkd.data.answers import answers_match, extract_answer
from rkd.data.prompts import PromptTemplate
from rkd.generation.local import content_files, open_generator
from rkd.mini import corpus as mini_corpus
from rkd.mini import open as mini_open
from rkd.mini.documents import NO, YES, Document, compared, graded, marked, question_of
from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query
from rkd.store.fingerprint import digest_of_files


@dataclass(frozen=True, kw_only=True)
class PretrainSamples(ABC):
    """The settings of the responses that models sample to questions of the split `pretrain`, for a judge's training.

    Args:
        problems: the number of questions, by the name of a model's checkpoint; each model has its own questions.
        temperatures: the temperatures of a question's samples; equal samples are kept once. Right and wrong responses
            to one question show the difference, and high temperatures give the slips of a weaker model.
    """

    problems: Mapping[str, int] = field(hash=False)
    temperatures: Sequence[float] = field(hash=False)

    kinds: ClassVar[tuple[str, ...]]
    dataset: ClassVar[str]
    max_response_tokens: ClassVar[int]

    @abstractmethod
    def asked(self, seed: int) -> Iterator[Document]:
        """An endless stream of questions with their generated solutions."""

    @abstractmethod
    def told(self, asked: Document, texts: list[str]) -> Iterator[tuple[str, Document]]:
        """Documents on the distinct responses to a question, each with its kind."""

    def digests(self, checkpoints: Path) -> dict[str, str]:
        """The digest of each model in the folder `checkpoints`.

        Raises:
            FileNotFoundError: one of the models does not exist.
        """
        for name in self.problems:
            if not (checkpoints / name / "config.json").is_file():
                raise FileNotFoundError(
                    f"corpus.samples.problems names {name}: {checkpoints / name} holds no model. Make it first: "
                    f"`python -m rkd pretrain pretrain={name}`."
                )
        return {name: digest_of_files(content_files(checkpoints / name)) for name in self.problems}

    def documents(
        self, seed: int, prompts: Mapping[str, PromptTemplate], checkpoints: Path
    ) -> dict[str, list[Document]]:
        """The documents of each kind, model by model.

        Args:
            prompts: the prompts of questions, by dataset and without examples.
        """
        made: dict[str, list[Document]] = defaultdict(list)
        for asked, texts in self._sampled(seed, prompts[self.dataset], checkpoints):
            for kind, document in self.told(asked, texts):
                made[kind].append(document)
        return made

    def _sampled(self, seed: int, prompt: PromptTemplate, checkpoints: Path) -> Iterator[tuple[Document, list[str]]]:
        drawn = self.asked(seed)
        sampling = Sampling(tuple(self.temperatures), len(self.temperatures), self.max_response_tokens)
        for name, count in self.problems.items():
            asked = list(itertools.islice(drawn, count))
            queries = [Query(f"{name}-{at}", self.dataset, question_of(one)) for at, one in enumerate(asked)]
            generator = open_generator(Checkpoint(checkpoints / name, name), prompt, name)
            for one, responses in zip(asked, generator.generate(queries, sampling, seed), strict=True):
                yield one, list(dict.fromkeys(response.text for response in responses))


class SolutionSamples(PretrainSamples):
    """Responses to problems of the same kind as mini_math's."""

    dataset = "mini_math"
    max_response_tokens = 200

    def asked(self, seed: int) -> Iterator[Document]:
        """See `PretrainSamples`."""
        return mini_corpus.stream({"problem": 1.0}, seed)


@dataclass(frozen=True, kw_only=True)
class JudgedSamples(SolutionSamples):
    """Responses to problems, each with a verdict."""

    kinds = ("judged_samples",)

    def told(self, asked: Document, texts: list[str]) -> Iterator[tuple[str, Document]]:
        """See `PretrainSamples`."""
        query = Query("", self.dataset, question_of(asked), extract_answer(asked.text, self.dataset))
        for text in texts:
            verdict = YES if answers_rightly(query, text) else NO
            yield "judged_samples", Document(query.question, verdict, judged=text)


@dataclass(frozen=True, kw_only=True)
class MarkedSamples(SolutionSamples):
    """Responses to problems, each with a solution and a score."""

    kinds = ("marked_samples",)

    def told(self, asked: Document, texts: list[str]) -> Iterator[tuple[str, Document]]:
        """See `PretrainSamples`."""
        for text in texts:
            yield "marked_samples", marked(question_of(asked), asked.text, text)


@dataclass(frozen=True, kw_only=True)
class GradedSamples(PretrainSamples):
    """Responses to instructions of mini_open, each with its grade, and pairs of different scores, compared."""

    kinds = ("graded_samples", "compared_samples")
    dataset = mini_open.DATASET
    max_response_tokens = 80

    def asked(self, seed: int) -> Iterator[Document]:
        """See `PretrainSamples`; instructions have no single solution."""
        for question, _ in mini_open.instructions("pretrain", seed):
            yield Document(question, "", dataset=self.dataset)

    def told(self, asked: Document, texts: list[str]) -> Iterator[tuple[str, Document]]:
        """See `PretrainSamples`."""
        for text in texts:
            yield "graded_samples", graded(question_of(asked), text)
        for pair in _turned(itertools.combinations(texts, 2)):
            if (document := compared(question_of(asked), *pair)) is not None:
                yield "compared_samples", document


def answers_rightly(query: Query, text: str) -> bool:
    """Whether the answer in the text is right."""
    return answers_match(extract_answer(text, query.dataset), query.gold_answer, query.dataset)


def _turned(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Swap every second pair: the first response has the lower temperature and would be better too often."""
    for place, (first, second) in enumerate(pairs):
        yield (second, first) if place % 2 else (first, second)
