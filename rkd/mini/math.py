"""mini_math: grade-school word problems, drawn from a seed and solved in 2 to 5 steps over + - × ÷.

A `Story` is a plan: one opening, some events, one question and their numbers, with sentences from families.yaml.
Telling it gives a `MathProblem`: the text, its operations and its answer. A hash of a plan's structure and numbers (not
names) puts it into exactly one split. So no problem of one split can be drawn in another one, or in the text of
pretraining.

Solutions have three styles, and each family prefers one: `joined` puts a product into the step that uses it, `steps`
writes one operation per step, `worked` also writes partial results of carries and long products. A large model can skip
calculations that a small one has to write down, so different students need different styles.
"""

import dataclasses
import functools
import itertools
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from rkd.mini.wording import draw_people, read_yaml
from rkd.records import Query

# Whole numbers stay `int`: with `Fraction` for all, drawing text would take longer than training on it.
Number = int | Fraction

STYLES = ("joined", "steps", "worked")
SPLIT_SHARES = {
    "pretrain": range(5),
    "train": range(5, 8),
    "validation": range(8, 9),
    "test": range(9, 10),
    "unseen": range(10),
}
LARGEST_VALUE = 200

DISTRACTORS = (
    "{friend} is {a} years old.",
    "It is {a} degrees outside.",
    "{friend} lives in house number {a}.",
    "The walk home takes {a} minutes.",
    "{friend} has {a} cousins.",
    "This takes {a} minutes.",
)
UNSEEN_DISTRACTORS = ("A clock on the wall strikes {a}.", "{friend} owns {a} hats.")

