r"""The grammar of a stated number: the text behind "The answer is" enters, what it states leaves.

    statement = [lead], chain, tail
    lead      = words such as "about" or "a total of"
    chain     = side, { "=", side }                  "5 apples + 7 apples = 12 apples" and "12 = 3 × 4" state 12
    side      = value, { unit } | calculation | words
    value     = [sign], number, ["/", number] | [sign], number, fraction       and words such as "million"
    tail      = the rest of the sentence

Whatever does not fit is not read, so a value that is read is stated whole. The sides that are values must agree. A
number in the tail must repeat the value ("12, that is 12.0"), be the object of a preposition ("12 apples in 3 days"),
be rejected ("12, not 13") or stand in an explanation ("12, because 5 + 7 = 12", "12 (5 + 7)"). Any other number is a
further answer, and then several values are stated: "12 or 13", "x = 5, y = 3", "5 feet 3 inches".

`plain` comes before: it removes emphasis and LaTeX's formatting, and writes the signs, fractions and blanks of Unicode
in plain characters. Tokens are visited a limited number of times each.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_DIGITS = 40  # a longer number is a run-away generation, and Python refuses to convert more than 4,300 digits
_MAX_WORDS = 5  # on a side of an equation without a number, as in "Total cost = 12"


@dataclass(frozen=True, slots=True)
class Statement:
    """What a text states.

    Args:
        value: the number in canonical form ("1000.5", "-3/4", "3 R 2"); None if it states no value, or several.
        is_stated: whether it states a number at all; the text behind "The answer is clear" does not.
        has_several: whether it states several values, as "12 or 13" does.
    """

    value: str | None
    is_stated: bool
    has_several: bool = False


NOTHING = Statement(None, is_stated=False)
UNREADABLE = Statement(None, is_stated=True)
SEVERAL = Statement(None, is_stated=True, has_several=True)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Before the first number.
_FILLERS = _words(
    "a about again all almost also altogether always and approx approximately around be been being certainly "
    "clearly chf course definitely equal equals eur exactly finally gbp given gives giving hence in indeed is it just "
    "likely maybe nearly obviously of only perhaps possibly precisely probably rmb rs roughly simply so sum "
    "surely the then therefore thus to total us usd"
)
_NOT_ONE_VALUE = _words("among amongst any between both either neither never none not one")
# A clause behind such a word explains or corrects the value.
_EXPLAINS = _words(
    "actually as assuming because calculated computed considering consisting due found given hence i.e if made "
    "meaning namely no obtained provided rounded since so sorry that therefore thus using wait when whenever "
    "where whereas which while who whose"
)
_PREPOSITIONS = _words(
    "across after among at before between during for from in inside into on over per since through "
    "throughout under until upon with within without"
)
_ALTERNATIVES = _words(
    "also alternatively although another but could either else however may maybe might or otherwise perhaps "
    "possible possibly though unless versus vs"
)
_OR = _words("alternatively else or otherwise")
_POSSIBLE = _words("also alternative another conceivable plausible possible")  # "as 13 is also possible"
_PRECISION = _words("decimal decimals digit digits dp place places significant")  # "to 2 decimals"
_CONDITIONS = _words("assuming given if provided when whenever where")
_REJECTS = _words("instead neither never nor not rather")
_JOINS = _words("and by minus plus times to")  # before a number word: "two and a half"
_OPEN_RANGE = _words("above below fewer greater higher less lower more over under up")  # "12 or more"
_ODDS = _words("by in of out per to")  # directly behind a bare number: "5 in 6"
_ARTICLES = _words("a about all an any around exactly her his its just my nearly only our the their these those your")
_NUMBER_WORDS = _words(
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety half halves quarter quarters third "
    "thirds"
)
_UNIT_JOINS = _words("for from in of on per with")
_TAIL_WORDS = _words("and by equals makes of out than to")
_WORDS_OF_THE_GRAMMAR = (
    _FILLERS, _NOT_ONE_VALUE, _EXPLAINS, _PREPOSITIONS, _ALTERNATIVES, _REJECTS, _OPEN_RANGE, _ARTICLES, _NUMBER_WORDS,
    _TAIL_WORDS,
)  # fmt: skip
_UNKNOWNS = frozenset("aeijnoqruvwxyzπ")  # glued to a number; other letters are units, as in 5m
_UNKNOWN_AND_DIGITS = re.compile(r"[eExXyYzZ]\d")  # 4x4, 5e9a
_UNIT_AND_DIGITS = re.compile(r"[^\W\d_]+(?![23]$)\d+")  # 1h30, but not 12m2
_OPERATOR_WORDS = {"of": "×", "x": "×", "times": "×", "plus": "+", "minus": "-", "divided": "÷", "multiplied": "×"}
_ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "mn": 6, "mln": 6, "bn": 9}
_GLUED_ZEROS = {"k": 3, "K": 3, "M": 6, "B": 9}
_OPERATORS = frozenset("+-×÷*/^±")
_OPENING = frozenset("([{<")
_MATHEMATICS = frozenset("√∛∞∑∏∫π∠∪∩∈≤≥≠<!")  # such a sign behind a number makes it a part of something else

_PLAIN: dict[int, str | None] = str.maketrans(
    dict.fromkeys("−–‒‐‑﹣", "-")
    | dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " ")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", None)  # invisible
    | dict.fromkeys("⁄∕", "/")
    | dict.fromkeys("✕✖·⋅∙", "×")
    | dict.fromkeys("≈≃≅≒≐→⇒⟹⟶", "=")
    | dict.fromkeys("’‘", "'")
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_UNUSUAL = re.compile("[¼½¾⅐-⅞↉]|[\uff01-\uff5e]|[\U0001d7ce-\U0001d7ff]")  # vulgar fractions, wide and bold digits

_STYLES = "text|text(?:bf|it|rm|sf)|math(?:bf|it|rm|sf)|boldsymbol|bm|mbox|hbox|operatorname|emph"
_END = r"(?![a-zA-Z])"  # of a command
_FRACTION_PART = r"(?:\{ ?([-+]? ?[0-9.,]{1,40}) ?\}|([0-9]))"


def _fraction(match: re.Match[str]) -> str:
    is_before_a_digit = match[5] is not None
    return f" {match[1] or match[2]}/{match[3] or match[4]}{' ' * is_before_a_digit}"


_LATEX: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"<<[^<>]{0,100}>>"), ""),  # GSM8K's calculator marks, <<3*4=12>>
    (re.compile(r"\{,\}|,\\!"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[()\[\]{}]"), " "),
    (re.compile(rf"\\[,;: ]|~|\\q?quad{_END}|\\thinspace{_END}"), " "),
    (re.compile(r"\\([$%#&_])"), r"\1"),
    (re.compile(r"\^ ?\{? ?(?:\\circ|(?:\\(?:text|mathrm|rm) ?\{?)?(?:st|nd|rd|th)\}?)" + _END + r" ?\}?"), " "),
    (re.compile(rf"\\(?:left|right|displaystyle|boxed|fbox|{_STYLES}){_END}"), " "),
    (re.compile(rf"\\(?:times|cdot){_END}"), "×"),
    (re.compile(rf"\\div{_END}"), "÷"),
    (re.compile(rf"\\(?:approx|simeq|cong|to|implies|[rR]ightarrow|Longrightarrow){_END}|=>|->"), "="),
    (re.compile(rf"\\pm{_END}"), "±"),
    (re.compile(rf"\\[dtc]?frac ?{_FRACTION_PART} ?{_FRACTION_PART}((?=[.,]?[0-9]))?"), _fraction),
)
_HAS_LATEX = re.compile(r"[\\{}~^]|<<|[-=]>")

_GROUPED = (  # in groups by commas, also of two digits as in India, underscores or blanks
    r"[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?![0-9])|[0-9]{1,3}(?:_[0-9]{3})+(?![0-9])"
    r"|[0-9]{1,3}(?: [0-9]{3})+(?![0-9]|-[0-9])"
)
_TOKEN = re.compile(
    rf"(?P<number>(?:{_GROUPED}|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?P<exponent>[eE][-+]?[0-9]{{1,3}}(?![^\W_]))?"
    r"|(?P<word>[^\W\d_](?:[^\W_]|_(?=[^\W_])|'(?=[^\W\d_]))*)|(?P<command>\\[a-zA-Z]+|\\.)|(?P<sign>\S)"
)
_EMPHASIS = re.compile(r"\*{1,3}")
_CURRENCIES = frozenset("€£¥₹")
_DECORATION = frozenset('$`€£¥₹¢"_“”')
_REMAINDER = re.compile(r"[rR]([0-9]{1,40})|[rR]|remainder|Remainder")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, word, command or sign
    text: str
    is_glued: bool = False  # to the token before it

    @property
    def word(self) -> str:
        """The word in small letters; empty for other tokens."""
        return self.text.lower() if self.kind == "word" else ""


_NO_TOKEN = _Token("end", "")


class _NotInGrammarError(Exception):
    """The text does not fit the grammar."""


class _SeveralValuesError(_NotInGrammarError):
    """The text states a range, or two values by ±."""


def plain(text: str) -> str:
    """The text without LaTeX's formatting, in plain characters: "½" is " 1/2", "²" is "^{2}"."""
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda m: "^{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
        text = _UNUSUAL.sub(_usual, text).translate(_PLAIN)
    if _HAS_LATEX.search(text):
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    return text


