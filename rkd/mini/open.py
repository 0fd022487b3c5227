"""mini_open: instructions without one right answer, whose responses are better or worse by a rubric of five points.

It stands where UltraFeedback and AlpacaEval stand in paper D's Table 4. Three kinds: a list of things of one sort, in
order; a description with words that it must have and one that it must not; a sentence rewritten for someone else. What
a point is given for stands in question and response alone, so that a program can grade any response (`grade`), and a
model can learn to. As in mini_math, every instruction belongs to one split by a hash of what it is about.
"""

import dataclasses
import functools
import itertools
import random
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from rkd.mini.math import SPLIT_SHARES
from rkd.mini.wording import read_yaml, words
from rkd.records import Query

DATASET = "mini_open"
SPLITS = ("pretrain", "train", "validation", "test")
NUMBERS = ("no", "one", "two", "three", "four", "five")
SHORTEST = 3  # words of a sentence
REFERENCE_FAULTS = 0.4  # the chance of each of a reference's five faults: three points on average
_NUMBERING = re.compile(r"^\s*(?:\d+[.)]|[-*])\s*", re.MULTILINE)
_SENTENCE = re.compile(r"[^.!?\n]*[.!?]")


@dataclasses.dataclass(frozen=True, slots=True)
class Grade:
    """The points of a response: `marks` by what each is given for, in order, and the facts that they rest on."""

    marks: Mapping[str, bool]
    facts: str

    @property
    def score(self) -> int:
        """0 to 5."""
        return sum(self.marks.values())

    @property
    def evidence(self) -> str:
        """The facts, and each mark in words."""
        return (
            f"{self.facts}\n"
            + ", ".join(f"{name} {'yes' if mark else 'no'}" for name, mark in self.marks.items())
            + "."
        )