# The operations by which each kind changes the running value v, in terms of v and the sentence's numbers a and b.
# An operand "last" is the result of the previous operation.
CHANGES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "given": (),
    "sum": (("+", "a", "b"),),
    "product": (("×", "a", "b"),),
    "more": (("+", "a", "b"),),
    "fewer": (("-", "a", "b"),),
    "times": (("×", "a", "b"),),
    "gain": (("+", "v", "a"),),
    "loss": (("-", "v", "a"),),
    "gain_product": (("×", "a", "b"), ("+", "v", "last")),
    "loss_product": (("×", "a", "b"), ("-", "v", "last")),
    "multiply": (("×", "v", "a"),),
    "total": (),
    "share": (("÷", "v", "a"),),
    "packs": (("÷", "v", "a"),),
    "sell": (("×", "v", "a"),),
    "excess": (("-", "v", "a"),),
    "lacks": (("-", "a", "v"),),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """left ∘ right = result; `left_from` and `right_from` are the indices of the operations that made the operands."""

    symbol: str
    left: Number
    right: Number
    result: Number
    left_from: int | None = None
    right_from: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a story: its effect on the running value, its wording and its numbers."""

    kind: str
    wording: str
    numbers: tuple[Number, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Story:
    """The plan of a problem.

    `slots` are the words for its wordings, including people and items. `distractor` is a sentence without effect, told
    before the sentence at `distractor_place`.
    """

    family: str
    slots: Mapping[str, str]
    sentences: tuple[Sentence, ...]
    distractor: Sentence | None = None
    distractor_place: int = 0

    @property
    def signature(self) -> str:
        """Structure and numbers, without names; this text decides the split."""
        return self.family + "|" + "|".join(f"{s.kind} {' '.join(map(str, s.numbers))}" for s in self.sentences)

    def text_of(self, sentence: Sentence) -> str:
        """The text of a sentence with the story's words and the sentence's numbers."""
        return sentence.wording.format(**self.slots, **dict(zip("ab", map(written, sentence.numbers), strict=False)))


@dataclasses.dataclass(frozen=True, slots=True)
class MathProblem:
    """A told story. `operations` solve it in order; the last result is the answer."""

    id: str
    family: str
    question: str
    operations: tuple[Operation, ...]
    answer: str | None
    category: str


@functools.cache
def families() -> dict[str, dict[str, Any]]:
    """The story families by name, as families.yaml describes them."""
    named: dict[str, dict[str, Any]] = read_yaml("families.yaml")
    return named


def written(number: Number) -> str:
    """The text of a number in problems: whole or decimal."""
    return str(number.numerator) if number.denominator == 1 else f"{float(number):g}"


def split_of(story: Story) -> int:
    """The residue class, 0 to 9, that decides the split of a plan."""
    return zlib.crc32(story.signature.encode()) % 10


def draw_story(
    rng: random.Random, split: str, min_steps: int = 2, max_steps: int = 5, distractor_share: float = 0.25
) -> Story:
    """Draw a plan of the split whose solution has `min_steps` to `max_steps` operations."""
    unseen = split == "unseen"
    names = [name for name, family in families().items() if family.get("unseen", False) == unseen]
    distractors = UNSEEN_DISTRACTORS if unseen else DISTRACTORS
    while True:
        story = attempt_story(rng, names, min_steps, max_steps)
        if story is not None and split_of(story) in SPLIT_SHARES[split]:
            return with_distractor(rng, story, distractors) if rng.random() < distractor_share else story


def tell(story: Story, problem_id: str, category: str | None = None) -> MathProblem:
    """The text of a story, its operations and its answer; `category` is the number of steps unless given."""
    told = [story.text_of(sentence) for sentence in story.sentences]
    if story.distractor is not None:
        told.insert(story.distractor_place, story.text_of(story.distractor))
    operations = solve(story.sentences)
    answer = written(operations[-1].result)
    return MathProblem(
        problem_id, story.family, " ".join(told), operations, answer, category or f"{len(operations)}_steps"
    )


def solve(sentences: tuple[Sentence, ...]) -> tuple[Operation, ...]:
    """The operations that the sentences require, in the order of the sentences."""
    operations: list[Operation] = []
    value = sentences[0].numbers[0]
    made_by: int | None = None
    for sentence in sentences:
        for symbol, left, right in CHANGES[sentence.kind]:
            operands: dict[str, tuple[Number, int | None]] = {
                name: (number, None) for name, number in zip("ab", sentence.numbers, strict=False)
            }
            operands["v"] = (value, made_by)
            if operations:
                operands["last"] = (operations[-1].result, len(operations) - 1)
            (left_value, left_from), (right_value, right_from) = operands[left], operands[right]
            result = apply(symbol, left_value, right_value)
            operations.append(Operation(symbol, left_value, right_value, result, left_from, right_from))
        if CHANGES[sentence.kind]:
            value, made_by = operations[-1].result, len(operations) - 1
    return tuple(operations)


def write_response(operations: tuple[Operation, ...], style: str) -> str:
    """A solution text in one of `STYLES`: numbered steps, then "The answer is N."."""
    if style == "joined":
        lines = _joined_lines(operations)
    else:
        lines = [f"{_infix(o)} = {_worked(o) if style == 'worked' else ''}{written(o.result)}" for o in operations]
    steps = [f"Step {number}: {line}." for number, line in enumerate(lines, start=1)]
    return "\n".join([*steps, f"The answer is {written(operations[-1].result)}."])


def draw_style(rng: random.Random, family: str) -> str:
    """Draw a style by the preference of this family."""
    weights = families()[family]["writes"]
    return rng.choices(STYLES, [weights[style] for style in STYLES])[0]


def stories(split: str, seed: int) -> Iterator[Story]:
    """An endless stream of plans of distinct problems of a split (pretrain, train, validation, test, unseen).

    Raises:
        ValueError: the split does not exist.
    """
    if split not in SPLIT_SHARES:
        raise ValueError(f"mini_math has no split {split!r}; it has {', '.join(SPLIT_SHARES)}.")
    rng = random.Random(f"mini_math {split} {seed}")
    told: set[str] = set()
    while True:
        story = draw_story(rng, split)
        question = tell(story, "").question
        if question not in told:
            told.add(question)
            yield story


def generate_split(split: str, size: int, seed: int) -> list[MathProblem]:
    """The first `size` problems of a split; errors as in `stories`."""
    first = itertools.islice(stories(split, seed), size)
    return [tell(story, f"mini_math-{split}-{seed}-{place}") for place, story in enumerate(first)]


def queries(split: str, size: int, seed: int) -> list[Query]:
    """`generate_split` as queries with their gold answer; `rkd.data.datasets` removes it where it must not be seen."""
    return [Query(p.id, "mini_math", p.question, p.answer, p.category) for p in generate_split(split, size, seed)]


def attempt_story(rng: random.Random, names: Sequence[str], min_steps: int, max_steps: int) -> Story | None:
    """One attempt at a plan of one of these families, of any split; None if no suitable numbers are drawn."""
    steps = rng.randint(min_steps, max_steps)
    name = rng.choice(names)
    slots = draw_people(rng) | {"items": rng.choice(families()[name]["items"])}
    return try_story(rng, name, families()[name], slots, steps)


def try_story(
    rng: random.Random, name: str, family: Mapping[str, Any], slots: Mapping[str, str], steps: int
) -> Story | None:
    """One attempt at a plan of a family with exactly `steps` operations; None if no suitable numbers are drawn."""
    question_kind = rng.choice(list(family["question"]))
    opening_kind = rng.choice(list(family["opening"]))
    left = steps - len(CHANGES[question_kind]) - len(CHANGES[opening_kind])
    event_kinds: list[str] = []
    while left > 0:
        kind = rng.choice([kind for kind in family["events"] if len(CHANGES[kind]) <= left])
        event_kinds.append(kind)
        left -= len(CHANGES[kind])
    if left < 0:
        return None
    sentences: list[Sentence] = []
    for part, kind in [("opening", opening_kind), *(("events", k) for k in event_kinds), ("question", question_kind)]:
        numbers = draw_numbers(rng, kind, value_after(sentences))
        if numbers is None:
            return None
        sentences.append(Sentence(kind, rng.choice(family[part][kind]), numbers))
    if all("{friend}" in wording for wording in (sentences[0].wording, sentences[-1].wording)):
        return None  # the friend's amount would be told twice
    return Story(name, slots, tuple(sentences))


def with_distractor(rng: random.Random, story: Story, wordings: Sequence[str]) -> Story:
    """The story with a sentence that is irrelevant to its question."""
    distractor = Sentence("total", rng.choice(wordings), (rng.randint(3, 60),))
    return dataclasses.replace(story, distractor=distractor, distractor_place=rng.randrange(len(story.sentences)))


def value_after(sentences: Sequence[Sentence]) -> int | None:
    """The running value after these sentences; None before the first."""
    if not sentences:
        return None
    operations = solve(tuple(sentences))
    return int(operations[-1].result if operations else sentences[0].numbers[0])


def draw_numbers(rng: random.Random, kind: str, value: int | None) -> tuple[int, ...] | None:
    """The numbers of a sentence, given the running value; None if the kind is impossible here."""
    small, count = rng.randint(2, 9), rng.randint(2, 12)
    amount = rng.randint(2, 20) if rng.random() < 0.5 else rng.randint(10, 50)
    match kind:
        case "given":
            return (amount + 10,)
        case "sum" | "more":
            return amount, rng.randint(2, 40)
        case "product":
            return small, rng.randint(2, 12)
        case "fewer":
            return amount + 5, rng.randint(2, amount)
        case "times":
            return rng.randint(3, 20), rng.randint(2, 5)
        case "total":
            return ()
    assert value is not None
    numbers: tuple[int, ...]
    match kind:
        case "gain":
            numbers, allowed = (amount,), value + amount <= LARGEST_VALUE
        case "loss" | "excess":
            numbers, allowed = (amount if amount < value else rng.randint(1, max(1, value - 1)),), value > 2
        case "gain_product":
            numbers, allowed = (small, count), value + small * count <= LARGEST_VALUE
        case "loss_product":
            numbers, allowed = (small, count), small * count < value
        case "multiply":
            numbers, allowed = (rng.randint(2, 4),), value <= LARGEST_VALUE // 4
        case "share" | "packs":
            divisors = [d for d in range(2, 11) if value % d == 0 and d < value]
            numbers, allowed = (rng.choice(divisors or [1]),), bool(divisors)
        case "sell":
            numbers, allowed = (small,), value * small <= LARGEST_VALUE
        case "lacks":
            numbers, allowed = (value + amount,), True
        case _:
            raise ValueError(f"families.yaml: unknown kind {kind!r}; known: {', '.join(CHANGES)}.")
    return numbers if allowed else None


def apply(symbol: str, left: Number, right: Number) -> Number:
    """left ∘ right for one of + - × ÷."""
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "×":
            return left * right
        case _:
            quotient = Fraction(left) / right
            return quotient.numerator if quotient.denominator == 1 else quotient


def _infix(operation: Operation) -> str:
    return f"{written(operation.left)} {operation.symbol} {written(operation.right)}"


def _joined_lines(operations: tuple[Operation, ...]) -> list[str]:
    """One operation per line; a product is put into the line of the sum or difference that uses it next."""
    lines: list[str] = []
    for index, operation in enumerate(operations):
        left, right = written(operation.left), written(operation.right)
        sources = operation.left_from, operation.right_from
        if operation.symbol in "+-" and index - 1 in sources and operations[index - 1].symbol == "×":
            lines.pop()
            product = _infix(operations[index - 1])
            left, right = (product, right) if sources[0] == index - 1 else (left, product)
        lines.append(f"{left} {operation.symbol} {right} = {written(operation.result)}")
    return lines


def _worked(operation: Operation) -> str:
    """Partial results of a hard operation, as "70 + 15 = "; empty for an easy operation."""
    left, right, result = operation.left, operation.right, operation.result
    if any(number.denominator != 1 or number < 10 for number in (left, result)):
        return ""
    match operation.symbol:
        case "+" if right >= 10 and left % 10 + right % 10 >= 10:
            return f"{left // 10 * 10 + right // 10 * 10} + {left % 10 + right % 10} = "
        case "-" if right >= 10 and left % 10 < right % 10:
            return f"{left - right // 10 * 10} - {right % 10} = "
        case "×" if right.denominator == 1:
            small, large = sorted((left, right))
            if small < 10 and large > 10 and large % 10:
                return f"{small * (large // 10 * 10)} + {small * (large % 10)} = "
        case "÷" if result > 10 and result % 10 and right.denominator == 1:
            return f"{result // 10 * 10} + {result % 10} = "
    return ""
