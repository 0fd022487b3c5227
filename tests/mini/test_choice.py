"""mini_choice: one option is right, its letter is the gold answer, splits keep apart, and a job can be made of it."""

import itertools
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from rkd.data.answers import LETTERS, answers_match, extract_answer
from rkd.data.judge_prompts import ComparePrompt, JudgePrompt
from rkd.mini import choice, corpus
from rkd.mini.choice import CATEGORIES, SPLITS, draw_problem, problems, products, queries, split_of
from rkd.mini.math import generate_split
from rkd.mini.pretraining.corpus_tokens import CHECKPOINTS, Forms
from rkd.mini.wording import words
from rkd.models.loading import load_tokenizer
from rkd.pipeline.pipeline import build_stages
from rkd.records import Query

CONF = Path(__file__).parents[2] / "conf"
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
# How many of the first make one of the second, as a ruler, a clock or a kitchen scale has it.
MAKE_ONE = {
    "minutes hours": 60, "seconds minutes": 60, "hours days": 24, "days weeks": 7, "months years": 12,
    "inches feet": 12, "feet yards": 3, "ounces pounds": 16, "cents dollars": 100, "centimeters meters": 100,
    "meters kilometers": 1000, "grams kilograms": 1000, "cups gallons": 16, "eggs dozens": 12,
}  # fmt: skip
MORE = {"taller", "older", "heavier", "faster", "richer"}
MOST = {"tallest", "oldest", "heaviest", "fastest", "richest"}


@pytest.fixture(scope="module")
def drawn():
    """80 problems of each category, of all splits."""
    return [problem for split in SPLITS for problem in itertools.islice(problems(split, 3), 160)]


def of(drawn, category):
    return [problem for problem in drawn if problem.category == category]


def asked(problem):
    """The question without its options, and its numbers."""
    text = problem.question.partition("\nOptions:")[0]
    return text, list(map(int, re.findall(r"\d+", text)))


def right_option(problem):
    return problem.options["ABCDEFGHIJ".index(problem.letter)]


def test_question_ends_with_its_options_and_their_letters(drawn):
    for problem in drawn:
        line = problem.question.partition("\nOptions: ")[2]
        lettered = [f"{text} {letter}" for letter, text in zip("ABCDEFGHIJ", problem.options, strict=False)]
        assert line == ", ".join(lettered) + "."


def test_last_digit_tells_a_number_among_the_options_from_the_others(drawn):
    for problem in drawn:
        if problem.category != "products" and problem.options[0].isdigit():
            assert len({option[-1] for option in problem.options}) == len(problem.options)


def test_products_are_not_told_by_their_last_digit(drawn):
    for problem in drawn:
        if problem.category == "products":
            assert len({option[-1] for option in problem.options}) == 1


def test_letters_are_those_that_answers_are_read_as():
    assert choice.LETTERS == LETTERS


def test_there_are_three_to_ten_different_options(drawn):
    counts = Counter(len(problem.options) for problem in drawn)
    assert set(counts) == set(range(3, 11))
    assert all(len(set(problem.options)) == len(problem.options) for problem in drawn)


def test_every_letter_of_a_question_is_right_equally_often():
    # Of n options each is right in 1/n of the questions: the first as often as the last, and the middle on average.
    own = list(itertools.islice(problems("test", 1), 4000))
    places = ["ABCDEFGHIJ".index(problem.letter) / (len(problem.options) - 1) for problem in own]
    assert places.count(0) / 4000 == pytest.approx(places.count(1) / 4000, abs=0.025)  # three standard errors
    assert sum(places) / 4000 == pytest.approx(0.5, abs=0.02)
    assert {problem.letter for problem in own} == set("ABCDEFGHIJ")


def test_fact_is_the_number_told_of_the_one_and_the_thing_asked_for(drawn):
    for problem in of(drawn, "facts"):
        text, _ = asked(problem)
        *rows, question = re.split(r"(?<=\.) ", text)
        thing = re.match(r"How many (.+?) (?:does|are)", question)[1]
        holder = re.search(r"(?:does|are in) (.+?)(?: have| sell)?\?$", question)[1]
        own = [row for row in rows if holder.lower() in row.lower()]
        numbers = {re.search(rf"(\d+) {re.escape(thing)}\b", row)[1] for row in own}
        assert len(own) == 1
        assert numbers == {right_option(problem)}


