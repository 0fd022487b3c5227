"""Scenes: short problems on one or two sorts of things, with a start amount, a change and an end amount of each.

A scene holds every quantity. Its text tells some of them, often more than are needed, and asks for another one. The
operations follow from the told ones: end = start ± change for each sort, then perhaps the sum or difference of both.
"""

import functools
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rkd.mini.math import Operation, apply, written
from rkd.mini.wording import draw_slots, expand, read_yaml

Quantity = tuple[str, int]
"""The amount at the "start", the "change" or the amount at the "end", and the sort, 0 or 1."""

PHASES = ("start", "change", "end")
TOLD_SHARE = 0.6
PLACINGS = ("in", "at", "near", "behind")
_CONNECTIVE = re.compile(r"^(Then|Later|After that|Now|In the end|At the end) ")


@dataclass(frozen=True, slots=True)
class Scene:
    """All quantities of a scene; with `losing`, the change is subtracted."""

    values: Mapping[Quantity, int]
    losing: bool

    def derive(self, asked: Quantity, told: Collection[Quantity]) -> Operation | None:
        """The operation that gives an untold quantity from the two others of its sort; None if one is not told."""
        phase, sort = asked
        start, change, end = ((name, sort) for name in PHASES)
        symbol, left, right = {
            "end": ("-" if self.losing else "+", start, change),
            "start": ("+" if self.losing else "-", end, change),
            "change": ("-", start, end) if self.losing else ("-", end, start),
        }[phase]
        if left not in told or right not in told:
            return None
        return Operation(symbol, self.values[left], self.values[right], self.values[asked])


def draw_scene_problem(rng: random.Random) -> tuple[str, tuple[Operation, ...]]:
    """A problem of one to three operations, and the operations."""
    while True:
        sorts = rng.choice([1, 2, 2])
        scene = _draw_scene(rng, sorts)
        told = {(phase, sort) for phase in PHASES for sort in range(sorts) if rng.random() < TOLD_SHARE}
        phase = rng.choice(PHASES)
        if sorts == 2 and rng.random() < 0.5:
            symbol, asked = rng.choice("+-"), [*_larger_first(scene, phase)]
        else:
            symbol, asked = "", [(phase, sort) for sort in range(sorts)]
        operations = _solve(scene, told, asked, symbol)
        if operations:
            return _tell(rng, scene, told, asked, symbol), operations


def _draw_scene(rng: random.Random, sorts: int) -> Scene:
    losing = rng.random() < 0.6
    values: dict[Quantity, int] = {}
    for sort in range(sorts):
        low, high = rng.choice([(2, 12), (3, 30), (10, 99), (10, 99), (50, 300)])
        change, rest = rng.randint(low, high), rng.randint(low, high)
        start, end = (rest + change, rest) if losing else (rest, rest + change)
        values |= {("start", sort): start, ("change", sort): change, ("end", sort): end}
    return Scene(values, losing)


def _larger_first(scene: Scene, phase: str) -> tuple[Quantity, Quantity]:
    first, second = (phase, 0), (phase, 1)
    return (first, second) if scene.values[first] >= scene.values[second] else (second, first)


def _solve(
    scene: Scene, told: Collection[Quantity], asked: Sequence[Quantity], symbol: str
) -> tuple[Operation, ...] | None:
    """The operations that give the first of `asked` or, with a symbol, the sum or difference of both.

    None if the result is unknown, or if a sum or difference is 0.
    """
    operations: list[Operation] = []
    made_by: dict[Quantity, int] = {}
    for quantity in asked if symbol else asked[:1]:
        if quantity in told:
            continue
        operation = scene.derive(quantity, told)
        if operation is None:
            return None
        made_by[quantity] = len(operations)
        operations.append(operation)
    if symbol:
        left, right = (scene.values[quantity] for quantity in asked)
        result = int(apply(symbol, left, right))
        if result == 0:
            return None
        operations.append(Operation(symbol, left, right, result, *map(made_by.get, asked)))
    return tuple(operations)


def _tell(rng: random.Random, scene: Scene, told: Collection[Quantity], asked: Sequence[Quantity], symbol: str) -> str:
    wordings = _wordings()
    slots = draw_slots(rng)
    did, do = rng.choice(wordings["losses" if scene.losing else "gains"].split()).replace("_", " ").split("/")
    words = {"did": did, "do": do, "day": slots["day"], "where": f"{rng.choice(PLACINGS)} the {slots['place']}"}
    labels = _labels(rng, slots)
    sentences = []
    for phase in PHASES:
        own = [sort for sort in (0, 1) if (phase, sort) in told]
        rng.shuffle(own)
        for sorts in [[sort] for sort in own] if rng.random() < 0.2 else [own] * bool(own):
            what = " and ".join(f"{written(scene.values[phase, sort])} {labels[sort]}" for sort in sorts)
            sentences.append(expand(rng.choice(wordings["tells"][phase]), {}, rng).replace("{what}", what))
    if rng.random() < 0.15:
        rng.shuffle(sentences)
    phase = asked[0][0]
    question = expand(_question(rng, phase, symbol), {}, rng)
    sorts_asked = dict(zip("xy", (labels[sort] for _, sort in asked), strict=False))
    text = _with_people(rng, _joined(rng, sentences, question), slots)
    return text.format(**words, **sorts_asked)


def _labels(rng: random.Random, slots: Mapping[str, str]) -> tuple[str, str]:
    """The names of the two sorts: two things, or two kinds of one thing."""
    if rng.random() < 0.5:
        return slots["items"], slots["other"]
    noun = slots["items"].split(" ")[-1]
    return f"{slots['kind']} {noun}", f"{slots['kind2']} {noun}"


def _question(rng: random.Random, phase: str, symbol: str) -> str:
    wordings = _wordings()
    if not symbol:
        return str(rng.choice(wordings["asks"][phase]))
    question = str(rng.choice(wordings["sums" if symbol == "+" else "differences"]))
    return question.replace("{both}", wordings["of_both"][phase])


def _joined(rng: random.Random, sentences: Sequence[str], question: str) -> str:
    """The sentences and the question as one text; sometimes the last sentence becomes a condition of the question."""
    if rng.random() < 0.7:
        return " ".join([*sentences, question])
    *others, last = sentences
    condition = _CONNECTIVE.sub("", last).rstrip(".")
    condition = condition[0].lower() + condition[1:]
    return " ".join([*others, f"If {condition}, {question[0].lower()}{question[1:]}"])


def _with_people(rng: random.Random, text: str, slots: Mapping[str, str]) -> str:
    """The text with every {who} replaced: by the name at first, then mostly by a pronoun."""
    first, *rest = text.split("{who}")
    for place, part in enumerate(rest):
        first += (slots["name"] if place == 0 or rng.random() < 0.4 else slots["they"]) + part
    return first


@functools.cache
def _wordings() -> Mapping[str, Any]:
    wordings: Mapping[str, Any] = read_yaml("scenes.yaml")
    return wordings
