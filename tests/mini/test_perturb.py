"""mini_math_plus: eight perturbations, each with the right answer or rightly without one."""

import random
import re
from fractions import Fraction

import pytest

from rkd.data.answers import answers_match, extract_answer
from rkd.mini import perturb
from rkd.mini.math import STYLES, draw_story, generate_split, solve, tell, write_response


@pytest.fixture(scope="module")
def problems():
    return perturb.generate(800, 0)


def numbers_in(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def story_and(way, seed):
    """A story of the test split and what `way` makes of it; ways that find nothing are tried on the next story."""
    rng = random.Random(seed)
    while True:
        story = draw_story(rng, "test", distractor_share=0)
        problem = way(story, rng)
        if problem is not None:
            return story, problem


def test_all_eight_ways_occur_equally_often(problems):
    counts = {way: sum(problem.category == way for problem in problems) for way in perturb.PERTURBATIONS}
    assert set(counts.values()) == {100}


def test_responses_state_the_answer(problems):
    for problem in problems:
        if problem.answer is not None:
            for style in STYLES:
                stated = extract_answer(write_response(problem.operations, style), "mini_math_plus")
                assert answers_match(stated, problem.answer, "mini_math_plus")


def test_every_operation_holds(problems):
    symbols = {"+": Fraction.__add__, "-": Fraction.__sub__, "×": Fraction.__mul__, "÷": Fraction.__truediv__}
    for problem in problems:
        for operation in problem.operations:
            assert symbols[operation.symbol](Fraction(operation.left), Fraction(operation.right)) == operation.result
            assert operation.result > 0


def test_reversed_problem_is_solved_by_its_answer():
    for seed in range(150):
        story, problem = story_and(perturb.reverse_operation, seed)
        told, _, asked = problem.question.partition(" The answer to this is ")
        value = numbers_in(asked)[0]
        # Brute force: of all numbers in place of "some", those that make the told value, with the forward solution.
        first = story.sentences[0]
        solving = []
        for candidate in range(1, 400):
            sentences = (type(first)(first.kind, first.wording, (candidate, *first.numbers[1:])), *story.sentences[1:])
            if solve(sentences)[-1].result == int(value):
                solving.append(str(candidate))
        assert solving == [problem.answer]
        assert re.search(r"\bsome\b", told, re.IGNORECASE)
        assert problem.answer == str(problem.operations[-1].result)


def test_reversed_problem_uses_only_told_numbers():
    for seed in range(60):
        _, problem = story_and(perturb.reverse_operation, seed)
        told = {int(number) for number in numbers_in(problem.question)}
        for operation in problem.operations:
            for operand, made_by in ((operation.left, operation.left_from), (operation.right, operation.right_from)):
                assert operand in told if made_by is None else operand == problem.operations[made_by].result


def test_missing_information_has_no_answer(problems):
    missing = [problem for problem in problems if problem.category == "critical thinking"]
    assert all(problem.answer is None for problem in missing)
    assert all(re.search(r"\bsome\b", problem.question, re.IGNORECASE) for problem in missing)


def test_only_missing_information_has_no_answer(problems):
    assert all(problem.answer for problem in problems if problem.category != "critical thinking")


def test_missing_number_is_not_told():
    for seed in range(60):
        story, problem = story_and(perturb.remove_information, seed)
        told = len(numbers_in(problem.question))
        assert told == sum(len(sentence.numbers) for sentence in story.sentences) - 1


def test_expanded_number_has_a_digit_more():
    for seed in range(40):
        story, problem = story_and(perturb.expand_digits, seed)
        before = sorted(number for sentence in story.sentences for number in sentence.numbers)
        after = sorted(map(int, numbers_in(problem.question)))
        (changed,) = [number for number in after if after.count(number) > before.count(number)]
        assert changed >= 100


def test_converted_number_is_a_decimal():
    for seed in range(40):
        _, problem = story_and(perturb.convert_to_decimal, seed)
        assert sum("." in number for number in numbers_in(problem.question)) == 1


def test_added_operation_lengthens_the_solution():
    for seed in range(40):
        story, problem = story_and(perturb.add_operation, seed)
        assert len(problem.operations) > len(solve(story.sentences))


@pytest.mark.parametrize("way", [perturb.rephrase, perturb.insert_distractor])
def test_other_words_keep_the_answer(way):
    for seed in range(40):
        story, problem = story_and(way, seed)
        original = tell(story, "")
        assert problem.question != original.question
        assert problem.answer == original.answer


def test_distractor_tells_one_number_more():
    for seed in range(20):
        story, problem = story_and(perturb.insert_distractor, seed)
        assert len(numbers_in(problem.question)) == len(numbers_in(tell(story, "").question)) + 1


def test_substituted_numbers_keep_the_sentences():
    for seed in range(20):
        story, problem = story_and(perturb.substitute_numbers, seed)

        def without(text):
            return re.sub(r"\d+", "#", text)

        assert without(problem.question) == without(tell(story, "").question)


def test_perturbed_questions_are_not_in_the_training_split(problems):
    training = {problem.question for problem in generate_split("train", 2000, 0)}
    assert training.isdisjoint(problem.question for problem in problems)


def test_each_problem_of_the_test_set_comes_in_all_eight_ways(problems):
    tested = {problem.id: problem for problem in generate_split("test", 400, 0)}
    for first in range(0, len(problems), 8):
        own = problems[first : first + 8]
        assert [problem.category for problem in own] == list(perturb.PERTURBATIONS)
        (place,) = {problem.id.split("-")[2] for problem in own}
        original = tested[f"mini_math-test-0-{place}"]
        by_way = {problem.category: problem for problem in own}
        assert by_way["problem understanding"].answer == by_way["distractor insertion"].answer == original.answer
        assert original.question not in {problem.question for problem in own}


def test_same_seed_gives_the_same_problems():
    assert perturb.generate(24, 3) == perturb.generate(24, 3)
    assert perturb.generate(24, 3) != perturb.generate(24, 4)


def test_training_on_perturbed_problems_is_refused():
    with pytest.raises(ValueError, match="for tests only, train on mini_math"):
        perturb.queries("train", 1, 0)


def test_the_seven_ways_of_a_problem_are_one_cluster():
    asked = perturb.queries("test", 21, 0)
    clusters = [query.cluster for query in asked]
    assert len(set(clusters)) == 3
    assert clusters == sorted(clusters, key=clusters.index)  # the ways of a problem follow each other
    assert all(clusters.count(one) == 7 for one in clusters)
    assert all(query.id.startswith(f"{query.cluster}-") for query in asked)
