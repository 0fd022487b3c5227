"""The texts that models see: a query enters, the prompt of a teacher, a student or a judge leaves.

Paper D, appendix (Fig. 3 to 6): worked examples, then the query, then "Let's break this down step by step!"; a response
starts at "Step 1:" and ends with "The answer is N.". The judge's prompt is ours (paper J does not print one). The texts
themselves are data: `conf/dataset/prompt/*.yaml`, or a folder of such files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from rkd.data.calculator import NO_CALCULATOR, Calculator
from rkd.data.calculator_tokens import CalculatorTokens
from rkd.data.chat_templates import DATE, ChatTokenizer, check_date, fields_of, render_chat, turn_end
from rkd.models.batches import encode, encode_responses
from rkd.records import Query

QUESTION = "{question}"
RESPONSE = "{response}"


@dataclass(frozen=True, slots=True)
class Example:
    """One worked example of a few-shot prompt."""

    question: str
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """How a query is put to a teacher or a student.

    Args:
        template: the text around one question; it holds `{question}` exactly once, and other braces are plain text.
        examples: worked examples, put before the query in the same template; none makes the zero-shot form.
        is_chat: whether a model that has a chat template is asked with it.
        stop: a text that begins the next question. A model that has not learned to end its response writes it and
            continues; `response_text` cuts there. An empty `stop` cuts nothing.
        date: the date, as 2024-07-26, that a chat template prints if it prints today's.
        calculator: writes results into the responses.
    """

    template: str
    examples: Sequence[Example] = ()
    stop: str = ""
    is_chat: bool = True
    date: str = DATE
    calculator: Calculator = NO_CALCULATOR

    def __post_init__(self) -> None:
        check_date(self.date)
        check_slot(self.template, QUESTION)
        object.__setattr__(self, "examples", tuple(self.examples))
        for example in self.examples:
            if not example.question.strip() or not example.response.strip():
                raise ValueError(f"an example of the prompt is empty: {example}. Give it a question and a response.")

    def fingerprint(self) -> dict[str, Any]:
        """What decides the prompts of a tokenizer, and the calculator if there is one."""
        fields = fields_of(self)
        if self.calculator.is_left_out:
            del fields["calculator"]
        return fields

    def encode(self, queries: Sequence[Query], tokenizer: ChatTokenizer) -> list[list[int]]:
        """The tokens of each query's prompt: in the chat form where the tokenizer has one, otherwise as plain text.

        A special token spelled out in a question is broken by a blank, so that a question can neither open a turn nor
        end a text.
        """
        if not queries:
            return []
        names, distinct = special_tokens(tokenizer), list(dict.fromkeys(queries))
        asked = [replace(query, question=without_special_tokens(query.question, names)) for query in distinct]
        if self._is_chat_with(tokenizer):
            texts = [self.render_chat(query, tokenizer) for query in asked]
            rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
        else:
            rows = encode(tokenizer, [self.render(query) for query in asked])
        prompts = dict(zip(distinct, rows, strict=True))
        return [prompts[query] for query in queries]

    def encode_responses(
        self, texts: Sequence[str], is_finished: Sequence[bool], tokenizer: PreTrainedTokenizerBase
    ) -> list[list[int]]:
        """The tokens of each response to such a prompt, ended by the token of `end_id` where it is finished."""
        return encode_responses(tokenizer, texts, is_finished, self.end_id(tokenizer))

    def end_id(self, tokenizer: ChatTokenizer) -> int | None:
        """The token with which a response in the chat form ends its turn; None: it ends with the end of sequence."""
        return turn_end(tokenizer, self.date) if self._is_chat_with(tokenizer) else None

    def calculator_tokens(self, tokenizer: PreTrainedTokenizerBase) -> CalculatorTokens | None:
        """The calculator in tokens; None if there is none."""
        return None if self.calculator.is_left_out else CalculatorTokens(self.calculator, tokenizer)

    def render(self, query: Query) -> str:
        """The prompt as plain text: the examples, each ended by a blank line, then the query."""
        shown = (self._ask(example.question) + example.response.strip() + "\n\n" for example in self.examples)
        return "".join(shown) + self._ask(query.question)

    def render_chat(self, query: Query, tokenizer: ChatTokenizer) -> str:
        """The prompt in the tokenizer's chat form, the examples as earlier turns, ready for the assistant's text.

        The result holds the special tokens already: tokenize it with `add_special_tokens=False`.

        Raises:
            ValueError: the tokenizer has no chat template.
            ModelError: the template refuses the conversation.
        """
        if not tokenizer.chat_template:
            raise ValueError("this tokenizer has no chat template: use `render`, or choose an instruction-tuned model.")
        return render_chat(tokenizer, self.turns(query), self.date)

    def turns(self, query: Query) -> list[dict[str, str]]:
        """The prompt as a conversation, the examples as earlier turns."""
        turns = []
        for example in self.examples:
            turns.append({"role": "user", "content": self._ask(example.question).rstrip()})
            turns.append({"role": "assistant", "content": example.response.strip()})
        return [*turns, {"role": "user", "content": self._ask(query.question).rstrip()}]

    def response_text(self, generated: str) -> str:
        """The response in a generated text: the text before `stop`, without blanks around it."""
        return (generated.partition(self.stop)[0] if self.stop else generated).strip()

    def zero_shot(self) -> "PromptTemplate":
        """The same template without examples: the form that trained students see."""
        return replace(self, examples=())

    def _is_chat_with(self, tokenizer: ChatTokenizer) -> bool:
        return self.is_chat and bool(tokenizer.chat_template)

    def _ask(self, question: str) -> str:
        before, _, after = self.template.partition(QUESTION)
        return before + question + after


def of_dataset(prompt: PromptTemplate, date: str = DATE) -> PromptTemplate:
    """The dataset's own prompt; a config names this function as the `_target_` of such a prompt."""
    return replace(prompt, date=date)


