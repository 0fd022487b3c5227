"""mini_open: each point of the rubric stands for what it says, any text has a grade, and splits keep apart."""

import itertools
import random
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from rkd.judges.written import read_grade
from rkd.mini import corpus
from rkd.mini.documents import FIRST, SECOND
from rkd.mini.open import (
    DRAW,
    POINTS,
    SPLITS,
    asked,
    blurred,
    draw_faults,
    draw_instruction,
    grade,
    instructions,
    parse,
    queries,
    reference,
    rubric_reward,
    score,
    split_of,
)
from rkd.records import Query, Response

CONF = Path(__file__).parents[2] / "conf"
LIST = "From hens, plums, cows, ants, boots, goats, cats, name the animals from A to Z. Leave out cows."
DESCRIBE = "Describe the park in two sentences. Speak of kites and nuts, and never say old."
REWRITE = "Rewrite for Ben, with 3 more of each, and begin with Today: Ada has 12 nuts and 5 pens."


@pytest.fixture(scope="module")
def drawn():
    """60 instructions of each split, with their categories."""
    return [pair for split in SPLITS for pair in itertools.islice(instructions(split, 3), 60)]


@pytest.mark.parametrize(
    ("question", "response", "lacking"),
    [
        (LIST, "cats, goats and hens.", ""),
        (LIST, "1. cats\n2. goats\n3. hens", ""),
        (LIST, "Cats, goats, hens", ""),
        (LIST, "boots, cats, goats and hens.", "kind"),
        (LIST, "cats and hens.", "all"),
        (LIST, "cats, goats, goats and hens.", "once"),
        (LIST, "cats, dogs, goats and hens.", "once"),  # dogs are animals, and were not given
        (LIST, "goats, cats and hens.", "order"),
        (LIST, "cats, cows, goats and hens.", "without"),
        (LIST, "hens.", "all once order without"),
        (LIST, "I like cats.", "kind all once order without"),
        (DESCRIBE, "The park is big. It has kites and nuts.", ""),
        (DESCRIBE, "The park is big. It has kites. It has nuts.", "number"),
        (DESCRIBE, "It has kites. The park has nuts.", "place"),
        (DESCRIBE, "The park is big. It has nuts.", "first"),
        (DESCRIBE, "The park is big. It has kites.", "second"),
        (DESCRIBE, "The Old park is big. It has kites and nuts.", "without"),
        (DESCRIBE, "The park has kites and nuts", "number"),
        (DESCRIBE, "Park kites nuts. Big.", "number"),  # no sentence
        (REWRITE, "Today Ben 15 nuts 8 pens.", "sentence"),
        (REWRITE, "Today, Ben has 15 nuts and 8 pens.", ""),
        (REWRITE, "Today, Ben has 8 pens and 15 nuts.", ""),
        (REWRITE, "Ben has 15 nuts and 8 pens.", "begin"),
        (REWRITE, "Today, Ada has 15 nuts and 8 pens.", "name"),
        (REWRITE, "Today, Ben has 12 nuts and 8 pens.", "first"),
        (REWRITE, "Today, Ben has 15 nuts and 5 pens.", "second"),
        (REWRITE, "Today, Ben has 15 nuts and 8 pens. Ben is glad.", "sentence"),
        (REWRITE, "Today, Ben has 15 nuts and 8 pens", "sentence"),
        (LIST, "", "kind all once order without"),
        (REWRITE, " \n", "begin name first second sentence"),
    ],
)
def test_each_point_is_given_for_what_it_says(question, response, lacking):
    # ants are no kind of the world: a list may leave them out.
    found = grade(question, response)
    assert {name for name, mark in found.marks.items() if not mark} == set(lacking.split())
    assert found.score == 5 - len(lacking.split())


def test_a_response_lacks_the_points_that_it_was_to_lack(drawn):
    rng = random.Random(0)
    for question, _ in drawn:
        instruction = parse(question)
        for is_long in (False, True):
            assert score(question, instruction.answer(rng, [], is_long=is_long)) == 5, question
            for point in POINTS[type(instruction)]:
                marks = grade(question, instruction.answer(rng, [point], is_long=is_long)).marks
                assert [name for name, mark in marks.items() if not mark] == [point], (question, point)


def test_every_question_is_read_back_as_what_it_asks():
    rng = random.Random(1)
    for category in DRAW:
        for _ in range(100):
            instruction = draw_instruction(rng, "train", category)
            assert parse(asked(rng, instruction, category)) == instruction
    with pytest.raises(ValueError, match="no instruction of mini_open"):
        parse("What is 2 + 2?")


def test_any_text_has_a_grade(drawn):
    rng = random.Random(2)
    pieces = [
        "and",
        ",",
        ".",
        "!",
        "\n",
        "1.",
        "-",
        "{x}",
        "</response>",
        "Score: 5",
        "\u00df",
        " ",
        "hens",
        "Ben",
        "(",
        "\\b",
    ]
    for question, _ in drawn:
        text = "".join(rng.choices(pieces, k=rng.randint(0, 30)))
        assert 0 <= score(question, text) <= 5


