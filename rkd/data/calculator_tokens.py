"""The results of a calculator in tokens: the tokens of a response enter, those that the calculator writes leave.

They depend on the tokens before them alone. A response that was sampled with a calculator, and one that was encoded
from its text, are therefore read alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from rkd.data.calculator import Calculator
from rkd.models.batches import decode, encode_responses


@dataclass(frozen=True)
class CalculatorTokens:
    """A calculator that writes the tokens of a tokenizer."""

    calculator: Calculator
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def equals_ids(self) -> frozenset[int]:
        """The tokens whose text holds "=": only behind these is there a result to write."""
        return frozenset(number for token, number in self.tokenizer.get_vocab().items() if "=" in token)

    def after(self, row: Sequence[int]) -> list[int]:
        """The tokens that follow the tokens of a response; none if the student goes on itself.

        They are those of the joined text. Where the result changes how the text before it is encoded, the student
        goes on itself.
        """
        (text,) = decode(self.tokenizer, [row], ())
        result = self.calculator.continuation(text)
        if result is None:
            return []
        before, whole = encode_responses(self.tokenizer, [text, text + result], [False, False])
        return whole[len(before) :] if whole[: len(before)] == before else []

    def is_chosen(self, row: Sequence[int]) -> list[bool]:
        """For each token of a response, whether the student chose it: False for those that the calculator wrote."""
        chosen, place = [True] * len(row), 0
        while place < len(row):
            place += 1
            if row[place - 1] in self.equals_ids:
                result = self.after(row[:place])
                written = row[place : place + len(result)]
                # The length limit may have cut a result at the end of a response.
                if written == result[: len(written)] and (
                    len(written) == len(result) or place + len(written) == len(row)
                ):
                    chosen[place : place + len(written)] = [False] * len(written)
                    place += len(written)
        return chosen


def chosen_tokens(calculator: CalculatorTokens | None, rows: Sequence[Sequence[int]]) -> list[list[bool]] | None:
    """`is_chosen` of each response; None without a calculator: the student chose all tokens."""
    return None if calculator is None else [calculator.is_chosen(row) for row in rows]
