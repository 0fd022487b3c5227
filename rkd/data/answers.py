r"""The final answer of a response: y = Extract(a) of paper D, section 3.

A text enters, a canonical answer leaves: a number (`"1000.5"`, `"-3/4"`), a LaTeX expression that is no plain number
(`"\sqrt{16}"`), a letter A to J, or None. A response without an answer phrase ("The answer is N.", `#### N`, `A: N`,
`Answer: N`, `\boxed{N}`) has no answer: nothing is guessed from its other numbers or letters. Text after a new `Q:` or
`Question:` line answers another question and is cut off.
"""

import re
import sys
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from rkd.data.math_equivalence import canonical_expression, have_same_value

_CHOICE_DATASETS = ("mmlu_pro", "mini_choice")  # the answer of any other dataset is a number
LETTERS = "ABCDEFGHIJ"  # of options; MMLU-Pro has up to ten
MAX_DIGITS = 40  # a longer number is a run-away generation, and Python refuses to convert more than 4,300 digits
FLOAT_NOISE = Fraction(1, 10**9)  # relative: a model that calculates in floating point is off by that much
_ROUNDED_PLACES = 4  # a decimal this long is taken to be rounded: 0.3333 stands for 1/3, 0.33 does not
_ANSWER_CHARACTERS = 120  # examined after an answer phrase
_MAX_PHRASES = 64  # answer phrases without an answer that are tried before giving up

# Every quantifier is bounded or possessive: extraction takes linear time for any text.
# A line of at least three words. The first line is excluded: it may restate the question that is answered.
_NEW_QUESTION = re.compile(r"(?<=\n)[ \t]*+(?:Q|Question)(?: ?\d{1,3})?:(?=(?:[^\w\n]*+\w++){3})")
_IS = (
    r"(?: to (?:the|this|your|our) (?:\w{1,12} )?(?:question|problem))?[\s*_]{0,4}"
    r"(?:(?:is|IS|(?:would|should|will|must) be|equals)\b|:|=)"
)
# Every alternative starts with a plain character, so that `re` skips the rest of the text quickly.
_STATED = f"answer{_IS}|Answer{_IS}|ANSWER{_IS}|" + r"Final [Aa]nswer[ *_]{0,4}\n|\\boxed\{"
_NUMBER_PHRASE = re.compile(
    _STATED + r"|\#\#\#\#|A:(?<![^\n]A:)(?=[^\d\n]{0,12}[\d,./ e-]++[^\d\n]{0,80}+$)", re.MULTILINE
)
_LETTER_PHRASE = re.compile(_STATED)
# If no such phrase states a letter, the last of these phrases counts.
_LETTER_CHOSEN = re.compile(
    rf"(?:[Cc]orrect|[Bb]est|[Rr]ight) (?:answer )?(?:[Oo]ption|[Cc]hoice|alternative|letter){_IS}|I choose|"
    r"closest (?:answer |option |choice |one )?(?:is|to)\b"
)
_LETTER_NAMED = re.compile(
    r"(?:[Oo]ption|[Cc]hoice) (?:\(([A-J])\)|([A-J])) is (?:the )?(?:correct|right|best)\b"
    r"|(?<![A-Za-z])(?:\(([A-J])\)|([A-J])) is the (?:correct|right|best) (?:answer|option|choice)\b"
)