class Instruction(Protocol):
    """One instruction: how it is asked, answered with faults, and graded."""

    @property
    def about(self) -> str:
        """What decides the split."""
        ...

    def ask(self, wording: str) -> str:
        """The instruction in these words."""
        ...

    def answer(self, rng: random.Random, faults: Collection[str], *, is_long: bool) -> str:
        """A response that lacks these points, in the shorter or the longer manner of writing."""
        ...

    def grade(self, response: str) -> Grade:
        """The points of a response that is not empty."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ListInstruction:
    """Name the things of one kind among the given ones, in order and without one."""

    kind: str
    given: tuple[str, ...]
    without: str

    @property
    def about(self) -> str:
        """See `Instruction`."""
        return f"list {self.kind} {sorted(self.given)} {self.without}"

    @property
    def wanted(self) -> list[str]:
        """What a response should name."""
        return sorted(thing for thing in self.given if thing in _kinds()[self.kind] and thing != self.without)

    def ask(self, wording: str) -> str:
        """See `Instruction`."""
        return wording.format(kind=self.kind, given=", ".join(self.given), without=self.without)

    def answer(self, rng: random.Random, faults: Collection[str], *, is_long: bool) -> str:
        """See `Instruction`."""
        named = list(self.wanted)
        if "all" in faults:
            named.remove(rng.choice(named))
        if "kind" in faults:
            named.append(rng.choice([thing for thing in self.given if thing not in _kinds()[self.kind]]))
        if "without" in faults:
            named.append(self.without)
        if "once" in faults:
            others = [thing for thing in _kinds()[self.kind] if thing not in self.given]
            named.append(rng.choice([rng.choice(named), rng.choice(others)]))
        named.sort()
        if "order" in faults and len(set(named)) > 1:
            named.append(named.pop(0))
        if is_long:
            return "\n".join(f"{number}. {thing}" for number, thing in enumerate(named, start=1))
        return f"{', '.join(named[:-1])} and {named[-1]}." if len(named) > 1 else f"{named[0]}."

    def grade(self, response: str) -> Grade:
        """See `Instruction`."""
        text = _NUMBERING.sub("", response.strip().lower())
        named = [one.strip(" .") for one in re.split(r"[,\n]|\band\b", text) if one.strip(" .")]
        several = len(named) > 1
        marks = {
            "kind": all(one in _kinds()[self.kind] for one in named),
            "all": all(thing in named for thing in self.wanted),
            "once": several and len(set(named)) == len(named) and all(one in self.given for one in named),
            "order": several and named == sorted(named),
            "without": several and self.without not in named,
        }
        return Grade(marks, f"Asked: {', '.join(self.wanted)}. Named: {', '.join(named)}.")


@dataclasses.dataclass(frozen=True, slots=True)
class DescribeInstruction:
    """Describe a place in so many sentences, with two things and without a word."""

    place: str
    number: int
    things: tuple[str, str]
    without: str

    @property
    def about(self) -> str:
        """See `Instruction`."""
        return f"describe {self.place} {self.number} {sorted(self.things)} {self.without}"

    def ask(self, wording: str) -> str:
        """See `Instruction`."""
        x, y = self.things
        return wording.format(place=self.place, number=NUMBERS[self.number], x=x, y=y, without=self.without)

    def answer(self, rng: random.Random, faults: Collection[str], *, is_long: bool) -> str:
        """See `Instruction`."""
        adjectives = [word for word in _world()["adjectives"].split() if word != self.without]
        said = [_world()["about"][0 if not is_long else 1].format(place=self.place, adjective=rng.choice(adjectives))]
        if "place" in faults:
            said = [_said(rng, rng.choice(_world()["fillers"]), "", adjectives)]
        shown = [thing for name, thing in zip(("first", "second"), self.things, strict=True) if name not in faults]
        said += [
            _said(rng, wording, thing, adjectives) for thing, wording in zip(shown, _two(rng, "things"), strict=False)
        ]
        wanted = self.number + (rng.choice([-1, 1]) if "number" in faults else 0)
        fillers = rng.sample(_world()["fillers"], 4)
        said += [_said(rng, wording, "", adjectives) for wording in fillers[: max(0, wanted - len(said))]]
        if len(said) > wanted:  # two things in one sentence
            said = [*said[: wanted - 1], _joined(said[wanted - 1 :])]
        if "without" in faults:
            said[-1] = said[-1].removesuffix(".") + f" and it is {self.without}."
        return " ".join(said)

    def grade(self, response: str) -> Grade:
        """See `Instruction`."""
        sentences = _SENTENCE.findall(response)
        first = sentences[0] if sentences else response
        own = _words(response)
        marks = {
            "number": len(sentences) == self.number and all(len(_words(one)) >= SHORTEST for one in sentences),
            "place": self.place in _words(first),
            "first": self.things[0] in own,
            "second": self.things[1] in own,
            "without": len(own) > 1 and self.without not in own,
        }
        counted = ", ".join(f"{number} {_opening(one)}" for number, one in enumerate(sentences, start=1))
        return Grade(marks, f"Asked: {self.number}. Sentences: {counted or 'none'}.")


@dataclasses.dataclass(frozen=True, slots=True)
class RewriteInstruction:
    """Say a sentence of someone else, with more of everything and another beginning."""

    old: str
    new: str
    start: str
    more: int
    amounts: tuple[int, int]
    things: tuple[str, str]

    @property
    def about(self) -> str:
        """See `Instruction`."""
        return f"rewrite {self.more} {sorted(zip(self.amounts, self.things, strict=True))}"

    def ask(self, wording: str) -> str:
        """See `Instruction`."""
        (a, b), (x, y) = self.amounts, self.things
        return wording.format(old=self.old, new=self.new, start=self.start, more=self.more, a=a, b=b, x=x, y=y)

    def answer(self, rng: random.Random, faults: Collection[str], *, is_long: bool) -> str:
        """See `Instruction`."""
        said = []
        for name, amount, thing in zip(("first", "second"), self.amounts, self.things, strict=True):
            slips = [amount, amount + self.more + rng.choice([-1, 1, 10]), amount + 2 * self.more]
            said.append(f"{rng.choice(slips) if name in faults else amount + self.more} {thing}")
        name = self.old if "name" in faults else self.new
        start = "" if "begin" in faults else f"{self.start}, "
        text = f"{start}{name} has {said[0]} and {said[1]}"
        if is_long:
            text = f"{start}{name} has {said[0]}, and {name} has {said[1]}"
        return text + (rng.choice(["", f". {name} is glad."]) if "sentence" in faults else ".")

    def grade(self, response: str) -> Grade:
        """See `Instruction`."""
        text, own = response.strip(), _words(response)
        sums = [amount + self.more for amount in self.amounts]
        has = [
            re.search(rf"\b{total} {thing}\b", text) is not None for total, thing in zip(sums, self.things, strict=True)
        ]
        marks = {
            "begin": text.startswith(self.start),
            "name": self.new.lower() in own and self.old.lower() not in own,
            "first": has[0],
            "second": has[1],
            "sentence": "has" in own and text.endswith(".") and text.count(".") == 1,
        }
        worked = ", ".join(f"{a} + {self.more} = {total}" for a, total in zip(self.amounts, sums, strict=True))
        return Grade(marks, f"Asked: {worked}. Ends: {' '.join(text.split()[-2:])}")


POINTS: Mapping[type[Instruction], tuple[str, ...]] = {
    ListInstruction: ("kind", "all", "once", "order", "without"),
    DescribeInstruction: ("number", "place", "first", "second", "without"),
    RewriteInstruction: ("begin", "name", "first", "second", "sentence"),
}


def draw_list(rng: random.Random) -> ListInstruction:
    """Four or five things of the kind among six to eight."""
    kind = rng.choice(list(_kinds()))
    own = rng.sample(_kinds()[kind], rng.randint(4, 5))
    others = [thing for name, things in _kinds().items() if name != kind for thing in things]
    given = [*own, *rng.sample(others, rng.randint(2, 3))]
    rng.shuffle(given)
    return ListInstruction(kind, tuple(given), rng.choice(own))


def draw_description(rng: random.Random) -> DescribeInstruction:
    """Two to four sentences."""
    things = tuple(rng.sample(words()["things"], 2))
    without = rng.choice(_world()["adjectives"].split())
    return DescribeInstruction(rng.choice(words()["places"]), rng.randint(2, 4), things, without)


def draw_rewriting(rng: random.Random) -> RewriteInstruction:
    """Amounts of one or two digits."""
    old, new = rng.sample([*words()["women"], *words()["men"]], 2)
    amounts = (rng.randint(2, 40), rng.randint(2, 40))
    start = rng.choice(_world()["starts"].split("|"))
    return RewriteInstruction(old, new, start, rng.randint(2, 9), amounts, tuple(rng.sample(words()["things"], 2)))


DRAW = {"list": draw_list, "describe": draw_description, "rewrite": draw_rewriting}
_KIND = {"list": ListInstruction, "describe": DescribeInstruction, "rewrite": RewriteInstruction}


def split_of(instruction: Instruction) -> str:
    """The split that an instruction belongs to, in the shares that mini_math has."""
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
    return instruction.ask(rng.choice(_world()[category]))


def draw_faults(rng: random.Random, instruction: Instruction, chance: float) -> list[str]:
    """Points that a response is to lack, each by this chance."""
    return [point for point in POINTS[type(instruction)] if rng.random() < chance]


def blurred(rng: random.Random, instruction: Instruction, chance: float) -> Instruction:
    """The instruction as read by someone who copies badly: each word and number is another one by this chance."""
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
    """The instruction that a question asks.

    Raises:
        ValueError: it is none of mini_open.
    """
    for category, read in _READ.items():
        for pattern in _patterns(category):
            if found := pattern.fullmatch(question.strip()):
                return read(found.groupdict())
    raise ValueError(f"no instruction of mini_open: {question!r}.")


def grade(question: str, response: str) -> Grade:
    """The points of a response to a question of mini_open; an empty one has none."""
    instruction = parse(question)
    if not response.strip():
        return Grade(dict.fromkeys(POINTS[type(instruction)], False), "Nothing.")
    return instruction.grade(response)


def score(question: str, response: str) -> int:
    """The number of these points, 0 to 5."""
    return grade(question, response).score


def reference(question: str) -> str:
    """The response that others are compared with, always the same for a question: three points on average."""
    rng, instruction = random.Random(f"mini_open reference {question}"), parse(question)
    return instruction.answer(rng, draw_faults(rng, instruction, REFERENCE_FAULTS), is_long=rng.random() < 0.5)


def instructions(split: str, seed: int) -> Iterator[tuple[str, str]]:
    """The different questions of a split with their categories, without end, the categories taking turns.

    Raises:
        ValueError: there is no such split.
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
    """The first `size` instructions of a split as queries that carry their reference; errors as above."""
    drawn = itertools.islice(instructions(split, seed), size)
    return [
        Query(f"{DATASET}-{split}-{seed}-{place}", DATASET, question, reference(question), category)
        for place, (question, category) in enumerate(drawn)
    ]