def _usual(match: re.Match[str]) -> str:
    usual = unicodedata.normalize("NFKC", match[0])
    return f" {usual}" if "⁄" in usual else usual


def _tokens(text: str) -> list[_Token]:
    """The tokens, without emphasis, currency signs and quotes."""
    tokens: list[_Token] = []
    last, place = -1, 0
    while match := _TOKEN.search(text, place):
        start, place = match.span()
        kind, found = ("number" if match["number"] else str(match.lastgroup)), match[0]
        is_unit = found in _CURRENCIES and bool(tokens) and tokens[-1].kind == "number"  # "12 €"
        if kind == "sign" and not is_unit and (found in _DECORATION or found == "*"):
            run = _EMPHASIS.match(text, start) if found == "*" else None
            if run is None or not _is_operator(text, *run.span()):
                place = run.end() if run else place
                last = place if start == last else last
                continue
            found, place = "*", run.end()
        tokens.append(_Token(kind, found, start == last))
        last = place
    return tokens


def _is_operator(text: str, start: int, end: int) -> bool:
    """Whether a run of `*` multiplies; it is emphasis if it leans on one side, as the marks of Markdown do."""
    before, after = text[start - 1 : start].strip(), text[end : end + 1].strip()
    if not before or not after:
        return not before and not after and bool(text[:start].strip())
    return before in "0123456789)}%" and (after in "0123456789({\\-" or (end - start == 1 and after.isalpha()))


