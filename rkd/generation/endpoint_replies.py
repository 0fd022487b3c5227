"""Replies of a server with OpenAI's interface: the text of a reply enters; its choices, read and checked, leave.

Servers differ: chat and completion replies, words for why a text ended, two forms of log-probabilities. A reply that
cannot be read raises a `MalformedReplyError`, and its request is repeated.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Ending = Literal["stop", "length", "refusal", "content_filter"]
"""Why a text ended: by itself, cut at the limit, the model declined, or the server withheld it or a part of it."""

CUT, FILTERED = "length", "content_filter"
# vLLM and SGLang say "abort" for a request that they dropped, routers say "error".
NOT_ANSWERED = (None, "", "abort", "error")


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

    Raises:
        MalformedReplyError: it is no JSON object, or has no choice.
    """
    try:
        body = json.loads(text)
    except ValueError as error:
        raise MalformedReplyError(f"no JSON: {_shown(text)}") from error
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(one, dict) for one in choices):
        raise MalformedReplyError(f"no choices: {_shown(text)}")
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(choices, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))


def text_of(choice: Mapping[str, Any]) -> tuple[str, Ending]:
    """The text of a choice, and why it ended.

    Raises:
        MalformedReplyError: it has no text, or says that it was not finished.
    """
    reason = choice.get("finish_reason")
    if reason in NOT_ANSWERED or not isinstance(reason, str):
        raise MalformedReplyError(f"finish_reason={reason!r}")
    message = choice.get("message", {})
    if not isinstance(message, dict) or ("text" not in choice and not message):
        raise MalformedReplyError(f"a choice without text: {_shown(json.dumps(choice))}")
    text = choice.get("text") if "text" in choice else message.get("content")
    if text is not None and not isinstance(text, str):
        raise MalformedReplyError(f"a text that is a {type(text).__name__}")
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return text or refusal, "refusal"
    if reason == FILTERED:
        return text or "", "content_filter"
    return text or "", "length" if reason == CUT else "stop"


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
            shares[str(token)] = shares.get(str(token), 0.0) + math.exp(min(0.0, float(logprob)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise MalformedReplyError(f"logprobs: {_shown(json.dumps(logprobs))}") from error
    return {token: math.log(share) for token, share in shares.items() if share > 0} or None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _shown(text: str) -> str:
    return repr(text[:200])