_OPENING = r"[\s\u00a0*_:=<(\[{$€£¥₹≈~\"'`]|\\[(\[$]|\\(?:text|textbf|textit|textrm|mathrm|mathbf|approx)\b"
_HEDGES = "approximately|approx\\.?|about|around|roughly|exactly|only|just|simply|therefore|thus|a total of|equal to"
_NUMBER_LEAD = re.compile(
    rf"(?:{_OPENING}|(?:{_HEDGES}|USD|US|EUR|GBP|Rs\.?) ?|[A-Za-z]\w{{0,20}} {{0,2}}=)*+", re.IGNORECASE
)
_LETTER_LEAD = re.compile(
    rf"(?:{_OPENING}|(?:(?:the )?(?:option|choice|letter|one)|closest to|nearest to|(?:most )?likely|probably|clearly"
    r"|indeed|therefore|thus),? ?)*+",
    re.IGNORECASE,
)
# I is a letter, unless a sentence follows: "I think".
_LETTER = re.compile(
    r"(?<=\()([A-Ja-j])(?=\))|([A-HJ](?![A-Za-z]|\d)|I(?![A-Za-z\d]|,? [a-z]|['’]))|([a-j])(?=[}.]?\s*(?:$|\n))"
)
_FORMULA = re.compile(r"[\s*:]{0,4}(?:\$([^$\n]{1,110})\$|\\\(([^\n]{1,110}?)\\\))")  # $…$ or \(…\)
_LONE_LETTER = re.compile(r"\b[A-J]\b")
_STARTS_LIKE_A_NUMBER = re.compile(r"(?:[-+−–] ?|[Nn]egative |[Mm]inus )?[$€£¥₹]?[-−–]?\.?[0-9½⅓⅔¼¾⅛\\]")
_ARITHMETIC = re.compile(r"[\d .,+\-×x*/÷()$%]{1,80}+= {0,2}")
_NUMBER = re.compile(
    r"(?P<sign>[-+] ?|[Nn]egative |[Mm]inus )?[$€£¥₹]? ?(?P<inner_sign>-)?"
    r"(?>"
    r"(?P<whole>\d{1,40}) {0,2}(?:and )?(?<!\d)(?P<part>\d{1,40}) ?/ ?(?P<whole_of>\d{1,40})"
    r"|(?P<over>\d{1,40}(?:\.\d{1,40})?) ?/ ?(?P<under>\d{1,40}(?:\.\d{1,40})?)"
    r"|(?P<integer>\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d{1,3}(?: \d{3})+(?![\d-])|\d{1,41}(?!\d))?"
    r"(?P<decimals>\.\d{1,41}(?!\d))?(?:e(?P<exponent>[-+]?\d{1,2}))?"
    r")"
    r"(?!\d|,\d|\.\d|:\d| ?[*×÷/^+x-] ?[-(]?[$\d.]| ?[xyz]\b"
    r"|'\d| ?\*\*|% of \d| times \d| or \d|, ?[a-z] ?=| ?π| ?\.?\\overline"
    r"|\^(?!\{?(?:\\circ|\\text|th|st|nd|rd))| ?\\(?:[dt]?frac|sqrt|pi|cdot|times|div)(?![a-zA-Z]))",
    re.ASCII,
)

_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " "}
    | dict(zip("½⅓⅔¼¾⅛", (" 1/2", " 1/3", " 2/3", " 1/4", " 3/4", " 1/8"), strict=True))
)
_LATEX_SPACE = re.compile(r"\{,\}|\\[,!;]")
_LATEX_FRACTION = re.compile(
    r"\\[dt]?frac ?(?:\{ ?([\d.]{1,40}) ?\} ?\{ ?([\d.]{1,40}) ?\}|(\d) ?(\d))"
)  # \frac{3}{4} and \frac34
_POWER_OF_TEN = re.compile(r" ?(?:×|x|\*|\\times|\\cdot) ?10\^\{?(-?\d{1,2})\}?")
_LARGE_NUMBER = re.compile(r"(?<=[0-9])(?: (hundred|thousand|million|billion|trillion)|([kKMB]))\b", re.IGNORECASE)
_ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "k": 3, "M": 6, "B": 9}
_LATEX_OPERATORS = {"\\times": "×", "\\cdot": "×", "\\div": "÷"}
_CALCULATOR_MARK = re.compile(r"<<[^<>]{0,100}>>")  # GSM8K's <<3*4=12>>


def extract_answer(text: str, dataset: str) -> str | None:
    """The final answer that a response states, in canonical form, or None if it states none.

    The last of several stated numbers counts, since later steps correct earlier ones. The first of several letters
    counts, as in the recorded MMLU-Pro predictions. Units, currency and percent signs are dropped: "The answer is 50%."
    is "50".
    """
    text = text.lstrip()
    new_question = _NEW_QUESTION.search(text)
    own_text = text[: new_question.start()] if new_question else text
    return (_extract_letter if is_choice(dataset) else _extract_number)(own_text)


