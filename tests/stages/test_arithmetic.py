"""The arithmetic warm-up: its equations, and that the student learns them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkd.data.calculator import stated_results
from rkd.stages.arithmetic import LARGEST_FACTOR, Arithmetic
from tests.stages.test_sft import mean_nll
from tests.support.fakes import context
from tests.support.tiny_models import PROMPT, llama_folder

SETTINGS = {"learning_rate": 1e-2, "epochs": 10, "batch_size": 8, "max_tokens": 64}


def stage(equations: int = 64, **settings: object) -> Arithmetic:
    return Arithmetic(**{**SETTINGS, "equations": equations, **settings})


@given(st.integers(0, 2**32), st.integers(1, 5000))
def test_every_equation_is_right_and_its_operands_are_in_their_range(seed: int, largest: int):
    for query, text in stage(8, equations_seed=seed, largest_operand=largest).examples():
        ((stated, calculated),) = stated_results(text)
        assert stated == calculated == Fraction(query.gold_answer) >= 0
        assert stated.denominator == 1
        assert text == f"{query.question} = {query.gold_answer}"
        a, sign, b = query.question.split()
        dividend = largest * LARGEST_FACTOR
        assert 1 <= int(a) <= (dividend if sign == "/" else largest)
        assert 1 <= int(b) <= (largest if sign in "+-" else LARGEST_FACTOR)


def test_all_operators_occur_and_a_seed_decides_the_equations():
    questions = [query.question.split() for query, _ in stage(400).examples()]
    assert {sign for _, sign, _ in questions} == set("+-*/")
    assert stage(400).examples() == stage(400).examples() != stage(400, equations_seed=1).examples()


def test_operands_of_one_two_and_three_digits_are_as_frequent_and_the_largest_one_is_rare():
    questions = [query.question.split() for query, _ in stage(8000, largest_operand=1000).examples()]
    operands = [int(b) for _, sign, b in questions if sign == "+"]
    # log 10 / log 1001 = 0.333 of each length; about 2,000 sums, so that 0.05 is over four standard deviations.
    shares = [sum(len(str(one)) == length for one in operands) / len(operands) for length in (1, 2, 3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.05)
    assert operands.count(1000) < 10


def test_the_student_learns_the_equations(tmp_path):
    examples = stage().examples()
    student = llama_folder(tmp_path / "student", [PROMPT.render(query) + text for query, text in examples], 300)
    report = stage().fit(examples, context(student, tmp_path / "taught"))
    assert (report.examples, report.steps) == (64, 80)
    assert mean_nll(tmp_path / "taught", examples) < 0.7 * mean_nll(student.folder, examples)


def test_the_equations_are_in_the_fingerprint_of_the_examples_alone():
    assert stage(3).fingerprint() == stage(4, equations_seed=1).fingerprint()
    assert stage(epochs=2).fingerprint() != stage().fingerprint()


@pytest.mark.parametrize("key", ["equations", "largest_operand"])
def test_a_number_below_1_is_refused(key: str):
    with pytest.raises(ValueError, match=f"arithmetic.{key}=0"):
        stage(**{key: 0})
