"""The documents of a corpus, with the verdicts of judges: texts enter, a `Document` with its verdict leaves."""

import dataclasses
import re

from rkd.data.answers import answers_match, extract_answer
from rkd.mini import open as mini_open

YES, NO = " Yes", " No"  # the verdicts, as in rkd.data.judge_prompts.JudgePrompt
FIRST, SECOND = " A", " B"  # as in rkd.data.judge_prompts.ComparePrompt
HIGHEST_MARK = 5
_NUMBER = re.compile(r"\d[\d.,]*")
_RESULT = re.compile(r"= (\d[\d.,]*)")


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One piece of text: with a `question`, the response to it; with `judged`, the verdict on that text.

    With a `reference` too, the verdict states which of both texts is better. With `is_graded` the verdict is evidence
    and a grade instead of one word.

    The documents in `before` precede it in the same text, like the examples of a few-shot prompt. Its question belongs
    to `dataset`, and is put in that dataset's prompt.
    """

    question: str | None
    text: str
    judged: str | None = None
    before: tuple["Document", ...] = ()
    dataset: str = "mini_math"
    reference: str | None = None
    is_graded: bool = False


def question_of(document: Document) -> str:
    """The question of a document that has one."""
    assert document.question is not None
    return document.question


def marked(question: str, solution: str, response: str) -> Document:
    """A document with a solution, the results that the response has and lacks, and the score of the response.

    A right answer scores 5. Another answer scores by its share of the results, up to 4. No answer scores 0.
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


def graded(question: str, response: str) -> Document:
    """A document with the evidence on a response to an instruction of mini_open, and its score."""
    grade = mini_open.grade(question, response)
    text = f"{grade.evidence}\nScore: {grade.score}"
    return Document(question, text, response, dataset=mini_open.DATASET, is_graded=True)


def compared(question: str, first: str, second: str) -> Document | None:
    """A document that states which of two responses scores higher; None if both score the same."""
    scores = [mini_open.score(question, text) for text in (first, second)]
    if scores[0] == scores[1]:
        return None
    better = FIRST if scores[0] > scores[1] else SECOND
    return Document(question, better, second, dataset=mini_open.DATASET, reference=first)
