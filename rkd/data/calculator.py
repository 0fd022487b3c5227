"""A calculator for solutions written as prose: a text that ends with a calculation enters, its result leaves.

    calculation = side, "="
    side        = operand, operator, operand, { operator, operand }
    operand     = [sign], [currency], number, ["%"], { unit } | "(", side or operand, ")", { unit }
    operator    = "+" | "-" | "*" | "×" | "x" | "/" | "÷"

It is the calculator of GSM8K's authors (arXiv:2110.14168, appendix C) without marks in the text: a result is written
wherever a calculation ends. Numbers are exact fractions. Nothing is executed, and nothing is guessed: a side that has
another operand, such as a variable, has no result.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, Protocol

LONGEST_SIDE = 200  # characters before "=" that are read
LARGEST_RESULT = 10**12
LONGEST_NUMBER = 20  # characters
MAX_DECIMALS = 2
MAX_UNIT_WORDS = 4


class Calculator(Protocol):
    """Writes the results of a student's calculations."""

    @property
    def is_left_out(self) -> bool:
        """Whether it writes nothing."""
        ...

    def continuation(self, text: str) -> str | None:
        """The result that follows a text, with the blank before it; None if the student goes on itself."""
        ...

    def agrees_with(self, text: str) -> bool:
        """Whether every result in a text is the one that would be written."""
        ...


@dataclass(frozen=True, slots=True)
class NoCalculator:
    """The student writes everything itself."""

    is_left_out: ClassVar[Literal[True]] = True

    def continuation(self, text: str) -> None:
        """Return None."""

    def agrees_with(self, text: str) -> bool:  # noqa: ARG002
        """Return True: there is nothing to compare."""
        return True


NO_CALCULATOR = NoCalculator()


@dataclass(frozen=True, slots=True)
class Equations:
    """Writes the result of each calculation that the text ends with, as in "71 - 14 =" and "9 apples + 7 apples ="."""

    is_left_out: ClassVar[Literal[False]] = False

    def continuation(self, text: str) -> str | None:
        """See `Calculator`; behind "=" there may be a blank, a currency sign, or both."""
        end = _EQUALS.search(text, max(0, len(text) - 3))
        value = _value_before(text, end.start()) if end else None
        result = value.written() if value else None
        if end is None or result is None:
            return None
        begun = end[0].removeprefix("=").strip()
        if begun:
            return result.removeprefix(begun) if result.startswith(begun) else None
        is_spaced = end[0] == "=" and text[: end.start()].endswith(" ")
        return " " * is_spaced + result

    def agrees_with(self, text: str) -> bool:
        """See `Calculator`; results are compared in value, and only those that are single numbers."""
        return all(stated == calculated for stated, calculated in stated_results(text))


def stated_results(text: str) -> Iterator[tuple[Fraction, Fraction]]:
    """The single numbers that a text states as results of calculations, each with the calculator's result."""
    start = 0
    while (place := text.find("=", start)) >= 0:
        start = place + 1
        if (stated := _RESULT.match(text, start)) and (value := _value_before(text, place)) and value.written():
            number = Fraction(stated["number"].replace(",", "")) / (100 if stated["percent"] else 1)
            yield -number if stated["minus"] else number, value.number


_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER})|(?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)|(?P<currency>[$£€])|(?P<sign>[-+*/×÷−–()])"
    r"|(?P<other>\S)"
)
_Token = re.Match[str]  # its group names its kind
_EQUALS = re.compile(r"= ?[$£€]?\Z")
# A result that goes on, as "57 + 3" or "5/6" do, is no single number.
_RESULT = re.compile(
    rf" ?(?P<minus>-?)[$£€]?(?P<number>{_NUMBER})(?P<percent>%?)"
    r"(?![0-9%^(]|[.,][0-9]| ?[-+*/×÷x−–] ?[($£€0-9]| ?[*/×÷] ?\w)"
)
_OPERATORS = {"+": "+", "-": "-", "−": "-", "–": "-", "*": "×", "×": "×", "x": "×", "X": "×", "/": "÷", "÷": "÷"}
_SIGNS = frozenset(_OPERATORS.values())
_PRECEDENCE = {"+": 1, "-": 1, "×": 2, "÷": 2, ")": 1, "": 0}
# Words that make another number of the one beside them.
_PARTS = frozenset({"%", "half", "percent", "quarter", "quarters", "third", "thirds"})
_CHANGES_A_NUMBER = _PARTS | frozenset(
    {"by", "divided", "dozen", "dozens", "double", "hundred", "hundreds", "k", "million", "millions", "minus", "of"}
    | {"plus", "thousand", "thousands", "times", "twice"}
)
_NOT_BEFORE_A_NUMBER = frozenset("%^√_\\|!#@&~")


@dataclass(frozen=True, slots=True)
class _Value:
    """A number, and how it is written: with a currency sign, in percent, with commas between thousands."""

    number: Fraction
    currency: str = ""
    is_percent: bool = False
    has_commas: bool = False

    def written(self) -> str | None:
        """The number as a text; None if it is too large, or has more decimals than are written."""
        number = self.number * 100 if self.is_percent else self.number
        smallest = number * 10**MAX_DECIMALS
        if smallest.denominator != 1 or abs(number) > LARGEST_RESULT:
            return None
        whole, decimals = divmod(abs(smallest.numerator), 10**MAX_DECIMALS)
        text = f"{whole:,}" if self.has_commas else str(whole)
        if decimals:
            digits = f"{decimals:0{MAX_DECIMALS}d}"
            text += "." + (digits if self.currency else digits.rstrip("0"))
        return "-" * (number < 0) + self.currency + text + "%" * self.is_percent


class _NoValueError(Exception):
    """The text ends with no calculation, or with one that has an unknown operand or no value."""


