"""The pretraining text: its equations hold, it keeps to its split, and verdicts are right."""

import itertools
import random
import re
from fractions import Fraction

import pytest

from rkd.data.answers import answers_match, extract_answer
from rkd.data.judge_prompts import JudgePrompt
from rkd.mini import corpus
from rkd.mini.documents import NO, YES, Document, marked
from rkd.mini.math import SPLIT_SHARES, draw_story, generate_split, split_of, write_response

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[-+×÷]")


def value_of(side: str) -> Fraction:
    """The value of a side of an equation; brackets first, then × and ÷, then + and -, each from the left."""
    while bracket := re.search(r"\(([^()]+)\)", side):
        side = side.replace(bracket[0], str(float(value_of(bracket[1]))))
    tokens = _TOKEN.findall(side)
    assert "".join(tokens) == side.replace(" ", ""), side
    for symbols in ("×÷", "+-"):
        merged = [Fraction(tokens[0]) if isinstance(tokens[0], str) else tokens[0]]
        for symbol, operand in zip(tokens[1::2], tokens[2::2], strict=True):
            right = Fraction(operand)
            if symbol not in symbols:
                merged += [symbol, right]
            elif symbol in "×÷":
                merged[-1] = merged[-1] * right if symbol == "×" else merged[-1] / right
            else:
                merged[-1] = merged[-1] + right if symbol == "+" else merged[-1] - right
        tokens = merged
    return tokens[0]


def holds(line: str) -> bool:
    """Whether "a ∘ b = … = c." is true."""
    return len({value_of(side) for side in line.rstrip(".").split(" = ")}) == 1


def drawn(kind: str, count: int, seed: int = 0) -> list[Document]:
    return list(itertools.islice(corpus.stream({kind: 1.0}, seed), count))


@pytest.mark.parametrize("kind", ["arithmetic", "expressions"])
def test_every_equation_holds(kind):
    lines = [line for document in drawn(kind, 300) for line in document.text.splitlines()]
    assert all(" = " in line and holds(line) for line in lines)


@pytest.mark.parametrize("kind", ["short_problem", "simple_problem", "problem"])
def test_every_solution_holds_and_states_its_last_result(kind):
    for document in drawn(kind, 400):
        *steps, _ = document.text.splitlines()
        equations = [step.partition(": ")[2] for step in steps]
        assert all(map(holds, equations)), document.text
        last = equations[-1].rstrip(".").rpartition(" = ")[2]
        assert answers_match(extract_answer(document.text, "mini_math"), last, "mini_math")


@pytest.fixture
def plans(monkeypatch):
    """The plans of mini_math that corpus draws, as it draws them."""
    drawn_plans = []

    def recorded(*arguments):
        drawn_plans.append(draw_story(*arguments))
        return drawn_plans[-1]

    monkeypatch.setattr(corpus, "draw_story", recorded)
    return drawn_plans


@pytest.mark.parametrize("kind", ["story", "simple_problem", "problem", "series", "judged"])
def test_told_plans_belong_to_the_pretraining_split(kind, plans):
    drawn(kind, 300)
    assert len(plans) > 100
    assert all(split_of(plan) in SPLIT_SHARES["pretrain"] for plan in plans)


@pytest.mark.slow
def test_corpus_holds_no_question_of_another_split():
    known = {p.question for split in SPLIT_SHARES if split != "pretrain" for p in generate_split(split, 1000, 0)}
    for kind in corpus.KINDS:
        assert known.isdisjoint(document.question for document in drawn(kind, 1000))


def test_series_are_whole_problems_one_after_the_other():
    for document in drawn("series", 50):
        assert 1 <= len(document.before) <= 4
        for one in (*document.before, document):
            assert one.question
            assert extract_answer(one.text, "mini_math") is not None


@pytest.mark.parametrize("kind", ["story", "arithmetic", "expressions"])
def test_plain_text_has_no_question_and_no_verdict(kind):
    assert all(document.question is None and document.judged is None for document in drawn(kind, 50))


def test_half_of_the_judged_responses_are_right_and_verdicts_tell_which(monkeypatch):
    right = []

    def recorded(operations, style):
        right.append(write_response(operations, style))
        return right[-1]

    monkeypatch.setattr(corpus, "write_response", recorded)
    yes, documents = 0, corpus.stream({"judged": 1.0}, 0)
    for _ in range(600):
        document = next(documents)
        assert (document.text == YES) == (document.judged in right)
        yes += len(right)
        right.clear()
    assert 0.4 < yes / 600 < 0.6


def test_right_judged_responses_hold_and_wrong_ones_are_of_many_sorts():
    right = [document for document in drawn("judged", 400) if document.text == YES]
    wrong = [document for document in drawn("judged", 800) if document.text == NO]
    for document in right:
        assert all(holds(line.partition(": ")[2]) for line in document.judged.splitlines()[:-1])
    false_equation, other_answer, consistent = 0, 0, 0
    for document in wrong:
        *steps, _ = document.judged.splitlines()
        equations = [step.partition(": ")[2] for step in steps]
        last = equations[-1].rstrip(".").rpartition(" = ")[2]
        if not answers_match(extract_answer(document.judged, "mini_math"), last, "mini_math"):
            other_answer += 1
        elif all(map(holds, equations)):
            consistent += 1  # a wrong plan, rightly calculated
        else:
            false_equation += 1
    assert min(false_equation, other_answer, consistent) > 0.02 * len(wrong)
    assert (
        sum(bool(re.search(r" × \d+ [-+] \d+ = ", document.judged)) for document in wrong) > 0
    )  # joined steps among them


def test_verdicts_are_the_words_of_the_judge_prompt():
    assert (JudgePrompt().yes_word, JudgePrompt().no_word) == (YES, NO)


def test_judged_documents_of_another_split_tell_its_plans():
    rng = random.Random(0)
    known = {p.question for p in generate_split("pretrain", 500, 0)}
    assert known.isdisjoint(corpus.judged(rng, "validation").question for _ in range(200))


def test_same_seed_gives_the_same_documents():
    mixture = dict.fromkeys(corpus.KINDS, 1.0)

    def first(seed):
        return list(itertools.islice(corpus.stream(mixture, seed), 50))

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"unknown \['poems'\]; known: arithmetic"):
        next(corpus.stream({"poems": 1.0}, 0))


SOLUTION = "Step 1: 3 + 4 = 7.\nStep 2: 7 × 12 = 84.\nThe answer is 84."


@pytest.mark.parametrize(
    ("response", "ending"),
    [
        ("The answer is 84.", "Found 84, missing 7. Answer 84, given 84.\nScore: 5"),
        ("Step 1: 3 + 4 = 7.\nThe answer is 74.", "Found 7, missing 84. Answer 84, given 74.\nScore: 2"),
        ("7 × 12 = 84, and the answer is 7.", "Found 7, 84, missing none. Answer 84, given 7.\nScore: 4"),
        ("The answer is 8.", "Found none, missing 7, 84. Answer 84, given 8.\nScore: 0"),
        ("7, 84", "Found 7, 84, missing none. Answer 84, given none.\nScore: 0"),
    ],
)
def test_marks_are_given_for_the_answer_or_else_for_results_on_the_way(response, ending):
    document = marked("3 and 4, by the dozen?", SOLUTION, response)
    assert document.text == f"{SOLUTION}\n{ending}"
    assert document.judged == response
    assert document.is_graded
