"""Thoughts of reasoning models, between tags: a reply enters, what it says behind its thought leaves."""

import re

_NAMES = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad)"
_BEGIN = re.compile(rf"<{_NAMES}>", re.IGNORECASE)
_END = re.compile(rf"</{_NAMES}>", re.IGNORECASE)


def behind_thought(text: str) -> str:
    """The text behind the last end of a thought; the whole text if it holds none.

    A thought that never ends is left out, too: what it weighs is no answer and no verdict.
    """
    ends = [match.end() for match in _END.finditer(text)]
    own = text[ends[-1] :] if ends else text
    begin = _BEGIN.search(own)
    return own[: begin.start()] if begin else own
