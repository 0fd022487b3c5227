"""The text that mini models are pretrained on: arithmetic, stories, solved problems, and solutions with a verdict.

A corpus is an endless stream of `Document`s drawn from a seed by a mixture; `rkd.pretrain` renders and packs them. Only
plans of the split `pretrain` are told, so no text holds a problem that a model is trained or tested on later.
"""

import dataclasses
import functools
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from importlib import resources

import yaml

from rkd.mini.math import (
    LARGEST_VALUE,
    MEN,
    STYLES,
    WOMEN,
    Number,
    Operation,
    apply,
    draw_story,
    draw_style,
    tell,
    write_response,
    written,
)
from rkd.mini.mistakes import wrong_response

PLACES = "garden park shop school box basket kitchen store room barn house library yard office"
THINGS = (
    "apples oranges books pencils marbles stamps cookies cards flowers shells balloons bottles stickers "
    "eggs toys peaches candies coins crayons bananas roses shirts cupcakes seashells dogs cats chairs "
    "tomatoes pens muffins trees fish ducks blocks ribbons tickets photos hats plates games kites onions "
    "nuts potatoes lemons notebooks"
)
YES, NO = " Yes", " No"  # the verdicts, as rkd.prompts.JudgePrompt has them


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One piece of text. With a `question`, `text` is the response to it; with `judged`, the verdict on that text."""

    question: str | None
    text: str
    judged: str | None = None


def stream(mixture: Mapping[str, float], seed: int) -> Iterator[Document]:
    """Documents without end, each of a kind drawn by its weight in `mixture`.

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
    """Six equations of one operation, in the head or worked out."""
    return Document(None, "\n".join(_equation(rng) for _ in range(6)))


def expressions(rng: random.Random) -> Document:
    """Four equations of two operations, as joined steps need them."""
    return Document(None, "\n".join(_expression(rng) for _ in range(4)))


def story(rng: random.Random) -> Document:
    """A story without its question."""
    plan = draw_story(rng, "pretrain", 1, 5)
    return Document(None, " ".join(plan.text_of(sentence) for sentence in plan.sentences[:-1]))


def short_problem(rng: random.Random) -> Document:
    """One or two operations in many wordings; the solution takes one step for each."""
    text, operations = _draw_short_problem(rng)
    return Document(text, write_response(operations, rng.choice(["steps", "steps", "worked"])))


def simple_problem(rng: random.Random) -> Document:
    """A mini_math story of one or two operations, written step by step."""
    problem = tell(draw_story(rng, "pretrain", 1, 2), "")
    return Document(problem.question, write_response(problem.operations, rng.choice(["steps", "worked"])))


def problem(rng: random.Random) -> Document:
    """A mini_math problem, solved in the style of its family's textbook."""
    told = tell(draw_story(rng, "pretrain"), "")
    return Document(told.question, write_response(told.operations, draw_style(rng, told.family)))


def judged(rng: random.Random, split: str = "pretrain") -> Document:
    """A problem, a response that is right as often as wrong, and the verdict; one problem in five is a short one."""
    if rng.random() < 0.2:
        question, operations = _draw_short_problem(rng)
    else:
        told = tell(draw_story(rng, split, 1, 5), "")
        question, operations = told.question, told.operations
    style = rng.choice(STYLES)
    if rng.random() < 0.5:
        return Document(question, YES, write_response(operations, style))
    return Document(question, NO, wrong_response(rng, question, operations, style))


KINDS = {
    "arithmetic": arithmetic,
    "expressions": expressions,
    "story": story,
    "short_problem": short_problem,
    "simple_problem": simple_problem,
    "problem": problem,
    "judged": judged,
}


def _draw_short_problem(rng: random.Random) -> tuple[str, tuple[Operation, ...]]:
    while True:
        wording, formula = rng.choice(_short_problems())
        numbers = _short_numbers(rng, formula)
        operations = _evaluate(formula, numbers)
        if all(o.result.denominator <= 10 and 0 < o.result <= 200 for o in operations):
            break
    is_woman = rng.random() < 0.5
    people = rng.sample((WOMEN + " " + MEN).split(), 2)
    items, other = rng.sample(THINGS.split(), 2)
    slots = {
        "name": people[0],
        "friend": people[1],
        "items": items,
        "other": other,
        "place": rng.choice(PLACES.split()),
    }
    slots |= {"they": "she" if is_woman else "he", "them": "her" if is_woman else "him"}
    text = wording.format(**slots, **{key: written(number) for key, number in numbers.items()})
    text = text.replace(". she ", ". She ").replace(". he ", ". He ")
    return text, operations


