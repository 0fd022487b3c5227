"""Requests to a server: tasks enter, the kept parts of its answers leave.

Many requests are in flight at once. Each finished one is in a journal before its worker sends the next, so that a
killed stage does not repeat it. A request that failed with a temporary error is repeated after growing waits. Any other
error, and a spent budget, ends the stage once the requests in flight are kept; its next attempt continues from them.
"""

import asyncio
import contextlib
import email.utils
import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from rkd.errors import EndpointError
from rkd.generation.endpoint_replies import (
    DROPPED,
    FILTERED,
    MalformedReplyError,
    Reply,
    ending_in,
    read_reply,
    words_of,
)
from rkd.generation.endpoint_server import EndpointModel, Server
from rkd.store.partial_results import PartialResults

JOURNAL = "requests"
SECONDS_BETWEEN_CLOCKS = 10.0
CONNECT_SECONDS = 20.0  # at most: a server accepts a connection at once, even if its reply takes long
PASSING_STATUS = (408, 409, 425, 429)  # of temporary errors, as are all from 500 on
OUT_OF_QUOTA = "insufficient_quota"  # of a provider, with status 429: this error is not temporary
FILTER_CODES = (FILTERED, "content_policy_violation")  # of a provider that refuses a prompt with status 400
HINTS = {
    401: "Check the key in the variable that server.api_key_variable names.",
    403: "Check the key in the variable that server.api_key_variable names, and what it may use.",
    404: "Check server.base_url, which mostly ends in /v1, and model: BASE_URL/models lists what is served.",
    429: "Raise the quota at the provider.",
}
OTHER_HINT = (
    "Check `requests`, `extra_body`, server.length_field, server.choices_per_request (1 where no `n` is known), of a "
    "judge top_logprobs (some servers list 5), and that prompt and response fit the model."
)

Read = Callable[[Mapping[str, Any]], Any]
"""Reads what is kept of a choice, in JSON form; it raises `MalformedReplyError` for a malformed choice."""


