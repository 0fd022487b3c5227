"""Chat templates: a conversation and a model's tokenizer enter, the conversation's text or the end of a turn leaves.

A template is a part of the tokenizer. Some print today's date, those of Llama 3.1 and 3.2 into each prompt; here the
date is an argument, so that a prompt is the same on each day.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jinja2 import TemplateError

from rkd.errors import ModelError
from rkd.models.batches import TextTokenizer

DATE = "2024-07-26"
"""The date in prompts, unless a prompt sets another one: that of Llama 3.1's template where it is given none."""

Turn = Mapping[str, str]
"""One turn of a conversation: its `role` and its `content`."""

_NAMES_OF_DATE = ("strftime_now", "date_string")
# Templates call `strftime_now`, which transformers defines by the clock. Data can be given to a template, functions
# cannot, so the template is put after a definition of its own, which replaces each directive by its text.
_FIXED_CLOCK = (
    "{%- macro strftime_now(format) -%}{%- set text = namespace(own=format) -%}"
    "{%- for directive, written in fixed_date.items() -%}"
    "{%- set text.own = text.own.replace(directive, written) -%}"
    "{%- endfor -%}{{- text.own -}}{%- endmacro +%}"
)
_DIRECTIVES = "aAbBcdDefFGhHIjmMnpRStTuUVwWxXyYzZ"
_ANSWER = "0123456789"


class ChatTokenizer(TextTokenizer, Protocol):
    """The part of a Hugging Face tokenizer that a template needs."""

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The template of a conversation; None if the model has none."""
        ...

    @property
    def all_special_tokens(self) -> Sequence[str]:
        """The special tokens with a role."""
        ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """The tokens that were added to the vocabulary, by number."""
        ...

    def get_chat_template(self) -> str:
        """The template, or that of several which is named "default"."""
        ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        /,
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        chat_template: str | None = ...,
        enable_thinking: bool = ...,
        date_string: str = ...,
        fixed_date: Mapping[str, str] = ...,
    ) -> object:
        """The conversation as one text, with `tokenize=False`; the last three arguments are values for the template."""
        ...


def fields_of(prompt: Any) -> dict[str, Any]:
    """The fields of a prompt, a dataclass, for its fingerprint; the usual date is left out."""
    fields = {field.name: getattr(prompt, field.name) for field in dataclasses.fields(prompt)}
    if fields["date"] == DATE:
        del fields["date"]
    return fields


def check_date(date: str) -> None:
    """Refuse a date that is none.

    Raises:
        ValueError: it is not written as year, month and day.
    """
    try:
        datetime.date.fromisoformat(date)
    except (TypeError, ValueError) as error:
        raise ValueError(f"date={date!r} is no date: write it as {DATE}, year, month and day.") from error


def render_chat(
    tokenizer: ChatTokenizer, turns: Sequence[Turn], date: str, *, is_open: bool = True, **options: Any
) -> str:
    """The conversation as the tokenizer's template writes it.

    Args:
        date: the date that a template prints, as `DATE`, at midnight.
        is_open: whether the assistant's next turn is begun.
        options: further values for the template.

    Raises:
        ModelError: the template refuses the conversation, or is none.
    """
    template = str(tokenizer.chat_template)
    if any(name in template for name in _NAMES_OF_DATE):
        moment = datetime.datetime.fromisoformat(date)
        options |= {"date_string": moment.strftime("%d %b %Y"), "fixed_date": _written(moment)}
        options["chat_template"] = _FIXED_CLOCK + tokenizer.get_chat_template()
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=is_open, **options
            )
        )
    except (TemplateError, ValueError, TypeError) as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise ModelError(
            f"the chat template of the model's tokenizer does not write a conversation of {roles} ({error}). Correct "
            "the template in the model's folder, or ask in plain text: `dataset.prompt.is_chat=false`, a judge with "
            "`judge.prompt.is_chat=false`."
        ) from error


def turn_end(tokenizer: ChatTokenizer, date: str = DATE) -> int | None:
    """The token with which the template ends a turn of the assistant; None if it ends it with none.

    Chat models write this token at the end of a response, and it need not be the end of sequence: Gemma has
    `<end_of_turn>`, Qwen `<|im_end|>`, Llama 3 `<|eot_id|>`. It is the first added token after the assistant's text.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    _, answer, rest = render_chat(tokenizer, turns, date, is_open=False).rpartition(_ANSWER)
    (after,) = tokenizer([rest if answer else ""], add_special_tokens=False)["input_ids"]
    return next((token for token in after if token in tokenizer.added_tokens_decoder), None)


def _written(moment: datetime.datetime) -> dict[str, str]:
    """The text of each directive of `strftime`, in the order in which they are replaced."""
    written = {f"%{letter}": moment.strftime(f"%{letter}") for letter in _DIRECTIVES}
    unpadded = {f"%-{letter}": str(int(written[f"%{letter}"])) for letter in "dHIjmMSy"}
    return {"%%": "\0", **unpadded, **written, "\0": "%"}  # "%%" begins no directive
