"""mini_math: problems are sound, solutions are right in every style, and splits keep apart."""

import dataclasses
import random
import re
from fractions import Fraction

import pytest

from rkd.data.answers import answers_match, extract_answer
from rkd.mini.corpus import KINDS
from rkd.mini.math import (
    SPLIT_SHARES,
    STYLES,
    UNSEEN_DISTRACTORS,
    Operation,
    draw_story,
    families,
    generate_split,
    queries,
    split_of,
    tell,
    write_response,
)

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[-+×÷()]")
_STEP = re.compile(r"^Step (\d+): (.+)\.$")


def value_of(expression: str) -> Fraction:
    """An expression over + - × ÷ and brackets, by recursive descent: an evaluator that shares nothing with rkd."""
    tokens = _TOKEN.findall(expression)
    assert "".join(tokens) == expression.replace(" ", ""), expression

    def sum_() -> Fraction:
        total = product()
        while tokens and tokens[0] in "+-":
            total = total + product() if tokens.pop(0) == "+" else total - product()
        return total

    def product() -> Fraction:
        total = atom()
        while tokens and tokens[0] in "×÷":
            total = total * atom() if tokens.pop(0) == "×" else total / atom()
        return total

    def atom() -> Fraction:
        token = tokens.pop(0)
        if token != "(":
            return Fraction(token)
        inside = sum_()
        assert tokens.pop(0) == ")"
        return inside

    value = sum_()
    assert not tokens, expression
    return value


def check_response(text: str) -> None:
    """Every side of every printed equation has the same value, steps are counted from 1, the last is the answer."""
    *steps, answer = text.splitlines()
    result = None
    for number, line in enumerate(steps, start=1):
        step = _STEP.match(line)
        assert step, line
        assert int(step[1]) == number
        sides = [value_of(side) for side in step[2].split(" = ")]
        assert len(sides) >= 2
        assert len(set(sides)) == 1, line
        result = sides[-1]
    assert answer == f"The answer is {result}.", text


@pytest.fixture(scope="module")
def problems():
    return [problem for split in SPLIT_SHARES for problem in generate_split(split, 100, 1)]


@pytest.fixture(scope="module")
def stories():
    rng = random.Random(4)
    return {split: [draw_story(rng, split) for _ in range(400)] for split in SPLIT_SHARES}


@pytest.mark.parametrize("style", STYLES)
def test_response_states_the_answer_of_the_problem(problems, style):
    for problem in problems:
        stated = extract_answer(write_response(problem.operations, style), "mini_math")
        assert answers_match(stated, problem.answer, "mini_math")
        assert stated == problem.answer


@pytest.mark.parametrize("style", STYLES)
def test_every_printed_equation_holds(problems, style):
    for problem in problems:
        check_response(write_response(problem.operations, style))


def test_evaluator_of_this_test_sees_a_wrong_equation():
    assert value_of("2 + 3 × (7 - 4) ÷ 9") == 3
    with pytest.raises(AssertionError):
        check_response("Step 1: 2 + 3 = 6.\nThe answer is 6.")


def test_joined_puts_a_product_into_the_sum_or_difference_that_uses_it():
    product = Operation("×", 5, 4, 20)
    before = (product, Operation("-", 20, 3, 17, left_from=0))
    after = (product, Operation("-", 29, 20, 9, right_from=0))
    of_another = (product, Operation("+", 29, 3, 32))
    quotient = (Operation("÷", 20, 4, 5), Operation("+", 5, 4, 9, left_from=0))
    assert write_response(before, "joined") == "Step 1: 5 × 4 - 3 = 17.\nThe answer is 17."
    assert write_response(after, "joined") == "Step 1: 29 - 5 × 4 = 9.\nThe answer is 9."
    assert write_response(of_another, "joined") == write_response(of_another, "steps")
    assert write_response(quotient, "joined") == write_response(quotient, "steps")


def test_worked_writes_the_carry():
    operations = (Operation("+", 57, 28, 85),)
    assert write_response(operations, "worked") == "Step 1: 57 + 28 = 70 + 15 = 85.\nThe answer is 85."


def test_styles_differ_on_the_same_problem(problems):
    texts = [tuple(write_response(problem.operations, style) for style in STYLES) for problem in problems]
    assert sum(joined != steps for joined, steps, _ in texts) > 0.4 * len(texts)
    assert any(steps != worked for _, steps, worked in texts)


def test_results_are_positive_whole_numbers(problems):
    for problem in problems:
        for operation in problem.operations:
            assert operation.result.denominator == 1
            assert operation.result > 0
        assert problem.answer.isdigit()


def test_operands_are_told_or_were_calculated(problems):
    for problem in problems:
        told = {int(number) for number in re.findall(r"\d+", problem.question)}
        for operation in problem.operations:
            for operand, made_by in (
                (operation.left, operation.left_from),
                (operation.right, operation.right_from),
            ):
                assert operand in told if made_by is None else operand == problem.operations[made_by].result


