"""A user's reward function: queries and responses enter, one finite number per response leaves, or an error.

The error names the function, the response and the value. Shapes: B responses.
"""

import math
import numbers
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rkd.errors import RewardFunctionError
from rkd.records import Query, Response

SHOWN_CHARACTERS = 300  # of a response or a value in an error message

UserFunction = Callable[[Sequence[Query], Sequence[Response]], Sequence[float]]
"""A user's reward: one number for each response."""


def user_rewards(function: UserFunction, queries: Sequence[Query], responses: Sequence[Response]) -> Tensor:
    """The rewards that a user's function gives, (B,) in float32.

    Raises:
        RewardFunctionError: the function raised an error, or gave something other than one finite number per response;
            the message names the function, the response and the value.
    """
    said = f"reward_mix.verifiable.function={name_of(function)}"
    try:
        given = function(list(queries), list(responses))
        values = _listed(given)  # a generator runs here
    except Exception as error:
        lines = traceback.extract_tb(error.__traceback__)
        place = f"{lines[-1].filename}, line {lines[-1].lineno}"
        raise RewardFunctionError(
            f"{said} raised {type(error).__name__}: {error} ({place}), {_first_failing(function, queries, responses)}. "
            "Mend the function; it must take any text, also an empty or a cut one."
        ) from error
    if values is None or len(values) != len(responses):
        what = repr(given) if values is None else f"{len(values)} values"
        raise RewardFunctionError(
            f"{said} returned {_cut(what)} for {len(responses)} responses, the first of which is "
            f"{_shown(queries[0], responses[0])}: return a list with one number per response."
        )
    for query, response, value in zip(queries, responses, values, strict=True):
        number = _number(value)
        if number is None or not math.isfinite(number):
            raise RewardFunctionError(
                f"{said} returned {_cut(repr(value))} for {_shown(query, response)}: each reward must be a finite "
                f"number of at most {torch.finfo(torch.float32).max:.1e}. Give such a response a number of your own, "
                "as 0."
            )
    return torch.tensor([_number(value) for value in values], dtype=torch.float32)


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function, or of the class of another callable."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _listed(given: object) -> list[Any] | None:
    """The returned values one by one; None if they are no sequence."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
    if isinstance(given, Tensor | np.ndarray):
        given = given.tolist()
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping | Set):  # which have no order
        given = list(given)
    return given if isinstance(given, list) else None


def _number(value: Any) -> float | None:
    """The value in float32; None if it is no real number."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, numbers.Real | Decimal | np.bool_):
        return None
    try:
        with np.errstate(over="ignore"):
            return float(np.float32(float(value)))
    except OverflowError:
        return math.inf


def _first_failing(function: UserFunction, queries: Sequence[Query], responses: Sequence[Response]) -> str:
    """The first response that makes the function fail by itself."""
    for query, response in zip(queries, responses, strict=True):
        try:
            function([query], [response])
        except Exception:
            return f"for {_shown(query, response)}"
    return f"for {len(responses)} responses together, but for none of them alone"


def _shown(query: Query, response: Response) -> str:
    return f"response {_cut(repr(response.text))} to query {query.id}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)"
