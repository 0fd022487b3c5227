r"""The final answer of a response: y = Extract(a) of paper D, section 3.

A text enters, a canonical answer leaves: a number (`"1000.5"`, `"-3/4"`), a LaTeX expression that is no plain number
(`"\sqrt{16}"`), a letter A to J, or None. An answer is read in four steps:

1. Pieces that state an answer are found (`rkd.data.answer_statements`): "The answer is N.", `Answer: N`, `#### N`,
   `A: N`, a heading "Final Answer", `\boxed{N}`, `\fbox{N}`, `<answer>N</answer>`, `{"answer": N}`.
2. Emphasis, LaTeX's formatting and the forms of Unicode are made plain.
3. The piece is read by a grammar (`rkd.data.number_grammar`, `rkd.data.letter_grammar`). A piece that states several
   values ("12 or 13") or a part of something longer ("12 + 5", "20% of 50") has none.
4. The last piece that states a number counts, since later steps correct earlier ones, even if it cannot be read. The
   first piece that states one letter counts, as in the recorded MMLU-Pro predictions.

A response without such a piece has no answer: nothing is guessed from its other numbers or letters. Text after a new
`Q:` or `Question:` line answers another question and is cut off. So is a thought in tags, as `<think>…</think>`.
"""

import re
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from rkd.data.answer_statements import IS, MAX_PIECES, Piece, pieces_with_letters, pieces_with_numbers, sentence_end
from rkd.data.letter_grammar import LETTERS as LETTERS
from rkd.data.letter_grammar import LetterStatement, read_letter
from rkd.data.math_equivalence import canonical_expression, have_same_value
from rkd.data.number_grammar import (
    NOTHING,
    SEVERAL,
    UNREADABLE,
    Statement,
    has_another_value,
    plain,
    read_statement,
)
from rkd.data.thoughts import behind_thought
from rkd.records import Response

_CHOICE_DATASETS = ("mmlu_pro", "mini_choice")  # the answer of any other dataset is a number
FLOAT_NOISE = Fraction(1, 10**9)  # relative: a model that calculates in floating point is off by that much
_ROUNDED_DIGITS = 4  # a decimal with so many places and significant digits is taken to be rounded: 0.3333, not 0.33

# A line of at least three words. The first line is excluded: it may restate the question that is answered.
_NEW_QUESTION = re.compile(r"(?<=\n)[ \t]*+(?:Q|Question)(?: ?\d{1,3})?:(?=(?:[^\w\n]*+\w++){3})")
# If no piece states a letter, these phrases count where they name one letter.
_LETTER_CHOSEN = re.compile(
    r"(?:[Cc]orrect|[Bb]est|[Rr]ight) (?:answer )?(?:[Oo]ption|[Cc]hoice|alternative|letter)"
    rf"{IS}|I choose|closest (?:answer |option |choice |one )?(?:is|to)\b"
)
_LETTER_NAMED = re.compile(
    r"(?:[Oo]ption|[Cc]hoice) (?:\(([A-J])\)|([A-J])) is (?:the )?(?:correct|right|best)\b"
    r"|(?<![A-Za-z])(?:\(([A-J])\)|([A-J])) is the (?:correct|right|best) (?:answer|option|choice)\b"
)
_LONE_LETTER = re.compile(r"\b[A-J]\b")
_NAME = re.compile(r"\s*[A-Za-z]\s*=")
_HAS_DIGIT = re.compile(r"[0-9]")


def extract_answer(text: str, dataset: str) -> str | None:
    """The final answer that a response states, in canonical form, or None if it states none, or several.

    Units, currency and percent signs are dropped: "The answer is 50%." is "50".
    """
    return _read_letter(_own_part(text)).letter if is_choice(dataset) else _read_number(_own_part(text)).value


def answer_of(response: Response, dataset: str) -> str | None:
    """The answer by which a response votes and is tested: the recorded one or, without any, the one that it states."""
    if response.recorded_answer is not None:
        return response.recorded_answer or None
    return extract_answer(response.text, dataset)


def names_several_answers(text: str, dataset: str) -> bool:
    """Whether a response states several answers at once, as "The answer is 12 or 13." does: a hedge."""
    return (_read_letter if is_choice(dataset) else _read_number)(_own_part(text)).has_several


def _own_part(text: str) -> str:
    """The text behind a thought and up to a new question, with line feeds alone at the ends of lines."""
    text = behind_thought(text).replace("\r\n", "\n").replace("\r", "\n").lstrip()
    new_question = _NEW_QUESTION.search(text)
    return text[: new_question.start()] if new_question else text


def answers_match(a: str | None, b: str | None, dataset: str) -> bool:
    """Whether two answers are the same; None matches nothing, not even None.

    Numbers are compared exactly as fractions, expressions by `rkd.data.math_equivalence`. A decimal with four or more
    places and significant digits is taken to be rounded or cut off: 0.3333 matches 1/3, 0.0001 matches 1/10000 alone.
    Other answers with digits, as "4, 10", match if their texts do.
    """
    if a is None or b is None:
        return False
    return a == b if is_choice(dataset) else _numbers_match(a, b)


