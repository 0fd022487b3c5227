"""mini_open: instructions without one right answer, whose responses are better or worse by a rubric of five points.

It takes the place of UltraFeedback and AlpacaEval in paper D's Table 4. There are three kinds: a list of things of one
sort, in order; a description with required words and a forbidden one; a sentence rewritten for another person. Question
and response alone decide the points, so that a program can grade any response (`grade`), and a model can learn to. As
in mini_math, a hash of an instruction's content puts it into one split.
"""

import dataclasses
import functools
import itertools
import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rkd.mini.instructions import (
    NUMBERS,
    POINTS,
    DescribeInstruction,
    Finding,
    Grade,
    Instruction,
    ListInstruction,
    RewriteInstruction,
    kinds_of_things,
    open_world,
)
from rkd.mini.math import SPLIT_SHARES
from rkd.mini.wording import words
from rkd.records import Query, Response

DATASET = "mini_open"
SPLITS = ("pretrain", "train", "validation", "test")
REFERENCE_FAULTS = 0.4  # the chance of each of a reference's five faults: three points on average


def draw_list(rng: random.Random) -> ListInstruction:
    """A list instruction: four or five things of the kind among six to eight."""
    kind = rng.choice(list(kinds_of_things()))
    own = rng.sample(kinds_of_things()[kind], rng.randint(4, 5))
    others = [thing for name, things in kinds_of_things().items() if name != kind for thing in things]
    given = [*own, *rng.sample(others, rng.randint(2, 3))]
    rng.shuffle(given)
    return ListInstruction(kind, tuple(given), rng.choice(own))


def draw_description(rng: random.Random) -> DescribeInstruction:
    """A description instruction of two to four sentences."""
    first, second = rng.sample(words()["things"], 2)
    without = rng.choice(open_world()["adjectives"].split())
    return DescribeInstruction(rng.choice(words()["places"]), rng.randint(2, 4), (first, second), without)


def draw_rewriting(rng: random.Random) -> RewriteInstruction:
    """A rewriting instruction with amounts of one or two digits."""
    old, new = rng.sample([*words()["women"], *words()["men"]], 2)
    amounts = (rng.randint(2, 40), rng.randint(2, 40))
    start = rng.choice(open_world()["starts"].split("|"))
    more = rng.randint(2, 9)
    first, second = rng.sample(words()["things"], 2)
    return RewriteInstruction(old, new, start, more, amounts, (first, second))


DRAW: dict[str, Callable[[random.Random], Instruction]] = {
    "list": draw_list,
    "describe": draw_description,
    "rewrite": draw_rewriting,
}
_KIND = {"list": ListInstruction, "describe": DescribeInstruction, "rewrite": RewriteInstruction}


def split_of(instruction: Instruction) -> str:
    """The split of an instruction, with the same shares as in mini_math."""
    residue = zlib.crc32(instruction.about.encode()) % 10
    return next(split for split in SPLITS if residue in SPLIT_SHARES[split])


def draw_instruction(rng: random.Random, split: str, category: str) -> Instruction:
    """An instruction of the split and category."""
    instruction = DRAW[category](rng)
    while split_of(instruction) != split:
        instruction = DRAW[category](rng)
    return instruction


def asked(rng: random.Random, instruction: Instruction, category: str) -> str:
    """The instruction in one of the wordings of its category."""
    return instruction.ask(rng.choice(open_world()[category]))


def draw_faults(rng: random.Random, instruction: Instruction, chance: float) -> list[str]:
    """The points that a response will miss, each with this chance."""
    return [point for point in POINTS[type(instruction)] if rng.random() < chance]


def blurred(rng: random.Random, instruction: Instruction, chance: float) -> Instruction:
    """The instruction as a bad copy, in which each word and number is replaced with this chance."""
    if isinstance(instruction, ListInstruction):
        given = tuple(_unlike(rng, thing) if rng.random() < chance else thing for thing in instruction.given)
        return dataclasses.replace(instruction, given=given)
    other = next(draw(rng) for category, draw in DRAW.items() if isinstance(instruction, _KIND[category]))
    return dataclasses.replace(
        instruction,
        **{
            field.name: _mixed(rng, getattr(instruction, field.name), getattr(other, field.name), chance)
            for field in dataclasses.fields(instruction)
        },
    )


