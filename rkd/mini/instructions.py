"""The three kinds of instructions in mini_open: how each is asked, answered with faults, and graded with evidence.

The evidence of a grade suits a small model: it repeats a part of the response, followed directly by the demand and its
mark. Such a model checks most easily whether a word has just occurred.
"""

import dataclasses
import functools
import random
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, Protocol

from rkd.mini.wording import read_yaml, words

NUMBERS = ("no", "one", "two", "three", "four", "five")
SHORTEST = 3  # words in a sentence
_NUMBERING = re.compile(r"^\s*(?:\d+[.)]|[-*])\s*", re.MULTILINE)
_SENTENCE = re.compile(r"[^.!?\n]*[.!?]")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A part of a response, and the points that it decides, each with the words that the instruction demands."""

    told: str
    marks: Mapping[str, bool]
    asked: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        marked = (f"{self.asked[name]} {name}" if name in self.asked else name for name in self.marks)
        said = (f"{name} {'yes' if mark else 'no'}" for name, mark in zip(marked, self.marks.values(), strict=True))
        return f"{self.told}; {', '.join(said)}."


@dataclasses.dataclass(frozen=True, slots=True)
class Grade:
    """The points of a response, from the findings in it."""

    findings: tuple[Finding, ...]

    @property
    def marks(self) -> dict[str, bool]:
        """Whether each point is given, by the point's name."""
        return {name: mark for finding in self.findings for name, mark in finding.marks.items()}

    @property
    def score(self) -> int:
        """The score, 0 to 5."""
        return sum(self.marks.values())

    @property
    def evidence(self) -> str:
        """The findings, one per line."""
        return "\n".join(map(str, self.findings))


class Instruction(Protocol):
    """One instruction, a dataclass: how it is asked, answered with faults, and graded."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def about(self) -> str:
        """The content that decides the split."""
        ...

    def ask(self, wording: str) -> str:
        """The instruction in this wording."""
        ...

    def answer(self, rng: random.Random, faults: Collection[str], *, is_long: bool) -> str:
        """A response that misses these points, in the short or the long style."""
        ...

    def grade(self, response: str) -> Grade:
        """The points of a non-empty response."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ListInstruction:
    """The instruction to name the things of one kind among given ones, in order and without one of them."""

    kind: str
    given: tuple[str, ...]
    without: str

    @property
    def about(self) -> str:
        """See `Instruction`."""
        return f"list {self.kind} {sorted(self.given)} {self.without}"

    @property
    def wanted(self) -> list[str]:
        """The things that a response should name."""
        return sorted(thing for thing in self.given if thing in kinds_of_things()[self.kind] and thing != self.without)

    def ask(self, wording: str) -> str:
        """See `Instruction`."""
        return wording.format(kind=self.kind, given=", ".join(self.given), without=self.without)

    def answer(self, rng: random.Random, faults: Collection[str], *, is_long: bool) -> str:
        """See `Instruction`."""
        named = list(self.wanted)
        if "all" in faults:
            named.remove(rng.choice(named))
        if "kind" in faults:
            named.append(rng.choice([thing for thing in self.given if thing not in kinds_of_things()[self.kind]]))
        if "without" in faults:
            named.append(self.without)
        if "once" in faults:
            others = [thing for thing in kinds_of_things()[self.kind] if thing not in self.given]
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
        faults = [set(self._faults(named, place)) for place in range(len(named))]
        several = len(named) > 1

        def lacks(*kinds: str) -> bool:
            return not any(own & set(kinds) for own in faults)

        wanted = ", ".join(f"{thing} {'named' if thing in named else 'missing'}" for thing in self.wanted)
        said = ", ".join(f"{one} {' '.join(self._faults(named, at)) or 'good'}" for at, one in enumerate(named))
        return Grade(
            (
                Finding(f"Wanted {wanted}", {"all": all(thing in named for thing in self.wanted)}),
                Finding(
                    f"Named {said or 'nothing'}{'' if several else ' alone'}",
                    {
                        "kind": lacks("other"),
                        "once": several and lacks("new", "again"),
                        "order": several and lacks("down"),
                        "without": several and lacks("without"),
                    },
                ),
            )
        )

    def _faults(self, named: list[str], place: int) -> Iterator[str]:
        """The faults of the thing at this place."""
        thing, before = named[place], named[:place]
        if thing not in kinds_of_things()[self.kind]:
            yield "other"
        if thing == self.without:
            yield "without"
        if thing in before:
            yield "again"
        if thing not in self.given:
            yield "new"
        if before and thing < before[-1]:
            yield "down"


