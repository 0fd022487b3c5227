"""Lines of arithmetic, without a story: a random source enters, an equation leaves."""

import random

from rkd.mini.math import LARGEST_VALUE, Operation, apply, write_response


def equation(rng: random.Random) -> str:
    left = _amount(rng)
    style = "worked" if rng.random() < 0.4 else "steps"
    return _first_line((_draw_operation(rng, left),), style)


def expression(rng: random.Random) -> str:
    product = _draw_operation(rng, rng.randint(*rng.choice([(2, 12), (2, 12), (10, 40)])), symbol="×")
    result, symbol = product.result, rng.choice("+-")
    if rng.random() < 0.5:  # a × b ∘ c
        other = rng.randint(1, int(result) - 1) if symbol == "-" else _amount(rng)
        outer = Operation(symbol, result, other, apply(symbol, result, other), 0)
    else:  # c ∘ a × b
        larger = result + _amount(rng) if symbol == "-" else _amount(rng)
        outer = Operation(symbol, larger, result, apply(symbol, larger, result), None, 0)
    return _first_line((product, outer), "joined")


def _draw_operation(rng: random.Random, left: int, symbol: str | None = None) -> Operation:
    """left ∘ a number, with a positive whole result in the range of stories."""
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