def parse(question: str) -> Instruction:
    """The instruction in a question.

    Raises:
        ValueError: the question is not one of mini_open.
    """
    for category, read in _READ.items():
        for pattern in _patterns(category):
            if found := pattern.fullmatch(question.strip()):
                return read(found.groupdict())
    raise ValueError(f"no instruction of mini_open: {question!r}.")


def grade(question: str, response: str) -> Grade:
    """The points of a response to a question of mini_open; an empty response has none."""
    instruction = parse(question)
    if not response.strip():
        return Grade((Finding("Nothing", dict.fromkeys(POINTS[type(instruction)], False)),))
    return instruction.grade(response)


def score(question: str, response: str) -> int:
    """The number of points of a response, 0 to 5."""
    return grade(question, response).score


def rubric_reward(queries: Sequence[Query], responses: Sequence[Response]) -> list[float]:
    """The scores in [0, 1], an exact reward for `reward_mix=own`, to measure the cost of a grader's mistakes."""
    return [score(query.question, response.text) / 5 for query, response in zip(queries, responses, strict=True)]


def reference(question: str) -> str:
    """The reference response to a question, always the same, with three points on average."""
    rng, instruction = random.Random(f"mini_open reference {question}"), parse(question)
    return instruction.answer(rng, draw_faults(rng, instruction, REFERENCE_FAULTS), is_long=rng.random() < 0.5)


def instructions(split: str, seed: int) -> Iterator[tuple[str, str]]:
    """An endless stream of distinct questions of a split with their categories, which take turns.

    Raises:
        ValueError: the split does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"mini_open has no split {split!r}; it has {', '.join(SPLITS)}.")
    rng = random.Random(f"mini_open {split} {seed}")
    seen: set[str] = set()
    for category in itertools.cycle(DRAW):
        question = asked(rng, draw_instruction(rng, split, category), category)
        while question in seen:
            question = asked(rng, draw_instruction(rng, split, category), category)
        seen.add(question)
        yield question, category


def queries(split: str, size: int, seed: int) -> list[Query]:
    """The first `size` instructions of a split as queries with their reference; errors as in `instructions`."""
    drawn = itertools.islice(instructions(split, seed), size)
    return [
        Query(f"{DATASET}-{split}-{seed}-{place}", DATASET, question, reference(question), category)
        for place, (question, category) in enumerate(drawn)
    ]


def _unlike(rng: random.Random, thing: str) -> str:
    """Another thing of the same kind."""
    kind = next(things for things in kinds_of_things().values() if thing in things)
    return rng.choice(kind)


def _mixed(rng: random.Random, own: Any, other: Any, chance: float) -> Any:
    if isinstance(own, tuple):
        return tuple(_mixed(rng, *both, chance) for both in zip(own, other, strict=True))
    return other if rng.random() < chance else own


def _read_list(found: Mapping[str, str]) -> ListInstruction:
    return ListInstruction(found["kind"], tuple(found["given"].split(", ")), found["without"])


def _read_description(found: Mapping[str, str]) -> DescribeInstruction:
    number = NUMBERS.index(found["number"])
    return DescribeInstruction(found["place"], number, (found["x"], found["y"]), found["without"])


def _read_rewriting(found: Mapping[str, str]) -> RewriteInstruction:
    amounts, things = (int(found["a"]), int(found["b"])), (found["x"], found["y"])
    return RewriteInstruction(found["old"], found["new"], found["start"], int(found["more"]), amounts, things)


_READ: dict[str, Callable[[Mapping[str, str]], Instruction]] = {
    "list": _read_list,
    "describe": _read_description,
    "rewrite": _read_rewriting,
}
_SLOTS = {
    "given": r"[a-z, ]+",
    "start": r"[A-Za-z ]+",
    "number": "|".join(NUMBERS),
    "a": r"\d+",
    "b": r"\d+",
    "more": r"\d+",
}


@functools.cache
def _patterns(category: str) -> tuple[re.Pattern[str], ...]:
    """The wordings of a category as patterns, with a named group for each slot."""
    parts = [re.split(r"\{(\w+)\}", wording) for wording in open_world()[category]]
    return tuple(
        re.compile(
            "".join(
                f"(?P<{part}>{_SLOTS.get(part, '[A-Za-z]+')})" if i % 2 else re.escape(part)
                for i, part in enumerate(own)
            )
        )
        for own in parts
    )