@functools.cache
def _short_problems() -> tuple[tuple[str, str], ...]:
    entries = yaml.safe_load(resources.files("rkd.mini").joinpath("short.yaml").read_text(encoding="utf-8"))
    return tuple((text, formula) for text, formula in entries)


def _equation(rng: random.Random) -> str:
    left = _amount(rng)
    style = "worked" if rng.random() < 0.4 else "steps"
    return _first_line((_draw_operation(rng, left, None),), style)


def _expression(rng: random.Random) -> str:
    first = _draw_operation(rng, _amount(rng), None)
    if rng.random() < 0.3:  # a product that is added or taken away, as several packs at once are
        product = _draw_operation(rng, rng.randint(2, 12), None, symbol="×")
        value = _amount(rng) + (product.result if rng.random() < 0.5 else 0)
        symbol = "-" if value > product.result and rng.random() < 0.5 else "+"
        result = apply(symbol, value, product.result)
        return _first_line((product, Operation(symbol, value, product.result, result, None, 0)), "joined")
    return _first_line((first, _draw_operation(rng, first.result, 0)), "joined")


def _draw_operation(rng: random.Random, left: int, made_by: int | None, symbol: str | None = None) -> Operation:
    """left ∘ some number, with a positive whole result in the range that stories have."""
    divisors = [number for number in range(2, 11) if left % number == 0 and number < left]
    kinds = ["+", "-", "×"] if left <= LARGEST_VALUE // 2 else ["+", "-"]
    symbol = symbol or rng.choice([*kinds, "÷", "÷"] if divisors else kinds)
    match symbol:
        case "+":
            right = _amount(rng)
        case "-":
            right = min(_amount(rng), max(1, left - 1))
        case "×":
            right = rng.randint(2, max(2, min(12, LARGEST_VALUE // left)))
        case _:
            right = rng.choice(divisors)
    return Operation(symbol, left, right, apply(symbol, left, right), made_by)


def _amount(rng: random.Random) -> int:
    return rng.randint(*rng.choice([(2, 12), (2, 40), (10, 99), (20, LARGEST_VALUE)]))


def _first_line(operations: tuple[Operation, ...], style: str) -> str:
    return write_response(operations, style).splitlines()[0].partition(": ")[2]


def _short_numbers(rng: random.Random, formula: str) -> dict[str, Number]:
    sizes = [(1, 12), (2, 30), (10, 60), (10, 100)]
    numbers: dict[str, Number] = {letter: rng.randint(*rng.choice(sizes)) for letter in "abc"}
    if "÷ b" in formula:
        numbers["b"] = rng.randint(2, 12)
        numbers["a"] = numbers["b"] * rng.randint(2, 15)
    elif "÷ c" in formula:
        numbers["c"] = rng.randint(2, 10)
        numbers["a"] = numbers["c"] * rng.randint(2, 15) - numbers["b"] % numbers["c"]
    elif "b × c" in formula:
        numbers["b"], numbers["c"] = rng.randint(2, 12), rng.randint(2, 15)
    elif "×" in formula:
        numbers["a"], numbers["b"] = rng.randint(2, 20), rng.randint(2, 12)
    elif rng.random() < 0.08:
        numbers = {letter: number + Fraction(rng.randint(1, 9), 10) for letter, number in numbers.items()}
    return numbers


def _evaluate(formula: str, numbers: dict[str, Number]) -> tuple[Operation, ...]:
    operations: list[Operation] = []
    for part in formula.split("; "):
        left, symbol, right = part.split(" ")
        known = numbers | ({"v": operations[-1].result} if operations else {})
        previous = len(operations) - 1
        operations.append(
            Operation(
                symbol,
                known[left],
                known[right],
                apply(symbol, known[left], known[right]),
                previous if left == "v" else None,
                previous if right == "v" else None,
            )
        )
    return tuple(operations)
