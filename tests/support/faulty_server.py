"""A server with OpenAI's interface on this machine, which fails as real ones do, and notes all that it is asked."""

import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = ("rate_limit", "error", "slow", "cut", "malformed", "no_choices")


def echo(body: dict[str, Any], index: int) -> str:
    """A text that is another one for every prompt, seed and sample."""
    prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return f"{prompt} by {body['temperature']:g}, {body.get('seed')}, {index}"


@dataclass
class FaultyServer:
    """What is served, and what was asked.

    Args:
        text_of: the text of a choice, by the request and the choice's index.
        fault_share: of requests that fail, each in one of the ways of `faults`, drawn with the seed.
        slow_seconds: what a slow reply takes.
        seconds: what every reply takes.
        most_choices: in one reply, whatever a request asks for.
        finish_reason, refusal: of every choice.
        logprobs: of the first token by its text; None ignores that a request asks for them.
        key: requests with another one are refused.
        status: of every reply, with what the server says besides; 0: no error.
        raw: status, content and headers of the reply to the request of this number, from 0; None: the usual reply.
        dies_after: after so many requests it breaks each connection without a reply.
        counts_tokens: whether replies say how many tokens they took: ten read, and two written for each choice.
    """

    text_of: Callable[[dict[str, Any], int], str] = echo
    fault_share: float = 0.0
    faults: tuple[str, ...] = FAULTS
    slow_seconds: float = 1.0
    seconds: float = 0.0
    most_choices: int = 10**6
    finish_reason: str | None = "stop"
    refusal: str | None = None
    logprobs: dict[str, float] | None = None
    key: str | None = None
    status: int = 0
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    says: str = "no"
    raw: Callable[[int], tuple[int, bytes, dict[str, str]] | None] = lambda _: None
    dies_after: int = 10**6
    counts_tokens: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)  # all requests
    answered: list[dict[str, Any]] = field(default_factory=list)  # those with a reply that can be read
    keys: set[str | None] = field(default_factory=set)
    headers_asked: set[str] = field(default_factory=set)
    in_flight: int = 0
    most_in_flight: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._rng, self._lock = random.Random(0), threading.Lock()

    def reply(
        self, body: dict[str, Any], key: str | None, path: str
    ) -> tuple[int, str | bytes, dict[str, str], str | None]:
        """Status, text and headers of a reply, and the fault that it has."""
        with self._lock:
            self.asked.append(body)
            number = len(self.asked) - 1
            self.keys.add(key)
            is_faulty = self._rng.random() < self.fault_share
            fault = self._rng.choice(self.faults) if is_faulty else None
        if number >= self.dies_after:
            return 200, "", {}, "dead"
        if (raw := self.raw(number)) is not None:
            return *raw, None
        if self.key is not None and key != f"Bearer {self.key}":
            return 401, _error(f"wrong key {key}"), {}, None
        if self.status:
            return self.status, _error(f"{self.says} {key}", self.code), self.headers, None
        time.sleep(self.slow_seconds if fault == "slow" else self.seconds)
        match fault:
            case "rate_limit":
                return 429, _error(f"slow down {key}"), {"Retry-After": "0.02"}, fault
            case "error":
                return 500, _error(f"broken {key}"), {}, fault
            case "malformed":
                return 200, f'{{"choices": [{{"text": "{key}', {}, fault
            case "no_choices":
                return 200, json.dumps({"choices": [], "error": {"message": str(key)}}), {}, fault
        choices = [self._choice(body, index, path) for index in range(min(body.get("n", 1), self.most_choices))]
        usage = {"prompt_tokens": 10, "completion_tokens": 2 * len(choices)}
        text = json.dumps({"choices": choices, **({"usage": usage} if self.counts_tokens else {})})
        if fault is None:
            with self._lock:
                self.answered.append(body)
        return 200, text, {}, fault

    def _choice(self, body: dict[str, Any], index: int, path: str) -> dict[str, Any]:
        text, is_chat = self.text_of(body, index), path.endswith("/chat/completions")
        choice: dict[str, Any] = {"index": index, "finish_reason": self.finish_reason}
        choice |= {"message": {"content": text, "refusal": self.refusal}} if is_chat else {"text": text}
        if self.logprobs is not None and body.get("logprobs"):
            logs = {token: math.log(share) for token, share in self.logprobs.items()}
            listed = [{"token": token, "logprob": value} for token, value in logs.items()]
            choice["logprobs"] = {"content": [{"top_logprobs": listed}]} if is_chat else {"top_logprobs": [logs]}
        return choice

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts a request as one in flight."""
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1


def _error(message: str, code: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "code": code}})


@contextmanager
def serving(**how: Any) -> Iterator[FaultyServer]:
    """A server that runs in threads of this process; `how` are the fields of `FaultyServer`."""
    own = FaultyServer(**how)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with own.counted():
                status, text, headers, fault = own.reply(body, self.headers.get("Authorization"), self.path)
                own.headers_asked.update(self.headers.keys())
            content = text if isinstance(text, bytes) else text.encode()
            if fault == "dead":
                self.close_connection = True
                return
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
                self.wfile.flush()
            except ConnectionError:  # nobody waits for it any more
                self.close_connection = True
            if fault == "cut":
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A client that was killed is none."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    own.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield own
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_with(text: str, folder: Path) -> list[Path]:
    """Files that hold the text."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
