"""mini_choice: questions with three to ten lettered options, in eight categories from looking up to multiplying.

It takes the place of MMLU-Pro in the papers' tables. A category draws a `Puzzle`, whose options are then lettered. As
in mini_math, a hash of a puzzle's content (not of names, wording or options) puts it into exactly one split. So no
problem of one split can be drawn in another one, or in the text of pretraining. Wrong options come from usual mistakes.

A letter follows its option, as in "30 A", and a response ends with the same words: models of a million weights can copy
what comes next, but hardly learn to look back. For the same reason no two numbers among the options end in the same
digit. Products are the exception, since there the last digit would show the right option.
"""

import dataclasses
import functools
import itertools
import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rkd.mini.math import SPLIT_SHARES, attempt_story, draw_style, families, tell, write_response
from rkd.mini.mistakes import MISTAKES, as_number
from rkd.mini.wording import read_yaml, words
from rkd.records import Query

LETTERS = "ABCDEFGHIJ"  # the same as in rkd.data.answers
SPLITS = ("pretrain", "train", "validation", "test")
PLACES = ("", "second ", "third ")
HOURS = 12
_STEP = re.compile(r"^Step \d+: (.+)\.$", re.MULTILINE)
_NUMBER = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True, slots=True)
class Puzzle:
    """A question before its options are lettered.

    Args:
        about: the content that decides the split.
        steps: the steps to the right option, without the last step of a response, which names the letter.
        others: the wrong options.
    """

    about: str
    text: str
    steps: tuple[str, ...]
    right: str
    others: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ChoiceProblem:
    """A question with its options as a model reads it, the letter of the right option, and a right response."""

    id: str
    category: str
    question: str
    options: tuple[str, ...]
    letter: str
    response: str


def facts(rng: random.Random) -> Puzzle:
    """Two or three people (shops, rooms) have numbers of two things; the question asks for one of these numbers."""
    wording = rng.choice(_wordings()["facts"])
    holders = [name.replace("-", " ") for name in rng.sample(words()[wording["of"]], rng.choice([2, 3]))]
    x, y = rng.sample(words()["things"], 2)
    numbers = _unlike(rng, range(2, 100), 2 * len(holders))
    rows = [
        wording["tells"].format(name=holder, x=x, y=y, a=a, b=b)
        for holder, a, b in zip(holders, numbers[::2], numbers[1::2], strict=True)
    ]
    row, column = rng.randrange(len(holders)), rng.randrange(2)
    asked = wording["asks"].format(name=holders[row], x=(x, y)[column])
    right = numbers[2 * row + column]
    others = _others(rng, right, numbers, rng.randint(len(numbers) - 1, 7))
    about = f"facts {numbers} {row} {column}"
    return Puzzle(about, " ".join([*rows, asked]), (rows[row].rstrip("."),), str(right), others)


def sequences(rng: random.Random) -> Puzzle:
    """The next number of a sequence with a constant difference or factor, or with a growing difference."""
    kind, shown = rng.choices(["up", "down", "times", "growing"], (4, 3, 1, 2))[0], rng.randint(3, 5)
    step = rng.randint(2, 15)
    match kind:
        case "up":
            first = rng.randint(1, 60)
            terms = [first + step * place for place in range(shown + 1)]
        case "down":
            last = rng.randint(1, 60)
            terms = [last + step * place for place in range(shown, -1, -1)]
        case "times":
            shown, step = min(shown, 4), rng.choice([2, 2, 3])
            first = rng.randint(2, 12)
            terms = [first * step**place for place in range(shown + 1)]
        case _:
            shown, first, step = max(shown, 4), rng.randint(1, 40), rng.randint(1, 9)
            terms = [first + sum(range(step, step + place)) for place in range(shown + 1)]
    *told, right = terms
    growth = [str(later - earlier) for earlier, later in itertools.pairwise(told)]
    steps = {
        "up": (f"{told[1]} - {told[0]} = {step}", f"{told[-1]} + {step} = {right}"),
        "down": (f"{told[0]} - {told[1]} = {step}", f"{told[-1]} - {step} = {right}"),
        "times": (f"{told[1]} ÷ {told[0]} = {step}", f"{told[-1]} × {step} = {right}"),
        "growing": (f"The differences are {', '.join(growth)}", f"{told[-1]} + {right - told[-1]} = {right}"),
    }[kind]
    likely = [told[-1] + step, told[-1] + 1, right + step, 2 * told[-1], right + 1, right - 1, told[-1] - told[0]]
    text = rng.choice(_wordings()["sequences"]).format(list=", ".join(map(str, told)))
    return Puzzle(f"sequences {told}", text, steps, str(right), _others(rng, right, likely, rng.randint(4, 7)))


