"""Replies of a server with OpenAI's interface: the text of a reply enters; its choices, read and checked, leave.

Servers differ: chat and completion replies, words for why a text ended, two forms of log-probabilities. A reply that
cannot be read raises a `MalformedReplyError`, and its request is repeated.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rkd.io import writable
from rkd.records import ending_of

CUT, FILTERED, REFUSED = "length", "content_filter", "refusal"
# vLLM and SGLang say "abort" for a request that they dropped, routers say "error": it may succeed if asked again.
DROPPED = ("abort", "error")
SHOWN = 300  # characters of what a server said


class MalformedReplyError(ValueError):
    """A reply that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The choices of a reply as they came, and the server's counts of tokens; None if it gives no count."""

    choices: list[dict[str, Any]]
    read: int | None
    written: int | None


def read_reply(text: str) -> Reply:
    """The reply in the body of a response with status 200.

    What no file could hold, a NUL or half a surrogate pair, is replaced where a text is read.

    Raises:
        MalformedReplyError: it is no JSON object, or has no choice.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedReplyError(f"no JSON: {words_of(text)}") from error
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(one, dict) for one in choices):
        raise MalformedReplyError(f"no choices: {words_of(text)}")
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(choices, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))


def words_of(text: str) -> str:
    """What a server says in the body of an error, or of a reply that cannot be read, as one short line."""
    try:
        body = json.loads(text)
        error = body.get("error", body) if isinstance(body, dict) else body
        said = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    except (ValueError, RecursionError):
        said = None
    # A page of HTML is shown without its tags, and no control character reaches a terminal.
    page = re.sub(r"(?s)<(style|script)\b.*?</\1>|<[^<>]{0,200}>", " ", text[:4000])
    plain = said if isinstance(said, str) and said.strip() else page
    line = " ".join(writable(plain[:4000]).split()) or "nothing"
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    return line.removesuffix(".") if len(line) <= SHOWN else line[:SHOWN] + " …"


def ending_in(choice: Mapping[str, Any]) -> str:
    """Why the text of a choice ended: as `rkd.records.ending_of`, or "refusal" where the model declined."""
    message = choice.get("message")
    refusal = message.get("refusal") if isinstance(message, dict) else None
    return REFUSED if isinstance(refusal, str) and refusal else ending_of(choice.get("finish_reason"))


def text_of(choice: Mapping[str, Any]) -> tuple[str, str]:
    """The text of a choice, "" if it has none, and why it ended (`ending_in`).

    Raises:
        MalformedReplyError: it has no field for a text, or holds something else there.
    """
    message = choice.get("message", {})
    if not isinstance(message, dict) or ("text" not in choice and not message):
        raise MalformedReplyError(f"a choice without text: {_shown(json.dumps(choice))}")
    text, ending = choice.get("text") if "text" in choice else message.get("content"), ending_in(choice)
    if isinstance(text, list):  # of parts; those of a thought have another type
        text = "".join(str(one.get("text", "")) for one in text if isinstance(one, dict) and one.get("type") == "text")
    if text is not None and not isinstance(text, str):
        raise MalformedReplyError(f"a text that is a {type(text).__name__}")
    return writable(text or (message["refusal"] if ending == REFUSED else "")), ending


def logprobs_of(choice: Mapping[str, Any]) -> dict[str, float] | None:
    """Log-probabilities in nats of the likeliest first tokens, by their text; None if the server lists none.

    Raises:
        MalformedReplyError: the value is no list of tokens.
    """
    logprobs = choice.get("logprobs")
    if not logprobs:
        return None
    try:
        if listed := logprobs.get("content"):  # chat
            pairs = [(one["token"], one["logprob"]) for one in listed[0].get("top_logprobs") or []]
        elif listed := logprobs.get("top_logprobs"):  # completion
            pairs = list((listed[0] or {}).items())
        else:
            return None
        shares: dict[str, float] = {}
        for token, logprob in pairs:  # two tokens may have the same text
            if math.isnan(value := float(logprob)):
                raise ValueError("NaN")
            name = writable(str(token))
            shares[name] = shares.get(name, 0.0) + math.exp(min(0.0, value))
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise MalformedReplyError(f"logprobs: {_shown(json.dumps(logprobs))}") from error
    return {token: math.log(share) for token, share in shares.items() if share > 0} or None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _shown(text: str) -> str:
    return repr(text[:200])