def read_template(folder: str | Path | None, name: str, date: str = DATE) -> PromptTemplate:
    """The template in `{folder}/{name}.yaml`, a file with the keys of `conf/dataset/prompt/math.yaml`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no prompt template; the message names the file.
    """
    if folder is None:
        raise ValueError("a prompt from a folder needs its folder: `prompts.folder=FOLDER`.")
    path = Path(folder) / f"{name}.yaml"
    if not path.is_file():
        present = ", ".join(sorted(file.stem for file in Path(folder).glob("*.yaml")))
        raise FileNotFoundError(
            f"prompts.folder={folder} holds no {path.name} (present: {present or 'none'}). "
            f"Copy conf/dataset/prompt/math.yaml there as {path.name} and edit it."
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for hydra_key in ("_target_", "_convert_"):
            values.pop(hydra_key, None)
        examples = [Example(example["question"], example["response"]) for example in values.pop("examples", ())]
        return PromptTemplate(examples=examples, date=date, **values)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no prompt template ({type(error).__name__}: {error}). "
            "It needs `template`, and may have `stop`, `is_chat` and `examples` with `question` and `response` each."
        ) from error


def special_tokens(tokenizer: ChatTokenizer) -> list[str]:
    """All special tokens: those with a role, and those that were only added to the vocabulary."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


# The forms of special tokens in common models.
_CONTROL = re.compile(
    r"<[|｜][^\s<>]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)


def without_control_tokens(text: str) -> str:
    """The text with every special token broken by a blank, for a server whose tokenizer is not known.

    These are texts in the form of common models' special tokens: with one, a question could open a turn or end a text.
    """
    return _CONTROL.sub(lambda token: f"{token[0][:1]} {token[0][1:]}", text)


def without_special_tokens(text: str, special_tokens: Sequence[str]) -> str:
    for token in special_tokens:
        text = text.replace(token, f"{token[:1]} {token[1:]}" if len(token) > 1 else " ")
    return text


def check_slot(template: str, slot: str) -> None:
    if template.count(slot) != 1:
        raise ValueError(f"the template must hold {slot} exactly once, it holds it {template.count(slot)} times.")