@lru_cache(maxsize=65_536)
def read_statement(text: str, following: str = "", *, is_formula: bool = False) -> Statement:
    """What a text states by the grammar.

    Args:
        following: the rest of the sentence behind a text in brackets or tags of its own, as \\boxed{12}: its tail.
        is_formula: whether "5!" is a factorial.
    """
    parser = _Parser(_tokens(plain(text)), is_formula=is_formula)
    try:
        statement = parser.statement()
    except _SeveralValuesError:
        return SEVERAL
    except _NotInGrammarError:
        return UNREADABLE
    if statement.value is None or not following:
        return statement
    return _Parser(_tokens(plain(following))).behind(statement.value)


def has_another_value(following: str) -> bool:
    """Whether the rest of a sentence behind an expression states another number or expression."""
    return _Parser(_tokens(plain(following))).behind(None).has_several


class _Parser:
    """One pass over the tokens of a statement."""

    def __init__(self, tokens: list[_Token], *, is_formula: bool = False) -> None:
        self.tokens = tokens
        self.place = 0
        self.is_formula = is_formula

    def at(self, offset: int = 0) -> _Token:
        """The token at the current place, or `offset` behind it."""
        place = self.place + offset
        return self.tokens[place] if 0 <= place < len(self.tokens) else _NO_TOKEN

    # The lead and the chain.

    def statement(self) -> Statement:
        is_one = self._lead()
        if not self._starts_a_side():
            return NOTHING
        if not is_one:
            return SEVERAL if self.at().kind == "number" else UNREADABLE
        values: list[tuple[str, bool]] = []  # and whether it is a percentage
        while True:
            side = self._side()
            if side is not None:
                values.append(side)
            if not self._equals():
                break
        if not values:
            raise _NotInGrammarError
        if not all(_agree(values[-1], earlier) for earlier in values[:-1]):
            return SEVERAL
        return self.behind(values[-1][0])

    def _lead(self) -> bool:
        """Skip the words before the value; whether they leave room for a single value, as "either" does not."""
        is_one = True
        while self.at() is not _NO_TOKEN:
            token = self.at()
            if token.word in _NOT_ONE_VALUE:
                is_one = False
            elif token.kind == "sign":
                if token.text not in _OPENING and token.text not in ":=.*,—":
                    break
                if token.text == "." and self.at(1).is_glued:
                    break
            elif token.word not in _FILLERS or self.at(1).text == "=":  # a name, as in "a = 5"
                break
            self.place += 1
        return is_one

    def _starts_a_side(self) -> bool:
        token = self.at()
        if token.kind == "number" or token.kind == "command" or token.text in ("-", "+", "√", "±"):
            return True
        if token.word in ("negative", "minus"):
            return True
        return self._words_before_equals() > 0

    def _words_before_equals(self) -> int:
        for count in range(_MAX_WORDS + 1):
            if self.at(count).text == "=":
                return count
            if self.at(count).kind != "word":
                break
        return 0

    def _equals(self) -> bool:
        """Skip a sign of equality, if one follows and a side behind it."""
        before = self.place
        if (
            self.at().text == ","
            and self.at(1).word == "which"
            and self.at(2).word in ("is", "equals", "gives", "makes")
        ):
            self.place += 3
        elif self.at().text == "=" or self.at().word in ("equals", "makes"):
            self.place += 1
        else:
            return False
        while self.at().text in ("=", "(", "{", "[", "|") or self.at().word in _FILLERS:
            self.place += 1
        if self._starts_a_side():
            return True
        self.place = before + 1
        return False

    def _side(self) -> tuple[str, bool] | None:
        """Read a side of an equation: its value, or None for a calculation, an expression or words."""
        if words := self._words_before_equals():
            self.place += words
            return None
        value, operators = None, 0
        while True:
            while self.at().text in _OPENING and self.at().text:
                self.place += 1
            bare = self._value()
            if bare is None:
                self._expression()
                return None
            if self._is_in_an_expression():
                self._expression()
                return None
            value = value or bare
            is_percent = self.at().text == "%"
            self._units()
            if not self._operator():
                break
            operators += 1
        return None if operators else (value, is_percent)

    def _expression(self) -> None:
        """Skip what is no plain number up to a sign of equality; an unknown in it makes the statement unreadable."""
        while self.at() is not _NO_TOKEN and self.at().text != "=":
            token = self.at()
            if token.text == "±":
                raise _SeveralValuesError
            if token.kind == "word" or token.text in (",", ";"):
                raise _NotInGrammarError
            self.place += 1

    def _is_in_an_expression(self) -> bool:
        """Whether the number before the current place is a factor, a base or a part of something longer."""
        token = self.at()
        if token.kind == "number" and token.is_glued:  # ".1.1"
            raise _NotInGrammarError
        if token.text == "!" and (self.is_formula or self.at(1).is_glued):
            return True
        if token.kind == "command" or token.text == "^" or (token.text in _MATHEMATICS and token.text not in "!<"):
            return True
        is_part = token.text in ("'", ",", ".", ":") and self.at(1).is_glued and self.at(1).kind == "number"
        if token.is_glued and (token.text == "(" or is_part):
            raise _NotInGrammarError
        word = token.text if token.kind == "word" else ""
        if (
            (token.is_glued and (word in _UNKNOWNS or _UNIT_AND_DIGITS.fullmatch(word)))
            or _UNKNOWN_AND_DIGITS.match(word)
            or (word and (set(word) <= set("xyz") or word in ("π", "pi")) and self.at(1).kind != "number")
        ):
            raise _NotInGrammarError
        return False

    def _units(self) -> None:
        """Skip the units behind a number: words, %, m^2, km/h, a closing bracket."""
        is_first = True
        while True:
            token, behind = self.at(), self.at(1)
            if token.kind == "word":
                if token.word in _OPERATOR_WORDS and self._is_operand(1):
                    return
                if is_first and token.word in _ODDS and behind.kind == "number":
                    raise _SeveralValuesError if token.word == "to" else _NotInGrammarError
                if self._ends_units(token.word, behind, is_first=is_first):
                    return
            elif token.text == "^" and not is_first:
                self.place += 1
                while self.at().text in ("{", "-", "}") or (self.at().kind == "number" and self.at().is_glued):
                    self.place += 1
                continue
            elif behind.kind == "word" and (token.text in ("{", "/") or (token.text == "-" and behind.is_glued)):
                pass
            elif token.kind != "sign" or token.text not in ")]}>|%°‰″′'€£¥₹":
                return
            self.place += 1
            is_first = False

    @staticmethod
    def _ends_units(word: str, behind: _Token, *, is_first: bool) -> bool:
        """Whether the tail begins; "of flour" and "or blue" are units, "of the 20" and "in 3 days" are not."""
        is_joined = word in _UNIT_JOINS or (word in ("or", "and") and not is_first)
        if is_joined and behind.word and not any(behind.word in words for words in _WORDS_OF_THE_GRAMMAR):
            return False
        return any(word in words for words in (_EXPLAINS, _PREPOSITIONS, _ALTERNATIVES, _REJECTS, _TAIL_WORDS))

    def _is_operand(self, offset: int) -> bool:
        token = self.at(offset)
        return token.kind in ("number", "command") or token.text in ("(", "{", "-", "+", "√")

    def _operator(self) -> bool:
        """Skip an operator between two operands, if one follows."""
        token = self.at()
        if token.text == "±":
            raise _SeveralValuesError
        sign = _OPERATOR_WORDS.get(token.word) if token.kind == "word" else token.text
        if sign not in _OPERATORS or (token.word == "of" and not self._is_operand(1)):
            return False
        if sign == "-" and self.at(1).kind == "word":
            return False  # a dash
        self.place += 2 if token.word in ("divided", "multiplied") and self.at(1).word == "by" else 1
        if not self._is_operand(0):
            raise _NotInGrammarError
        return True

    # Values.

    def _value(self) -> str | None:
        """Read a value; None, and no step, if there is none.

        Raises:
            _NotInGrammarError: it is no single number, as 1/2/3.
        """
        start = self.place
        is_negative = False
        while self.at().text in ("-", "+") or self.at().word in ("negative", "minus"):
            is_negative = is_negative != (self.at().text != "+")
            self.place += 1
        if self.at().kind != "number":
            self.place = start
            return None
        value = self._unsigned()
        if value is None or sum(map(str.isdigit, value)) > MAX_DIGITS:
            raise _NotInGrammarError
        return f"-{value}" if is_negative and value != "0" else value

    def _unsigned(self) -> str | None:
        first = self.at().text
        self.place += 1
        offset = 1 if self.at().word == "and" else 0
        if (
            self.at(offset).kind == "number"
            and self.at(offset + 1).text == "/"
            and self.at(offset + 2).kind == "number"
        ):
            over, under = self.at(offset).text, self.at(offset + 2).text
            if not (first.isdigit() and over.isdigit() and under.isdigit() and int(over[:50]) < int(under[:50])):
                raise _NotInGrammarError
            self.place += offset + 3
            return self._fraction(over, under, first)
        if self.at().text == "/" and self.at(1).kind == "number":
            under = self.at(1).text
            self.place += 2
            return self._fraction(first, under, "0")
        power = self._power_of_ten(first)
        if power is not None:
            return power
        canonical = _canonical_decimal(first, self._zeros())
        if canonical and (remainder := _REMAINDER.fullmatch(self.at().text)):
            other = remainder[1] or (self.at(1).text if self.at(1).kind == "number" else "")
            if other.isdigit():
                self.place += 1 if remainder[1] else 2
                return f"{canonical} R {_canonical_decimal(other, 0)}"
        return canonical

    def _fraction(self, over: str, under: str, whole: str) -> str | None:
        if self.at().text == "/" and self.at(1).kind == "number":
            raise _NotInGrammarError
        parts = [_canonical_decimal(part, 0) for part in (over, under, whole)]
        if None in parts or parts[1] == "0":
            raise _NotInGrammarError
        top, bottom, added = (Fraction(str(part)) for part in parts)
        return str(added + top / bottom)

    def _power_of_ten(self, first: str) -> str | None:
        """3 × 10^8, and 10^8 itself."""
        is_factor = self.at().text in ("×", "*") or self.at().word == "x"
        if is_factor and self.at(1).text == "10" and self.at(2).text == "^":
            start = 3
        elif first == "10" and self.at().text == "^":
            start, first = 1, "1"
        else:
            return None
        offset = start + (self.at(start).text == "{")
        is_negative = self.at(offset).text == "-"
        exponent = self.at(offset + is_negative)
        if exponent.kind != "number" or not exponent.text.isdigit() or len(exponent.text) > 2:
            return None
        self.place += offset + is_negative + 1
        if self.at().text == "}":
            self.place += 1
        if self.at().text == "^":
            raise _NotInGrammarError
        return _canonical_decimal(first, int(exponent.text) * (-1 if is_negative else 1))

    def _zeros(self) -> int:
        """Skip words such as "million"; how many zeros they add."""
        zeros = 0
        while (token := self.at()).kind == "word":
            if token.is_glued and token.text in _GLUED_ZEROS:
                zeros += _GLUED_ZEROS[token.text]
            elif token.word in _ZEROS:
                zeros += _ZEROS[token.word]
            else:
                break
            self.place += 1
        return zeros

    # The tail.

    def behind(self, value: str | None) -> Statement:
        """The statement of `value`, or of an expression, with the tail at the current place."""
        is_explained = is_object = is_rejected = is_alternative = is_conditional = False
        is_or, words_behind_or = False, 0  # "red or blue in 3 days" adds no number
        while (token := self.at()) is not _NO_TOKEN:
            word = token.word
            if token.kind == "number" or (token.text in ("-", "+") and self.at(1).kind == "number"):
                is_allowed = (is_explained or is_object or is_rejected) and not (is_alternative or is_or)
                if is_conditional and (self.at(-1).word == "and" or self.at(-1).text == ","):  # "12 if …, 13 if …"
                    is_allowed = False
                if not self._repeats(value) and (not is_allowed or self._is_called_possible()):
                    return SEVERAL
                is_object = False
                continue
            if (token.kind == "command" or token.text in _MATHEMATICS) and (
                is_alternative or is_or or (self._is_joined() and not is_explained)
            ):
                return SEVERAL
            if word:
                if word in _REJECTS:
                    is_rejected, is_alternative, is_or = True, False, False
                elif word in _ALTERNATIVES:
                    is_alternative, is_rejected, is_object = True, False, False
                    is_or, words_behind_or = is_or or word in _OR, 0
                    if word == "or" and self.at(1).word in _OPEN_RANGE:
                        return SEVERAL
                elif word in _EXPLAINS:
                    is_explained, is_alternative, is_or = True, False, is_or and not words_behind_or
                    is_conditional = is_conditional or word in _CONDITIONS
                elif word in _NUMBER_WORDS and (is_alternative or is_or or (not is_explained and self._is_joined())):
                    return SEVERAL
                elif word in _PREPOSITIONS or (
                    word in ("of", "to") and (self.at(1).word in _ARTICLES or self.at(2).word in _PRECISION)
                ):
                    is_object = True
                    if words_behind_or:
                        is_alternative = is_or = False
                elif word not in _ARTICLES and word not in _FILLERS:
                    is_object = False
                    words_behind_or += is_or
            elif token.text in ("(", "["):
                self._skip_calculation()
            elif token.text in (",", ";"):
                is_object = is_rejected = False
            elif token.text in ("—", "-", ":") and self.at(1).kind == "word":
                is_explained = True
            elif token.text == "±":
                return SEVERAL
            elif token.text == "?":
                return NOTHING
            elif token.text == "." and not self.at(1).is_glued:
                is_explained = is_object = is_rejected = False
            self.place += 1
        return Statement(value, is_stated=True)

    def _repeats(self, value: str | None) -> bool:
        """Read a number of the tail; whether it is the value again."""
        before = self.place
        try:
            other = self._value()
        except _NotInGrammarError:
            other = None
        if other is None:
            self.place = before + 1
        return other is not None and value is not None and _is_equal((value, False), (other, self.at().text == "%"))

    def _is_called_possible(self) -> bool:
        return any(self.at(offset).word in _POSSIBLE for offset in range(3))

    def _is_joined(self) -> bool:
        before = self.at(-1)
        if before.word in _ARTICLES:
            before = self.at(-2)
        return before.word in _JOINS or before.text in (",", ";", "&")

    def _skip_calculation(self) -> None:
        """Skip brackets that hold a calculation and no alternative, up to their end."""
        is_calculation = False
        for offset in range(1, len(self.tokens) - self.place):
            token = self.at(offset)
            if token.text in (")", "]"):
                if is_calculation:
                    self.place += offset
                return
            if token.word in _ALTERNATIVES or token.text == "±":
                return
            is_calculation = is_calculation or token.text in _OPERATORS or token.text == "="


