"""Responses that name several answers, refuse, or repeat the question: none is taken for right, and most are counted.

`tests/data/hedges.jsonl` holds 200 of them, each with its question, the gold answer and the kind.
"""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from rkd.data.answers import extract_answer, is_choice
from rkd.judges.attacks import kind_of
from rkd.records import Query, Response
from rkd.rl.rewards import VerifiableReward

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "hedges.jsonl").read_text(encoding="utf-8").splitlines()
]
QUERIES = [
    Query(str(row), "svamp" if one["dataset"] == "gsm8k" else one["dataset"], one["question"], one["gold"])
    for row, one in enumerate(ROWS)
]


def reward(texts, golds):
    """The verifiable reward of each text, where right is 1, wrong 0.1 and no answer 0."""
    responses = [Response(query.id, "m", 0, text, True) for query, text in zip(QUERIES, texts, strict=True)]
    labels = {query.id: gold for query, gold in zip(QUERIES, golds, strict=True)}
    return VerifiableReward(labels)(QUERIES, responses).total.tolist()


def test_there_are_two_hundred_that_differ_and_most_contain_the_gold_answer():
    assert len(ROWS) == len({row["response"] for row in ROWS}) == 200
    assert Counter(row["kind"] for row in ROWS) == {"hedge": 120, "refusal": 45, "question": 35}
    assert sum(row["gold"] in row["response"] for row in ROWS) > 180


@pytest.mark.parametrize(
    "around", ["{}", "Step 1: 3 × 4 = 12.\n{}", "{}\n", "{}\n\nI hope this helps!", "Let us think.\r\n\r\n{}\r\n"]
)
def test_the_verifiable_reward_takes_none_for_right(around):
    texts = [around.format(row["response"]) for row in ROWS]
    assert set(reward(texts, [row["gold"] for row in ROWS])) == {0.0}


def test_no_number_or_letter_in_them_earns_a_reward():
    for place in range(8):  # the numbers or letters that a response names, one after the other
        named = [
            re.findall(r"\b[A-J]\b", row["response"]) if is_choice(row["dataset"])
            else re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", row["response"])
            for row in ROWS
        ]  # fmt: skip
        golds = [own[place] if place < len(own) else row["gold"] for own, row in zip(named, ROWS, strict=True)]
        assert max(reward([row["response"] for row in ROWS], golds)) == 0.0


def test_the_gold_answer_alone_earns_it():
    golds = [row["gold"] for row in ROWS]
    assert set(reward([f"Let me see. The answer is {gold}." for gold in golds], golds)) == {1.0}


def test_most_are_recognised_in_a_rollout():
    kinds = Counter((row["kind"], kind_of(query, row["response"])) for query, row in zip(QUERIES, ROWS, strict=True))
    for kind, least in (("hedge", 115), ("refusal", 41), ("question", 33)):
        assert kinds[kind, kind] >= least
    assert not any(extract_answer(row["response"], row["dataset"]) for row in ROWS)
