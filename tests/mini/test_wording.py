"""Templates become sentences, and every slot and macro that the template files use is known."""

import random
import re

import pytest

from rkd.mini.wording import (
    capitalised,
    draw_people,
    draw_slots,
    draw_things,
    expand,
    made_up_word,
    plainly_typed,
    read_yaml,
    singular,
    words,
)

GENERAL = read_yaml("general.yaml")
FRAMES = {name: entry for name, entry in GENERAL.items() if name not in ("macros", "distractors")}
TEMPLATES = [w for f in FRAMES.values() for p in ("opening", "events", "question") for ws in f[p].values() for w in ws]
TEMPLATES += GENERAL["distractors"] + [text for text, _ in read_yaml("short.yaml")]


def test_choices_and_macros_are_decided():
    macros = {"has": "[has|owns]", "and_has": "and <has>"}
    seen = {expand("{name} <has> [1|2 [x|y]|] <and_has>", macros, random.Random(seed)) for seed in range(200)}
    assert {"{name} has 1 and has", "{name} owns 2 y and has", "{name} has  and owns"} <= seen
    assert len(seen) == 2 * 4 * 2


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_can_be_filled(template):
    for seed in range(5):
        rng = random.Random(seed)
        text = expand(template, GENERAL["macros"], rng).format(**draw_slots(rng), a=1, b=2, c=3)
        assert not re.search(r"[][{}<>|]", text)


def test_sentences_begin_with_a_capital():
    assert capitalised("she has 3.5 pens. he has 2? yes") == "She has 3.5 pens. He has 2? Yes"


def test_plain_typing_is_lower_case_with_blanks_around_punctuation():
    assert plainly_typed("Ada has $2.50, Ben 3. How many?") == "ada has $ 2.50 , ben 3 . how many ?"


@pytest.mark.parametrize(
    ("plural", "one"),
    [("apples", "apple"), ("boxes", "box"), ("cherries", "cherry"), ("ties", "tie"), ("dresses", "dress")],
)
def test_singular(plural, one):
    assert singular(plural) == one


def test_people_differ_and_pronouns_fit():
    for seed in range(100):
        people = draw_people(random.Random(seed))
        assert people["name"] != people["friend"]
        group = "women" if people["they"] == "she" else "men"
        assert people["name"] in words()[group]


def test_made_up_words_are_many_and_things_are_plural():
    rng = random.Random(0)
    assert len({made_up_word(rng) for _ in range(1000)}) > 700
    irregular = {"mice"}
    assert all(
        thing.endswith("s") or thing.split()[-1] in irregular for thing in (draw_things(rng) for _ in range(500))
    )