def test_solutions_take_two_to_five_steps(problems):
    assert {len(problem.operations) for problem in problems} == {2, 3, 4, 5}
    assert all(problem.category == f"{len(problem.operations)}_steps" for problem in problems)


def test_there_are_twelve_training_families_and_unseen_ones():
    unseen = [name for name, family in families().items() if family.get("unseen", False)]
    assert len(families()) - len(unseen) >= 12
    assert unseen


def test_all_families_and_operations_occur(problems):
    assert {problem.family for problem in problems} == set(families())
    assert {operation.symbol for problem in problems for operation in problem.operations} == set("+-×÷")


def test_some_problems_tell_a_number_that_does_not_matter(stories):
    shares = [sum(story.distractor is not None for story in own) / len(own) for own in stories.values()]
    assert all(0.15 < share < 0.35 for share in shares)


def test_no_slot_is_left_open(problems):
    assert not any(set("{}") & set(problem.question) for problem in problems)


def test_splits_share_no_question():
    by_split = {split: {p.question for p in generate_split(split, 400, 0)} for split in SPLIT_SHARES}
    assert all(len(questions) == 400 for questions in by_split.values())
    assert len(set().union(*by_split.values())) == 400 * len(by_split)


def test_splits_share_no_signature(stories):
    signatures = {split: {story.signature for story in own} for split, own in stories.items()}
    assert sum(map(len, signatures.values())) == len(set().union(*signatures.values()))


def test_splits_of_the_same_families_cover_disjoint_residues():
    residues = [residue for split, own in SPLIT_SHARES.items() if split != "unseen" for residue in own]
    assert sorted(residues) == list(range(10))


def test_names_and_items_do_not_change_the_split(stories):
    for story in stories["train"][:20]:
        slots = {**story.slots, "name": "Zoe", "friend": "Yan", "items": "drums"}
        renamed = dataclasses.replace(story, slots=slots)
        assert renamed != story
        assert split_of(renamed) == split_of(story)


def test_unseen_split_shares_no_family_and_no_wording_with_training_text(stories):
    own = {story.family for story in stories["unseen"]}
    others = {story.family for split in SPLIT_SHARES if split != "unseen" for story in stories[split]}
    assert own.isdisjoint(others)

    def wordings(name):
        return {
            wording
            for part in ("opening", "events", "question")
            for own in families()[name][part].values()
            for wording in own
        }

    unseen, seen = (set().union(*map(wordings, names)) for names in (own, others))
    assert unseen.isdisjoint(seen)
    told = {story.distractor.wording for story in stories["unseen"] if story.distractor is not None}
    assert told <= set(UNSEEN_DISTRACTORS)


@pytest.mark.slow
def test_no_pretraining_text_holds_a_sentence_of_the_unseen_split():
    rng = random.Random(2)
    documents = [kind(rng) for kind in KINDS.values() for _ in range(1000)]
    text = "\n".join(part for d in documents for part in (d.question, d.judged, d.text) if part)
    fixed = {
        max(re.split(r"\{\w+\}", wording), key=len).strip()
        for family in families().values()
        if family.get("unseen", False)
        for part in ("opening", "events", "question")
        for own in family[part].values()
        for wording in own
    } | {"strikes", "hats."}
    # The longest fixed piece of a wording; short ones ("at", "come") are common English.
    assert not [piece for piece in fixed if len(piece.split()) >= 3 and re.search(rf"\b{re.escape(piece)}", text)]


def test_same_seed_gives_the_same_text():
    assert generate_split("test", 30, 5) == generate_split("test", 30, 5)
    assert generate_split("test", 30, 5) != generate_split("test", 30, 6)


def test_larger_split_begins_with_the_smaller_one():
    assert generate_split("train", 50, 0)[:20] == generate_split("train", 20, 0)


def test_queries_have_unique_ids_and_carry_gold_answers():
    drawn = queries("validation", 50, 0)
    assert len({query.id for query in drawn}) == 50
    assert all(query.gold_answer and query.dataset == "mini_math" for query in drawn)


def test_unknown_split_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no split 'dev'; it has pretrain, train"):
        generate_split("dev", 1, 0)


def test_told_story_prints_each_of_its_numbers_once(stories):
    for story in stories["test"][:50]:
        question = tell(story, "").question
        numbers = [str(number) for sentence in story.sentences for number in sentence.numbers]
        assert sorted(numbers) == sorted(
            set_aside(re.findall(r"\d+", question), story.distractor.numbers if story.distractor else ())
        )


def set_aside(numbers, distractors):
    """`numbers` without those of the distractor."""
    left = list(numbers)
    for number in distractors:
        left.remove(str(number))
    return left