def answers_match(a: str | None, b: str | None, dataset: str) -> bool:
    """Whether two answers are the same; None matches nothing, not even None.

    Numbers are compared exactly as fractions, expressions by `rkd.data.math_equivalence`. A decimal of four or more
    places is taken to be rounded: it matches a value that is less than one in its last place away. 0.3333 matches 1/3.
    """
    if a is None or b is None:
        return False
    return a == b if is_choice(dataset) else _numbers_match(a, b)


def last_letter(text: str) -> str | None:
    """The last capital A to J that stands alone; a guess, not an answer, since its meaning is not checked.

    MMLU-Pro's published evaluation takes it if a response states no answer.
    """
    letters = _LONE_LETTER.findall(text)
    return letters[-1] if letters else None


def is_choice(dataset: str) -> bool:
    """Whether the answers of a dataset are letters."""
    return dataset in _CHOICE_DATASETS


def count_votes(answers: Sequence[str | None], dataset: str) -> dict[str, int]:
    """Votes by answer, in order of first appearance; a later answer that matches an earlier one counts for it."""
    votes: dict[str, int] = {}
    stands_for: dict[str, str] = {}
    for answer in answers:
        if answer is None:
            continue
        if answer not in stands_for:
            stands_for[answer] = next((seen for seen in votes if answers_match(seen, answer, dataset)), answer)
        votes[stands_for[answer]] = votes.get(stands_for[answer], 0) + 1
    return votes


def majority(answers: Sequence[str | None], dataset: str) -> str | None:
    """The answer with most votes; the first one wins a tie. None if there is no answer."""
    votes = count_votes(answers, dataset)
    # The papers do not say which answer wins a tie; a random choice would depend on the seed.
    return max(votes, key=votes.__getitem__) if votes else None


@lru_cache(maxsize=65_536)
def canonical_number(text: str) -> str | None:
    """The number that `text` begins with: "1,000.50 $" is "1000.5", "6/8" is "3/4", "1 1/2" is "3/2", "50%" is "50".

    None if there is no number, or if it is part of an unfinished sum or a range, or has over 40 digits.
    """
    text = text.translate(_CHARACTERS)
    if "<<" in text:
        text = _CALCULATOR_MARK.sub("", text)
    if "\\" in text or "{" in text:
        text = _LATEX_FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", _LATEX_SPACE.sub("", text))
    if "10^" in text:
        text = _POWER_OF_TEN.sub(r"e\1", text)
    text = _LARGE_NUMBER.sub(_power_of_ten, text)
    start = _end_of_lead(_NUMBER_LEAD, text)
    while equation := _ARITHMETIC.match(text, start):
        start = equation.end()
    match = _NUMBER.match(text, start)
    return _canonical(match) if match else None


def _power_of_ten(match: re.Match[str]) -> str:
    word, unit = match.groups()
    if unit in ("m", "b"):  # metres, bytes
        return match[0]
    return f"e{_ZEROS[word.lower() if word else unit.replace('K', 'k')]}"


def _canonical(match: re.Match[str]) -> str | None:
    number = match.groupdict(default="")
    is_negative = (number["sign"][:1] in ("-", "n", "N", "m", "M")) != bool(
        number["inner_sign"]
    )  # + is the only other sign
    if number["part"]:
        canonical = _canonical_fraction(number["part"], number["whole_of"], number["whole"])
    elif number["over"]:
        canonical = _canonical_fraction(number["over"], number["under"], "0")
    else:
        canonical = _canonical_decimal(number["integer"], number["decimals"], number["exponent"])
    if canonical is None or sum(map(str.isdigit, canonical)) > MAX_DIGITS:
        return None
    return "-" + canonical if is_negative and canonical != "0" else canonical


def _canonical_fraction(over: str, under: str, whole: str) -> str | None:
    return str(Fraction(whole) + Fraction(over) / Fraction(under)) if Fraction(under) else None


