"""Models behind a server with OpenAI's interface (vLLM, SGLang, TGI, llama.cpp, a provider), as a config names them.

`rkd.generation.endpoint_client` sends the requests. The key stands in an environment variable: a config, and all that
is written of it, holds only the variable's name. The key is removed from a server's messages (`Server.hide`).
"""

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self

from rkd.config import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, check_ranges
from rkd.errors import EndpointError

SHORTEST_SECRET = 8  # characters: "EMPTY" and "none", which local servers take, are words of answers too
SENT_WITH_A_KEY = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")  # variables that the client puts into headers


class Advance(Protocol):
    """A callback that is told how many more are done, and a note on the progress."""

    def __call__(self, count: int, note: str = "") -> None:
        """`count` more are done; `note` is printed beside the number."""
        ...


def no_advance(count: int, note: str = "") -> None:
    """Prints nothing."""


@dataclass
class Spent:
    """Tokens that a server has read and written for this process, and for the attempts that it continues."""

    read: int = 0
    written: int = 0

    def add(self, read: int | None, written: int | None) -> None:
        """Add what a request cost."""
        self.read, self.written = self.read + (read or 0), self.written + (written or 0)


@dataclass(frozen=True, kw_only=True)
class Server:
    """The server of a model, with limits on its speed and cost.

    Args:
        base_url: of the interface, "http://localhost:8000/v1".
        api_key_variable: the environment variable with the key; None: the server asks for none.
        requests_in_flight: the most requests at once.
        choices_per_request: the most samples in one request; None: all of a query at one temperature.
        max_attempts: of one request, before the stage ends.
        timeout_seconds: of one attempt.
        first_wait_seconds, longest_wait_seconds: the wait before the second attempt, which doubles before each further
            one, and its limit. A server that asks for a longer wait gets it, up to `timeout_seconds`.
        prompt_price, response_price: for a million tokens read and written.
        budget_tokens, budget_cost: after so many tokens, read and written, or at this cost, no request is sent; those
            in flight are completed. The costs of an interrupted stage count, a reused stage costs nothing. None: no
            limit.
        length_field: the name of the token limit in a chat request; some models of OpenAI know only the second name.
        sends_seed: whether requests carry a seed.
    """

    base_url: str
    api_key_variable: str | None = None
    requests_in_flight: int = 32
    choices_per_request: int | None = None
    max_attempts: int = 8
    timeout_seconds: float = 600.0
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    prompt_price: float = 0.0
    response_price: float = 0.0
    budget_tokens: int | None = None
    budget_cost: float | None = None
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    sends_seed: bool = True
    spent: Spent = field(default_factory=Spent, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = ("requests_in_flight", "choices_per_request", "max_attempts", "budget_tokens")
        seconds = ("timeout_seconds", "first_wait_seconds", "longest_wait_seconds")
        prices = ("prompt_price", "response_price")
        ranges = dict.fromkeys(counts, AT_LEAST_1) | dict.fromkeys((*seconds, "budget_cost"), ABOVE_0)
        check_ranges("server", self, ranges | dict.fromkeys(prices, NOT_NEGATIVE))
        if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", self.base_url):
            raise ValueError(
                "server.base_url must be an address like http://localhost:8000/v1, without user, password or query: "
                "it is written into results. A key belongs into the variable that server.api_key_variable names."
            )
        # The value is not shown: it may be a key that was put here by mistake.
        if self.api_key_variable is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_variable):
            raise ValueError(
                "server.api_key_variable must be the NAME of an environment variable in capitals, like OPENAI_API_KEY, "
                "never the key itself, or null for a server without one."
            )
        if self.budget_cost is not None and not self.prompt_price and not self.response_price:
            raise ValueError(
                f"server.budget_cost={self.budget_cost:g} needs prices: set server.prompt_price and "
                "server.response_price, for a million tokens, or limit server.budget_tokens."
            )

    def check(self) -> None:
        """Refuse what cannot be used here, before a job begins; the server is not asked.

        Raises:
            ModuleNotFoundError: the client is not installed.
            ValueError: the variable with the key is not set.
            EndpointError: the key has characters that no key has.
        """
        if importlib.util.find_spec("openai") is None:
            raise ModuleNotFoundError(
                f"A model behind {self.base_url} is asked with the package openai, which is not installed: "
                "`pip install -r requirements-openai.txt`."
            )
        self.key()

    def key(self) -> str | None:
        """The key, read anew each time and never stored.

        Raises:
            ValueError: its variable is not set.
            EndpointError: it, or another variable that is sent with it, has characters that no header can hold.
        """
        if self.api_key_variable is None:
            return None
        if not (key := os.environ.get(self.api_key_variable, "").strip()):
            raise ValueError(
                f"The environment variable {self.api_key_variable}, the key for {self.base_url}, is not set: `export "
                f"{self.api_key_variable}=...` before the command, or set server.api_key_variable=null for a server "
                "without a key."
            )
        for name in (self.api_key_variable, *SENT_WITH_A_KEY):
            _check_sendable(name, os.environ.get(name, "").strip())
        return key

    def hide(self, text: str) -> str:
        """The text without the key, which a server may repeat; a shorter word than a secret stays."""
        key = self.key()
        return text.replace(key, "[key]") if key and len(key) >= SHORTEST_SECRET else text

    @property
    def cost(self) -> float:
        """The cost of the tokens so far."""
        return (self.spent.read * self.prompt_price + self.spent.written * self.response_price) / 1e6

    @property
    def spending(self) -> str:
        """The spending so far, as text to print."""
        if self.prompt_price or self.response_price:
            return f"{self.cost:.4g} spent"
        return f"{self.spent.read + self.spent.written:,} tokens"

    def check_budget(self) -> None:
        """Raise once the budget is spent.

        Raises:
            EndpointError: the budget is spent.
        """
        tokens = self.spent.read + self.spent.written
        if self.budget_tokens is not None and tokens >= self.budget_tokens:
            said, name = f"{tokens:,} tokens of server.budget_tokens={self.budget_tokens:,}", "server.budget_tokens"
        elif self.budget_cost is not None and self.cost >= self.budget_cost:
            said, name = f"{self.cost:.4g} of server.budget_cost={self.budget_cost:g}", "server.budget_cost"
        else:
            return
        raise EndpointError(
            f"The budget of {self.base_url} is spent: {said}. All that was paid for is kept. Raise {name} and run the "
            "same command to go on."
        )


