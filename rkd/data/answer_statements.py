r"""Where a response states its answer: a text enters, the pieces of it that state an answer leave.

A piece is open, the rest of a sentence behind "the answer is", `Answer:`, a heading "Final Answer" or `####`; or it is
enclosed, in `\boxed{…}`, `\fbox{…}`, `<answer>…</answer>` or as the value of "answer" in JSON. Its qualifier says what
stands before it: "if the answer is" and "Ann says the answer is" state nothing, and "another answer is" states one of
several.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

MAX_PIECES = 64  # of a text; the first or the last ones
_CHARACTERS = 240  # of a statement, at most
_HEAD = 60  # characters examined before a statement


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text that states an answer.

    Args:
        start, end: its place in the text; the sentence around it ends at `end`.
        text: what is stated.
        following: the rest of the sentence, of an enclosed piece.
        formula: what stands between braces, tags, quotes, $…$ or \\(…\\), if the piece begins so.
        is_one_of_several: whether it is "another answer" or "a possible answer".
    """

    start: int
    end: int
    text: str
    following: str = ""
    formula: str = ""
    is_one_of_several: bool = False


_BE = r"(?:is|IS|are|was|(?:would|should|will|must) be|equals|comes? (?:out )?to)\b"
_TO_THE_QUESTION = r"(?: to (?:the|this|your|our) (?:\w{1,12} )?(?:question|problem))?"
IS = rf"{_TO_THE_QUESTION}[\s*_]{{0,4}}(?:{_BE}|[:=：])"
# "The answer, in km, is", "The answer (in km) is", "The answer for the whole week is".
_REMARK = (
    r"(?:,[^,.:=\n]{1,40},|\s?\([^()\n]{1,40}\)"
    r"|\s(?:to|in|for|of|as|when|rounded)\b(?: (?![Aa]nswer)[^\s.:=]{1,24}){1,10}?)?"
)
_ANSWER = r"(?:answer|Answer|ANSWER)"
_ANSWERS = r"(?:answers|Answers|ANSWERS)[\s*_]{0,4}(?:are\b|:)"
_HEADING = r"(?:Answer|ANSWER|answer)[ \t]{0,4}[*_]{0,3}[ \t]{0,4}\n"
_ENCLOSING = (
    r"\\(?:boxed|fbox|framebox)\s{0,2}\{|<(?:final[_ -]?)?answer>|<(?:Final[_ -]?)?Answer>|<ANSWER>"
    r"|[\"'](?:[Ff]inal[_ ]?)?[Aa]nswer[\"']\s{0,4}:\s{0,4}"
)
# Every alternative starts with a plain character, so that `re` skips the rest of the text quickly.
_LETTER = re.compile(rf"{_ANSWER}{IS}|{_ANSWERS}|{_HEADING}|{_ENCLOSING}|(?<!#)####(?!#)")
_NUMBER = re.compile(
    rf"{_ANSWER}{_REMARK}{IS}|{_ANSWERS}|{_HEADING}|{_ENCLOSING}|(?<!#)####(?!#)"
    r"|A:(?<![^\n]A:)(?=[^\d\n]{0,12}[\d,./ e-]++[^\d\n]{0,80}+$)",
    re.MULTILINE,
)

# Words before a statement: articles and adjectives of "answer" are passed over, and what precedes them counts.
_ADJECTIVE = re.compile(
    r"\b(?:an?|the|this|that|my|your|our|his|her|their|final|correct|right|only|exact|overall|best) $", re.IGNORECASE
)
_NO_STATEMENT = re.compile(
    r"(?:\b(?:wrong|incorrect|false|no|not|cannot|never|without|don't|doesn't|didn't|can't|won't|isn't|unable to"
    r"|refuse to) |'s |\b(?:if|whether|suppose|supposing|assume|assuming|imagine|unless"
    r"|say|says|said|thinks?|claims?|claimed|believes?|guesses|guessed|wrote|writes|doubts?|deny|denies"
    r"|not sure)(?: that)?,? )$",
    re.IGNORECASE,
)
_IN_FIRST_PERSON = re.compile(r"\b(?:I|we|you|I'd) (?:would )?(?:say|think|claim|believe)(?: that)?,? $", re.IGNORECASE)
_ONE_OF_SEVERAL = re.compile(
    r"\b(?:possible|plausible|potential|another|other|alternative|second|third|maybe|perhaps|possibly|either) $",
    re.IGNORECASE,
)
_HEADING_START = re.compile(r"[#*_>\s]*(?:(?:Final|FINAL|final|The|My)\s*)*$")

