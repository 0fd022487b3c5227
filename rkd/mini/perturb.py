"""mini_math_plus: problems of mini_math, perturbed in the eight ways of GSM-Plus, for tests only.

A story enters, a `MathProblem` with the perturbation as its category leaves. A problem with missing information has the
`answer` None.
"""

import dataclasses
import random
from collections.abc import Callable
from fractions import Fraction

from rkd.mini.math import (
    CHANGES,
    DISTRACTORS,
    UNSEEN_DISTRACTORS,
    MathProblem,
    Number,
    Operation,
    Sentence,
    Story,
    apply,
    draw_numbers,
    families,
    solve,
    stories,
    tell,
    value_after,
    with_distractor,
    written,
)
from rkd.records import Query

TRIES = 20
CHANGEABLE = ("given", "sum", "more", "gain", "loss")
REPHRASED = (
    "Here is a riddle. {story}",
    "{story} Think before you answer.",
    "Please find out the following. {story}",
)


def generate(size: int, seed: int) -> list[MathProblem]:
    """`size` perturbed problems: problems of mini_math's test split with this seed, each in all eight ways.

    Problems that have a distractor already are left out, as are those to which a way cannot be applied.
    """
    rng = random.Random(f"mini_math_plus {seed}")
    problems: list[MathProblem] = []
    for place, story in enumerate(stories("test", seed)):
        if len(problems) >= size:
            break
        tried = [] if story.distractor else [_tried(perturb, story, rng) for perturb in PERTURBATIONS.values()]
        perturbed = [problem for problem in tried if problem is not None]
        if tried and len(perturbed) == len(tried):
            problems += [
                dataclasses.replace(problem, id=f"mini_math_plus-{seed}-{place}-{way}", category=category)
                for way, (category, problem) in enumerate(zip(PERTURBATIONS, perturbed, strict=True))
            ]
    return problems[:size]


def queries(split: str, size: int, seed: int) -> list[Query]:
    """The first `size` of `generate` that have an answer, as queries.

    A query's cluster is the problem that was perturbed. Questions with missing information are left out. There the
    right response is a refusal, which the accuracy of answers cannot measure (docs/method.md 5.22 does the same with
    GSM-Plus).

    Raises:
        ValueError: the split is not `test`: nothing is trained on perturbed problems.
    """
    if split != "test":
        raise ValueError(f"mini_math_plus has no split {split!r}: it is for tests only, train on mini_math.")
    enough = size * len(PERTURBATIONS) // (len(PERTURBATIONS) - 1) + len(PERTURBATIONS)
    answerable = [problem for problem in generate(enough, seed) if problem.answer is not None]
    return [
        Query(p.id, "mini_math_plus", p.question, p.answer, p.category, cluster=p.id.rpartition("-")[0])
        for p in answerable[:size]
    ]


def substitute_numbers(story: Story, rng: random.Random) -> MathProblem | None:
    """Replace the numbers by others of the same size."""
    sentences: list[Sentence] = []
    for sentence in story.sentences:
        numbers = draw_numbers(rng, sentence.kind, value_after(sentences))
        if numbers is None:
            return None
        sentences.append(dataclasses.replace(sentence, numbers=numbers))
    return tell(dataclasses.replace(story, sentences=tuple(sentences)), "")


def expand_digits(story: Story, rng: random.Random) -> MathProblem | None:
    """Give one number another digit."""
    return _with_changed_number(story, rng, lambda number: number + 100 * rng.randint(1, 9), decimals=0)


def convert_to_decimal(story: Story, rng: random.Random) -> MathProblem | None:
    """Turn one whole number into a decimal."""
    return _with_changed_number(story, rng, lambda number: number + Fraction(1, 2), decimals=1)


def add_operation(story: Story, rng: random.Random) -> MathProblem | None:
    """Add an event before the question."""
    *told, question = story.sentences
    kind = rng.choice(list(families()[story.family]["events"]))
    numbers = draw_numbers(rng, kind, value_after(told))
    if numbers is None:
        return None
    wording = rng.choice(families()[story.family]["events"][kind])
    event = Sentence(kind, wording, numbers)
    return _told_if_sound(dataclasses.replace(story, sentences=(*told, event, question)), decimals=0)