@dataclass(frozen=True)
class Task:
    """One prompt that gets `count` answers.

    Args:
        body: of its requests, without number of choices and seed.
        seed_of: the seed of a request whose first choice is the answer of this index.
    """

    body: Mapping[str, Any]
    count: int = 1
    seed_of: Callable[[int], int] = lambda _: 0

    @property
    def key(self) -> str:
        """The name of its answers in the journal."""
        asked = json.dumps([self.body, self.seed_of(0)], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(asked.encode()).hexdigest()[:24]


class Kept:
    """The answers that a server has given in a stage, earlier attempts included, by the key of their task.

    Args:
        partial: of the stage; None keeps them in memory alone.
    """

    def __init__(self, server: Server, partial: PartialResults | None) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.written: dict[str, int] = {}  # tokens
        self._server, self._progress, self._last_clock = server, partial, -math.inf
        self._journal = None if partial is None else partial.journal(JOURNAL)
        for row in [] if self._journal is None else self._journal.rows():
            self._note(row)

    def add(self, key: str, answers: Sequence[Any], reply: Reply) -> None:
        """Keep further answers."""
        row = {"key": key, "answers": answers, "read": reply.read, "written": reply.written}
        if self._journal is not None and self._progress is not None:
            self._journal.append(row)
            if time.monotonic() - self._last_clock >= SECONDS_BETWEEN_CLOCKS:
                self._last_clock = time.monotonic()
                self._progress.keep_clock()
        self._note(row)

    def _note(self, row: Mapping[str, Any]) -> None:
        key = row["key"]
        self.answers.setdefault(key, []).extend(row["answers"])
        self.written[key] = self.written.get(key, 0) + (row["written"] or 0)
        self._server.spent.add(row["read"], row["written"])


def ask(
    model: EndpointModel, tasks: Sequence[Task], read: Read, kept: Kept, advance: Callable[[int, str], None]
) -> list[list[Any]]:
    """The answers to each task; kept answers are not requested again.

    Args:
        advance: called with the place of each task that has all its answers, the speed and the spending so far.

    Raises:
        EndpointError: the server refused a request, failed too often, or its budget is spent.
    """
    server, started, keys = model.server, time.monotonic(), [task.key for task in tasks]
    before = server.spent.written

    def tell(place: int) -> None:
        speed = (server.spent.written - before) / max(time.monotonic() - started, 1e-3)
        advance(place, f"{speed:,.0f} tokens/s, {server.spending}")

    lacking: dict[str, list[int]] = {}
    for place, (key, task) in enumerate(zip(keys, tasks, strict=True)):
        if len(kept.answers.get(key, ())) >= task.count:
            tell(place)
        else:
            lacking.setdefault(key, []).append(place)  # equal tasks are asked once
    if lacking:

        def done(key: str) -> None:
            for place in lacking[key]:
                tell(place)

        asyncio.run(_Asking(model, read, kept).all({key: tasks[own[0]] for key, own in lacking.items()}, done))
    return [kept.answers[key][: task.count] for key, task in zip(keys, tasks, strict=True)]


class _PassingError(Exception):
    """An attempt failed with a temporary error.

    Args:
        what: the reason, with what the server said.
        seconds: how long the server asks to wait.
        is_silent: whether the server said nothing.
    """

    def __init__(self, what: str, seconds: float = 0.0, *, is_silent: bool = False) -> None:
        super().__init__(what)
        self.seconds, self.is_silent = seconds, is_silent


class _Asking:
    """The workers of one event loop."""

    def __init__(self, model: EndpointModel, read: Read, kept: Kept) -> None:
        self.model, self.server, self.read, self.kept = model, model.server, read, kept
        self.stop, self.jitter = asyncio.Event(), random.Random()
        self.last_words = ""  # of the server, in reply to any request: it may have died with them

    async def all(self, tasks: Mapping[str, Task], done: Callable[[str], None]) -> None:
        """Run all tasks; the first error is raised once the requests in flight are completed and kept."""
        import openai  # here, not above: an optional package

        waiting = iter(tasks.items())
        key, seconds = self.server.key(), self.server.timeout_seconds
        of_account = ("OpenAI-Organization", "OpenAI-Project")
        client = openai.AsyncOpenAI(
            base_url=self.server.base_url,
            # By default the client would take all these from the environment, and send them to any server.
            api_key=key or "none",
            # Its types allow only text here; `Omit` removes a header, as in the headers of one request.
            default_headers=None if key else cast(Mapping[str, str], dict.fromkeys(of_account, openai.Omit())),
            max_retries=0,
            timeout=openai.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
        )
        async with client:
            count = min(self.server.requests_in_flight, len(tasks))
            workers = [asyncio.create_task(self._work(client, waiting, done)) for _ in range(count)]
            ended = await asyncio.gather(*workers, return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _work(self, client: Any, waiting: Iterator[tuple[str, Task]], done: Callable[[str], None]) -> None:
        try:
            for key, task in waiting:
                while (first := len(self.kept.answers.get(key, ()))) < task.count:
                    if self.stop.is_set():
                        return
                    self.server.check_budget()
                    await self._request(client, key, task, first)
                done(key)
        except BaseException:
            self.stop.set()
            raise

    async def _request(self, client: Any, key: str, task: Task, first: int) -> None:
        """Send a request for the answers from index `first` on, until a reply brings some."""
        server, count = self.server, task.count - first
        count = min(count, server.choices_per_request or count)
        body = {**task.body, **({"n": count} if count > 1 else {})}
        if server.sends_seed:
            body["seed"] = task.seed_of(first)
        last = _PassingError("no attempt")
        for attempt in range(server.max_attempts):
            try:
                reply, answers = await self._attempt(client, body, count, is_last=attempt + 1 == server.max_attempts)
            except _PassingError as error:
                last = error
                if not error.is_silent:
                    self.last_words = str(error)
            else:
                self.kept.add(key, answers, reply)
                return self._check_usage(reply)
            if attempt + 1 < server.max_attempts:
                await self._wait(attempt, last.seconds)
            if self.stop.is_set():
                return None
        before = f" The last that it said is: {self.last_words}." if last.is_silent and self.last_words else ""
        raise EndpointError(
            f"{server.base_url} failed {server.max_attempts} times on one request, at last with: {last}.{before} What "
            "it has answered is kept. See to the server, or raise server.max_attempts, and run the same command to go "
            "on."
        )

    async def _wait(self, attempt: int, asked_for: float) -> None:
        """Wait before the next attempt, or until the stage has to stop."""
        own = min(self.server.first_wait_seconds * 2**attempt, self.server.longest_wait_seconds)
        if asked_for > self.server.timeout_seconds:
            raise EndpointError(
                f"{self.server.base_url} asks to wait {asked_for:,.0f} s, longer than server.timeout_seconds. What it "
                "has answered is kept: run the same command then."
            )
        # Jitter: otherwise all requests that failed together would be repeated together.
        seconds = max(asked_for, own / 2) + self.jitter.uniform(0, own / 2)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    async def _attempt(
        self, client: Any, body: Mapping[str, Any], count: int, *, is_last: bool
    ) -> tuple[Reply, list[Any]]:
        """The reply to a request, and what was read of its choices; the last attempt keeps dropped ones as they are."""
        import openai

        interface, prompt = client.chat.completions, "messages"
        if self.model.requests == "completion":
            interface, prompt = client.completions, "prompt"
        named = {name: body[name] for name in ("model", prompt)}
        rest = {name: value for name, value in body.items() if name not in named}
        # No error is raised from a client's error: that holds the server's text, and a traceback is written to a log.
        try:
            async with asyncio.timeout(self.server.timeout_seconds):
                raw = await interface.with_raw_response.create(**named, extra_body=rest)
            # JSON is UTF-8, whatever the header says.
            reply = read_reply(self.server.hide(raw.http_response.content.decode("utf-8-sig", "replace")))
        except (TimeoutError, openai.APITimeoutError):
            said = f"no reply within server.timeout_seconds={self.server.timeout_seconds:g}"
            raise _PassingError(said, is_silent=True) from None
        except openai.APIConnectionError as error:
            cause = words_of(self.server.hide(str(error.__cause__ or error)))
            raise _PassingError(f"no connection, or one that broke ({cause})", is_silent=True) from None
        except openai.APIStatusError as error:
            reply = self._reply_to_status(error, count)
        except MalformedReplyError as error:
            raise _PassingError(f"a reply that cannot be read ({error})") from None
        answers, why = [], ""
        for choice in reply.choices[:count]:
            if not is_last and (ending := ending_in(choice)) in DROPPED:
                why = f"finish_reason={ending}"
                continue
            try:
                answers.append(self.read(choice))
            except MalformedReplyError as error:  # the other choices were paid for
                why = str(error)
        if not answers:
            self.server.spent.add(reply.read, reply.written)
            raise _PassingError(f"a reply without an answer ({why})")
        return reply, answers

    def _reply_to_status(self, error: Any, count: int) -> Reply:
        """The reply that an error holds: choices that a filter withheld.

        Raises:
            _PassingError, EndpointError: any other status.
        """
        status = error.status_code
        said = words_of(self.server.hide(error.response.content.decode("utf-8-sig", "replace")))
        if status == 400 and error.code in FILTER_CODES:
            return Reply([{"text": "", "finish_reason": FILTERED}] * count, None, None)
        if (status in PASSING_STATUS or status >= 500) and error.code != OUT_OF_QUOTA:
            raise _PassingError(f"status {status}: {said}", _seconds_asked_for(error.response.headers)) from None
        raise EndpointError(
            f"{self.server.base_url} refused a request for model {self.model.model} with status {status}: {said}. "
            f"{HINTS.get(status, OTHER_HINT)} What it has answered is kept."
        ) from None

    def _check_usage(self, reply: Reply) -> None:
        has_budget = self.server.budget_tokens is not None or self.server.budget_cost is not None
        if has_budget and reply.written is None and any(one.get("finish_reason") != FILTERED for one in reply.choices):
            raise EndpointError(
                f"{self.server.base_url} does not say how many tokens a request took, so that no budget can be kept. "
                "Set server.budget_tokens=null and server.budget_cost=null."
            )


def _seconds_asked_for(headers: Mapping[str, str]) -> float:
    """How many seconds a server asks to wait, from a number or a date; 0 if it does not say."""
    with contextlib.suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    said = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(said))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    return 0.0
