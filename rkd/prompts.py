"""The texts that models see: a query enters, the prompt of a teacher, a student or a judge leaves.

Paper D, appendix (Fig. 3 to 6): worked examples, then the query, then "Let's break this down step by step!"; a response
starts at "Step 1:" and ends with "The answer is N.". The judge's prompt is ours (paper J does not print one). The texts
themselves are data: `conf/prompt/*.yaml`, or a folder of such files.
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import yaml

from rkd.records import Query

_QUESTION = "{question}"
_RESPONSE = "{response}"
_COMPARED = ("{first}", "{second}")


class ChatTokenizer(Protocol):
    """What a template needs of a Hugging Face tokenizer."""

    chat_template: str | None
    all_special_tokens: Sequence[str]
    added_tokens_decoder: Mapping[int, Any]

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        """The conversation as one text."""
        ...

    def __call__(self, texts: list[str], **options: Any) -> Mapping[str, list[list[int]]]:
        """The tokens of each text, as `input_ids`."""
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """One worked example of a few-shot prompt."""

    question: str
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """How a query is put to a teacher or a student.

    Args:
        template: the text around one question; it holds `{question}` exactly once, and braces mean nothing else.
        examples: worked examples, put before the query in the same template; none makes the zero-shot form.
        is_chat: whether a model that has a chat template is asked in it.
        stop: a text that begins the next question. A model that has not learned to end its response writes it and
            goes on; `response_text` cuts there. An empty `stop` cuts nothing.
    """

    template: str
    examples: Sequence[Example] = ()
    stop: str = ""
    is_chat: bool = True

    def __post_init__(self) -> None:
        _check_slot(self.template, _QUESTION)
        object.__setattr__(self, "examples", tuple(self.examples))
        for example in self.examples:
            if not example.question.strip() or not example.response.strip():
                raise ValueError(f"an example of the prompt is empty: {example}. Give it a question and a response.")

    def encode(self, queries: Sequence[Query], tokenizer: ChatTokenizer) -> list[list[int]]:
        """The tokens of each query's prompt: in the chat form where the tokenizer has one, otherwise as plain text.

        A special token spelled out in a question is broken by a blank, so that a question can neither open a turn nor
        end a text.
        """
        if not queries:
            return []
        names, distinct = _special_tokens(tokenizer), list(dict.fromkeys(queries))
        asked = [replace(query, question=_without_special_tokens(query.question, names)) for query in distinct]
        if self.is_chat and tokenizer.chat_template:
            texts = [self.render_chat(query, tokenizer) for query in asked]
            rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
        else:
            rows = tokenizer([self.render(query) for query in asked])["input_ids"]
        prompts = dict(zip(distinct, rows, strict=True))
        return [prompts[query] for query in queries]

    def render(self, query: Query) -> str:
        """The prompt as plain text: the examples, each ended by a blank line, then the query."""
        shown = (self._ask(example.question) + example.response.strip() + "\n\n" for example in self.examples)
        return "".join(shown) + self._ask(query.question)

    def render_chat(self, query: Query, tokenizer: ChatTokenizer) -> str:
        """The prompt in the tokenizer's chat form, the examples as earlier turns, ready for the assistant's text.

        The result holds the special tokens already: tokenize it with `add_special_tokens=False`.

        Raises:
            ValueError: the tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise ValueError("this tokenizer has no chat template: use `render`, or choose an instruction-tuned model.")
        return tokenizer.apply_chat_template(self.turns(query), tokenize=False, add_generation_prompt=True)

    def turns(self, query: Query) -> list[dict[str, str]]:
        """The prompt as a conversation, the examples as earlier turns."""
        turns = []
        for example in self.examples:
            turns.append({"role": "user", "content": self._ask(example.question).rstrip()})
            turns.append({"role": "assistant", "content": example.response.strip()})
        return [*turns, {"role": "user", "content": self._ask(query.question).rstrip()}]

    def response_text(self, generated: str) -> str:
        """The response in a generated text: what stands before `stop`, without blanks around it."""
        return (generated.partition(self.stop)[0] if self.stop else generated).strip()

    def zero_shot(self) -> "PromptTemplate":
        """The same template without examples: the form that trained students see."""
        return replace(self, examples=())

    def _ask(self, question: str) -> str:
        before, _, after = self.template.partition(_QUESTION)
        return before + question + after


