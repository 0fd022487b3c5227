"""The calculations in a solution written as prose: a response enters, its steps in the papers' form leave.

A student of less than a million weights cannot write a large model's prose, but it can write the calculations in it:
"23 birds + 7 more birds = 30 birds" is "Step 1: 23 + 7 = 30.". Nothing is added: each step stands in the response.
"""

import re
from fractions import Fraction

from rkd.data.answers import answers_match, canonical_number, extract_answer

_NUMBER = r"\d+(?:\.\d+)?"
_CALCULATION = re.compile(
    rf"(?<![\d.+*/=-])(?<![+*/=-] )({_NUMBER}) ?([-+*/]) ?({_NUMBER}) ?= ?({_NUMBER})(?!\d| ?[-+*/])"
)
_LINE = re.compile(r"[\n;:]|\.(?!\d)")
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "÷": "/", ",": None, "$": None, "£": None, "€": None})
_WORDS = re.compile(r"[A-Za-z%'\"()]+(?:/[A-Za-z]+)?")
_WRITTEN = {"+": "+", "-": "-", "*": "×", "/": "÷"}
MAX_CHARACTERS = 10_000  # a longer response is a run-away generation


def as_steps(text: str) -> str | None:
    """The calculations of a response as numbered steps and its answer; None if they do not lead to its answer.

    A calculation must have two numbers and be right; units between the numbers are left out. A response is not
    rewritten if it has a longer or wrong calculation, or if its last result is not its answer.
    """
    answer = extract_answer(text, "gsm8k")
    if answer is None or len(text) > MAX_CHARACTERS:
        return None
    steps: dict[str, str] = {}
    for line in _LINE.split(text.translate(_SIGNS)):
        bare = " ".join(_WORDS.sub(" ", line).split())
        for a, sign, b, result in _CALCULATION.findall(bare):
            if _value(a, sign, b) != Fraction(result):
                return None
            left, right, value = (canonical_number(number) for number in (a, b, result))
            if left is None or right is None or value is None:  # of more than 40 digits
                return None
            steps[f"{left} {_WRITTEN[sign]} {right} = {value}."] = value
    if not steps or not answers_match(list(steps.values())[-1], answer, "gsm8k"):
        return None
    lines = [f"Step {number}: {step}" for number, step in enumerate(steps, start=1)]
    return "\n".join([*lines, f"The answer is {answer}."])


def _value(a: str, sign: str, b: str) -> Fraction | None:
    left, right = Fraction(a), Fraction(b)
    if sign == "/":
        return left / right if right else None
    return {"+": left + right, "-": left - right, "*": left * right}[sign]