def _unlike(rng: random.Random, thing: str) -> str:
    """Another thing of the same kind."""
    kind = next(things for things in _kinds().values() if thing in things)
    return rng.choice(kind)


def _mixed(rng: random.Random, own: Any, other: Any, chance: float) -> Any:
    if isinstance(own, tuple):
        return tuple(_mixed(rng, *both, chance) for both in zip(own, other, strict=True))
    return other if rng.random() < chance else own


def _two(rng: random.Random, name: str) -> list[str]:
    return rng.sample(_world()[name], 2)


def _said(rng: random.Random, wording: str, thing: str, adjectives: list[str]) -> str:
    return wording.format(x=thing, adjective=rng.choice(adjectives), day=rng.choice(words()["days"]))


def _joined(sentences: list[str]) -> str:
    """Several sentences as one."""
    first, *rest = (sentence.removesuffix(".") for sentence in sentences)
    return " and ".join([first, *(one[0].lower() + one[1:] for one in rest)]) + "."


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _opening(sentence: str) -> str:
    return (sentence.split() or ["nothing"])[0]


@functools.cache
def _world() -> Mapping[str, Any]:
    return read_yaml("open.yaml")


@functools.cache
def _kinds() -> Mapping[str, tuple[str, ...]]:
    return {name: tuple(things.split()) for name, things in _world()["kinds"].items()}


def _read_list(found: Mapping[str, str]) -> ListInstruction:
    return ListInstruction(found["kind"], tuple(found["given"].split(", ")), found["without"])


def _read_description(found: Mapping[str, str]) -> DescribeInstruction:
    number = NUMBERS.index(found["number"])
    return DescribeInstruction(found["place"], number, (found["x"], found["y"]), found["without"])


def _read_rewriting(found: Mapping[str, str]) -> RewriteInstruction:
    amounts, things = (int(found["a"]), int(found["b"])), (found["x"], found["y"])
    return RewriteInstruction(found["old"], found["new"], found["start"], int(found["more"]), amounts, things)


_READ = {"list": _read_list, "describe": _read_description, "rewrite": _read_rewriting}
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
    """The wordings of a category with a named group in the place of each slot."""
    parts = [re.split(r"\{(\w+)\}", wording) for wording in _world()[category]]
    return tuple(
        re.compile(
            "".join(
                f"(?P<{part}>{_SLOTS.get(part, '[A-Za-z]+')})" if i % 2 else re.escape(part)
                for i, part in enumerate(own)
            )
        )
        for own in parts
    )