def of_dataset(prompt: PromptTemplate) -> PromptTemplate:
    """The prompt that a dataset brings; a target for configs, which name what stands in a part."""
    return prompt


def read_template(folder: str | Path | None, name: str) -> PromptTemplate:
    """The template in `{folder}/{name}.yaml`, a file with the keys of `conf/prompt/math.yaml`.

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
            f"Copy conf/prompt/math.yaml there as {path.name} and edit it."
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for hydra_key in ("_target_", "_convert_"):
            values.pop(hydra_key, None)
        examples = [Example(example["question"], example["response"]) for example in values.pop("examples", ())]
        return PromptTemplate(examples=examples, **values)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no prompt template ({type(error).__name__}: {error}). "
            "It needs `template`, and may have `stop` and `examples` with `question` and `response` each."
        ) from error


class VerdictPrompt(ABC):
    """What the prompts of judges have in common: a query and a response enter, and the next token is one of two words.

    A response stands between delimiters that it cannot write itself: in all that is put into the prompt the `<` of
    "<response>" and "</response>" becomes `(`, whatever the case, the blanks, the width of the letters and the marks
    without a width between them.
    """

    __slots__ = ()
    is_chat: bool

    @abstractmethod
    def render(self, query: Query, response_text: str) -> str:
        """The prompt that asks about `response_text`, a response to the query."""

    def encode(self, queries: Sequence[Query], responses: Sequence[str], tokenizer: ChatTokenizer) -> list[list[int]]:
        """The tokens of each prompt, `queries[i]` being that of `responses[i]`.

        In the chat form where the tokenizer has one; a special token spelled out in what is put in is broken by a
        blank.
        """
        if not queries:
            return []
        names, texts = _special_tokens(tokenizer), []
        for query, response in zip(queries, responses, strict=True):
            asked = query.rewritten(lambda text: _without_special_tokens(text, names))
            texts.append(self.render(asked, _without_special_tokens(response, names)))
        if self.is_chat and tokenizer.chat_template:
            turns = ([{"role": "user", "content": text}] for text in texts)
            # The next token is the verdict: a template that would open a thought there (Qwen3's) is told not to.
            options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
            texts = [tokenizer.apply_chat_template(turn, **options) for turn in turns]
            return tokenizer(texts, add_special_tokens=False)["input_ids"]
        return tokenizer(texts)["input_ids"]

    def written(self, word: str) -> list[str]:
        """The spellings of a word: with a blank before it or none, in capitals or not."""
        bare = word.strip()
        return list(dict.fromkeys(b + one for one in (bare, bare.lower(), bare.upper()) for b in ("", " ")))

    def spellings(self, word: str, tokenizer: ChatTokenizer) -> list[int]:
        """The tokens that are a spelling of the word: P(Yes) sums over them.

        Raises:
            ValueError: no spelling is one token.
        """
        rows = tokenizer(self.written(word), add_special_tokens=False)["input_ids"]
        if not (tokens := sorted({row[0] for row in rows if len(row) == 1})):
            raise ValueError(
                f"the judge's tokenizer has no single token for {word!r}: choose other words in its prompt, for a "
                "judge judge.prompt.yes_word= and judge.prompt.no_word=."
            )
        return tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePrompt(VerdictPrompt):
    """The prompt of the single-token judge: its next token is `yes_word` or `no_word`.

    The response comes last, so the responses to one query share their prefix.

    Args:
        is_chat: whether a model that has a chat template is asked in it.
    """

    template: str = (
        "Q: {question}\nIs the answer below right? Say Yes or No.\n<response>\n{response}\n</response>\nVerdict:"
    )
    yes_word: str = " Yes"
    no_word: str = " No"
    is_chat: bool = True

    def __post_init__(self) -> None:
        _check_slot(self.template, _QUESTION)
        _check_slot(self.template, _RESPONSE)
        if self.template.index(_QUESTION) > self.template.index(_RESPONSE):
            raise ValueError("the judge's template has {response} before {question}: put the question first.")
        if not re.search(r"<response>\s*\{response\}\s*</response>", self.template):
            raise ValueError("the judge's template must hold {response} between <response> and </response>.")

    def render(self, query: Query, response_text: str) -> str:
        """The prompt that asks whether `response_text` answers the query rightly."""
        before, _, rest = self.template.partition(_QUESTION)
        between, _, after = rest.partition(_RESPONSE)
        return before + _without_delimiters(query.question) + between + _without_delimiters(response_text) + after


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparePrompt(VerdictPrompt):
    """The prompt of an annotator: which of two responses is better? Its next token is `first_word` or `second_word`.

    One is the response that is asked about, the other the query's reference, which its `gold_answer` is. So an
    annotator is a judge whose Yes is the word of the response.

    Args:
        template: it holds `{question}`, `{first}` and `{second}`, each once, in this order.
        reference_first: whether the reference stands first; an annotator is asked both ways (`rkd.win_rates`).
    """

    template: str
    first_word: str = " A"
    second_word: str = " B"
    reference_first: bool = True
    is_chat: bool = True

    def __post_init__(self) -> None:
        for slot in (_QUESTION, *_COMPARED):
            _check_slot(self.template, slot)
        in_order = r"\{question\}.*<response>\s*\{first\}\s*</response>.*<response>\s*\{second\}\s*</response>"
        if not re.search(in_order, self.template, re.DOTALL):
            raise ValueError(
                "the annotator's template must hold {question}, then {first} and {second}, each of the two between "
                "<response> and </response>."
            )

    @property
    def yes_word(self) -> str:
        """The word that prefers the response."""
        return self.second_word if self.reference_first else self.first_word

    @property
    def no_word(self) -> str:
        """The word that prefers the reference."""
        return self.first_word if self.reference_first else self.second_word

    def render(self, query: Query, response_text: str) -> str:
        """The prompt that asks whether `response_text` is better than the query's reference.

        Raises:
            ValueError: the query has no reference.
        """
        if query.gold_answer is None:
            raise ValueError(f"{query.id} has no reference response to compare with: evaluate on `Data.test_sets()`.")
        shown = (query.gold_answer, response_text) if self.reference_first else (response_text, query.gold_answer)
        text = self.template
        # From the last slot on: what was put in is not searched for a slot.
        for slot, own in reversed(list(zip((_QUESTION, *_COMPARED), (query.question, *shown), strict=True))):
            before, _, after = text.partition(slot)
            text = before + _without_delimiters(own) + after
        return text


# "<" and what a tokenizer that normalizes reads as one, up to the word that makes a delimiter of it.
_BRACKET = re.compile(r"[<＜﹤](?=[^\w<＜﹤]*+(\w[\s\S]{0,100})?)")


def _without_delimiters(text: str) -> str:
    return _BRACKET.sub(lambda bracket: "(" if _names_delimiter(bracket[1] or "") else bracket[0], text.strip())


def _names_delimiter(text: str) -> bool:
    """Whether a tokenizer could read "response" at the start of the text.

    Some fold letters of other widths, and drop marks without a width.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum()).startswith("response")


def _special_tokens(tokenizer: ChatTokenizer) -> list[str]:
    """All texts that become a token with a meaning of its own: those with a role, and those that were only added."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


# How the special tokens of common models are written.
_CONTROL = re.compile(
    r"<[|｜][^\s<>]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)


def without_control_tokens(text: str) -> str:
    """The text with every special token broken by a blank, for a server whose tokenizer is not known.

    What is written as those of common models are: a question could open a turn with it, or end a text.
    """
    return _CONTROL.sub(lambda token: f"{token[0][:1]} {token[0][1:]}", text)


def _without_special_tokens(text: str, special_tokens: Sequence[str]) -> str:
    for token in special_tokens:
        text = text.replace(token, f"{token[:1]} {token[1:]}" if len(token) > 1 else " ")
    return text


def _check_slot(template: str, slot: str) -> None:
    if template.count(slot) != 1:
        raise ValueError(f"the template must hold {slot} exactly once, it holds it {template.count(slot)} times.")
