"""The text of pretraining: arithmetic, stories, solved problems, solutions with a verdict, choices, open tasks.

A corpus is an endless stream of `Document`s, drawn by a mixture with a seed; `rkd.mini.pretraining.pretrain` renders
and packs them. All plans and puzzles are of the split `pretrain`, so no text holds a problem on which a model is
trained or tested later.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping

from rkd.mini import open as mini_open
from rkd.mini.choice import CATEGORIES, draw_problem, lettered
from rkd.mini.documents import NO, YES, Document, compared, graded
from rkd.mini.equations import equation, expression
from rkd.mini.math import (
    STYLES,
    Operation,
    Sentence,
    Story,
    draw_story,
    draw_style,
    families,
    tell,
    try_story,
    with_distractor,
    write_response,
)
from rkd.mini.mistakes import wrong_response
from rkd.mini.short import draw_short_problem
from rkd.mini.wording import capitalised, draw_slots, draw_things, expand, general, typed

OPEN_BLURS = (0.15, 0.4, 0.8)  # the chance of each word to be replaced
OPEN_FAULT_CHANCES = (0.0, 0.1, 0.3, 0.6)  # the chance of each point to be missing in a graded response
GENERAL_SHARE = 0.5  # of stories from general.yaml; the others are from mini_math's families
GENERAL_STYLES = (5, 3, 2)  # weights of the response styles of these stories
DISTRACTOR_SHARE = 0.25


def stream(mixture: Mapping[str, float], seed: int) -> Iterator[Document]:
    """An endless stream of documents, whose kinds are drawn by their weights in `mixture`.

    Raises:
        ValueError: the mixture names an unknown kind.
    """
    unknown = set(mixture) - set(KINDS)
    if unknown:
        raise ValueError(f"pretrain mixture: unknown {sorted(unknown)}; known: {', '.join(KINDS)}.")
    rng = random.Random(f"corpus {seed}")
    kinds, weights = list(mixture), list(mixture.values())
    while True:
        yield KINDS[rng.choices(kinds, weights)[0]](rng)


def arithmetic(rng: random.Random) -> Document:
    """Six equations of one operation, with or without partial results."""
    return Document(None, "\n".join(equation(rng) for _ in range(6)))


def expressions(rng: random.Random) -> Document:
    """Four equations of a product and a sum or difference, as in the style `joined`."""
    return Document(None, "\n".join(expression(rng) for _ in range(4)))


def story(rng: random.Random) -> Document:
    """A story without its question."""
    plan = _draw_plan(rng, 1, 5)
    return Document(None, capitalised(" ".join(plan.text_of(sentence) for sentence in plan.sentences[:-1])))


def short_problem(rng: random.Random) -> Document:
    """A problem of one to three operations in many wordings; the solution has one step per operation."""
    text, operations = draw_short_problem(rng)
    return Document(text, write_response(operations, rng.choice(["steps", "steps", "worked"])))


def simple_problem(rng: random.Random) -> Document:
    """A story of one or two operations, written step by step."""
    question, operations = _told(rng, _draw_plan(rng, 1, 2))
    return Document(question, write_response(operations, rng.choice(["steps", "worked"])))


def problem(rng: random.Random) -> Document:
    """A story of two to five operations; those of mini_math are solved in a style preferred by their family."""
    plan = _draw_plan(rng, 2, 5)
    question, operations = _told(rng, plan)
    style = draw_style(rng, plan.family) if plan.family in families() else rng.choices(STYLES, GENERAL_STYLES)[0]
    return Document(question, write_response(operations, style))


def series(rng: random.Random) -> Document:
    """Two to five easy problems in a row, each with its solution."""
    *before, last = (rng.choice([short_problem, simple_problem])(rng) for _ in range(rng.randint(2, 5)))
    return dataclasses.replace(last, before=tuple(before))


def judged(rng: random.Random, split: str = "pretrain") -> Document:
    """A problem, a response that is right in half of the cases, and the verdict; one problem in five is short."""
    if rng.random() < 0.2:
        question, operations = draw_short_problem(rng)
    elif split == "pretrain":
        question, operations = _told(rng, _draw_plan(rng, 1, 5))
    else:
        question, operations = _told(rng, draw_story(rng, split, 1, 5))
    style = rng.choice(STYLES)
    if rng.random() < 0.5:
        return Document(question, YES, write_response(operations, style))
    return Document(question, NO, wrong_response(rng, question, operations, style))


def choice(rng: random.Random, category: str) -> Document:
    """A problem of mini_choice, and a response with the right letter."""
    problem = draw_problem(rng, "pretrain", category)
    return Document(problem.question, problem.response, dataset="mini_choice")


def choice_lookup(rng: random.Random) -> Document:
    """The options of such a problem, and all of them again with their letters, three times in another order.

    A response names only one letter in a hundred tokens, too few to learn how to look it up.
    """
    problem = draw_problem(rng, "pretrain", rng.choice(list(CATEGORIES)))
    options = lettered(problem.options)
    again = [", ".join(rng.sample(options, len(options))) for _ in range(3)]
    return Document(f"Options: {', '.join(options)}.", "\n".join(again), dataset="mini_choice")


def choice_series(rng: random.Random) -> Document:
    """Two or three problems of mini_choice in a row."""
    *before, last = (choice(rng, rng.choice(list(CATEGORIES))) for _ in range(rng.randint(2, 3)))
    return dataclasses.replace(last, before=tuple(before))


def open_task(rng: random.Random, fault_chances: tuple[float, ...] = (0.06,)) -> Document:
    """An instruction of mini_open, and a response that seldom misses a point."""
    instruction, question = _draw_instruction(rng)
    return Document(question, _answer(rng, instruction, rng.choice(fault_chances)), dataset=mini_open.DATASET)


def open_sloppy(rng: random.Random) -> Document:
    """As `open_task`, with a response that misses each point with the chance 0.4."""
    return open_task(rng, (0.4,))


def open_series(rng: random.Random) -> Document:
    """Two or three open tasks in a row."""
    *before, last = (open_task(rng) for _ in range(rng.randint(2, 3)))
    return dataclasses.replace(last, before=tuple(before))


def open_graded(rng: random.Random) -> Document:
    """An instruction, a response of any quality, and its grade: evidence, then the score."""
    instruction, question = _draw_instruction(rng)
    return graded(question, open_response(rng, instruction))


def open_compared(rng: random.Random) -> Document:
    """An instruction, two responses of different scores, and the better one of them."""
    instruction, question = _draw_instruction(rng)
    document = None
    while document is None:
        document = compared(question, open_response(rng, instruction), open_response(rng, instruction))
    return document


def open_response(rng: random.Random, instruction: mini_open.Instruction) -> str:
    """A response of any quality to an instruction of mini_open; half of them copy the instruction badly."""
    if rng.random() < 0.5:
        instruction = mini_open.blurred(rng, instruction, rng.choice(OPEN_BLURS))
    return _answer(rng, instruction, rng.choice(OPEN_FAULT_CHANCES))


CHOICE_KINDS: dict[str, Callable[[random.Random], Document]] = {
    **{f"choice_{category}": functools.partial(choice, category=category) for category in CATEGORIES},
    "choice_lookup": choice_lookup,
    "choice_series": choice_series,
}
OPEN_KINDS: dict[str, Callable[[random.Random], Document]] = {
    "open_task": open_task,
    "open_sloppy": open_sloppy,
    "open_series": open_series,
    "open_graded": open_graded,
    "open_compared": open_compared,
}
KINDS: dict[str, Callable[[random.Random], Document]] = {
    "arithmetic": arithmetic,
    "expressions": expressions,
    "story": story,
    "short_problem": short_problem,
    "simple_problem": simple_problem,
    "problem": problem,
    "series": series,
    "judged": judged,
    **CHOICE_KINDS,
    **OPEN_KINDS,
}


def _draw_instruction(rng: random.Random) -> tuple[mini_open.Instruction, str]:
    category = rng.choice(list(mini_open.DRAW))
    instruction = mini_open.draw_instruction(rng, "pretrain", category)
    return instruction, mini_open.asked(rng, instruction, category)


def _answer(rng: random.Random, instruction: mini_open.Instruction, fault_chance: float) -> str:
    faults = mini_open.draw_faults(rng, instruction, fault_chance)
    return instruction.answer(rng, faults, is_long=rng.random() < 0.5)


def _draw_plan(rng: random.Random, min_steps: int, max_steps: int) -> Story:
    """A story of mini_math, sometimes with other things, or a story of general.yaml."""
    if rng.random() < GENERAL_SHARE:
        return _draw_general(rng, min_steps, max_steps)
    plan = draw_story(rng, "pretrain", min_steps, max_steps)
    if len(families()[plan.family]["items"]) > 1 and rng.random() < 0.4:
        plan = dataclasses.replace(plan, slots={**plan.slots, "items": draw_things(rng)})
    return plan


def _draw_general(rng: random.Random, min_steps: int, max_steps: int) -> Story:
    while True:
        name = rng.choice(list(general()["frames"]))
        slots = draw_slots(rng)
        if name == "crowd":
            slots["items"] = slots["people"]
        plan = try_story(rng, name, general()["frames"][name], slots, rng.randint(min_steps, max_steps))
        if plan is not None:
            break
    if rng.random() < DISTRACTOR_SHARE:
        plan = with_distractor(rng, plan, general()["distractors"])
        assert plan.distractor is not None
        plan = dataclasses.replace(plan, distractor=_expanded(rng, plan.distractor))
    return dataclasses.replace(plan, sentences=tuple(_expanded(rng, sentence) for sentence in plan.sentences))


def _expanded(rng: random.Random, sentence: Sentence) -> Sentence:
    return dataclasses.replace(sentence, wording=expand(sentence.wording, general()["macros"], rng))


def _told(rng: random.Random, plan: Story) -> tuple[str, tuple[Operation, ...]]:
    told = tell(plan, "")
    return typed(rng, capitalised(told.question)), told.operations