def last_letter(text: str) -> str | None:
    """The last capital A to J that stands alone, but of a response that states several letters the first of them.

    It is a guess, not an answer. MMLU-Pro's published evaluation takes it if a response does not state one letter.
    """
    stated = _read_letter(_own_part(text)).named
    letters = _LONE_LETTER.findall(text)
    return stated[:1] or (letters[-1] if letters else None)


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


def canonical_number(text: str) -> str | None:
    """The number that a text states: "1,000.50 $" is "1000.5", "6/8" is "3/4", "1 1/2" is "3/2", "50%" is "50".

    None if there is no number, or several, or it is a part of a sum, a range or a list, or has over 40 digits.
    """
    return read_statement(text).value


def canonical_gold_answer(text: str) -> str | None:
    """A dataset's answer in canonical form: its number, or the whole text if that is no single number ("4, 10").

    None if the text has no digit.
    """
    return canonical_number(text) or (_whole(text) if _HAS_DIGIT.search(plain(text)) else None)


def _whole(text: str) -> str:
    tight = re.sub(r"\s*([,;:/])\s*", r"\1", plain(text))
    return " ".join(re.sub("([,;])", r"\1 ", tight).split()).casefold()


def _read_number(text: str) -> Statement:
    last, covered = NOTHING, -1
    for piece in pieces_with_numbers(text):
        if piece.start < covered:  # it belongs to a statement of several values
            continue
        stated = read_statement(piece.text, piece.following, is_formula="!" in piece.formula)
        if stated.is_stated and piece.is_one_of_several:
            stated = SEVERAL
        if stated == UNREADABLE:
            stated = _expression(piece)
        if stated.is_stated:
            last = stated
            covered = piece.end if stated.has_several else covered
    return last


def _expression(piece: Piece) -> Statement:
    """The formula of a piece that is no plain number, without the name before it: "x = \\sqrt{2}"."""
    formula = _NAME.sub("", piece.formula, count=1)
    expression = None if "=" in formula else canonical_expression(formula)
    if expression is None:
        return UNREADABLE
    following = piece.following or piece.text.partition(piece.formula)[2]
    return SEVERAL if has_another_value(following) else Statement(expression, is_stated=True)


def _read_letter(text: str) -> LetterStatement:
    """The first letter that is stated, or of several stated at once the one that a later piece decides for."""
    found, covered, is_open = LetterStatement(), -1, True
    for piece in pieces_with_letters(text):
        stated = read_letter(piece.text, piece.following) if piece.start >= covered else LetterStatement()
        if not stated.named:
            continue
        if piece.is_one_of_several or (is_open and not found.named):
            found = LetterStatement("".join(dict.fromkeys(found.named + stated.named)))
            is_open = piece.is_one_of_several or found.has_several
            covered = piece.end if stated.has_several else covered
        elif is_open and stated.letter and stated.letter in found.named:
            found, is_open = stated, False
    return found if found.named and (found.has_several or not is_open) else _chosen_letter(text)


def _chosen_letter(text: str) -> LetterStatement:
    """The letter that phrases as "I choose B" and "(B) is the correct option" name."""
    chosen = deque(_LETTER_CHOSEN.finditer(text), maxlen=MAX_PIECES)
    named = deque(_LETTER_NAMED.finditer(text), maxlen=MAX_PIECES)
    stated = [(at.start(), read_letter(text[at.end() : sentence_end(text, at.end())])) for at in chosen]
    stated += [(at.start(), read_letter(next(filter(None, at.groups())))) for at in named]
    letters = [found for _, found in sorted(stated, key=lambda one: one[0]) if found.named]
    return letters[-1] if letters else LetterStatement()


@lru_cache(maxsize=65_536)
def _value(number: str) -> tuple[Fraction, int | None] | None:
    """The exact value, and the decimal places of one that is taken to be rounded."""
    canonical = canonical_number(number)
    if canonical is None or "R" in canonical:
        return None
    integer, _, decimals = canonical.partition(".")
    is_rounded = len(decimals) >= _ROUNDED_DIGITS <= len((integer + decimals).lstrip("-0"))
    return Fraction(canonical), len(decimals) if is_rounded else None


def _numbers_match(a: str, b: str) -> bool:
    a_value, b_value = _value(a), _value(b)
    if a_value is None or b_value is None:
        a_expression, b_expression = canonical_expression(a), canonical_expression(b)
        if (a_value or a_expression) and (b_value or b_expression):
            return a_expression == b_expression or have_same_value(a, b)
        return _HAS_DIGIT.search(a) is not None and _whole(a) == _whole(b)
    (a_exact, a_places), (b_exact, b_places) = a_value, b_value
    if a_exact == b_exact:
        return True
    if a_places is None and b_places is None:
        return False
    if abs(a_exact - b_exact) < FLOAT_NOISE * max(abs(a_exact), abs(b_exact)):
        return True
    pairs = ((a_exact, b_exact, a_places), (b_exact, a_exact, b_places))
    return any(places is not None and _is_rounded(rounded, exact, places) for rounded, exact, places in pairs)


def _is_rounded(rounded: Fraction, exact: Fraction, places: int) -> bool:
    """Whether a decimal is a number rounded, or cut off, behind `places` decimal places."""
    places_off = (exact - rounded) / Fraction(f"1e-{places}")
    return abs(places_off) <= Fraction(1, 2) or (abs(places_off) < 1 and (places_off > 0) == (exact > 0))