def units(rng: random.Random) -> Puzzle:
    """A conversion of units, with or without a remainder; the conversion factor must be known."""
    small, large, factor = rng.choice(_wordings()["units"])
    count = rng.randint(2, 9 if factor >= 100 else 12)
    rest = rng.randint(1, factor - 1) if rng.random() < 0.5 else 0
    whole = count * factor
    wrong_factor = rng.choice([other for *_, other in _wordings()["units"] if other != factor])
    if not rest and rng.random() < 0.4:
        text, right = f"How many {large} are {whole} {small}?", count
        steps: tuple[str, ...] = (f"{whole} ÷ {factor} = {count}",)
        likely = [whole // wrong_factor, count + 1, count - 1, whole // 10, count + 2, 2 * count]
    else:
        right = whole + rest
        text = f"How many {small} are {count} {large}{f' and {rest} {small}' if rest else ''}?"
        steps = (f"{count} × {factor} = {whole}", *([f"{whole} + {rest} = {right}"] if rest else []))
        likely = [count * wrong_factor + rest, whole + 10 * count, whole, count + rest, right + 10, right - factor]
    about = f"units {small} {count} {rest} {right == count}"
    return Puzzle(about, text, steps, str(right), _others(rng, right, likely, rng.randint(3, 7)))


def remainders(rng: random.Random) -> Puzzle:
    """The remainder of a division, the time on a clock after many hours, or the weekday after many days."""
    kind = rng.choice(["division", "division", "clock", "days"])
    before: tuple[str, ...]
    match kind:
        case "division":
            divisor = rng.randint(4, 12)
            left = rng.randint(2 * divisor, 12 * divisor - 1)
            text, before = f"What is left over when {left} is divided by {divisor}?", ()
        case "clock":
            shown, later, divisor = rng.randint(1, HOURS), rng.randint(HOURS, 60), HOURS
            left = shown + later
            text = f"A clock shows {shown}. What does it show {later} hours later?"
            before = (f"{shown} + {later} = {left}",)
        case _:
            return _days(rng)
    taken = left // divisor * divisor
    if kind == "clock" and left == taken:
        taken -= divisor  # a clock shows 12, not 0
    right = left - taken
    steps: tuple[str, ...] = (*before, f"{left} - {taken} = {right}")
    if kind == "division":
        steps = (f"{left // divisor} × {divisor} = {taken}", *steps)
    possible = range(divisor) if kind == "division" else range(1, divisor + 1)
    others = _others(rng, right, rng.sample(possible, len(possible)), rng.randint(3, min(divisor - 1, 8)))
    return Puzzle(f"remainders {text}", text, steps, str(right), others)


def _days(rng: random.Random) -> Puzzle:
    days = words()["days"]
    today, later = rng.randrange(len(days)), rng.randint(8, 60)
    rest = later % len(days)
    counted = [days[(today + place) % len(days)] for place in range(rest + 1)]
    text = f"Today is {days[today]}. Which day is it in {later} days?"
    steps = (f"{later} - {later - rest} = {rest}", ", ".join(counted))
    others = tuple(day for day in days if day != counted[-1])
    return Puzzle(f"remainders {text}", text, steps, counted[-1], others)


def ordering(rng: random.Random) -> Puzzle:
    """The largest, second or third largest of some numbers, or the same from the smallest."""
    low, high = rng.choice([(1, 30), (10, 99), (10, 99), (100, 999)])
    numbers = _unlike(rng, range(low, high + 1), rng.randint(4, 8))
    place, pole = rng.choices(range(len(PLACES)), (3, 2, 1))[0], rng.choice(["largest", "smallest"])
    ranked = sorted(numbers, reverse=pole == "largest")
    text = f"Which of these numbers is the {PLACES[place]}{pole}?"
    steps = (f"From the {pole}: {', '.join(map(str, ranked[: place + 1]))}",)
    right = str(ranked[place])
    others = tuple(str(number) for number in numbers if str(number) != right)
    return Puzzle(f"ordering {sorted(numbers)} {place} {pole}", text, steps, right, others)


def chains(rng: random.Random) -> Puzzle:
    """Three to five people in a ranking, with all neighbours compared in any order: who is first or second?"""
    poles = rng.choice(_wordings()["chains"])
    names = rng.sample([*words()["women"], *words()["men"]], rng.choice([3, 4, 4, 5]))
    told = list(range(len(names) - 1))
    rng.shuffle(told)
    flipped = [rng.random() < 0.5 for _ in told]
    compared = [
        f"{names[i + 1]} is {poles[1]} than {names[i]}." if flip else f"{names[i]} is {poles[0]} than {names[i + 1]}."
        for i, flip in zip(told, flipped, strict=True)
    ]
    pole, place = rng.randrange(2), rng.choice([0, 0, 1])
    ranked = names if pole == 0 else names[::-1]
    text = " ".join([*compared, f"Who is the {PLACES[place]}{poles[2 + pole]}?"])
    steps = (f"From the {poles[2 + pole]}: {', '.join(ranked[: place + 1])}",)
    about = f"chains {poles[0]} {told} {flipped} {pole} {place}"
    return Puzzle(about, text, steps, ranked[place], tuple(name for name in names if name != ranked[place]))


def word_problems(rng: random.Random) -> Puzzle:
    """A story of mini_math with two or three operations, in the same split as there."""
    story = None
    while story is None:
        story = attempt_story(rng, _story_families(), 2, 3)
    problem = tell(story, "")
    numbers = [as_number(number) for number in _NUMBER.findall(problem.question)]
    slips = [rng.choice(MISTAKES)(rng, problem.operations, numbers) for _ in range(20)]
    results = [slip[-1].result for slip in slips if slip]
    likely = [int(result) for result in results if result.denominator == 1]
    text = write_response(problem.operations, draw_style(rng, story.family))
    right = int(problem.operations[-1].result)
    others = _others(rng, right, likely, rng.randint(5, 9))
    return Puzzle(story.signature, problem.question, tuple(_STEP.findall(text)), str(right), others)


def products(rng: random.Random) -> Puzzle:
    """A product of two two-digit numbers in one step; wrong options have the same last digit and a similar size."""
    small, large = sorted(rng.choice([n for n in range(12, 100) if n % 10]) for _ in range(2))
    left, right = rng.choice([(small, large), (large, small)])
    product = left * right
    near = (product + 10 * rng.choice([-1, 1]) * rng.randint(1, 30) for _ in itertools.count())
    wrong = dict.fromkeys(number for number in itertools.islice(near, 20) if number > 0)
    others = tuple(map(str, list(wrong)[: rng.randint(4, 7)]))
    steps = (f"{left} × {right} = {product}",)
    return Puzzle(f"products {small} {large}", f"What is {left} × {right}?", steps, str(product), others)


CATEGORIES: dict[str, Callable[[random.Random], Puzzle]] = {
    "facts": facts,
    "sequences": sequences,
    "units": units,
    "remainders": remainders,
    "ordering": ordering,
    "chains": chains,
    "word_problems": word_problems,
    "products": products,
}


def split_of(puzzle: Puzzle) -> str:
    """The split of a puzzle, with the same shares as in mini_math."""
    residue = zlib.crc32(puzzle.about.encode()) % 10
    return next(split for split in SPLITS if residue in SPLIT_SHARES[split])


def draw_problem(rng: random.Random, split: str, category: str, problem_id: str = "") -> ChoiceProblem:
    """A problem of the split and category."""
    puzzle = CATEGORIES[category](rng)
    while split_of(puzzle) != split:
        puzzle = CATEGORIES[category](rng)
    options = rng.sample([puzzle.right, *puzzle.others], 1 + len(puzzle.others))
    letter = LETTERS[options.index(puzzle.right)]
    steps = [*puzzle.steps, f"{puzzle.right} {letter}"]
    lines = [f"Step {number}: {step}." for number, step in enumerate(steps, start=1)]
    response = "\n".join([*lines, f"The answer is {letter}."])
    return ChoiceProblem(problem_id, category, with_options(puzzle.text, options), tuple(options), letter, response)


def with_options(question: str, options: Sequence[str]) -> str:
    """The question, followed on a separate line by the options, each with its letter after it."""
    return f"{question}\nOptions: {', '.join(lettered(options))}."


def lettered(options: Sequence[str]) -> list[str]:
    """Each option with its letter after it."""
    return [f"{option} {letter}" for letter, option in zip(LETTERS, options, strict=False)]


def problems(split: str, seed: int) -> Iterator[ChoiceProblem]:
    """An endless stream of the distinct problems of a split; the categories take turns.

    Raises:
        ValueError: the split does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"mini_choice has no split {split!r}; it has {', '.join(SPLITS)}.")
    rng = random.Random(f"mini_choice {split} {seed}")
    asked: set[str] = set()
    for place, category in enumerate(itertools.cycle(CATEGORIES)):
        while True:
            problem = draw_problem(rng, split, category, f"mini_choice-{split}-{seed}-{place}")
            if problem.question not in asked:
                break
        asked.add(problem.question)
        yield problem


def queries(split: str, size: int, seed: int) -> list[Query]:
    """The first `size` problems of a split as queries with their gold letter; errors as in `problems`."""
    drawn = itertools.islice(problems(split, seed), size)
    return [Query(p.id, "mini_choice", p.question, p.letter, p.category) for p in drawn]


def _unlike(rng: random.Random, numbers: range, count: int) -> list[int]:
    """`count` of the numbers, no two with the same last digit."""
    return [rng.choice(numbers[digit::10]) for digit in rng.sample(range(10), count)]


@functools.cache
def _wordings() -> Mapping[str, Any]:
    wordings: Mapping[str, Any] = read_yaml("choice.yaml")
    return wordings


@functools.cache
def _story_families() -> tuple[str, ...]:
    return tuple(name for name, family in families().items() if not family.get("unseen", False))


def _others(rng: random.Random, right: int, likely: Iterable[int], count: int) -> tuple[str, ...]:
    """`count` wrong numbers with different last digits: likely ones, and if these are too few, numbers nearby."""
    nearby = (right + rng.randint(-20, 20) for _ in itertools.count())
    by_last_digit = {right % 10: right}
    for number in itertools.chain(likely, nearby):
        if len(by_last_digit) > count:
            break
        if number >= 0:
            by_last_digit.setdefault(number % 10, number)
    return tuple(str(number) for number in by_last_digit.values() if number != right)