def test_splits_share_no_instruction_and_take_turns(drawn):
    of_split = {split: [question for question, _ in itertools.islice(instructions(split, 0), 300)] for split in SPLITS}
    for split, questions in of_split.items():
        assert len(set(questions)) == 300
        assert {split_of(parse(question)) for question in questions} == {split}
    swapped = parse(REWRITE.replace("12 nuts and 5 pens", "5 pens and 12 nuts"))
    assert split_of(swapped) == split_of(parse(REWRITE))
    assert [category for _, category in drawn[:6]] == [*DRAW, *DRAW]
    with pytest.raises(ValueError, match="no split 'dev'"):
        next(instructions("dev", 0))


def test_queries_carry_their_references_which_are_middling_and_always_the_same():
    found = queries("test", 300, 1)
    assert found == queries("test", 300, 1)
    assert found[:10] != queries("test", 10, 0)
    assert all(query.gold_answer == reference(query.question) for query in found)
    scores = [score(query.question, query.gold_answer) for query in found]
    assert 2.5 < mean(scores) < 3.5
    assert len(Counter(scores)) >= 5


@pytest.mark.parametrize(
    ("question", "response", "evidence"),
    [
        (
            LIST,
            "cats, boots, dogs, cows and cats.",
            "Wanted cats named, goats missing, hens missing; all no.\nNamed cats good, boots other down, dogs new, "
            "cows without down, cats again down; kind no, once no, order no, without no.",
        ),
        (
            LIST,
            "hens",
            "Wanted cats missing, goats missing, hens named; all no.\n"
            "Named hens good alone; kind yes, once no, order no, without no.",
        ),
        (
            DESCRIBE,
            "The old zoo is big. No nuts. It has nuts and pens",
            "Wrote 1 The, 2 No short; two number no.\nTold zoo; park place no.\n"
            "Told nuts pens; kites first no, nuts second yes.\nTold old big; old without no.",
        ),
        (
            REWRITE,
            "Now, Ada and Ben has 15 nuts and 5 kites. Ben is glad.",
            "Told Now; Today begin no.\nTold Ada Ben; Ben in, Ada in, name no.\n"
            "Told nuts 15; 12 + 3 = 15 first yes.\nTold pens none; 5 + 3 = 8 second no.\n"
            "has, 2 stops, ends glad.; sentence no.",
        ),
        (LIST, " ", "Nothing; kind no, all no, once no, order no, without no."),
    ],
)
def test_evidence_puts_what_is_said_before_what_is_asked(question, response, evidence):
    assert grade(question, response).evidence == evidence


def test_a_graded_document_ends_with_its_score_and_a_compared_one_names_the_better():
    for document in itertools.islice(corpus.stream({"open_graded": 1.0}, 0), 60):
        assert read_grade(document.text) == score(document.question, document.judged) / 5
    for document in itertools.islice(corpus.stream({"open_compared": 1.0}, 0), 60):
        first, second = (score(document.question, one) for one in (document.reference, document.judged))
        assert document.text == (FIRST if first > second else SECOND)
        assert first != second


def test_careless_responses_are_worse():
    good, sloppy = (
        mean(score(d.question, d.text) for d in itertools.islice(corpus.stream({kind: 1.0}, 0), 200))
        for kind in ("open_task", "open_sloppy")
    )
    assert good > 4.5
    assert 2.5 < sloppy < 3.5


def test_who_copies_badly_answers_another_instruction_of_the_same_kind(drawn):
    rng = random.Random(3)
    for question, _ in drawn:
        instruction = parse(question)
        assert blurred(rng, instruction, 0.0) == instruction
        other = blurred(rng, instruction, 1.0)
        assert type(other) is type(instruction)
        assert score(question, other.answer(rng, [], is_long=False)) <= 5
    scores = [score(q, blurred(rng, parse(q), 0.8).answer(rng, [], is_long=False)) for q, _ in drawn]
    assert mean(scores) < 3.2


def test_faults_are_drawn_by_their_chance():
    rng = random.Random(0)
    instruction = parse(LIST)
    assert draw_faults(rng, instruction, 0.0) == []
    assert draw_faults(rng, instruction, 1.0) == ["kind", "all", "once", "order", "without"]


def test_the_dataset_is_open_ended_and_its_tests_have_references():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=["dataset=mini_open"])
    data = instantiate(config.dataset, _convert_="all")
    assert not data.is_verifiable
    assert {query.gold_answer for query in data.training_queries()} == {None}
    assert all(query.gold_answer for query in data.test_sets()["mini_open"])
    assert data.rubric(LIST, "cats, goats and hens.") == 5
    chosen = (config.labels._target_, config.judge.name, config.evaluation.annotator.name, config.pairs.best_score)
    assert chosen == ("rkd.stages.labels.RubricGrades", "mini_grader", "mini_grader", 5)


def test_the_rubric_as_a_reward_is_the_share_of_its_points():
    query = Query("1", "mini_open", REWRITE)
    responses = [Response("1", "student", 0, text, is_finished=True) for text in ("Ben has 15 nuts and 8 pens.", "")]
    assert rubric_reward([query, query], responses) == [0.8, 0.0]
