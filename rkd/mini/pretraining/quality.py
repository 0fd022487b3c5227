"""The quality of a pretrained mini model on the validation split: solving problems, and judging responses."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.evaluation.statistics import area_under_curve
from rkd.generation.local import open_generator
from rkd.judges.single_token import LocalYesNo
from rkd.judges.written import HIGHEST_GRADE, read_grade
from rkd.mini import choice as mini_choice
from rkd.mini import corpus as mini_corpus
from rkd.mini import math as mini_math
from rkd.mini import open as mini_open
from rkd.mini.documents import YES, question_of
from rkd.mini.pretraining.corpus_tokens import Forms
from rkd.mini.pretraining.sampled_documents import GradedSamples, JudgedSamples, answers_rightly
from rkd.models.batches import encode, pad
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query, Response

GRADE_TOKENS = 300
SPREAD_SAMPLES = 8
GENERATORS = {"mini_math": mini_math.queries, "mini_choice": mini_choice.queries}


@dataclass(frozen=True, slots=True)
class JudgedResponse:
    """A response and whether it is right."""

    query: Query
    text: str
    is_right: bool


def sampled_responses(
    folder: Path, prompt: PromptTemplate, problems: int, temperature: float, dataset: str = "mini_math"
) -> list[JudgedResponse]:
    """One response of the model in `folder` to each of `problems` validation problems, with the prompt's examples."""
    queries = GENERATORS[dataset]("validation", problems, seed=0)
    generator = open_generator(Checkpoint(folder, folder.name), prompt, folder.name)
    responses = generator.generate(queries, Sampling(temperature, 1, JudgedSamples.max_response_tokens), seed=0)
    return [
        JudgedResponse(query, own.text, answers_rightly(query, own.text))
        for query, (own,) in zip(queries, responses, strict=True)
    ]


def written_responses(problems: int) -> list[JudgedResponse]:
    """Generated responses as in the judge's training text, half of them right."""
    rng = random.Random("judged validation")
    documents = [mini_corpus.judged(rng, "validation") for _ in range(problems)]
    return [
        JudgedResponse(Query("", "mini_math", question_of(document)), judged, document.text == YES)
        for document in documents
        if (judged := document.judged) is not None
    ]


def _groups(query: Query) -> tuple[str, str]:
    assert query.category is not None  # every query of the mini world has one
    return "all", query.category


def solving_accuracy(
    folder: Path, prompt: PromptTemplate, problems: int, dataset: str = "mini_math"
) -> Mapping[str, float]:
    """The share of greedy responses that solve a validation problem, for "all" and for each category."""
    is_right: dict[str, list[bool]] = defaultdict(list)
    for response in sampled_responses(folder, prompt, problems, 0.0, dataset):
        for group in _groups(response.query):
            is_right[group].append(response.is_right)
    return {group: float(np.mean(own)) for group, own in is_right.items()}


@torch.no_grad()
def judging_accuracy(
    folder: Path, judge_prompt: JudgePrompt, responses: Sequence[JudgedResponse]
) -> tuple[float, float]:
    """Accuracy of the more likely verdict, and AUC of log p(Yes) - log p(No).

    Raises:
        ValueError: all responses are right, or all are wrong.
    """
    is_right = torch.tensor([response.is_right for response in responses])
    if is_right.all() or not is_right.any():
        raise ValueError(f"{folder.name}: the {len(responses)} responses are all right or all wrong; give it more.")
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    yes, no = (encode(tokenizer, [word])[0][0] for word in (judge_prompt.yes_word, judge_prompt.no_word))
    margins = []
    for response in responses:
        prompt = judge_prompt.render(response.query, response.text)
        ids, _ = pad(encode(tokenizer, [prompt]), tokenizer.pad_token_id, left=True)
        logits = model(input_ids=ids).logits[0, -1]
        margins.append(float(logits[yes] - logits[no]))
    scores = torch.tensor(margins)
    return float(((scores > 0) == is_right).float().mean()), area_under_curve(scores, is_right)


@dataclass(frozen=True, slots=True)
class RubricScores:
    """Scores of responses to instructions of mini_open, 0 to 5.

    `greedy` holds the means, of all and of each category. `spread` is the mean of the best minus the worst score among
    some samples at temperature 1 to one instruction.
    """

    greedy: Mapping[str, float]
    spread: float

    def __str__(self) -> str:
        shown = ", ".join(f"{category} {score:.2f}" for category, score in self.greedy.items())
        return f"{shown}; {self.spread:.2f} between the best and the worst of {SPREAD_SAMPLES} samples"


def rubric_scores(folder: Path, prompt: PromptTemplate, problems: int) -> RubricScores:
    """The scores of the responses of the model in `folder` to `problems` validation instructions."""
    queries = mini_open.queries("validation", problems, seed=0)
    generator = open_generator(Checkpoint(folder, folder.name), prompt, folder.name)
    scores: dict[str, list[int]] = defaultdict(list)
    for query, (own,) in zip(
        queries, generator.generate(queries, Sampling(0.0, 1, GradedSamples.max_response_tokens), seed=0), strict=True
    ):
        for group in _groups(query):
            scores[group].append(mini_open.score(query.question, own.text))
    sampled = generator.generate(
        queries[:100], Sampling(1.0, SPREAD_SAMPLES, GradedSamples.max_response_tokens), seed=0
    )
    of_samples = [
        [mini_open.score(q.question, one.text) for one in own] for q, own in zip(queries, sampled, strict=False)
    ]
    spread = float(np.mean([max(own) - min(own) for own in of_samples]))
    return RubricScores({group: float(np.mean(own)) for group, own in scores.items()}, spread)