def reverse_operation(story: Story, rng: random.Random) -> MathProblem | None:  # noqa: ARG001
    """Hide the first number, tell the answer, and ask for the hidden number."""
    value = solve(story.sentences)[-1].result
    made_by: int | None = None
    asked = f'{_with_hidden_number(story, 0)} The answer to this is {written(value)}. How many is "some"?'
    operations: list[Operation] = []
    for sentence in reversed(story.sentences):
        if not CHANGES[sentence.kind]:
            continue
        *asides, (symbol, left, right) = CHANGES[sentence.kind]
        numbers = dict(zip("ab", sentence.numbers, strict=False))
        side, side_from = numbers.get(left if right == "v" else right), None
        for aside_symbol, aside_left, aside_right in asides:
            side, side_from = apply(aside_symbol, numbers[aside_left], numbers[aside_right]), len(operations)
            operations.append(Operation(aside_symbol, numbers[aside_left], numbers[aside_right], side))
        assert side is not None  # a number of the sentence, or one derived from its numbers
        if right == "v":  # r = a − v, so v = a − r
            operations.append(Operation("-", side, value, side - value, side_from, made_by))
        else:
            inverse = {"+": "-", "-": "+", "×": "÷", "÷": "×"}[symbol]
            operations.append(Operation(inverse, value, side, apply(inverse, value, side), made_by, side_from))
        value, made_by = operations[-1].result, len(operations) - 1
    return MathProblem("", story.family, asked, tuple(operations), written(story.sentences[0].numbers[0]), "")


def rephrase(story: Story, rng: random.Random) -> MathProblem | None:
    """Change the wordings and the item, and put a frame around the story."""
    family, last = families()[story.family], len(story.sentences) - 1
    sentences = []
    for place, sentence in enumerate(story.sentences):
        part = "opening" if place == 0 else "question" if place == last else "events"
        others = [wording for wording in family[part][sentence.kind] if wording != sentence.wording]
        sentences.append(dataclasses.replace(sentence, wording=rng.choice(others or [sentence.wording])))
    slots = {**story.slots, "items": rng.choice(family["items"])}
    story = dataclasses.replace(story, sentences=tuple(sentences), slots=slots)
    problem = tell(story, "")
    return dataclasses.replace(problem, question=rng.choice(REPHRASED).format(story=problem.question))


def insert_distractor(story: Story, rng: random.Random) -> MathProblem | None:
    """Insert a sentence with a number that is irrelevant to the question."""
    return tell(with_distractor(rng, story, DISTRACTORS + UNSEEN_DISTRACTORS), "")


def remove_information(story: Story, rng: random.Random) -> MathProblem | None:
    """Leave out a number that the answer needs, so that the question has no answer."""
    with_numbers = [place for place, sentence in enumerate(story.sentences) if sentence.numbers]
    question = _with_hidden_number(story, rng.choice(with_numbers))
    return MathProblem("", story.family, question, solve(story.sentences), None, "")


PERTURBATIONS: dict[str, Callable[[Story, random.Random], MathProblem | None]] = {
    "numerical substitution": substitute_numbers,
    "digit expansion": expand_digits,
    "integer-decimal-fraction conversion": convert_to_decimal,
    "adding operation": add_operation,
    "reversing operation": reverse_operation,
    "problem understanding": rephrase,
    "distractor insertion": insert_distractor,
    "critical thinking": remove_information,
}


def _tried(
    perturb: Callable[[Story, random.Random], MathProblem | None], story: Story, rng: random.Random
) -> MathProblem | None:
    """The story perturbed in this way; tries other random choices if the way fails or changes nothing."""
    original = tell(story, "").question
    made = (perturb(story, rng) for _ in range(TRIES))
    return next((problem for problem in made if problem is not None and problem.question != original), None)


def _with_changed_number(
    story: Story, rng: random.Random, change: Callable[[Number], Number], *, decimals: int
) -> MathProblem | None:
    places = [place for place, sentence in enumerate(story.sentences) if sentence.kind in CHANGEABLE]
    if not places:
        return None
    place = rng.choice(places)
    sentences = list(story.sentences)
    first, *others = sentences[place].numbers
    sentences[place] = dataclasses.replace(sentences[place], numbers=(change(first), *others))
    return _told_if_sound(dataclasses.replace(story, sentences=tuple(sentences)), decimals=decimals)


def _told_if_sound(story: Story, *, decimals: int) -> MathProblem | None:
    """The problem, or None if a result is not positive or has more than `decimals` decimals."""
    if any(o.result <= 0 or (10**decimals * o.result).denominator != 1 for o in solve(story.sentences)):
        return None
    return tell(story, "")


def _with_hidden_number(story: Story, place: int) -> str:
    """The story's text with "some" for the first number of a sentence."""
    sentence = story.sentences[place]
    wording = sentence.wording.replace("{a}", "some") if "{a}" in sentence.wording else sentence.wording
    shown = dataclasses.replace(sentence, wording=wording.replace("$some", "some dollars"))
    sentences = (*story.sentences[:place], shown, *story.sentences[place + 1 :])
    text = tell(dataclasses.replace(story, sentences=sentences), "").question
    return text[:1].upper() + text[1:]
