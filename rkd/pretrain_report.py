"""What a pretrained mini model can do, measured on the validation split: solving, and judging what others solved."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rkd.batches import encode, pad
from rkd.generation import open_generator
from rkd.judged_samples import MAX_RESPONSE_TOKENS, answers_rightly
from rkd.loading import load_causal_lm, load_tokenizer
from rkd.mini import choice as mini_choice
from rkd.mini import corpus as mini_corpus
from rkd.mini import math as mini_math
from rkd.pairs import area_under_curve
from rkd.prompts import JudgePrompt, PromptTemplate
from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query

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
    """One response of the model in `folder` to each of so many validation problems, with the prompt's examples."""
    queries = GENERATORS[dataset]("validation", problems, seed=0)
    generator = open_generator(Checkpoint(folder, folder.name), prompt, folder.name)
    responses = generator.generate(queries, Sampling(temperature, 1, MAX_RESPONSE_TOKENS), seed=0)
    return [
        JudgedResponse(query, own.text, answers_rightly(query, own.text))
        for query, (own,) in zip(queries, responses, strict=True)
    ]


def written_responses(problems: int) -> list[JudgedResponse]:
    """As the judge's text has them: written by the world, right as often as wrong."""
    rng = random.Random("judged validation")
    documents = [mini_corpus.judged(rng, "validation") for _ in range(problems)]
    return [
        JudgedResponse(Query("", "mini_math", document.question), document.judged, document.text == mini_corpus.YES)
        for document in documents
    ]


def solving_accuracy(
    folder: Path, prompt: PromptTemplate, problems: int, dataset: str = "mini_math"
) -> Mapping[str, float]:
    """The share of greedy responses that solve a validation problem: of "all", and of each category."""
    is_right: dict[str, list[bool]] = defaultdict(list)
    for response in sampled_responses(folder, prompt, problems, 0.0, dataset):
        for group in ("all", response.query.category):
            is_right[group].append(response.is_right)
    return {group: float(np.mean(own)) for group, own in is_right.items()}


@torch.no_grad()
def judging_accuracy(
    folder: Path, judge_prompt: JudgePrompt, responses: Sequence[JudgedResponse]
) -> tuple[float, float]:
    """Accuracy of the likelier verdict, and AUC of log p(Yes) - log p(No).

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