def _value_before(text: str, end: int) -> _Value | None:
    """The value of the calculation that ends at `end`; None if there is none."""
    line = max(text.rfind(boundary, max(0, end - LONGEST_SIDE), end) for boundary in "=\n") + 1
    first = line or max(0, end - LONGEST_SIDE)
    reader = _Reader(list(_TOKEN.finditer(text, first, end)))
    try:
        side = reader.side()
        # Where the text is cut, a calculation may go on to the left.
        return None if first > line and reader.left < 2 else _value(side)
    except _NoValueError:
        return None


class _Reader:
    """Reads a side from its end; `left` counts the tokens that are left."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens, self.left = tokens, len(tokens)

    def last(self, offset: int = 0) -> _Token | None:
        place = self.left - 1 - offset
        return self.tokens[place] if place >= 0 else None

    def side(self) -> list[_Value | str]:
        """Operands, operators and brackets in their order."""
        items: list[_Value | str] = []
        depth = 0
        while True:
            depth += self._closing(items)
            items.append(self._operand())
            depth -= self._opening(items, depth)
            sign = self._operator()
            if sign is None:
                break
            items.append(sign)
        if depth or not any(item in _SIGNS for item in items):
            raise _NoValueError
        return items[::-1]

    def _units(self) -> None:
        """Skip the units behind a number or a bracket."""
        for _ in range(MAX_UNIT_WORDS):
            word, before = self.last(), self.last(1)
            if word is None or word.lastgroup != "word":
                return
            is_glued = before is not None and before.end() == word.start()
            is_letter = len(word[0]) == 1 and (is_glued or word[0] != "a")
            if is_letter or word[0].lower() in _CHANGES_A_NUMBER:
                raise _NoValueError
            self.left -= 1
            if is_glued and before and before[0] == "/":  # "$5/hour"
                self.left -= 1

    def _closing(self, items: list[_Value | str]) -> int:
        count = 0
        self._units()
        while (token := self.last()) and token[0] == ")":
            self.left, count = self.left - 1, count + 1
            items.append(")")
            self._units()
        return count

    def _operand(self) -> _Value:
        token = self.last()
        is_percent = token is not None and token[0] == "%"
        if is_percent:
            self.left -= 1
            token = self.last()
        if token is None or token.lastgroup != "number" or len(token[0]) > LONGEST_NUMBER:
            raise _NoValueError
        self.left -= 1
        number = Fraction(token[0].replace(",", "")) / (100 if is_percent else 1)
        before, currency = self.last(), ""
        if before is not None and before.lastgroup == "currency":
            self.left, currency = self.left - 1, before[0]
        start = token.start() - len(currency)
        if self._is_sign(start):
            self.left, number = self.left - 1, -number
        return _Value(number, currency, is_percent, "," in token[0])

    def _is_sign(self, start: int) -> bool:
        """Whether a minus stands directly before a number, and nothing that it could be subtracted from."""
        minus, before = self.last(), self.last(1)
        if minus is None or _OPERATORS.get(minus[0]) != "-" or minus.end() != start:
            return False
        return before is None or (before[0] != ")" and (before.lastgroup in ("sign", "other") and before[0] != "%"))

    def _opening(self, items: list[_Value | str], depth: int) -> int:
        count = 0
        while count < depth and (token := self.last()) and token[0] == "(":
            self.left, count = self.left - 1, count + 1
            items.append("(")
        return count

    def _operator(self) -> str | None:
        """The operator before an operand; None if the side begins with the operand."""
        token, before = self.last(), self.last(1)
        if token is None or token[0] == "(":
            return None
        is_glued = token.end() == self.tokens[self.left].start()
        is_behind_a_number = before is not None and before.lastgroup == "number"
        if token[0] in _OPERATORS and (before or is_glued):
            self.left -= 1
            return _OPERATORS[token[0]]
        word = token[0].lower()
        if word == "of" and not is_behind_a_number and not (before and before[0].lower() in _PARTS):
            return None  # "a total of 4 + 44", unlike "20% of 4 + 44"
        is_part = is_glued and (
            token.lastgroup == "word" or token[0] == ")" or (token.lastgroup == "other" and is_behind_a_number)
        )
        if is_part or token.lastgroup == "number" or token[0] in _NOT_BEFORE_A_NUMBER or word in _CHANGES_A_NUMBER:
            raise _NoValueError
        return None


def _value(side: list[_Value | str]) -> _Value:
    """The value of a side, by the usual precedence of operators."""
    values: list[_Value] = []
    signs: list[str] = []
    for item in [*side, ""]:
        if isinstance(item, _Value):
            values.append(item)
        elif item == "(":
            signs.append(item)
        else:
            while signs and signs[-1] != "(" and _PRECEDENCE[signs[-1]] >= _PRECEDENCE[item]:
                right, left = values.pop(), values.pop()
                values.append(_applied(signs.pop(), left, right))
            if item == ")":
                signs.pop()
            else:
                signs.append(item)
    return values[0]


def _applied(sign: str, left: _Value, right: _Value) -> _Value:
    a, b = left.number, right.number
    is_sum = sign in "+-"
    if (sign == "÷" and not b) or (is_sum and left.is_percent != right.is_percent):
        raise _NoValueError
    match sign:
        case "+":
            number = a + b
        case "-":
            number = a - b
        case "×":
            number = a * b
        case _:
            number = a / b
    if max(abs(number.numerator), number.denominator) > LARGEST_RESULT**2:
        raise _NoValueError
    currency = (
        left.currency if sign == "÷" and not right.currency else "" if sign == "÷" else left.currency or right.currency
    )
    return _Value(number, currency, is_sum and left.is_percent, left.has_commas or right.has_commas)
