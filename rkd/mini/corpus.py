"""The text that mini models are pretrained on: arithmetic, stories, short problems and solved problems.

A corpus is an endless stream of `Document`s drawn from a seed by a mixture; `rkd.pretrain` renders and packs them. Only
plans of the training split are told, so no text holds a validation, test or unseen problem.
"""

import dataclasses
import functools
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from importlib import resources

import yaml

from rkd.mini.math import MEN, WOMEN, Operation, Story, _apply, draw_story, draw_style, tell, write_response, written

PLACES = "garden park shop school box basket kitchen store room barn house library yard office".split()
THINGS = (
    "apples oranges books pencils marbles stamps cookies cards flowers shells balloons bottles stickers eggs toys "
    "peaches candies coins crayons bananas roses shirts cupcakes seashells dogs cats chairs tomatoes pens muffins "
    "trees fish ducks blocks ribbons tickets photos hats plates games kites onions nuts potatoes lemons notebooks"
).split()


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One piece of text. With a `question`, `text` is the response to it."""

    question: str | None
    text: str


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
    return Document(None, "\n".join(_equation(rng) + "." for _ in range(6)))


def expressions(rng: random.Random) -> Document:
    """Four equations of two operations, as joined steps need them."""
    lines = []
    while len(lines) < 4:
        operations = _draw_operations(rng, 2)
        lines.append(write_response(operations, "joined").splitlines()[0].partition(": ")[2])
    return Document(None, "\n".join(lines))


def story(rng: random.Random) -> Document:
    """A story without its question."""
    plan = draw_story(rng, "train", 1, 5)
    told = tell(dataclasses.replace(plan, distractor=None), "").question
    return Document(None, told.partition(plan.sentences[-1].wording.partition("{")[0] or " ")[0].strip() or told)


def short_problem(rng: random.Random) -> Document:
    """One or two operations in many wordings; the solution takes one step for each."""
    while True:
        wording, formula = rng.choice(_short_problems())
        numbers = _short_numbers(rng, formula)
        operations = _evaluate(formula, numbers)
        if all(o.result.denominator <= 10 and 0 < o.result <= 200 for o in operations):
            break
    is_woman = rng.random() < 0.5
    people = rng.sample((WOMEN + " " + MEN).split(), 2)
    items, other = rng.sample(THINGS, 2)
    slots = {"name": people[0], "friend": people[1], "items": items, "other": other, "place": rng.choice(PLACES)}
    slots |= {"they": "she" if is_woman else "he", "them": "her" if is_woman else "him"}
    text = wording.format(**slots, **{key: written(number) for key, number in numbers.items()})
    text = text.replace(". she ", ". She ").replace(". he ", ". He ")
    return Document(text, write_response(operations, rng.choice(["steps", "steps", "worked"])))


def simple_problem(rng: random.Random) -> Document:
    """A mini_math story of one or two operations, written step by step."""
    problem = tell(draw_story(rng, "train", 1, 2), "")
    return Document(problem.question, write_response(problem.operations, rng.choice(["steps", "worked"])))


def problem(rng: random.Random) -> Document:
    """A mini_math problem, solved in the style of its family's textbook."""
    told = tell(draw_story(rng, "train"), "")
    return Document(told.question, write_response(told.operations, draw_style(rng, told.family)))


KINDS = {
    "arithmetic": arithmetic,
    "expressions": expressions,
    "story": story,
    "short_problem": short_problem,
    "simple_problem": simple_problem,
    "problem": problem,
}


@functools.cache
def _short_problems() -> tuple[tuple[str, str], ...]:
    entries = yaml.safe_load(resources.files("rkd.mini").joinpath("short.yaml").read_text(encoding="utf-8"))
    return tuple((text, formula) for text, formula in entries)


def _equation(rng: random.Random) -> str:
    (operation,) = _draw_operations(rng, 1)
    style = "worked" if rng.random() < 0.4 else "steps"
    return write_response((operation,), style).splitlines()[0].partition(": ")[2].rstrip(".")


def _draw_operations(rng: random.Random, count: int) -> tuple[Operation, ...]:
    """Operations with the number ranges of stories: taken from a training story where two are linked."""
    while True:
        plan: Story = draw_story(rng, "train", 1, 5, distractor_share=0)
        operations = tell(plan, "").operations
        start = rng.randrange(len(operations))
        chosen = operations[start : start + count]
        if len(chosen) < count:
            continue
        if count == 1:
            return (dataclasses.replace(chosen[0], left_from=None, right_from=None),)
        if start in (chosen[1].left_from, chosen[1].right_from):
            shift = {start: 0}
            return (
                dataclasses.replace(chosen[0], left_from=None, right_from=None),
                dataclasses.replace(
                    chosen[1], left_from=shift.get(chosen[1].left_from), right_from=shift.get(chosen[1].right_from)
                ),
            )


def _short_numbers(rng: random.Random, formula: str) -> dict[str, Fraction]:
    def amount() -> Fraction:
        whole = Fraction(rng.choice([rng.randint(1, 12), rng.randint(2, 30), rng.randint(10, 60), rng.randint(10, 100)]))
        return whole

    numbers = {"a": amount(), "b": amount(), "c": amount()}
    if "÷ b" in formula:
        numbers["b"] = Fraction(rng.randint(2, 12))
        numbers["a"] = numbers["b"] * rng.randint(2, 15)
    if "÷ c" in formula:
        numbers["c"] = Fraction(rng.randint(2, 10))
        numbers["a"] = numbers["c"] * rng.randint(2, 15) - numbers["b"] % numbers["c"]
    if "×" in formula:
        numbers["b"] = Fraction(rng.randint(2, 12))
        if "c" in formula and "b × c" in formula:
            numbers["c"] = Fraction(rng.randint(2, 15))
        else:
            numbers["a"] = Fraction(rng.randint(2, 20))
    elif "÷" not in formula and rng.random() < 0.08:
        numbers = {key: number + Fraction(rng.randint(1, 9), 10) for key, number in numbers.items()}
    return numbers


def _evaluate(formula: str, numbers: dict[str, Fraction]) -> tuple[Operation, ...]:
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
                _apply(symbol, known[left], known[right]),
                previous if left == "v" else None,
                previous if right == "v" else None,
            )
        )
    return tuple(operations)