def test_sequence_goes_on_as_it_began(drawn):
    for problem in of(drawn, "sequences"):
        _, told = asked(problem)
        *_, before, last = told
        differences = [later - earlier for earlier, later in itertools.pairwise(told)]
        if len(set(differences)) == 1:
            following = last + differences[0]
        elif all(earlier * last == before * later for earlier, later in itertools.pairwise(told)):
            following = last * last // before
        else:
            assert {b - a for a, b in itertools.pairwise(differences)} == {1}
            following = last + differences[-1] + 1
        assert right_option(problem) == str(following)


def test_unit_is_converted(drawn):
    for problem in of(drawn, "units"):
        text, numbers = asked(problem)
        wanted, given = re.match(r"How many (\w+) are \d+ (\w+)", text).groups()
        if f"{wanted} {given}" in MAKE_ONE:
            expected = numbers[0] * MAKE_ONE[f"{wanted} {given}"] + sum(numbers[1:])
        else:
            expected = numbers[0] / MAKE_ONE[f"{given} {wanted}"]
        assert float(right_option(problem)) == expected


def test_remainder_clock_and_weekday_are_right(drawn):
    for problem in of(drawn, "remainders"):
        text, numbers = asked(problem)
        if text.startswith("Today"):
            today = DAYS.index(re.match(r"Today is (\w+)", text)[1])
            assert right_option(problem) == DAYS[(today + numbers[0]) % 7]
        elif text.startswith("A clock"):
            assert int(right_option(problem)) == ((numbers[0] + numbers[1]) % 12 or 12)
        else:
            assert int(right_option(problem)) == numbers[0] % numbers[1]


def test_ordered_number_has_as_many_beyond_it_as_its_place_says(drawn):
    for problem in of(drawn, "ordering"):
        place, pole = re.search(r"the (second |third |)(largest|smallest)\?", asked(problem)[0]).groups()
        right, numbers = int(right_option(problem)), list(map(int, problem.options))
        beyond = sum(number > right if pole == "largest" else number < right for number in numbers)
        assert beyond == {"": 0, "second ": 1, "third ": 2}[place]


def test_person_asked_for_has_as_many_beyond_as_the_place_says(drawn):
    for problem in of(drawn, "chains"):
        text, _ = asked(problem)
        above = [
            (one, other) if comparative in MORE else (other, one)
            for one, comparative, other in re.findall(r"(\w+) is (\w+) than (\w+)\.", text)
        ]
        place, pole = re.search(r"the (second |)(\w+)\?", text).groups()
        # Of all orders of these people exactly one agrees with what is told.
        orders = [
            order
            for order in itertools.permutations(problem.options)
            if all(order.index(one) < order.index(other) for one, other in above)
        ]
        assert len(orders) == 1
        order = orders[0] if pole in MOST else orders[0][::-1]
        assert right_option(problem) == order[1 if place else 0]


def test_word_problem_is_one_of_mini_math_of_the_same_split():
    for split in ("pretrain", "test"):
        own = {problem.question: problem for problem in itertools.islice(problems(split, 0), 80)}
        others = {p.question for other in SPLITS if other != split for p in generate_split(other, 500, 0)}
        assert others.isdisjoint(question.partition("\nOptions:")[0] for question in own)


def test_calculated_steps_of_word_problems_lead_to_the_right_option(drawn):
    for problem in of(drawn, "word_problems"):
        *_, calculated, _, _ = problem.response.splitlines()
        assert calculated.endswith(f" = {right_option(problem)}.")


def test_product_is_one_and_wrong_options_share_its_last_digit(drawn):
    for problem in of(drawn, "products"):
        _, (left, right) = asked(problem)
        assert int(right_option(problem)) == left * right
        assert len({option[-1] for option in problem.options}) == 1


def test_response_counts_its_steps_names_the_option_and_ends_with_its_letter(drawn):
    for problem in drawn:
        *steps, naming, answer = problem.response.splitlines()
        assert [step.partition(":")[0] for step in (*steps, naming)] == [f"Step {n + 1}" for n in range(len(steps) + 1)]
        assert steps
        assert naming.endswith(f": {right_option(problem)} {problem.letter}.")
        assert answer == f"The answer is {problem.letter}."


