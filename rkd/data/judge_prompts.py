"""The texts that a judge sees: a query and one or two responses enter, a prompt leaves.

The prompts are ours: neither paper prints one. A model's text cannot contain the delimiters that it stands between.
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rkd.data.chat_templates import DATE, ChatTokenizer, check_date, fields_of, render_chat
from rkd.data.prompts import QUESTION, RESPONSE, check_slot, special_tokens, without_special_tokens
from rkd.models.batches import encode
from rkd.records import Query

_COMPARED = ("{first}", "{second}")


class VerdictPrompt(ABC):
    """The common base of judges' prompts: a query and a response enter, and the next token is one of two words.

    A response stands between delimiters that it cannot contain: in all inserted text the `<` of "<response>" and
    "</response>" becomes `(`, for any case, blanks and width of the letters, and any zero-width marks between them.
    """

    __slots__ = ()
    shows_two_responses: ClassVar[bool] = False
    is_chat: bool
    date: str

    def fingerprint(self) -> dict[str, Any]:
        """What decides the prompts of a tokenizer."""
        return fields_of(self)

    @abstractmethod
    def render(self, query: Query, response_text: str) -> str:
        """The prompt that asks about `response_text`, a response to the query."""

    def encode(self, queries: Sequence[Query], responses: Sequence[str], tokenizer: ChatTokenizer) -> list[list[int]]:
        """The tokens of each prompt; `queries[i]` is the query of `responses[i]`.

        A prompt has the chat form if the tokenizer has one. A blank breaks a special token that inserted text spells
        out.
        """
        if not queries:
            return []
        names, texts = special_tokens(tokenizer), []
        for query, response in zip(queries, responses, strict=True):
            asked = query.rewritten(lambda text: without_special_tokens(text, names))
            texts.append(self.render(asked, without_special_tokens(response, names)))
        if self.is_chat and tokenizer.chat_template:
            # The next token is the verdict, so thinking is off in a template that would start it there (Qwen3's).
            texts = [
                render_chat(tokenizer, [{"role": "user", "content": text}], self.date, enable_thinking=False)
                for text in texts
            ]
            return tokenizer(texts, add_special_tokens=False)["input_ids"]
        return encode(tokenizer, texts)

    def written(self, word: str) -> list[str]:
        """The spellings of a word: with a blank before it or none, in capitals or not."""
        bare = word.strip()
        return list(dict.fromkeys(b + one for one in (bare, bare.lower(), bare.upper()) for b in ("", " ")))

    def spellings(self, word: str, tokenizer: ChatTokenizer) -> list[int]:
        """The tokens that are a spelling of the word: P(Yes) sums over them.

        Raises:
            ValueError: no spelling is a single token.
        """
        rows = tokenizer(self.written(word), add_special_tokens=False)["input_ids"]
        if not (tokens := sorted({row[0] for row in rows if len(row) == 1})):
            raise ValueError(
                f"the judge's tokenizer has no single token for {word!r}: choose other words in its prompt, for a "
                "judge judge.prompt.yes_word= and judge.prompt.no_word=."
            )
        return tokens

    def verdict_token(self, word: str, tokenizer: ChatTokenizer) -> int:
        """The token that a judge in training is taught to say: the word as it is written, or else its first spelling.

        Raises:
            ValueError: no spelling is a single token.
        """
        spellings = self.spellings(word, tokenizer)
        (written,) = tokenizer([word], add_special_tokens=False)["input_ids"]
        return written[0] if len(written) == 1 else spellings[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePrompt(VerdictPrompt):
    """The prompt of the single-token judge: its next token is `yes_word` or `no_word`.

    The response comes last, so the responses to one query share their prefix.

    Args:
        is_chat: whether a model that has a chat template is asked with it.
        date: the date, as 2024-07-26, that a chat template prints if it prints today's.
    """

    template: str = (
        "Q: {question}\nIs the answer below right? Say Yes or No.\n<response>\n{response}\n</response>\nVerdict:"
    )
    yes_word: str = " Yes"
    no_word: str = " No"
    is_chat: bool = True
    date: str = DATE

    def __post_init__(self) -> None:
        check_date(self.date)
        check_slot(self.template, QUESTION)
        check_slot(self.template, RESPONSE)
        if self.template.index(QUESTION) > self.template.index(RESPONSE):
            raise ValueError("the judge's template has {response} before {question}: put the question first.")
        if not re.search(r"<response>\s*\{response\}\s*</response>", self.template):
            raise ValueError("the judge's template must hold {response} between <response> and </response>.")

    def render(self, query: Query, response_text: str) -> str:
        """The prompt that asks whether `response_text` answers the query correctly."""
        before, _, rest = self.template.partition(QUESTION)
        between, _, after = rest.partition(RESPONSE)
        return before + _without_delimiters(query.question) + between + _without_delimiters(response_text) + after


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparePrompt(VerdictPrompt):
    """The prompt of an annotator: which of two responses is better? Its next token is `first_word` or `second_word`.

    One is the response that is asked about, the other is the query's reference, its `gold_answer`. An annotator is thus
    a judge whose Yes is the word of the response.

    Args:
        template: it holds `{question}`, `{first}` and `{second}`, each once, in this order.
        reference_first: whether the reference stands first; an annotator is asked both ways
            (`rkd.evaluation.win_rate`).
        is_chat, date: as in `JudgePrompt`.
    """

    shows_two_responses: ClassVar[bool] = True

    template: str
    first_word: str = " A"
    second_word: str = " B"
    reference_first: bool = True
    is_chat: bool = True
    date: str = DATE

    def __post_init__(self) -> None:
        check_date(self.date)
        for slot in (QUESTION, *_COMPARED):
            check_slot(self.template, slot)
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
        # The last slot is filled first, so that inserted text is not searched for a slot.
        for slot, own in reversed(list(zip((QUESTION, *_COMPARED), (query.question, *shown), strict=True))):
            before, _, after = text.partition(slot)
            text = before + _without_delimiters(own) + after
        return text


# "<" and the signs that a normalizing tokenizer reads as one, before a word that makes a delimiter of it.
_BRACKET = re.compile(r"[<＜﹤](?=[^\w<＜﹤]*+(\w[\s\S]{0,100})?)")


def _without_delimiters(text: str) -> str:
    return _BRACKET.sub(lambda bracket: "(" if _names_delimiter(bracket[1] or "") else bracket[0], text.strip())


def _names_delimiter(text: str) -> bool:
    """Whether a tokenizer could read "response" at the start of the text.

    Some tokenizers fold letters of other widths, and drop zero-width marks.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum()).startswith("response")
