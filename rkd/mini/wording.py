"""Words and wordings of the generated text: a template and a random source enter, a sentence leaves.

Templates hold choices, `[a|b|]`, macros, `<name>`, and slots, `{name}`. The words come from words.yaml. For pretraining
some are made up, so that a model learns to understand an unknown word from its place in the sentence.
"""

import functools
import random
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_MACRO = re.compile(r"<(\w+)>")
_SENTENCE_START = re.compile(r"(?:^|(?<=[.?!] ))[a-z]")
_SPACED = re.compile(r"(?<!\d)([.,?!;])|([.,?!;])(?!\d)|(?<=\$)(?=\d)")

MADE_UP_SHARE = 0.15
PLAINLY_TYPED_SHARE = 0.1


@functools.cache
def words() -> Mapping[str, tuple[str, ...]]:
    """The word lists by name."""
    return {name: tuple(text.split()) for name, text in read_yaml("words.yaml").items()}


def read_yaml(name: str) -> Any:
    """A file of templates or words beside this module."""
    return yaml.safe_load(resources.files("rkd.mini").joinpath(name).read_text(encoding="utf-8"))


@functools.cache
def general() -> Mapping[str, Any]:
    """The frames, the distractors and the macros of general.yaml."""
    entries = read_yaml("general.yaml")
    distractors, macros = entries.pop("distractors"), entries.pop("macros")
    return {"frames": entries, "distractors": distractors, "macros": macros}


def expand(template: str, macros: Mapping[str, str], rng: random.Random) -> str:
    """The template with every macro expanded and every choice drawn; slots stay."""
    while _MACRO.search(template):
        template = _MACRO.sub(lambda found: macros[found[1]], template)
    while _CHOICE.search(template):
        template = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template)
    return template


def capitalised(text: str) -> str:
    """The text with a capital at the start of each sentence."""
    return _SENTENCE_START.sub(lambda found: found[0].upper(), text)


def plainly_typed(text: str) -> str:
    """The text in the form of some datasets: lower case, with blanks around punctuation."""
    return re.sub(" +", " ", _SPACED.sub(lambda found: f" {found[0]} ", text.lower())).strip()


def typed(rng: random.Random, text: str) -> str:
    """The text, sometimes in the form of `plainly_typed`."""
    return plainly_typed(text) if rng.random() < PLAINLY_TYPED_SHARE else text


def draw_people(rng: random.Random, made_up_share: float = 0.0) -> dict[str, str]:
    """Two people and the pronouns of the first one: slots name, friend, they, them, their."""
    is_woman = rng.random() < 0.5
    name = friend = _draw_name(rng, "women" if is_woman else "men", made_up_share)
    while friend == name:
        friend = _draw_name(rng, rng.choice(["women", "men"]), made_up_share)
    pronouns = ("she", "her", "her") if is_woman else ("he", "him", "his")
    return {"name": name, "friend": friend} | dict(zip(("they", "them", "their"), pronouns, strict=True))


def draw_slots(rng: random.Random) -> dict[str, str]:
    """Words for every slot of general.yaml and short.yaml; slots of one sort that can occur together differ."""
    slots = draw_people(rng, MADE_UP_SHARE)
    slots["items"], slots["other"], slots["third"] = (draw_things(rng) for _ in range(3))
    slots["things"], slots["things2"] = rng.sample(_regular_plurals(), 2)
    slots["thing"], slots["thing2"] = singular(slots["things"]), singular(slots["things2"])
    slots["box"], slots["boxes"] = rng.choice(words()["containers"]).split(":")
    slots["place"], slots["place2"] = rng.sample(words()["places"], 2)
    slots["kind"], slots["kind2"], slots["kind3"] = rng.sample(words()["kinds"], 3)
    slots["stuff"], slots["stuff2"] = rng.sample(words()["stuff"], 2)
    slots["agent"] = rng.choice(words()["agents"]).replace("-", " ")
    slots["other_adj"] = slots["kind2"]
    slots["period"] = rng.choice(["hour", "day", "week", "month"])
    for slot, name in (("people", "people"), ("unit", "units"), ("day", "days"), ("month", "months")):
        slots[slot] = rng.choice(words()[name])
    return slots


def draw_things(rng: random.Random) -> str:
    """Countable things in the plural: a noun, a noun with an adjective, two nouns, or a made-up word."""
    chance = rng.random()
    thing = rng.choice(words()["things"])
    if chance < MADE_UP_SHARE:
        return made_up_word(rng) + "s"
    if chance < 0.3:
        return f"{rng.choice(words()['kinds'])} {thing}"
    if chance < 0.4:
        return f"{singular(rng.choice(_regular_plurals()))} {thing}"
    return thing


def made_up_word(rng: random.Random) -> str:
    """A made-up word of two or three syllables."""
    syllables = rng.choices(words()["syllables"], k=rng.choice([1, 2, 2, 3]))
    return "".join(syllables) + (rng.choice(words()["endings"]) if len(syllables) == 1 or rng.random() < 0.6 else "")


def singular(plural: str) -> str:
    """The singular of a regular plural."""
    if plural.endswith("ies") and len(plural) > 4:
        return plural[:-3] + "y"
    return plural[: -2 if plural.endswith(("oes", "sses", "xes", "ches", "shes")) else -1]


@functools.cache
def _regular_plurals() -> tuple[str, ...]:
    return tuple(thing for thing in words()["things"] if thing.endswith("s") and not thing.endswith("ves"))


def _draw_name(rng: random.Random, group: str, made_up_share: float) -> str:
    if made_up_share and rng.random() < made_up_share:
        return made_up_word(rng).capitalize()
    return rng.choice(words()[group])