@dataclass(frozen=True, slots=True)
class AnsweredInstruction:
    """A response to an instruction of mini_open; the query's `gold_answer` is another response to compare with."""

    query: Query
    text: str


def answered_instructions(folder: Path, prompt: PromptTemplate, problems: int) -> list[AnsweredInstruction]:
    """One sample of the model in `folder` for each of `problems` validation instructions, with the reference."""
    queries = mini_open.queries("validation", problems, seed=0)
    generator = open_generator(Checkpoint(folder, folder.name), prompt, folder.name)
    sampled = generator.generate(queries, Sampling(1.0, 1, GradedSamples.max_response_tokens), seed=0)
    return [AnsweredInstruction(query, own.text) for query, (own,) in zip(queries, sampled, strict=True)]


def written_answers(problems: int) -> list[AnsweredInstruction]:
    """Two generated responses of any quality to each validation instruction, as in the grader's training text."""
    rng = random.Random("open validation")
    pairs = [
        (query, mini_corpus.open_response(rng, mini_open.parse(query.question)), query.question)
        for query in mini_open.queries("validation", problems, seed=0)
    ]
    return [
        AnsweredInstruction(replace(query, gold_answer=mini_corpus.open_response(rng, mini_open.parse(question))), text)
        for query, text, question in pairs
    ]


@dataclass(frozen=True, slots=True)
class GradingQuality:
    """A grader compared with the rubric: shares of exact, near and unreadable grades, and Spearman's correlation.

    Among pairs with different scores, `grades_rightly` is the share told apart by grades (equal grades count half), and
    `compares_rightly` the share told apart by one token, as the mean of both orders. `first_preferred` is the
    comparison's preference for the response shown first, 0.5 being none.
    """

    exact: float
    within_one: float
    unreadable: float
    rank_correlation: float
    grades_rightly: float
    compares_rightly: float
    first_preferred: float

    def __str__(self) -> str:
        return (
            f"{self.exact:.1%} of the grades are exact, {self.within_one:.1%} within 1, {self.unreadable:.1%} "
            f"unreadable, rank correlation {self.rank_correlation:.2f}; {self.grades_rightly:.1%} of the pairs told "
            f"apart by grades, {self.compares_rightly:.1%} by one token, what stands first preferred by "
            f"{self.first_preferred:.1%}"
        )


def marking_quality(folder: Path, forms: Forms, responses: Sequence[JudgedResponse]) -> tuple[float, float]:
    """How often a rubric judge gives right responses 5 and wrong ones less, and the share without a grade."""
    grades = _grades(folder, forms, [one.query for one in responses], [one.text for one in responses])
    is_read = ~np.isnan(grades)
    is_right = np.array([one.is_right for one in responses])
    return float(((grades == HIGHEST_GRADE) == is_right)[is_read].mean()), float(1 - is_read.mean())


def grading_quality(folder: Path, forms: Forms, answered: Sequence[AnsweredInstruction]) -> GradingQuality:
    """How well the model in `folder` grades these responses, and compares them with the references."""
    queries, texts = [one.query for one in answered], [one.text for one in answered]
    references = [reference for query in queries if (reference := query.gold_answer) is not None]
    true, other = (
        np.array([mini_open.score(query.question, text) for query, text in zip(queries, side, strict=True)])
        for side in (texts, references)
    )
    grades, of_others = (_grades(folder, forms, queries, own) for own in (texts, references))
    is_read = ~np.isnan(grades)
    errors = np.abs(grades - true)[is_read].round()
    responses = [Response(query.id, "", 0, text, True) for query, text in zip(queries, texts, strict=True)]
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    second, first = (
        np.array(LocalYesNo(model, tokenizer, replace(forms.compare, reference_first=order)).judge(queries, responses))
        for order in (True, False)
    )
    differ = true != other
    return GradingQuality(
        exact=float((errors == 0).mean()),
        within_one=float((errors <= 1).mean()),
        unreadable=float(1 - is_read.mean()),
        rank_correlation=float(spearmanr(grades[is_read], true[is_read]).statistic),
        grades_rightly=float(
            ((1 + np.sign(np.nan_to_num(grades - of_others)) * np.sign(true - other)) / 2)[differ].mean()
        ),
        compares_rightly=float((((first + second) / 2 > 0.5) == (true > other))[differ].mean()),
        first_preferred=float((first + 1 - second).mean() / 2),
    )


def _grades(folder: Path, forms: Forms, queries: Sequence[Query], texts: Sequence[str]) -> np.ndarray:
    """The grades of the responses by the model in `folder`, 0 to 5, NaN if unreadable, (N,)."""
    asked = [replace(q, question=forms.rubric.render(q, text)) for q, text in zip(queries, texts, strict=True)]
    generator = open_generator(Checkpoint(folder, folder.name), PromptTemplate(template="{question}"), folder.name)
    replies = generator.generate(asked, Sampling(0.0, 1, GRADE_TOKENS), seed=0)
    grades = [read_grade(own.text) for (own,) in replies]
    return np.array([np.nan if grade is None else round(HIGHEST_GRADE * grade) for grade in grades])
