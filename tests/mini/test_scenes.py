"""Scenes: the operations lead from numbers that the text tells to one that it does not, under its wording's sign."""

import random
import re

import pytest

from rkd.mini.math import apply
from rkd.mini.scenes import PHASES, Scene, draw_scene_problem

SCENE = Scene(
    {("start", 0): 9, ("change", 0): 4, ("end", 0): 5, ("start", 1): 8, ("change", 1): 2, ("end", 1): 6}, losing=True
)


@pytest.fixture(scope="module")
def problems():
    rng = random.Random(0)
    return [draw_scene_problem(rng) for _ in range(1500)]


@pytest.mark.parametrize(
    ("asked", "expected"), [("start", (5, "+", 4, 9)), ("change", (9, "-", 5, 4)), ("end", (9, "-", 4, 5))]
)
def test_each_quantity_follows_from_the_two_others(asked, expected):
    told = {(phase, 0) for phase in PHASES if phase != asked}
    operation = SCENE.derive((asked, 0), told)
    assert (operation.left, operation.symbol, operation.right, operation.result) == expected


def test_a_quantity_of_which_another_is_untold_cannot_be_derived():
    assert SCENE.derive(("end", 0), {("start", 0), ("change", 1)}) is None


def test_operands_are_told_or_made_before(problems):
    for text, operations in problems:
        told = {int(number) for number in re.findall(r"\d+", text)}
        for index, operation in enumerate(operations):
            for operand, made_by in ((operation.left, operation.left_from), (operation.right, operation.right_from)):
                if made_by is None:
                    assert operand in told
                else:
                    assert made_by < index
                    assert operations[made_by].result == operand
            assert operation.result == apply(operation.symbol, operation.left, operation.right) > 0


def test_texts_are_filled_and_name_a_person_before_a_pronoun(problems):
    for text, _ in problems:
        assert not re.search(r"[][{}<>|]", text)
        pronoun = re.search(r"\b(?:she|he)\b", text)
        names = re.findall(r"\b[A-Z][a-z]+\b", text[: pronoun.start()]) if pronoun else [""]
        assert names
        assert text.endswith("?")


def test_scenes_are_of_every_length_and_often_tell_more_than_is_needed(problems):
    assert {len(operations) for _, operations in problems} == {1, 2, 3}
    used = [sum(o.left_from is None for o in ops) + sum(o.right_from is None for o in ops) for _, ops in problems]
    told = [len(re.findall(r"\d+", text)) for text, _ in problems]
    assert sum(many > few for many, few in zip(told, used, strict=True)) > 0.3 * len(problems)