def test_answer_read_from_a_response_is_the_gold_letter(drawn):
    for problem in drawn:
        assert extract_answer(problem.response, "mini_choice") == problem.letter
        assert answers_match(extract_answer(problem.response, "mini_choice"), problem.letter, "mini_choice")


def test_categories_take_turns(drawn):
    assert Counter(problem.category for problem in drawn) == dict.fromkeys(CATEGORIES, len(drawn) // len(CATEGORIES))


def test_splits_share_no_question():
    questions = [{query.question for query in queries(split, 400, 0)} for split in SPLITS]
    assert all(len(own) == 400 for own in questions)
    assert len(set().union(*questions)) == 400 * len(SPLITS)


def test_a_product_is_in_one_split_whichever_factor_comes_first():
    rng = random.Random(0)
    splits = {}
    for _ in range(3000):
        puzzle = products(rng)
        factors = frozenset(re.findall(r"\d+", puzzle.text))
        assert splits.setdefault(factors, split_of(puzzle)) == split_of(puzzle)
    assert set(splits.values()) == set(SPLITS)


@pytest.mark.parametrize("category", ["facts", "chains", "word_problems"])
def test_names_are_no_part_of_what_decides_the_split(category):
    names = set(words()["women"]) | set(words()["men"])
    for seed in range(50):
        puzzle = CATEGORIES[category](random.Random(seed))
        assert names.isdisjoint(re.findall(r"\w+", puzzle.about))


@pytest.mark.parametrize("category", ["sequences", "units", "remainders", "products"])
def test_what_is_asked_in_one_split_is_asked_in_no_other(category):
    rng = random.Random(2)
    texts = [{asked(draw_problem(rng, split, category))[0] for _ in range(300)} for split in SPLITS]
    assert sum(map(len, texts)) == len(set().union(*texts))


def test_same_seed_gives_the_same_questions():
    assert queries("test", 60, 5) == queries("test", 60, 5)
    assert queries("test", 60, 5) != queries("test", 60, 6)


def test_larger_split_begins_with_the_smaller_one():
    assert queries("train", 50, 0)[:20] == queries("train", 20, 0)


def test_queries_carry_letters_categories_and_ids_of_their_own():
    own = queries("validation", 80, 0)
    assert len({query.id for query in own}) == 80
    assert {query.category for query in own} == set(CATEGORIES)
    assert all(query.dataset == "mini_choice" and query.gold_answer in "ABCDEFGHIJ" for query in own)


def test_unknown_split_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no split 'unseen'; it has pretrain, train, validation, test"):
        queries("unseen", 1, 0)


@pytest.fixture(scope="module")
def prompts():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("pretrain", ["pretrain=mini_1_choice"]).forms.prompts, _convert_="all")


def test_questions_and_responses_are_short_for_the_shipped_tokenizer(drawn, prompts):
    tokenizer = load_tokenizer(CHECKPOINTS / "mini_1")
    prompt = prompts["mini_choice"]
    for problem in drawn:
        query = Query("", "mini_choice", problem.question)
        question, few_shot, response = (
            len(ids)
            for ids in tokenizer([prompt.zero_shot().render(query), prompt.render(query), problem.response])[
                "input_ids"
            ]
        )
        assert response < 80
        assert question + response < 250
        assert few_shot + response < 576  # as many as the models have met in a row


def test_examples_of_the_prompt_are_right(prompts):
    examples = prompts["mini_choice"].examples
    assert [extract_answer(example.response, "mini_choice") for example in examples] == ["C", "A"]
    for example in examples:
        named = example.response.splitlines()[-2].partition(": ")[2]
        assert named.removesuffix(".") in example.question.partition("Options: ")[2].removesuffix(".").split(", ")


@pytest.fixture(scope="module")
def questions_of_other_splits() -> set[str]:
    """800 questions of each split but that of pretraining."""
    return {query.question for split in SPLITS[1:] for query in queries(split, 800, 0)}