# What may stand before an answer in its sentence: signs, and words with a full stop of their own.
_OPENING = re.compile(
    r"(?:\n[ \t>]*(?:[-*•+][ \t]+|>)|[\s*_:=<(\[{$€£¥₹≈~\"'`“]|\\[\[(,;: ]|(?:approx|[Rr]s|ca|[Nn]o|appr)\. ?)*+"
)
# "2. Verification", "2) Check" and "2 - Check" are headings or items of a list.
_ORDINAL = re.compile(r"[ \t*_]{0,6}[0-9]{1,2}(?:(?:\\?[.)]|:(?= ))[ \t*_]{1,6}[^\W\d_]| [-–—] [A-Z])")
_ALTERNATIVE = (
    r"(?:[Oo]r|OR|and|[Aa]lternatively|[Mm]aybe|[Pp]erhaps|[Pp]ossibly|[Oo]therwise"
    r"|(?:(?:[Bb]ut )?(?:[Ii]t|[Tt]his|[Tt]hat|[Tt]he answer)) (?:could|might|may) (?:also |well )?be)"
)
_FORMULA = re.compile(r"[\s*:]{0,4}(?:\$([^$\n]{1,110})\$|\\\(([^\n]{1,110}?)\\\))")
_JSON_VALUE = re.compile(r""" "((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|(-?[0-9][0-9.eE+-]*)|\[([^\[\]\n]*)\]""".strip())
_JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[\\\"/]|[nt](?![a-zA-Z]))")  # \text is a command of LaTeX
_END_OF_JSON_VALUE = re.compile(r"\s*(?:[}\])\n]|,\s*[\"']|$)")
_END_OF_JSON = re.compile(r"\s*\}")
# A sentence ends at a line's end or a mark, but not before a sentence that adds an alternative.
_SENTENCE_END = re.compile(
    r"(?:(?<![Oo]r)(?<![Oo]r:)\n|\"(?=\s*(?:,\s*\"[\w ]{1,30}\"\s*:|\}))"  # or where a text of JSON ends
    r"|(?!(?<=[a-zA-Z])\.[ \t]+(?:[a-z0-9]|[A-Z]\.))[.!?]+[\"')*_`$}\]”]*+(?=\s|$))"
    rf"(?!\s{{0,9}}[*_(\[]{{0,3}}{_ALTERNATIVE}\b)"
)


def pieces_with_numbers(text: str) -> Iterator[Piece]:
    """The last pieces of a text that may state a number, in order; a later one may lie within an earlier one."""
    return _pieces(text, deque(_NUMBER.finditer(text), maxlen=MAX_PIECES))


def pieces_with_letters(text: str) -> Iterator[Piece]:
    """The first pieces of a text that may state a letter, in order."""
    return _pieces(text, islice(_LETTER.finditer(text), MAX_PIECES))


def _pieces(text: str, markers: Iterable[re.Match[str]]) -> Iterator[Piece]:
    for marker in markers:
        piece = _piece(text, marker)
        if piece is not None:
            yield piece


def _piece(text: str, marker: re.Match[str]) -> Piece | None:
    start, place, mark = marker.start(), marker.end(), marker[0]
    head = text[max(0, start - _HEAD) : start].rpartition("\n")[2]
    if mark[0] in "\\<\"'":
        return _enclosed(text, start, place, mark)
    if mark.endswith("\n") and ":" not in mark and not _HEADING_START.match(head):
        return None
    while adjective := _ADJECTIVE.search(head):
        head = head[: adjective.start()]
    if _NO_STATEMENT.search(head) and not _IN_FIRST_PERSON.search(head):
        return None
    lead_end = _end(_OPENING, text, place, place + _CHARACTERS)
    if ("#" in mark or "\n" in text[start:lead_end]) and _ORDINAL.match(text, lead_end):
        return None
    end = sentence_end(text, lead_end)
    formula = _FORMULA.match(text, place, end)
    inner = (formula[1] or formula[2]) if formula else ""
    return Piece(start, end, text[lead_end:end], formula=inner, is_one_of_several=bool(_ONE_OF_SEVERAL.search(head)))


def _enclosed(text: str, start: int, place: int, mark: str) -> Piece | None:
    limit = min(len(text), place + _CHARACTERS)
    if mark[0] == "\\":
        close = _closing_brace(text, place, limit)
        end = None if close is None else close + 1
    elif mark[0] == "<":
        close = text.find("</", place, limit)
        end = text.find(">", close, close + 20) + 1 if close >= 0 else None
        close = close if close >= 0 else limit
    else:
        return _json_value(text, start, place, limit)
    if close is None:  # a brace that is not closed
        return Piece(start, limit, text[place:limit] if limit == len(text) else "")
    inner = text[place:close]
    end = end or close
    last = sentence_end(text, end)
    return Piece(start, last, inner, text[end:last], formula=inner)


def _json_value(text: str, start: int, place: int, limit: int) -> Piece | None:
    """The value of "answer" in JSON: a number, a text or a list. A number that goes on is none of JSON."""
    value = _JSON_VALUE.match(text, place, limit)
    if value is None:
        return None
    inner = _JSON_ESCAPE.sub(_unescaped, value[1]) if value[1] is not None else value[2] or value[3] or value[4] or ""
    is_single = _END_OF_JSON_VALUE.match(text, value.end()) is not None
    closing = _END_OF_JSON.match(text, value.end())
    behind = closing.end() if closing else value.end()
    end = sentence_end(text, behind) if closing else behind
    return Piece(start, end, inner, text[behind:end], formula=inner, is_one_of_several=not is_single)


def _unescaped(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else {"n": "\n", "t": " "}.get(escape[0][1], escape[0][1])


def _closing_brace(text: str, place: int, limit: int) -> int | None:
    """The place of the brace that closes the one before `place`."""
    depth = 1
    for index in range(place, limit):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return index
    return None


def sentence_end(text: str, place: int) -> int:
    """The end of the sentence at `place`, at most a statement's length away; the mark belongs to it."""
    limit = place + _CHARACTERS
    found = _SENTENCE_END.search(text, place, limit + 1)
    if found and (found.end() <= limit or limit >= len(text)):
        return found.end()
    if limit >= len(text):
        return len(text)
    return max(place, *(text.rfind(blank, place, limit) for blank in " \n"))  # a word that goes on is left out


def _end(pattern: re.Pattern[str], text: str, start: int, limit: int) -> int:
    match = pattern.match(text, start, limit)
    assert match is not None
    return match.end()