@dataclasses.dataclass(frozen=True, slots=True)
class DescribeInstruction:
    """The instruction to describe a place in a number of sentences, with two things and without one word."""

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
        adjectives = [word for word in open_world()["adjectives"].split() if word != self.without]
        said = [
            open_world()["about"][0 if not is_long else 1].format(place=self.place, adjective=rng.choice(adjectives))
        ]
        if "place" in faults:
            said = [_said(rng, rng.choice(open_world()["fillers"]), "", adjectives)]
        shown = [thing for name, thing in zip(("first", "second"), self.things, strict=True) if name not in faults]
        said += [
            _said(rng, wording, thing, adjectives) for thing, wording in zip(shown, _two(rng, "things"), strict=False)
        ]
        wanted = self.number + (rng.choice([-1, 1]) if "number" in faults else 0)
        fillers = rng.sample(open_world()["fillers"], 4)
        said += [_said(rng, wording, "", adjectives) for wording in fillers[: max(0, wanted - len(said))]]
        if len(said) > wanted:  # two things in one sentence
            said = [*said[: wanted - 1], _joined(said[wanted - 1 :])]
        if "without" in faults:
            said[-1] = said[-1].removesuffix(".") + f" and it is {self.without}."
        return " ".join(said)

    def grade(self, response: str) -> Grade:
        """See `Instruction`."""
        sentences = _SENTENCE.findall(response)
        own, first = _words(response), _words(sentences[0] if sentences else response)
        is_short = [len(_words(one)) < SHORTEST for one in sentences]
        counted = [
            f"{number} {_opening(one)}{' short' if short else ''}"
            for number, (one, short) in enumerate(zip(sentences, is_short, strict=True), start=1)
        ]
        x, y = self.things
        adjectives = open_world()["adjectives"].split()
        return Grade(
            (
                Finding(
                    f"Wrote {', '.join(counted) or 'none'}",
                    {"number": len(sentences) == self.number and not any(is_short)},
                    {"number": NUMBERS[self.number]},
                ),
                Finding(
                    f"Told {_among(words()['places'], first)}", {"place": self.place in first}, {"place": self.place}
                ),
                Finding(
                    f"Told {_among(words()['things'], own)}",
                    {"first": x in own, "second": y in own},
                    {"first": x, "second": y},
                ),
                Finding(
                    f"Told {_among(adjectives, own)}",
                    {"without": len(own) > 1 and self.without not in own},
                    {"without": self.without},
                ),
            )
        )


@dataclasses.dataclass(frozen=True, slots=True)
class RewriteInstruction:
    """The instruction to rewrite a sentence for another person, with larger numbers and another beginning."""

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
        opening = " ".join(text.split()[: len(self.start.split())]).rstrip(",")
        names = [one for one in re.findall(r"[A-Z][a-z]+", text) if one not in _opening_words()]
        says_new, says_old = (name.lower() in own for name in (self.new, self.old))
        verb = "has" if "has" in own else "no has"
        return Grade(
            (
                Finding(f"Told {opening}", {"begin": text.startswith(self.start)}, {"begin": self.start}),
                Finding(
                    f"Told {' '.join(dict.fromkeys(names)) or 'none'}",
                    {"name": says_new and not says_old},
                    {"name": f"{self.new} {_in_or_out(says_new)}, {self.old} {_in_or_out(says_old)},"},
                ),
                *(
                    self._counted(point, amount, thing, text)
                    for point, amount, thing in zip(("first", "second"), self.amounts, self.things, strict=True)
                ),
                Finding(
                    f"{verb}, {text.count('.')} stops, ends {text.split()[-1]}",
                    {"sentence": "has" in own and text.endswith(".") and text.count(".") == 1},
                ),
            )
        )

    def _counted(self, point: str, amount: int, thing: str, text: str) -> Finding:
        total = amount + self.more
        told = re.findall(rf"\b(\d+) {thing}\b", text)
        return Finding(
            f"Told {thing} {' '.join(told) or 'none'}",
            {point: str(total) in told},
            {point: f"{amount} + {self.more} = {total}"},
        )


POINTS: Mapping[type[Instruction], tuple[str, ...]] = {
    ListInstruction: ("kind", "all", "once", "order", "without"),
    DescribeInstruction: ("number", "place", "first", "second", "without"),
    RewriteInstruction: ("begin", "name", "first", "second", "sentence"),
}


def _two(rng: random.Random, name: str) -> list[str]:
    return rng.sample(open_world()[name], 2)


def _said(rng: random.Random, wording: str, thing: str, adjectives: list[str]) -> str:
    return wording.format(x=thing, adjective=rng.choice(adjectives), day=rng.choice(words()["days"]))


def _joined(sentences: list[str]) -> str:
    """Several sentences joined into one."""
    first, *rest = (sentence.removesuffix(".") for sentence in sentences)
    return " and ".join([first, *(one[0].lower() + one[1:] for one in rest)]) + "."


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _opening(sentence: str) -> str:
    return (sentence.split() or ["nothing"])[0]


@functools.cache
def open_world() -> Mapping[str, Any]:
    world: Mapping[str, Any] = read_yaml("open.yaml")
    return world


@functools.cache
def kinds_of_things() -> Mapping[str, tuple[str, ...]]:
    return {name: tuple(things.split()) for name, things in open_world()["kinds"].items()}


@functools.cache
def _opening_words() -> frozenset[str]:
    """The words in demanded beginnings, which are not names."""
    return frozenset(open_world()["starts"].replace("|", " ").split())


def _among(known: Collection[str], own: list[str]) -> str:
    """The words of `own` that are among the known ones, each once, in order."""
    return " ".join(dict.fromkeys(word for word in own if word in known)) or "none"


def _in_or_out(is_in: bool) -> str:
    return "in" if is_in else "out"
