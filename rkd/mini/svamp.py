"""mini_svamp: one-step word problems with varied structure, for out-of-domain tests, like SVAMP for GSM8K.

A `Plan` is a wording of svamp.yaml with its numbers. Telling it gives a `MathProblem`, whose category is the kind of
variation. As in mini_math, a hash of a plan's wording and numbers (not names and things) puts it into exactly one
split. The text of pretraining has problems of these kinds, but none of these wordings.
"""

import functools
import itertools
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rkd.mini.math import SPLIT_SHARES, MathProblem, Operation, apply, written
from rkd.mini.wording import capitalised, draw_people, expand, read_yaml, singular, words
from rkd.records import Query

SPLITS = ("validation", "test")
RANGES = ((2, 12), (3, 30), (10, 60), (10, 99))
SLOT_WORDS = {"fruit": "fruits", "baked": "baked", "people": "people", "place": "places"}
INVERSE = {"+": "-", "-": "+", "×": "÷", "÷": "×"}


@dataclass(frozen=True, slots=True)
class Wording:
    """A text with open slots, the equation of its story, as in "x - a = b", and a condition, as in "b + c < a"."""

    kind: str
    text: str
    equation: str
    condition: str = ""

    @property
    def told(self) -> tuple[str, ...]:
        """The names of the numbers that the text tells."""
        return tuple(name for name in "abc" if f"{{{name}}}" in self.text)


@dataclass(frozen=True, slots=True)
class Plan:
    """A wording with its numbers by name; the question asks for x."""

    wording: Wording
    numbers: Mapping[str, int]

    @property
    def signature(self) -> str:
        """Wording and numbers, without names and things; this text decides the split."""
        return f"{self.wording.text}|{' '.join(str(self.numbers[name]) for name in self.wording.told)}"

    def operation(self) -> Operation:
        """The operation that gives x: the equation solved for x."""
        left, symbol, right, _, result = self.wording.equation.split()
        if left == "x":
            symbol, left, right = INVERSE[symbol], result, right
        elif right == "x" and symbol in "+×":
            symbol, left, right = INVERSE[symbol], result, left
        elif right == "x":  # a - x = b, so x = a - b
            right = result
        first, second = self.numbers[left], self.numbers[right]
        return Operation(symbol, first, second, apply(symbol, first, second))


@functools.cache
def wordings() -> Mapping[str, Sequence[Wording]]:
    """The wordings of svamp.yaml by kind."""
    found: dict[str, list[Wording]] = {}
    for kind, entries in read_yaml("svamp.yaml")["kinds"].items():
        found[kind] = []
        for text, equation, *condition in entries:
            asked = {text: equation} if isinstance(equation, str) else {f"{text} {q}": e for q, e in equation.items()}
            found[kind] += [Wording(kind, told, own, *condition) for told, own in asked.items()]
    return found


def split_of(plan: Plan) -> int:
    """The residue class, 0 to 9, that decides the split of a plan; see `rkd.mini.math.SPLIT_SHARES`."""
    return zlib.crc32(plan.signature.encode()) % 10


def problems(split: str, seed: int) -> Iterator[MathProblem]:
    """An endless stream of the distinct problems of a split (validation, test); the kinds take turns.

    Raises:
        ValueError: the split does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"mini_svamp has no split {split!r}; it has {', '.join(SPLITS)}: train on mini_math.")
    rng = random.Random(f"mini_svamp {split} {seed}")
    told: set[str] = set()
    for place, kind in enumerate(itertools.cycle(wordings())):
        plan = draw_plan(rng, kind, split)
        while (question := tell(plan, rng)) in told:
            plan = draw_plan(rng, kind, split)
        told.add(question)
        operation = plan.operation()
        yield MathProblem(
            f"mini_svamp-{split}-{seed}-{place}", "svamp", question, (operation,), written(operation.result), kind
        )


def queries(split: str, size: int, seed: int) -> list[Query]:
    """The first `size` problems of a split as queries with their gold answer; errors as in `problems`."""
    first = itertools.islice(problems(split, seed), size)
    return [Query(p.id, "mini_svamp", p.question, p.answer, p.category) for p in first]


def draw_plan(rng: random.Random, kind: str, split: str) -> Plan:
    """A plan of the split. All its numbers differ, so that the answer is not among the told numbers."""
    while True:
        wording = rng.choice(wordings()[kind])
        plan = Plan(wording, _draw_numbers(rng, wording))
        is_sound = len(set(plan.numbers.values())) == len(plan.numbers) and _holds(wording.condition, plan.numbers)
        if is_sound and split_of(plan) in SPLIT_SHARES[split]:
            return plan


def tell(plan: Plan, rng: random.Random) -> str:
    """The text of a plan, with people and things drawn."""
    text = expand(plan.wording.text, {}, rng)
    return capitalised(text.format(**_draw_slots(rng), **{name: plan.numbers[name] for name in plan.wording.told}))


def _draw_numbers(rng: random.Random, wording: Wording) -> dict[str, int]:
    """Numbers that satisfy the equation, and further numbers that are not in it."""
    left, symbol, right, _, result = wording.equation.split()
    if symbol in "+-":
        low, high = rng.choice(RANGES)
        small, other = rng.randint(low, high), rng.randint(low, high)
        whole = small + other
    else:
        small, other = rng.randint(2, 12), rng.randint(2, 10)
        whole = small * other
    values = (small, other, whole) if symbol in "+×" else (whole, small, other)
    numbers = dict(zip((left, right, result), values, strict=True))
    return {name: rng.randint(3, 60) for name in wording.told} | numbers


def _holds(condition: str, numbers: Mapping[str, int]) -> bool:
    """Whether the numbers satisfy a condition such as "b + c < a"; an empty condition holds."""
    if not condition:
        return True
    less, more = condition.split(" < ")
    return sum(numbers[name] for name in less.split(" + ")) < numbers[more]


def _draw_slots(rng: random.Random) -> dict[str, str]:
    """People and words for every slot; slots of one sort that can occur together get different words."""
    own, slots = _own_words(), draw_people(rng)
    slots["items"], slots["other"] = rng.sample(own["items"], 2)
    slots["things"], things2 = rng.sample(own["goods"], 2)
    slots["thing"], slots["thing2"] = singular(slots["things"]), singular(things2)
    slots["box"], slots["boxes"] = rng.choice(own["boxes"]).split(":")
    slots["color"], slots["color2"], slots["color3"] = rng.sample(own["colors"], 3)
    slots["day"], slots["day2"] = (words()["days"][place] for place in sorted(rng.sample(range(7), 2)))
    slots |= {slot: rng.choice(own[name]) for slot, name in SLOT_WORDS.items()}
    return slots


@functools.cache
def _own_words() -> Mapping[str, Sequence[str]]:
    return {name: text.split() for name, text in read_yaml("svamp.yaml")["words"].items()}