def _canonical_decimal(text: str, zeros: int) -> str | None:
    """The canonical form of an unsigned number in digits, times 10^zeros."""
    mantissa, _, exponent = text.lower().partition("e")
    integer, _, decimals = re.sub("[, _]", "", mantissa).partition(".")
    shift = zeros + int(exponent or 0)
    if len(integer) + len(decimals) > MAX_DIGITS + 10 or abs(shift) > MAX_DIGITS:
        return None
    digits, point = integer + decimals, len(integer) + shift
    digits = digits.rjust(len(digits) - point, "0") if point < 0 else digits.ljust(point, "0")
    point = max(point, 0)
    integer, decimals = digits[:point].lstrip("0") or "0", digits[point:].rstrip("0")
    return f"{integer}.{decimals}" if decimals else integer


def _is_equal(one: tuple[str, bool], other: tuple[str, bool]) -> bool:
    """Whether two values are equal, or one is the other in percent."""
    return one[0] == other[0] or _difference(one, other) == 0


def _agree(one: tuple[str, bool], other: tuple[str, bool]) -> bool:
    """Whether two values are equal, or one is the other in percent or rounded."""
    places = min(_places(text) for text, _ in (one, other))
    difference = _difference(one, other)
    return one[0] == other[0] or (difference is not None and difference <= Fraction(1, 2 * 10**places))


def _difference(one: tuple[str, bool], other: tuple[str, bool]) -> Fraction | None:
    if "R" in one[0] or "R" in other[0]:
        return None
    a, b = Fraction(one[0]), Fraction(other[0])
    if one[1] != other[1]:
        a, b = (a / 100, b) if one[1] else (a, b / 100)
    return abs(a - b)


def _places(value: str) -> int:
    """The decimal places of a value; those of a fraction are without limit."""
    return MAX_DIGITS if "/" in value else len(value.partition(".")[2])
