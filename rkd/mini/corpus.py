"""The text that mini models are pretrained on: arithmetic, stories, solved problems, solutions with a verdict, choices.

A corpus is an endless stream of `Document`s drawn from a seed by a mixture; `rkd.pretrain` renders and packs them. Only
plans and puzzles of the split `pretrain` are told: no text holds a problem that a model is trained or tested on later.
"""

import dataclasses
import functools
import random
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from rkd.answers import answers_match, extract_answer
from rkd.mini import open as mini_open
from rkd.mini.choice import CATEGORIES, draw_problem, lettered
from rkd.mini.math import (
    LARGEST_VALUE,
    STYLES,
    Number,
    Operation,
    Sentence,
    Story,
    apply,
    draw_story,
    draw_style,
    families,
    tell,
    try_story,
    with_distractor,
    write_response,
    written,
)
from rkd.mini.mistakes import wrong_response
from rkd.mini.scenes import draw_scene_problem
from rkd.mini.wording import capitalised, draw_slots, draw_things, expand, plainly_typed, read_yaml

YES, NO = " Yes", " No"  # the verdicts, as rkd.prompts.JudgePrompt has them
FIRST, SECOND = " A", " B"  # as rkd.prompts.ComparePrompt has them
OPEN_BLURS = (0.15, 0.4, 0.8)  # the chance of each word that is another one
OPEN_FAULT_CHANCES = (0.0, 0.1, 0.3, 0.6)  # of each point of a response that is graded
GENERAL_SHARE = 0.5  # of stories from general.yaml, the others being of mini_math's families
GENERAL_STYLES = (5, 3, 2)  # weights of the response styles there
SCENE_SHARE = 0.4  # of short problems, the others being of short.yaml
PLAINLY_TYPED_SHARE = 0.1
HIGHEST_MARK = 5
_NUMBER = re.compile(r"\d[\d.,]*")
_RESULT = re.compile(r"= (\d[\d.,]*)")
DISTRACTOR_SHARE = 0.25
LARGEST_SUM = 1000  # of short problems, where a few numbers have three digits


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One piece of text. With a `question`, `text` is the response to it; with `judged`, the verdict on that text.

    With a `reference` too, the verdict is on both texts: which of them is better. With `is_graded` it is evidence and a
    grade, in place of one word.

    The documents `before` it stand in the same text, as worked examples do in a few-shot prompt. Its question is one of
    `dataset`, and is put in that dataset's prompt.
    """

    question: str | None
    text: str
    judged: str | None = None
    before: tuple["Document", ...] = ()
    dataset: str = "mini_math"
    reference: str | None = None
    is_graded: bool = False


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
    return Document(None, "\n".join(_equation(rng) for _ in range(6)))


def expressions(rng: random.Random) -> Document:
    """Four equations of a product and a sum or difference, as joined steps have them."""
    return Document(None, "\n".join(_expression(rng) for _ in range(4)))


def story(rng: random.Random) -> Document:
    """A story without its question."""
    plan = _draw_plan(rng, 1, 5)
    return Document(None, capitalised(" ".join(plan.text_of(sentence) for sentence in plan.sentences[:-1])))


def short_problem(rng: random.Random) -> Document:
    """One to three operations in many wordings; the solution takes one step for each."""
    text, operations = _draw_short_problem(rng)
    return Document(text, write_response(operations, rng.choice(["steps", "steps", "worked"])))


def simple_problem(rng: random.Random) -> Document:
    """A story of one or two operations, written step by step."""
    question, operations = _told(rng, _draw_plan(rng, 1, 2))
    return Document(question, write_response(operations, rng.choice(["steps", "worked"])))


def problem(rng: random.Random) -> Document:
    """A story of two to five operations; mini_math's are solved in the style of their family's textbook."""
    plan = _draw_plan(rng, 2, 5)
    question, operations = _told(rng, plan)
    style = draw_style(rng, plan.family) if plan.family in families() else rng.choices(STYLES, GENERAL_STYLES)[0]
    return Document(question, write_response(operations, style))


def series(rng: random.Random) -> Document:
    """Two to five easy problems, each with its solution, one after the other."""
    *before, last = (rng.choice([short_problem, simple_problem])(rng) for _ in range(rng.randint(2, 5)))
    return dataclasses.replace(last, before=tuple(before))


def judged(rng: random.Random, split: str = "pretrain") -> Document:
    """A problem, a response that is right as often as wrong, and the verdict; one problem in five is a short one."""
    if rng.random() < 0.2:
        question, operations = _draw_short_problem(rng)
    elif split == "pretrain":
        question, operations = _told(rng, _draw_plan(rng, 1, 5))
    else:
        question, operations = _told(rng, draw_story(rng, split, 1, 5))
    style = rng.choice(STYLES)
    if rng.random() < 0.5:
        return Document(question, YES, write_response(operations, style))
    return Document(question, NO, wrong_response(rng, question, operations, style))


def marked(question: str, solution: str, response: str) -> Document:
    """A solution of the problem, which of its results the response has and which it lacks, and what that is worth.

    The right answer is worth 5; another one its share of the results, in whole points up to 4; none at all nothing.
    """
    results = [amount.rstrip(".,") for amount in _RESULT.findall(solution)]
    said = {amount.rstrip(".,") for amount in _NUMBER.findall(response)}
    found = [amount for amount in results if amount in said]
    missing = [amount for amount in results if amount not in said]
    right, given = (extract_answer(text, "mini_math") for text in (solution, response))
    if given is None:
        score = 0
    elif answers_match(given, right, "mini_math"):
        score = HIGHEST_MARK
    else:
        score = (HIGHEST_MARK - 1) * len(found) // max(1, len(results))
    text = (
        f"{solution}\nFound {', '.join(found) or 'none'}, missing {', '.join(missing) or 'none'}. "
        f"Answer {right}, given {given or 'none'}.\nScore: {score}"
    )
    return Document(question, text, response, is_graded=True)


def choice(rng: random.Random, category: str) -> Document:
    """A problem of mini_choice, and a response that finds its letter."""
    problem = draw_problem(rng, "pretrain", category)
    return Document(problem.question, problem.response, dataset="mini_choice")


def choice_lookup(rng: random.Random) -> Document:
    """The options of such a problem, and all of them again with their letters, three times in another order.

    A response asks for one letter in a hundred tokens, too seldom to learn from how to find it.
    """
    problem = draw_problem(rng, "pretrain", rng.choice(list(CATEGORIES)))
    options = lettered(problem.options)
    again = [", ".join(rng.sample(options, len(options))) for _ in range(3)]
    return Document(f"Options: {', '.join(options)}.", "\n".join(again), dataset="mini_choice")


def choice_series(rng: random.Random) -> Document:
    """Two or three of them, one after the other."""
    *before, last = (choice(rng, rng.choice(list(CATEGORIES))) for _ in range(rng.randint(2, 3)))
    return dataclasses.replace(last, before=tuple(before))


def open_task(rng: random.Random, fault_chances: tuple[float, ...] = (0.06,)) -> Document:
    """An instruction of mini_open, and a response that seldom lacks a point."""
    instruction, question = _draw_instruction(rng)
    return Document(question, _answer(rng, instruction, rng.choice(fault_chances)), dataset=mini_open.DATASET)


def open_sloppy(rng: random.Random) -> Document:
    """The same, with a response that lacks each point nearly as often as not."""
    return open_task(rng, (0.4,))


def open_series(rng: random.Random) -> Document:
    """Two or three of them, one after the other."""
    *before, last = (open_task(rng) for _ in range(rng.randint(2, 3)))
    return dataclasses.replace(last, before=tuple(before))


def open_graded(rng: random.Random) -> Document:
    """An instruction, a response of any quality, and what it is worth: evidence, then the score."""
    instruction, question = _draw_instruction(rng)
    return graded(question, open_response(rng, instruction))


def open_compared(rng: random.Random) -> Document:
    """An instruction, two responses of different worth, and which is better."""
    instruction, question = _draw_instruction(rng)
    document = None
    while document is None:
        document = compared(question, open_response(rng, instruction), open_response(rng, instruction))
    return document


def graded(question: str, response: str) -> Document:
    """The evidence on a response to an instruction of mini_open, and its score."""
    grade = mini_open.grade(question, response)
    text = f"{grade.evidence}\nScore: {grade.score}"
    return Document(question, text, response, dataset=mini_open.DATASET, is_graded=True)


def compared(question: str, first: str, second: str) -> Document | None:
    """Which of two responses is worth more; None where both are worth the same."""
    scores = [mini_open.score(question, text) for text in (first, second)]
    if scores[0] == scores[1]:
        return None
    better = FIRST if scores[0] > scores[1] else SECOND
    return Document(question, better, second, dataset=mini_open.DATASET, reference=first)


def open_response(rng: random.Random, instruction: mini_open.Instruction) -> str:
    """A response of any quality to an instruction of mini_open, half of them by someone who copies badly."""
    if rng.random() < 0.5:
        instruction = mini_open.blurred(rng, instruction, rng.choice(OPEN_BLURS))
    return _answer(rng, instruction, rng.choice(OPEN_FAULT_CHANCES))


CHOICE_KINDS: dict[str, Callable[[random.Random], Document]] = {
    **{f"choice_{category}": functools.partial(choice, category=category) for category in CATEGORIES},
    "choice_lookup": choice_lookup,
    "choice_series": choice_series,
}
OPEN_KINDS: dict[str, Callable[[random.Random], Document]] = {
    "open_task": open_task,
    "open_sloppy": open_sloppy,
    "open_series": open_series,
    "open_graded": open_graded,
    "open_compared": open_compared,
}
KINDS: dict[str, Callable[[random.Random], Document]] = {
    "arithmetic": arithmetic,
    "expressions": expressions,
    "story": story,
    "short_problem": short_problem,
    "simple_problem": simple_problem,
    "problem": problem,
    "series": series,
    "judged": judged,
    **CHOICE_KINDS,
    **OPEN_KINDS,
}


def _draw_instruction(rng: random.Random) -> tuple[mini_open.Instruction, str]:
    category = rng.choice(list(mini_open.DRAW))
    instruction = mini_open.draw_instruction(rng, "pretrain", category)
    return instruction, mini_open.asked(rng, instruction, category)


def _answer(rng: random.Random, instruction: mini_open.Instruction, fault_chance: float) -> str:
    faults = mini_open.draw_faults(rng, instruction, fault_chance)
    return instruction.answer(rng, faults, is_long=rng.random() < 0.5)


def _draw_plan(rng: random.Random, min_steps: int, max_steps: int) -> Story:
    """A story of mini_math with its things exchanged now and then, or one of general.yaml."""
    if rng.random() < GENERAL_SHARE:
        return _draw_general(rng, min_steps, max_steps)
    plan = draw_story(rng, "pretrain", min_steps, max_steps)
    if len(families()[plan.family]["items"]) > 1 and rng.random() < 0.4:
        plan = dataclasses.replace(plan, slots={**plan.slots, "items": draw_things(rng)})
    return plan


def _draw_general(rng: random.Random, min_steps: int, max_steps: int) -> Story:
    general = _general()
    while True:
        name = rng.choice(list(general["frames"]))
        slots = draw_slots(rng)
        if name == "crowd":
            slots["items"] = slots["people"]
        plan = try_story(rng, name, general["frames"][name], slots, rng.randint(min_steps, max_steps))
        if plan is not None:
            break
    if rng.random() < DISTRACTOR_SHARE:
        plan = with_distractor(rng, plan, general["distractors"])
        plan = dataclasses.replace(plan, distractor=_expanded(rng, plan.distractor))
    return dataclasses.replace(plan, sentences=tuple(_expanded(rng, sentence) for sentence in plan.sentences))


def _expanded(rng: random.Random, sentence: Sentence) -> Sentence:
    return dataclasses.replace(sentence, wording=expand(sentence.wording, _general()["macros"], rng))


@functools.cache
def _general() -> Mapping[str, Any]:
    """The frames, the distractors and the macros of general.yaml."""
    entries = read_yaml("general.yaml")
    distractors, macros = entries.pop("distractors"), entries.pop("macros")
    return {"frames": entries, "distractors": distractors, "macros": macros}


def _told(rng: random.Random, plan: Story) -> tuple[str, tuple[Operation, ...]]:
    told = tell(plan, "")
    return _typed(rng, capitalised(told.question)), told.operations


def _typed(rng: random.Random, text: str) -> str:
    return plainly_typed(text) if rng.random() < PLAINLY_TYPED_SHARE else text


def _draw_short_problem(rng: random.Random) -> tuple[str, tuple[Operation, ...]]:
    text, operations = draw_scene_problem(rng) if rng.random() < SCENE_SHARE else _fill_template(rng)
    if rng.random() < DISTRACTOR_SHARE / 2:
        aside = expand(rng.choice(_general()["distractors"]), _general()["macros"], rng)
        text = f"{aside.format(**draw_slots(rng), a=rng.randint(2, 60))} {text}"
    return _typed(rng, capitalised(text)), operations


def _fill_template(rng: random.Random) -> tuple[str, tuple[Operation, ...]]:
    """A problem of short.yaml."""
    while True:
        template, formula = rng.choice(_short_problems())
        numbers = _short_numbers(rng, formula)
        operations = _evaluate(formula, numbers)
        if all(_is_easy(operation) for operation in operations):
            break
    wording = expand(template, _general()["macros"], rng)
    return wording.format(**draw_slots(rng), **{key: written(number) for key, number in numbers.items()}), operations


def _is_easy(operation: Operation) -> bool:
    result = operation.result
    largest = LARGEST_SUM if operation.symbol in "+-" else LARGEST_VALUE
    return result.denominator <= 10 and 0 < result <= largest


@functools.cache
def _short_problems() -> tuple[tuple[str, str], ...]:
    return tuple((text, formula) for text, formula in read_yaml("short.yaml"))


def _equation(rng: random.Random) -> str:
    left = _amount(rng)
    style = "worked" if rng.random() < 0.4 else "steps"
    return _first_line((_draw_operation(rng, left),), style)


def _expression(rng: random.Random) -> str:
    product = _draw_operation(rng, rng.randint(*rng.choice([(2, 12), (2, 12), (10, 40)])), symbol="×")
    result, symbol = product.result, rng.choice("+-")
    if rng.random() < 0.5:  # a × b ∘ c
        other = rng.randint(1, int(result) - 1) if symbol == "-" else _amount(rng)
        outer = Operation(symbol, result, other, apply(symbol, result, other), 0)
    else:  # c ∘ a × b
        other = result + _amount(rng) if symbol == "-" else _amount(rng)
        outer = Operation(symbol, other, result, apply(symbol, other, result), None, 0)
    return _first_line((product, outer), "joined")


def _draw_operation(rng: random.Random, left: int, symbol: str | None = None) -> Operation:
    """left ∘ some number, with a positive whole result in the range that stories have."""
    divisors = [number for number in range(2, 11) if left % number == 0 and number < left]
    kinds = ["+", "-", "×"] if left <= LARGEST_VALUE // 2 else ["+", "-"]
    symbol = symbol or rng.choice([*kinds, "÷", "÷"] if divisors else kinds)
    match symbol:
        case "+":
            right = _amount(rng)
        case "-":
            right = min(_amount(rng), max(1, left - 1))
        case "×":
            right = rng.randint(2, max(2, min(12, LARGEST_VALUE // left)))
        case _:
            right = rng.choice(divisors)
    return Operation(symbol, left, right, apply(symbol, left, right))


def _amount(rng: random.Random) -> int:
    return rng.randint(*rng.choice([(2, 12), (2, 40), (10, 99), (10, 99), (20, LARGEST_VALUE), (20, 999)]))


def _first_line(operations: tuple[Operation, ...], style: str) -> str:
    return write_response(operations, style).splitlines()[0].partition(": ")[2]


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
