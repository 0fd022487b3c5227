"""Short problems, in many wordings: templates of short.yaml, and scenes; a random source enters, a problem leaves."""

import functools
import random
from fractions import Fraction

from rkd.mini.math import LARGEST_VALUE, Number, Operation, apply, written
from rkd.mini.scenes import draw_scene_problem
from rkd.mini.wording import capitalised, draw_slots, expand, general, read_yaml, typed

SCENE_SHARE = 0.4  # the other problems are from short.yaml
DISTRACTOR_SHARE = 0.125
LARGEST_SUM = 1000  # a few numbers have three digits


def draw_short_problem(rng: random.Random) -> tuple[str, tuple[Operation, ...]]:
    """A problem of one to three operations, and the operations."""
    text, operations = draw_scene_problem(rng) if rng.random() < SCENE_SHARE else _fill_template(rng)
    if rng.random() < DISTRACTOR_SHARE:
        aside = expand(rng.choice(general()["distractors"]), general()["macros"], rng)
        text = f"{aside.format(**draw_slots(rng), a=rng.randint(2, 60))} {text}"
    return typed(rng, capitalised(text)), operations


def _fill_template(rng: random.Random) -> tuple[str, tuple[Operation, ...]]:
    """A problem from a template of short.yaml."""
    while True:
        template, formula = rng.choice(_short_problems())
        numbers = _short_numbers(rng, formula)
        operations = _evaluate(formula, numbers)
        if all(_is_easy(operation) for operation in operations):
            break
    wording = expand(template, general()["macros"], rng)
    return wording.format(**draw_slots(rng), **{key: written(number) for key, number in numbers.items()}), operations


def _is_easy(operation: Operation) -> bool:
    result = operation.result
    largest = LARGEST_SUM if operation.symbol in "+-" else LARGEST_VALUE
    return result.denominator <= 10 and 0 < result <= largest


@functools.cache
def _short_problems() -> tuple[tuple[str, str], ...]:
    return tuple((text, formula) for text, formula in read_yaml("short.yaml"))


def _short_numbers(rng: random.Random, formula: str) -> dict[str, Number]:
    sizes = [(1, 12), (2, 30), (10, 60), (10, 100)]
    if rng.random() < 0.12:
        sizes = [(20, 99), (100, 900)]
    numbers: dict[str, Number] = {letter: rng.randint(*rng.choice(sizes)) for letter in "abc"}
    if "÷ b" in formula:
        numbers["b"] = rng.randint(2, 12)
        numbers["a"] = numbers["b"] * rng.randint(2, 15)
    elif "÷ c" in formula:
        numbers["c"] = rng.randint(2, 10)
        if "-" in formula:
            numbers["a"] = numbers["b"] + numbers["c"] * rng.randint(2, 15)
        else:
            numbers["a"] = numbers["c"] * rng.randint(2, 15) - numbers["b"] % numbers["c"]
    elif "b × c" in formula:
        numbers["b"], numbers["c"] = rng.randint(2, 12), rng.randint(2, 15)
        numbers["a"] = numbers["b"] * numbers["c"] + rng.randint(1, 60)
    elif "v × a" in formula:
        numbers = {letter: rng.randint(2, 12) for letter in "abc"}
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
