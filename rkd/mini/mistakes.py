"""Wrong solutions for the judge's training text: right operations enter, a response with mistakes leaves.

The mistakes are those of small models: a slightly wrong result, a wrong operation, a wrong number of the story, a
missing step, an answer line that is not the last result. Later steps are calculated from the mistake.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from rkd.mini.math import Number, Operation, apply, write_response, written

Operations = tuple[Operation, ...]

MISTAKE_COUNTS = (1, 2, 3)
MISTAKE_COUNT_WEIGHTS = (7, 2, 1)  # weak students make several mistakes in one response
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def wrong_response(rng: random.Random, question: str, operations: Operations, style: str) -> str:
    """A response to `question` in `style`, whose answer is not the result of the last operation."""
    numbers = [as_number(text) for text in _NUMBER.findall(question)]
    answer = operations[-1].result
    while True:
        count = rng.choices(MISTAKE_COUNTS, MISTAKE_COUNT_WEIGHTS)[0]
        if count == 1 and rng.random() < 0.1:
            return _with_other_answer(rng, operations, style)
        flawed: Operations | None = operations
        for _ in range(count):
            flawed = rng.choice(MISTAKES)(rng, flawed, numbers) if flawed else None
        if flawed and flawed[-1].result != answer and all(o.result >= 0 for o in flawed):
            return write_response(flawed, style)


def slip(rng: random.Random, operations: Operations, numbers: Sequence[Number]) -> Operations | None:  # noqa: ARG001
    """Change one result: by one or two, by ten, by a digit, or by exchanging two digits."""
    index = rng.randrange(len(operations))
    result = operations[index].result
    wrong = result + rng.choice([-10, -2, -1, 1, 2, 10, rng.randint(-9, 9), 10 * rng.randint(-3, 3)])
    if rng.random() < 0.1 and result.denominator == 1 and result >= 10:
        digits = str(result)
        wrong = int(digits[1] + digits[0] + digits[2:])
    if wrong == result or wrong < 0:
        return None
    return _carried_on(operations, index, dataclasses.replace(operations[index], result=wrong))


def wrong_operation(rng: random.Random, operations: Operations, numbers: Sequence[Number]) -> Operations | None:  # noqa: ARG001
    """Replace one operation by another one of the four."""
    index = rng.randrange(len(operations))
    old = operations[index]
    symbol = rng.choice([symbol for symbol in "+-×÷" if symbol != old.symbol])
    return _redone(operations, index, dataclasses.replace(old, symbol=symbol))


def wrong_operand(rng: random.Random, operations: Operations, numbers: Sequence[Number]) -> Operations | None:
    """Replace one operand by another number of the story, or by the result of another step."""
    index = rng.randrange(len(operations))
    old = operations[index]
    sources: list[tuple[Number, int | None]] = [(number, None) for number in numbers]
    sources += [(operations[earlier].result, earlier) for earlier in range(index)]
    value, made_by = rng.choice(sources)
    if rng.random() < 0.5:
        changed = dataclasses.replace(old, left=value, left_from=made_by)
    else:
        changed = dataclasses.replace(old, right=value, right_from=made_by)
    return None if (changed.left, changed.right) == (old.left, old.right) else _redone(operations, index, changed)


def missing_step(rng: random.Random, operations: Operations, numbers: Sequence[Number]) -> Operations | None:  # noqa: ARG001
    """Leave out one step; later steps use one of its operands instead of its result."""
    if len(operations) < 2:
        return None
    index = rng.randrange(len(operations))
    gone = operations[index]
    stand_in = rng.choice([(gone.left, gone.left_from), (gone.right, gone.right_from)])
    kept: list[Operation] = []
    for place, operation in enumerate(operations):
        if place == index:
            continue
        left, left_from = stand_in if operation.left_from == index else (operation.left, operation.left_from)
        right, right_from = stand_in if operation.right_from == index else (operation.right, operation.right_from)
        left_from, right_from = _shifted(left_from, index), _shifted(right_from, index)
        kept.append(Operation(operation.symbol, left, right, operation.result, left_from, right_from))
    return _redone(tuple(kept), min(index, len(kept) - 1), kept[min(index, len(kept) - 1)])


MISTAKES: tuple[Callable[[random.Random, Operations, Sequence[Number]], Operations | None], ...] = (
    slip,
    slip,
    wrong_operation,
    wrong_operand,
    wrong_operand,
    missing_step,
)


def as_number(text: str) -> Number:
    """The number in a text; whole numbers as `int`."""
    number = Fraction(text)
    return number.numerator if number.denominator == 1 else number


def _with_other_answer(rng: random.Random, operations: Operations, style: str) -> str:
    """A response with right steps, whose answer line has an earlier result or a slip."""
    answer = operations[-1].result
    others = [o.result for o in operations if o.result != answer] + [operations[-1].left, answer + 1, answer + 10]
    steps, _, _ = write_response(operations, style).rpartition("\n")
    return f"{steps}\nThe answer is {written(rng.choice([other for other in others if other != answer]))}."


def _redone(operations: Operations, index: int, changed: Operation) -> Operations | None:
    """The operations with `changed` at `index` and all later results recalculated; None if that is impossible."""
    result = _calculated(changed.symbol, changed.left, changed.right)
    return None if result is None else _carried_on(operations, index, dataclasses.replace(changed, result=result))


def _carried_on(operations: Operations, index: int, changed: Operation) -> Operations | None:
    carried = [*operations[:index], changed]
    for operation in operations[index + 1 :]:
        left = operation.left if operation.left_from is None else carried[operation.left_from].result
        right = operation.right if operation.right_from is None else carried[operation.right_from].result
        result = _calculated(operation.symbol, left, right)
        if result is None:
            return None
        carried.append(dataclasses.replace(operation, left=left, right=right, result=result))
    return tuple(carried)


def _calculated(symbol: str, left: Number, right: Number) -> Number | None:
    if (symbol == "÷" and right == 0) or (symbol == "-" and left < right):
        return None
    result = apply(symbol, left, right)
    # A result with more than one decimal is rounded down, as models trained on whole results write it.
    return result if (10 * result).denominator == 1 else int(result)


def _shifted(made_by: int | None, gone: int) -> int | None:
    return made_by if made_by is None or made_by < gone else made_by - 1
