"""The score or the verdict that a judge's written reply states: a reply enters, what it states leaves.

A thought in tags is no part of a reply. Emphasis, quotes and table lines are blanks, so that **Score: 4** and
{"score": 4} read as Score: 4. The grammar of scores, the strongest kind first:

    marked   LABEL : n, <LABEL>n</LABEL>, [[n]], \\boxed{n}       LABEL: score, rating, grade, mark, verdict
    said     LABEL is n, LABEL of n, rate it n, give it a n
    bare     a line that is n alone, or a first line that begins with n and goes on as a remark

A statement of a weaker kind counts only where there is none of a stronger one. n may be followed by /m, "out of m" or
"points". Another m than the highest score, a decimal, a range ("4-5", "4 or 5") or a number outside the scale states
no score, and makes the whole reply unreadable, as different scores do. "Score: 5 if …" and "Score: 5?" state nothing.
The number of a list item is no score.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rkd.data.thoughts import behind_thought

ReadReply = Callable[[str], float | None]
"""Reads a score in [0, 1] from what a judge wrote; None where it cannot."""

_LABEL = r"(?:score|rating|grade|mark|verdict|judge?ment|assessment|evaluation)"
_SCALE = (  # "Score (1-5):", "Score out of 5:", "Score for this response:"
    r"(?: ?[(\[][^()\[\]\n]{0,30}[)\]]| out of \d{1,3}| (?:on|from|of|for) [a-z][^:=.\n]{0,40})?"
)
_SEPARATOR = r" ?(?::|=>?|->|→|[-–—](?= )) ?"
_MARK = re.compile(
    rf"(?<![^\W_]){_LABEL}{_SCALE}{_SEPARATOR}\n?|< ?(?:[a-z]{{1,9}} )?{_LABEL} ?>|\[\[ ?(?:{_LABEL} ?:)?"
    r"|\\boxed ?(?=\{)",
)
_IT = r"(?:it|this|that|(?:the|this|that) (?:\w{1,12} )?(?:response|answer|solution))"
_ARTICLE = r"(?:(?:only|just) )?(?:an?|the) (?:(?:score|rating|grade|mark) of )?"
_SAID = re.compile(
    rf"(?<![^\W_])(?:{_LABEL} (?:(?:is|of|as|would be|should be) )?(?:an? )?(?=[(\d])"
    rf"|(?:rated?|scored?|graded?|marked) {_IT} (?:(?:as|at|with) )?(?:an? )?(?=\d)"
    rf"|(?:gives?|gave|given?|award(?:ed)?|assign(?:ed)?|deserves?|earns?|gets?|receives?) (?:{_IT} )?"
    rf"(?:{_ARTICLE}(?=\d)|(?=\d ?/ ?\d|\d out of \d)))",
)
_NUMBER = re.compile(
    r"[ \n(\[{]{0,4}(?P<sign>[-−–+] ?)?(?P<whole>\d{1,4})(?P<decimals>[.,]\d{1,6})?"
    r"(?: (?:points?|stars?)(?= out of))?(?P<of> ?(?:/|out of|of) ?(?P<highest>\d{1,4})(?:[.,]0)?)?"
    r"(?P<unit> (?:points?|stars?)\b)?[)\]}]{0,4}"
)
# Behind a number: what makes it a part of something else, and what makes the statement none.
_PART = re.compile(r"[^\W_]|[.,]\d|\+| ?[%°]| ?(?:[-–—~/,;+*×^=<>&|]|to|or|and|through) ?[-+]?\d| \d| of\b|/")
_NO_STATEMENT = re.compile(r",? ?(?:\?|=|:(?! ?$)|(?:if|when|where|unless|would|means?|requires?|needs?|is|are|was)\b)")
_DENIED = re.compile(  # before a number that is said: "not a score of 5", "more than a 3", "for a score of 5 …"
    r"(?:\b(?:not|never|cannot|than|least|most|for|between)\b|n't)[^,.!?;\n]*$"
    r"|\b(?:if|whether|unless|when|why)\b[^.!?;\n]*$",
)
_REMARK = re.compile(r" ?(?:[,;:!–—(]|- )(?! ?\d)| (?:because|since|as)\b")
_ITEM = re.compile(r"^\(?\d{1,3} ?[.):,–—-]", re.MULTILINE)  # begins a line of a list

_HEAD = 80  # characters before a statement that may deny it
_EDGE = 2000  # characters: of a longer reply, which has run away, the beginning and the end are read
_LINE_START = re.compile(r"(?:\W|\b(?:final|overall|total|my|the|your)\b)*$")


@dataclass(frozen=True, slots=True)
class _Statement:
    """A score that a reply states; None: a statement from which no single score of the scale can be read."""

    score: int | None
    begins_line: bool


def last_stated_score(reply: str, lowest: int, highest: int) -> int | None:
    """The last marked score that begins its line; earlier ones belong to the evidence. None if there is none."""
    text = _plain(reply)
    lines = [one for one in _marked(text, _MARK, lowest, highest) if one.begins_line]
    return lines[-1].score if lines else None


def score_or_verdict(reply: str, lowest: int, highest: int) -> int | None:
    """The score that a reply states or, without any, the highest for a verdict of right and the lowest for wrong.

    None where a highest or a lowest score contradicts the verdict beside it.
    """
    text = _plain(reply)
    scores, verdicts = set(_scores(text, lowest, highest)), set(_verdicts(text))
    said = highest if verdicts == {True} else lowest if verdicts == {False} else None
    if not scores:
        return said
    score = scores.pop() if len(scores) == 1 else None
    return None if said is not None and {said, score} == {lowest, highest} else score


def _plain(reply: str) -> str:
    """The reply in small letters without thought, emphasis and quotes, with single blanks; of a long one its ends."""
    text = behind_thought(reply).strip()
    if len(text) > 2 * _EDGE:  # cut at white space, so that no number is cut
        text = "\n".join((text[:_EDGE].rsplit(maxsplit=1)[0], text[-_EDGE:].split(maxsplit=1)[-1]))
    text = unicodedata.normalize("NFKC", text).lower().replace("⁄", "/").replace("’", "'")
    text = re.sub(r"(?<![^\W_])'|'(?![^\W_])|[*_`#$\"“”„|\0\u200b\ufeff]", " ", text)
    text = re.sub(r"[^\S\n]*[\r\n][\s>]*", "\n", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r"(?m)^(?:[-•+>] ?(?=[^\W\d])|[-•+>] )+", "", text).strip()


def _scores(text: str, lowest: int, highest: int) -> list[int | None]:
    """The scores of the strongest kind that the text states; None for each that is not one of the scale."""
    for kind in (_MARK, _SAID):
        if found := [one.score for one in _marked(text, kind, lowest, highest)]:
            return found
    return _bare(text, lowest, highest)


def _marked(text: str, kind: re.Pattern[str], lowest: int, highest: int) -> Iterator[_Statement]:
    for mark in kind.finditer(text):
        number = _NUMBER.match(text, mark.end())
        if number is None or (kind is _SAID and _DENIED.search(text, max(0, mark.start() - _HEAD), mark.start())):
            continue
        is_item = "\n" in text[mark.start() : number.start("whole")] and _ITEM.match(text[number.start() :].lstrip())
        if is_item or (not _PART.match(text, number.end()) and _NO_STATEMENT.match(text, number.end())):
            continue
        line = text[max(0, text.rfind("\n", 0, mark.start()) + 1, mark.start() - _HEAD) : mark.start()]
        yield _Statement(_of_scale(text, number, lowest, highest), _LINE_START.match(line) is not None)


def _of_scale(text: str, number: re.Match[str], lowest: int, highest: int) -> int | None:
    """The number as a score; None if it is none of the scale, or a part of something else."""
    if number["sign"] or (number["decimals"] or ".0")[1:].strip("0") or _PART.match(text, number.end()):
        return None
    if number["of"] and int(number["highest"]) != highest:
        return None
    score = int(number["whole"])
    return score if lowest <= score <= highest else None


def _bare(text: str, lowest: int, highest: int) -> list[int | None]:
    """The numbers that are lines of their own, if the first line is one, or begins with one and a remark."""
    lines = text.split("\n")
    if (first := _NUMBER.match(lines[0])) is None:
        return []
    rest = lines[0][first.end() :]
    is_alone = rest in ("", "!", ".") and (rest != "." or len(lines) == 1 or first["of"] is not None)
    if not is_alone:
        if not _REMARK.match(rest) and not ((first["of"] or first["unit"]) and rest[:1] == "."):
            return []
        if _ITEM.match(lines[0]) and len(_ITEM.findall(text)) > 1:
            return []
    own = [number for line in lines[1:] if (number := _NUMBER.fullmatch(line))]
    return [
        _of_scale(lines[0], first, lowest, highest),
        *(_of_scale(number.string, number, lowest, highest) for number in own),
    ]


# The grammar of verdicts: an answered question ("Wrong? No", "Correct: No", {"is_correct": true}), a labelled word, the
# word that the reply begins with, and a sentence about the response.

_RIGHT, _WRONG = ("right", "correct", "true", "accurate"), ("wrong", "incorrect", "false", "inaccurate")
_WORD = rf"(?:{'|'.join((*_RIGHT, *_WRONG))})"
_YES_NO = r"(?:yes|no|true|false)"
_DEGREE = r"(?:(?:entirely|completely|fully|clearly|definitely|really|also|indeed|quite|simply|thus|therefore) )*"
_END = r"(?= ?(?:$|[.,;!)\]}<\n–—(/&]|:(?! ?\d)|- )| (?:because|since|as|and|or|but)\b)"
_ANSWERED = re.compile(rf"\b(?P<not>not )?(?P<word>{_WORD}) ?[?:=] ?\n?(?P<reply>{_YES_NO}){_END}")
_CALLED = re.compile(
    rf"(?m)(?:^|(?P<label>\b(?:{_LABEL}|conclusion|decision|answer)(?: ?[:=]| is) ?\n?|< ?{_LABEL} ?>|\[\[ ?))"
    rf"(?P<not>not {_DEGREE})?(?P<word>{_WORD}|yes|no)(?: (?:answer|response|solution)(?! ?:))?{_END}",
)
_JUDGED = re.compile(
    r"\b(?:it|this|that|(?:the |this |that |its )?(?:final |whole )?(?:answer|response|solution|result))"
    rf"(?:'s| (?:is|was|seems|looks))(?P<not>n't| {_DEGREE}not)? {_DEGREE}(?:an? )?(?P<word>{_WORD}){_END}",
)
_ALSO = re.compile(rf" ?(?:and|or|but|/|&|,)(?: also)? ?(?P<not>not )?(?P<word>{_WORD}|yes|no)\b")
_REPORTED = re.compile(
    r"(?:\b(?:not|never|cannot|doubt|unsure|says?|claims?|thinks|believes|only)\b|n't)[^,.!?;\n]*$"
    r"|\b(?:if|whether|unless|when|how|why|assum\w{0,4}|suppos\w{0,4})\b[^.!?;\n]*$",
)


def _verdicts(text: str) -> Iterator[bool]:
    """Each verdict that the text states: whether the response is right."""
    for found in _ANSWERED.finditer(text):
        yield _is_right(found) == (found["reply"] in ("yes", "true"))
    for kind in (_CALLED, _JUDGED):
        for found in kind.finditer(text):
            if not _REPORTED.search(text, max(0, found.start() - _HEAD), found.start()):
                if _ANSWERED.match(text, found.start("word")):
                    continue  # a question, or its answer follows
                yield _is_right(found)
                if other := _ALSO.match(text, found.end()):
                    yield _is_right(other)


def _is_right(found: re.Match[str]) -> bool:
    return (found["word"] in (*_RIGHT, "yes")) != bool(found["not"])