@pytest.mark.parametrize("category", CATEGORIES)
def test_each_category_is_a_kind_of_pretraining_text_from_the_pretraining_split(category, questions_of_other_splits):
    documents = list(itertools.islice(corpus.stream({f"choice_{category}": 1.0}, 0), 200))
    assert questions_of_other_splits.isdisjoint(document.question for document in documents)
    assert all(document.dataset == "mini_choice" and document.judged is None for document in documents)


def test_pretraining_responses_are_right():
    expected = {}
    rng = random.Random("corpus 0")
    documents = list(itertools.islice(corpus.stream({"choice_units": 1.0}, 0), 50))
    for _ in documents:
        rng.choices(["choice_units"], [1.0])
        problem = draw_problem(rng, "pretrain", "units")
        expected[problem.question] = problem.letter
    assert all(extract_answer(own.text, "mini_choice") == expected[own.question] for own in documents)


def test_lookup_names_the_letter_of_every_option_three_times():
    for document in itertools.islice(corpus.stream({"choice_lookup": 1.0}, 0), 50):
        lettered = document.question.removeprefix("Options: ").removesuffix(".").split(", ")
        assert [one[-1] for one in lettered] == list(LETTERS[: len(lettered)])
        assert [sorted(line.split(", ")) for line in document.text.splitlines()] == [sorted(lettered)] * 3


def test_series_are_whole_questions_one_after_the_other():
    for document in itertools.islice(corpus.stream({"choice_series": 1.0}, 0), 50):
        assert 1 <= len(document.before) <= 2
        for one in (*document.before, document):
            assert "\nOptions: " in one.question
            assert extract_answer(one.text, "mini_choice") is not None


def test_documents_are_rendered_as_the_dataset_asks(prompts):
    document = next(corpus.stream({"choice_facts": 1.0}, 0))
    query = Query("", "mini_choice", document.question)
    compare = ComparePrompt(template="{question}<response>{first}</response><response>{second}</response>")
    forms = Forms(prompts=prompts, judge=JudgePrompt(), rubric=JudgePrompt(), compare=compare)
    assert forms.render(document) == prompts["mini_choice"].zero_shot().render(query)
    assert forms.render(document).startswith("Question: ")


@pytest.fixture(scope="module")
def composed():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {
            dataset: build_stages(compose("config", overrides=[f"dataset={dataset}", "teacher=mini_small"]))
            for dataset in ("mini_choice", "mini_math", "mawps_asdiv")
        }


def test_the_dataset_chooses_the_models_and_their_prompt(composed):
    choice, math = composed["mini_choice"], composed["mini_math"]
    assert [model.name for model in (choice.teacher, choice.student)] == ["mini_small", "mini_1"]
    assert choice.teacher.name_or_path == "rkd/mini/checkpoints/mini_small_choice"
    assert choice.student.name_or_path == "rkd/mini/checkpoints/mini_1_choice"
    assert choice.teacher.prompt == choice.student.prompt == choice.dataset.prompt
    assert math.teacher.name_or_path == "rkd/mini/checkpoints/mini_small"
    assert math.teacher.prompt == math.student.prompt == math.dataset.prompt


def test_on_human_written_problems_the_mini_models_are_asked_as_on_their_own(composed):
    assert composed["mawps_asdiv"].teacher.prompt == composed["mini_math"].dataset.prompt
    assert composed["mawps_asdiv"].student.name_or_path == "rkd/mini/checkpoints/mini_1"


def test_dataset_loads_without_gold_answers_for_training(composed):
    data = composed["mini_choice"].dataset
    training, tests = data.training_queries(), data.test_sets()
    assert len(training) == 5000
    assert all(query.gold_answer is None for query in training)
    assert len(data.validation_queries()) == 400
    assert {name: len(own) for name, own in tests.items()} == {"mini_choice": 1000}
    questions = [query.question for query in (*training, *data.validation_queries(), *tests["mini_choice"])]
    assert len(set(questions)) == 6400


@pytest.mark.parametrize("name", ["mini_large", "mini_small", "mini_3", "mini_1"])
def test_models_of_mini_choice_have_the_settled_tokenizer(name):
    settled, choice = (load_tokenizer(CHECKPOINTS / folder) for folder in (name, f"{name}_choice"))
    assert choice.get_vocab() == settled.get_vocab()
