"""Thoughts of reasoning models are no part of what they say."""

import pytest

from rkd.data.answers import extract_answer
from rkd.data.thoughts import behind_thought


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>Is it 3?</think>\n4", "\n4"),
        ("Is it 3?</think>4", "4"),  # the template wrote the first tag
        ("<think>a</think> b <think>c</think> d", " d"),
        ("<Thinking>a</Thinking>d", "d"),
        ("  <think>The answer is 3", ""),
        ("<think>The answer is 3</think>", ""),
        ("It is hard. <think>The answer is 3", "It is hard. "),
        ("", ""),
    ],
)
def test_what_stands_behind_a_thought_counts(text, said):
    assert behind_thought(text).strip() == said.strip()


@pytest.mark.parametrize(("dataset", "first", "last"), [("gsm8k", "3", "4"), ("mmlu_pro", "B", "C")])
def test_an_answer_that_is_weighed_in_a_thought_is_none(dataset, first, last):
    thought = f"<think>\nThe answer is {first}.\n"
    assert extract_answer(f"{thought}</think>\nThe answer is {last}.", dataset) == last
    assert extract_answer(f"{thought}</think>The answer is {last}", dataset) == last
    assert extract_answer(thought, dataset) is None
    assert extract_answer(f"{thought}</think>\nI do not know.", dataset) is None