def _canonical_decimal(integer: str, decimals: str, exponent: str) -> str | None:
    integer, decimals = integer.replace(",", "").replace(" ", ""), decimals[1:]
    if not integer + decimals:
        return None
    digits, point = integer + decimals, len(integer) + int(exponent or 0)
    digits = digits.rjust(len(digits) - point, "0") if point < 0 else digits.ljust(point, "0")
    point = max(point, 0)
    integer, decimals = digits[:point].lstrip("0") or "0", digits[point:].rstrip("0")
    return f"{integer}.{decimals}" if decimals else integer


def _extract_number(text: str) -> str | None:
    phrases = [phrase.end() for phrase in _NUMBER_PHRASE.finditer(text)]
    for end in reversed(phrases[-_MAX_PHRASES:]):
        stated = text[end : end + _ANSWER_CHARACTERS]
        if _STARTS_LIKE_A_NUMBER.match(stated, _end_of_lead(_NUMBER_LEAD, stated)):
            # A last number that cannot be read is no answer: an earlier one would be a guess.
            return canonical_number(stated) or _stated_expression(text, end)
    return None


def _stated_expression(text: str, start: int) -> str | None:
    """The expression that stands alone between LaTeX delimiters at `start`."""
    if text.endswith("\\boxed{", 0, start):
        stated = _within_braces(text[start : start + _ANSWER_CHARACTERS])
    else:
        formula = _FORMULA.match(text, start, start + _ANSWER_CHARACTERS)
        stated = formula and (formula[1] or formula[2])
    if not stated or stated.count("=") > 1:
        return None
    value = stated.rpartition("=")[2]  # of \\boxed{\\sqrt{16} = 4}
    return canonical_number(value.strip()) if "=" in stated else canonical_expression(value)


def _within_braces(text: str) -> str | None:
    """The text before the brace that closes the one opened before `text`."""
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[:place]
    return None


def _extract_letter(text: str) -> str | None:
    for count, phrase in enumerate(_LETTER_PHRASE.finditer(text)):
        letter = _letter_behind(text, phrase)
        if letter or count >= _MAX_PHRASES:
            return letter
    chosen = [(phrase.start(), _letter_behind(text, phrase)) for phrase in _LETTER_CHOSEN.finditer(text)]
    named = [(phrase.start(), _last_group(phrase)) for phrase in _LETTER_NAMED.finditer(text)]
    stated = [found for found in chosen + named if found[1]]
    return max(stated)[1] if stated else None


def _letter_behind(text: str, phrase: re.Match[str]) -> str | None:
    lead_end = _end_of_lead(_LETTER_LEAD, text, phrase.end(), phrase.end() + _ANSWER_CHARACTERS)
    letter = _LETTER.match(text, lead_end)
    return _last_group(letter).upper() if letter else None


def _end_of_lead(lead: re.Pattern[str], text: str, start: int = 0, end: int = sys.maxsize) -> int:
    """The end of the words before an answer; a lead may be empty, so its pattern matches every text."""
    match = lead.match(text, start, end)
    assert match is not None
    return match.end()


def _last_group(match: re.Match[str]) -> str:
    """The text of the group that matched; each alternative of the pattern has one group."""
    assert match.lastindex is not None
    return str(match[match.lastindex])


@lru_cache(maxsize=65_536)
def _value(number: str) -> tuple[Fraction, int | None] | None:
    """The exact value, and the decimal places of one that is taken to be rounded."""
    canonical = canonical_number(number)
    if canonical is None:
        return None
    places = 0 if "/" in canonical else len(canonical.partition(".")[2])
    return Fraction(canonical), places if places >= _ROUNDED_PLACES else None


def _numbers_match(a: str, b: str) -> bool:
    a_value, b_value = _value(a), _value(b)
    if a_value is None or b_value is None:
        a_expression, b_expression = canonical_expression(a), canonical_expression(b)
        if not (a_value or a_expression) or not (b_value or b_expression):
            return False
        return a_expression == b_expression or have_same_value(a, b)
    (a_exact, a_places), (b_exact, b_places) = a_value, b_value
    if a_exact == b_exact:
        return True
    places = [own for own in (a_places, b_places) if own is not None]
    if not places:
        return False
    last_place = Fraction(1, 10 ** min(places))
    return abs(a_exact - b_exact) < max(last_place, FLOAT_NOISE * max(abs(a_exact), abs(b_exact), Fraction(1)))