@dataclass(frozen=True, kw_only=True)
class EndpointModel:
    """A model behind a server, in the role of teacher or judge.

    Args:
        name: printed in tables.
        model: its name on the server.
        requests: "chat" (the server applies the model's chat template) or "completion" (plain text).
        extra_body: further fields of each request, as {"chat_template_kwargs": {"enable_thinking": false}}.
    """

    is_remote: ClassVar[Literal[True]] = True
    is_recorded: ClassVar[Literal[False]] = False

    name: str
    model: str
    server: Server
    requests: Literal["chat", "completion"] = "chat"
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.requests not in ("chat", "completion"):
            raise ValueError(f"requests={self.requests}: must be chat or completion.")

    def source(self) -> Self:
        """Itself, in the place of a local model's checkpoint.

        Raises:
            ModuleNotFoundError, ValueError: the client or the key is missing.
        """
        self.server.check()
        return self

    def size(self) -> str:
        """Where it is, since its size is unknown."""
        return f"behind {self.server.base_url}"

    def weights(self) -> int:
        """0: it has no weights on this machine."""
        return 0

    def content(self) -> dict[str, Any]:
        """What decides its answers; address, speed and cost do not."""
        return {"model": self.model, "requests": self.requests, "extra_body": dict(self.extra_body)}

    def body(self, prompt: str | list[dict[str, str]], max_tokens: int, **sampling: Any) -> dict[str, Any]:
        """The body of a request: a conversation, or a text."""
        is_chat = self.requests == "chat"
        limit = self.server.length_field if is_chat else "max_tokens"
        asked = {"messages" if is_chat else "prompt": prompt, limit: max_tokens, **sampling}
        return {"model": self.model, **asked, **self.extra_body}


def _check_sendable(variable: str, value: str) -> None:
    """Refuse a value that no header of a request can hold; the value itself is not shown.

    Raises:
        EndpointError: it has a character that is no visible ASCII one.
    """
    bad = next((place for place, character in enumerate(value) if not "!" <= character <= "~"), None)
    if bad is None:
        return
    kind = "a blank or a line break" if value[bad].isspace() else "no letter, digit or sign of ASCII"
    raise EndpointError(
        f"The environment variable {variable} cannot be sent: its character {bad + 1} of {len(value)} is {kind}. Copy "
        f"the value again, without anything around it: `export {variable}=...`."
    )
