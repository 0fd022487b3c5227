"""Thoughts of reasoning models, between tags: a reply enters, what it says behind its thought leaves."""

import re

_NAMES = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad)"
_BEGIN = re.compile(rf"\s*<{_NAMES}>", re.IGNORECASE)
_END = re.compile(rf"</{_NAMES}>", re.IGNORECASE)


def behind_thought(text: str) -> str:
    """The text behind the last end of a thought; the whole text if it holds none.

    A thought that begins the text and never ends leaves nothing: what it weighs is no answer and no verdict.
    """
    ends = [match.end() for match in _END.finditer(text)]
    if ends:
        return text[ends[-1] :]
    return "" if _BEGIN.match(text) else text
