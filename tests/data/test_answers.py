import gzip
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rkd.data import math_equivalence as equivalence
from rkd.data.answers import (
    answers_match,
    canonical_gold_answer,
    canonical_number,
    extract_answer,
    last_letter,
    majority,
    names_several_answers,
)
from rkd.data.math_equivalence import SECONDS_TO_ANSWER, canonical_expression, have_same_value

MODELS = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Step 1: 3 × 4 = 12.\nThe answer is 12.", "12"),
        ("The answer is 50%.", "50"),
        ("The answer is $1,000.50 per year.", "1000.5"),
        ("the answer is <203>.", "203"),
        ("The answer is -7 degrees", "-7"),
        ("The answer is −$7.", "-7"),
        ("The answer is +3", "3"),
        ("The answer is .5", "0.5"),
        ("The answer is 0.50", "0.5"),
        ("The answer is 007", "7"),
        ("The answer is -0", "0"),
        ("The answer is 3/4 of a cup.", "3/4"),
        ("The answer is 6/8.", "3/4"),
        ("The answer is 10/5.", "2"),
        ("The answer is 1 1/2 cups.", "3/2"),
        ("The answer is 1½.", "3/2"),
        ("The answer is 1e-3", "0.001"),
        ("The answer is 2.5 million people.", "2500000"),
        ("The answer is $3 \\times 10^8$ m/s", "300000000"),
        ("The answer is $\\frac{3}{4}$.", "3/4"),
        ("So \\boxed{2\\frac{1}{2}}", "5/2"),
        ("So \\boxed{1{,}000}.", "1000"),
        ("The answer is approximately 12 apples", "12"),
        ("The answer is x = 5", "5"),
        ("The answer is 3 + 4 = 7.", "7"),
        ("The answer is 2 ¾ cups.", "11/4"),
        ("The answer is 2 Million.", "2000000"),
        ("The answer is 3 hundred", "300"),
        ("The answer is 1.5 trillion.", "1500000000000"),
        ("The answer is $2.5M.", "2500000"),
        ("The answer is 5m.", "5"),
        ("The answer is Negative 5", "-5"),
        ("The answer is EUR 12", "12"),
        ("The answer should be 12.", "12"),
        ("The answer must be 12.", "12"),
        ("**Final Answer**\n12", "12"),
        ("\\boxed{3 \\times 4 = 12}", "12"),
        ("\\boxed{\\sqrt{16} = 4}", "4"),
        ("Q: What is 3 + 4 in all?\nA: The answer is 7.", "7"),
        ("The answer to the question is 12.", "12"),
        ("**Answer:** 5", "5"),
        ("#### 1,234", "1234"),
        ("It is 9 * 2.\nA: 18", "18"),
        ("It is <<9*2=18>>18.\nThe answer is $<<9*2=18>>18.", "18"),
    ],
)
def test_a_stated_number_is_read_in_canonical_form(text, answer):
    assert extract_answer(text, "gsm8k") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # Emphasis.
        ("The answer is **18**.", "18"),
        ("**Answer: 18**", "18"),
        ("**Answer**: 18", "18"),
        ("#### **18**", "18"),
        ("The answer is *18* apples.", "18"),
        ("The answer is __18__.", "18"),
        ("The answer is `18`.", "18"),
        ("The answer is **$18**.", "18"),
        ("The answer is **18.**", "18"),
        ("The answer is **6 * 3 = 18**.", "18"),
        # LaTeX.
        ("The answer is $\\$18$.", "18"),
        ("The answer is \\(18\\).", "18"),
        ("The answer is \\[18\\].", "18"),
        ("Final Answer:\n$$\n18\n$$", "18"),
        ("\\boxed{18\\text{ km}}", "18"),
        ("\\boxed{\\textbf{18}}", "18"),
        ("\\boxed{12\\ 345}", "12345"),
        ("\\boxed{12\\,345}", "12345"),
        ("\\boxed{12{,}345}", "12345"),
        ("\\boxed{1.2E1}", "12"),
        ("\\boxed{-\\dfrac{1}{2}}", "-1/2"),
        ("\\boxed{\\frac12}", "1/2"),
        ("\\boxed{50\\%}", "50"),
        ("\\boxed{5\\ \\mathrm{cm}^2}", "5"),
        ("\\fbox{12}", "12"),
        ("$\\boxed{x = 12}$", "12"),
        # Unicode.
        ("The answer is 1⁄2.", "1/2"),
        ("The answer is 2⅕", "11/5"),
        ("The answer is ⅞ of a cup.", "7/8"),
        ("The answer is １２．５", "12.5"),
        ("The answer is 𝟏𝟐.", "12"),
        ("The answer is −12.", "-12"),
        ("The answer is 12\u202f345 km.", "12345"),
        ("The answer is 1\u2009000\u2009000.", "1000000"),
        ("The answer is 3 × 10⁸ m/s.", "300000000"),
        ("The answer is 5·10⁻² m.", "0.05"),
        ("The answer is 12 m².", "12"),
        ("The answer is 12\u200b.", "12"),
        ("The answer is 12 ✅", "12"),
        ("The answer is 30°.", "30"),
        # Chains of equalities.
        ("The answer is 5 apples + 7 apples = 12 apples.", "12"),
        ("The answer is 12 = 3*4.", "12"),
        ("The answer is 3 × 4 = 24 ÷ 2 = 12.", "12"),
        ("The answer is 3 × 4, which is 12.", "12"),
        ("The answer is 2/3 = 0.667.", "0.667"),
        ("The answer is 0.5 = 50%.", "50"),
        ("The answer is 12.4 ≈ 12.", "12"),
        ("The answer is Total cost = $12.", "12"),
        # What may stand around a value.
        ("The answer, in km, is 12.", "12"),
        ("The answer (in km) is 12.", "12"),
        ("The answer for the whole week is 12.", "12"),
        ("The answer is, of course, 12.", "12"),
        ("The answer is Rs. 500.", "500"),
        ("The answer is approx. 12 km.", "12"),
        ("The answer is 12, because 5 + 7 = 12.", "12"),
        ("The answer is 12 (5 + 7).", "12"),
        ("The answer is 24. (3 + 5 = 8 questions, 8 x 3 = 24 points)", "24"),
        ("The answer is 12 - that is 5 + 7.", "12"),
        ("The answer is 12, not 13.", "12"),
        ("The answer is 12 apples in 3 days.", "12"),
        ("The answer is 12 of the 20 apples.", "12"),
        ("The answer is 12 km/h.", "12"),
        ("The answer is 12-inch boards.", "12"),
        ("The answer is 12th.", "12"),
        ("The answer is 12 red or blue marbles.", "12"),
        ("The answer is 12!", "12"),
        ("The answer is 1/2 or 0.5.", "1/2"),
        ("The answer is 12, that is, 12.0.", "12"),
        ("The answer is 10^3.", "1000"),
        ("The answer is 3 R 2.", "3 R 2"),
        ("The answer is 3 remainder 2.", "3 R 2"),
        # Forms of chat and reasoning models.
        ("<answer>10</answer>", "10"),
        ("<think>5 or 6?</think>\n<answer>\n10 apples\n</answer>", "10"),
        ("<answer>\\boxed{10}</answer>", "10"),
        ("<answer>10", "10"),
        ('{"answer": 12}', "12"),
        ('{"steps": [3, 4], "answer": 12.50, "checks": 2}', "12.5"),
        ('```json\n{\n  "final_answer": "12 apples"\n}\n```', "12"),
        ("{'answer': '12'}", "12"),
        ("Final Answer\r\n12", "12"),
        ("## Final Answer\r\n\r\n**12**\r\n", "12"),
        ("### Answer\n\n12 apples", "12"),
        ("Answer:\n- 12 apples", "12"),
        ("ANSWER: 12", "12"),
        ("Answer：12", "12"),
        ("Final Answer: The final answer is $\\boxed{12}$. I hope it is correct.", "12"),
        ('{"reasoning": "the answer is 13", "answer": 12}', "12"),
        ('{"answer": "\\u00bd"}', "1/2"),
        ('{"answer": "$\\frac{1}{2}$"}', "1/2"),
        ('{"answer": "$\\\\frac{1}{2}$"}', "1/2"),
        ("> **Answer:** 12", "12"),
        ("\\boxed{12}\\%", "12"),
        ("The answer is 20% of 50, which is 10.", "10"),
        ("The answer is 5^2 = 25.", "25"),
        ("The answer is (3 + 4) * 2 = 14 apples.", "14"),
        ("The answer is 12 (to 2 decimal places).", "12"),
        ("The answer is 12 to the nearest whole number.", "12"),
        ("The answer rounded to 2 decimals is 12.35.", "12.35"),
        ("The answer is twelve. The answer is 12 (twelve).", "12"),
        # Headings, and what states nothing, leave an earlier answer as it is.
        ("The answer is 10.\n#### 2. Verification\nIt is right.", "10"),
        ("The answer is 10.\n#### 2) Check\n3 + 7 = 10", "10"),
        ("The answer is 10.\n#### 2 - Check", "10"),
        ("The answer is 10.\n#### **2. Check**", "10"),
        ("The answer is 10.\n#### Step 2: 3 + 7", "10"),
        ("The answer is 10. If the answer is 12, all would be sold.", "10"),
        ("The answer is 10. Ann says the answer is 12.", "10"),
        ("The answer is 10. Ann's answer is 12.", "10"),
        ("I think the answer is 12.", "12"),
        ("The answer is 12 or 13. Both cannot be. So the answer is 13.", "13"),
        ("The answer is 5, no, the answer is 6.", "6"),
    ],
)
def test_a_number_is_read_in_every_form_of_the_grammar(text, answer):
    assert extract_answer(text, "gsm8k") == answer


SEVERAL = [
    "\\boxed{12, 13}",
    "\\boxed{12\\text{ or }13}",
    "\\boxed{12} or \\boxed{13}",
    "$\\boxed{12}$, $\\boxed{13}$",
    "\\boxed{12} or 13",
    "\\boxed{\\pm 12}",
    "<answer>12</answer> or <answer>13</answer>",
    "<answer>12 or 13</answer>",
    '{"answer": [12, 13]}',
    '{"answer": "12 or 13"}',
    "The answer is x = 5 or x = -5.",
    "The answer is x = 5, y = 3.",
    "The answer is 12 and 13.",
    "The answer is 12 or thirteen.",
    "The answer is 12, or maybe 13.",
    "The answer is 12 (or 13).",
    "The answer is 12 (13).",
    "The answer is 12/13 or 13/12.",
    "The answer is 12; 13.",
    "The answer is 12 & 13.",
    "The answer is (12, 13).",
    "The answer is 12 ± 1.",
    "The answer is 5 to 6.",
    "The answer is either 12 or 13.",
    "The answer is either \\boxed{12} or \\boxed{13}.",
    "The answer is 12 if it rains, otherwise 13.",
    "The answer is 12, since 5 + 7 = 12, but 13 is possible too.",
    "The answer is 12 or, if it rains, 13.",
    "The answer is 12 apples, with 13 also possible.",
    "The answer is 12, as 13 is another possible value.",
    "The answer is 12 or the answer is 13.",
    "The answer is 12, the answer is 13.",
    "The answer is 12. Or 13.",
    "The answer is 12.\nOr:\n13",
    "The answer is 12. Alternatively, 13.",
    "The answer is 12. It could also be 13.",
    "One possible answer is 12. Another possible answer is 13.",
    "The answer is 12. Another answer is 13.",
    "The answers are 12 and 13.",
    "The answer is 12 for Ann and 13 for Bob.",
    "The answer is 12 = 13.",
    "#### 12 or 13",
    "**Answer: 12** or **13**",
    "The answer is $\\sqrt{2}$ or $\\sqrt{3}$.",
    "\\boxed{\\sqrt{2}} or \\boxed{\\sqrt{3}}",
    "The answer is $\\sqrt{2}$, $\\sqrt{3}$.",
    "The answer is $\\sqrt{2}$ or 12.",
    "The answer is 12 or $\\pi$.",
    "The answer is 12, \\(\\pi\\).",
]


@pytest.mark.parametrize("text", SEVERAL)
def test_of_several_stated_numbers_none_is_read(text):
    assert extract_answer(text, "gsm8k") is None
    assert names_several_answers(text, "gsm8k")


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 5 feet 3 inches.",
        "The answer is 12 dollars and 50 cents.",
        "The answer is 2 and a half.",
        "The answer is 12 or more.",
        "The answer is 12+.",
        "The answer is 5 in 6.",
        "The answer is 3 out of 5.",
        "The answer is 5².",
        "The answer is 3,5.",
        "The answer is 1.234.567",
        "The answer is 1/2/2020.",
        "The answer is 60 minutes = 1 hour.",
        "The answer is 2\\sqrt{3}",
        "The answer is 2√3.",
        "The answer is 2(3).",
        "The answer is 2x = 12.",
        "The answer is -$12 + 5$.",
        "\\boxed{12 + 5}",
        "\\boxed{12^5}",
        "\\boxed{12:05}",
        '{"answer": 1,000}',
        "The answer is 12?",
        "The answer is > 12.",
        "The answer is at least 12.",
        "The answer is ≥ 12.",
        "The answer is 5'11\".",
        "The answer is 1h30.",
        "The answer is 1h 30m.",
        "The answer is 3 × 4 rows.",
        "The answer is 4x4.",
        "The answer is 12 miles, or 19 km.",
        "The answer is 12 more than 5.",
        "The answer is 3+4i.",
        "The answer is |−4|.",
        "The answer is 2021-05-12.",
        "The answer is 0x10.",
        "The answer might be 12.",
        "I doubt the answer is 12.",
        "The answer is definitely not 12.",
        "I cannot answer: 12 apples are not enough.",
        "The answer is not 12.",
        "If the answer is 12, all are sold.",
        "The wrong answer is 12.",
        "Answer:\n1. Add 3 and 4.\n2. The sum is 7.",
        "#### 2. Verification",
        "##### 12",
        "The answer is " + "1" * 39 + "," + "1" * 300,
    ],
)
def test_a_part_of_something_longer_is_not_read(text):
    assert extract_answer(text, "gsm8k") in (None, canonical_expression(text[7:-1]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Step 1: 3 × 4 = 12.",
        "She has 12 apples and 5 pears.",
        "The answer is unknown.",
        "The answer is not 5.",
        "The answer isn't 5.",
        "A: Let's break this down step by step!\nStep 1: 2 + 2 = 4.",
        "The answer is 5/0.",
        "The answer is 3 + 4",
        "The answer is between 5-6",
        "The answer is 10:30.",
        "The answer is 1.2.3",
        "The answer is 2x",
        "The answer is $3 + 4$.",
        "The answer is 2π.",
        "The answer is $0.\\overline{3}$.",
        "The answer is 1'000.",
        "The answer is 2**3.",
        "The answer is 20% of 50.",
        "The answer is 5 times 3.",
        "The answer is 12 or 13.",
        "\\boxed{x = 5, y = 3}",
        "The answer is $x^2$.",
        "The answer is $\\mathrm{import}(2^2)$.",
        "The answer is $2^" + "{2^" * 60 + "2" + "}" * 60 + "$.",
        "The answer is " + "9" * 41,
        "The answer is " + "9" * 5000,
        "The answer is 1e40",  # 41 digits
        "The answer is ٣",
    ],
)
def test_a_text_without_a_readable_stated_answer_has_none(text):
    assert extract_answer(text, "gsm8k") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is $\\sqrt{16}$.", "\\sqrt{16}"),
        ("The answer is \\(2^{10}\\) dollars.", "2^{10}"),
        ("So \\boxed{ \\dfrac{\\sqrt{2}}{2} } it is.", "\\frac{\\sqrt{2}}{2}"),
        ("The answer is $\\boxed{\\frac{3}{4} \\cdot 8^2}$", "\\frac{3}{4}\\cdot8^2"),
        ("The answer is $30^\\circ$.", "30"),
        ("The answer is $x = \\sqrt{2}$.", "\\sqrt{2}"),
        ("The answer is $5!$.", "5!"),
        ("The answer is $\\sqrt{2}$ km, since 3 sides are equal.", "\\sqrt{2}"),
    ],
)
def test_a_stated_expression_that_is_no_plain_number_is_kept(text, answer):
    assert extract_answer(text, "gsm8k") == answer


@pytest.mark.parametrize(
    ("a", "b", "is_match"),
    [
        ("\\sqrt{16}", "4", True),
        ("2^{10}", "1024", True),
        ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", True),
        ("\\frac{3}{4}\\cdot8^2", "48", True),
        ("\\sqrt{16}", "5", False),
        ("\\sqrt{16}", "one", False),
        ("\\sqrt{", "4", False),
    ],
)
def test_expressions_match_by_value_in_either_order(a, b, is_match):
    assert answers_match(a, b, "gsm8k") is is_match
    assert answers_match(b, a, "gsm8k") is is_match


@pytest.mark.slow
def test_an_endless_expression_is_given_up_and_the_next_one_is_compared():
    start = time.monotonic()
    assert not have_same_value("9^{9^{9^{9}}}", "7")
    assert time.monotonic() - start < SECONDS_TO_ANSWER + 10
    assert have_same_value("3^{2}", "9")
    assert canonical_expression("9^{9^{9^{9}}}") is None  # such a tower is not even asked
    assert canonical_expression("9^{99999}") is None


def test_an_interrupt_does_not_leave_its_answer_to_the_next_question(monkeypatch):
    assert have_same_value("\\sqrt{49}", "7")
    with monkeypatch.context() as patched:

        def interrupted(*_):
            raise KeyboardInterrupt

        patched.setattr(equivalence._worker, "_line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            have_same_value("\\sqrt{36}", "6")
    assert not have_same_value("\\sqrt{36}", "7")


def test_threads_get_their_own_answers():
    numbers = range(101, 121)
    with ThreadPoolExecutor(8) as pool:
        same = list(pool.map(lambda n: have_same_value(f"\\sqrt{{{n * n}}}", str(n)), numbers))
        other = list(pool.map(lambda n: have_same_value(f"\\sqrt{{{n * n}}}", str(n + 1)), numbers))
    assert (same, other) == ([True] * 20, [False] * 20)


def test_the_majority_counts_equal_values_as_one_and_a_tie_goes_to_the_first():
    assert majority(["0.5", "2", "1/2", None], "gsm8k") == "0.5"
    assert majority(["2", "3", None], "gsm8k") == "2"
    assert majority([None, None], "gsm8k") is None


def test_the_last_lone_letter_is_a_guess_of_its_own():
    assert last_letter("(A) and B are wrong. I think so") == "I"
    assert last_letter("ABC abc K") is None


def test_of_several_stated_letters_the_first_is_the_guess():
    assert last_letter("The answer is (B) and (D). However, (C) is close.") == "B"


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("$1,000.50", "1000.5"),
        ("9 (pounds)", "9"),
        ("4, 10", "4, 10"),
        ("4,10", "4, 10"),
        ("3 R 2", "3 R 2"),
        ("12 apples and 5 pears", "12 apples and 5 pears"),
        ("5 : 30", "5:30"),
        ("none", None),
        ("", None),
    ],
)
def test_a_gold_answer_that_is_no_single_number_is_kept_as_a_whole(text, gold):
    assert canonical_gold_answer(text) == gold
    assert gold is None or answers_match(text, gold, "gsm8k")


def test_the_last_stated_number_counts():
    assert extract_answer("The answer is 5. No: the answer is 6. I hope the answer is clear.", "gsm8k") == "6"


def test_an_unreadable_last_number_is_not_replaced_by_an_earlier_one():
    assert extract_answer("The answer is 5. The answer is 6 + 1", "gsm8k") is None


def test_the_answer_to_a_question_the_model_went_on_with_is_not_taken():
    assert extract_answer("The answer is 5.\n\nQ: What is 3 + 4?\nA: The answer is 7.", "gsm8k") == "5"
    assert extract_answer("Step 1: 2 + 3 = 5.\nQ: What is 3 + 4?\nA: The answer is 7.", "gsm8k") is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("It rises. The answer is (C).", "C"),
        ("The answer is C", "C"),
        ("The answer is (c).", "C"),
        ("The answer is: **(D)**", "D"),
        ("\\boxed{\\text{(J)}}", "J"),
        ("The answer is option (B).", "B"),
        ("The answer is (A). No, the answer is (B).", "A"),
        ("The answer is closest to (A).", "A"),
        ("The answer is the option C.", "C"),
        ("The correct choice is **D**.", "D"),
        ("**Answer: (E)**", "E"),
        ("Final answer: \\boxed{\\textbf{(F)}}", "F"),
        ("The correct answer is therefore G, as shown.", "G"),
        ("### Final Answer\n(A)", "A"),
        ("Option A is correct.", "A"),
        ("(B) is the correct answer.", "B"),
        ("The correct answer choice is C.", "C"),
        ("The best option is D", "D"),
        ("I choose E.", "E"),
        ("The answer is probably F.", "F"),
        ("answer: a", "A"),
        ("\\boxed{b}", "B"),
        ("It is not among them, but the closest is (C).", "C"),
        ("P | Q\nQ: false\nThe answer is (B).", "B"),
        ("E. coli. The answer is E. coli bacteria, which is (C).", "C"),
        ("<answer>D</answer>", "D"),
        ("<answer>(D) Paris</answer>", "D"),
        ('{"answer": "D"}', "D"),
        ("\\fbox{D}", "D"),
        ("Final Answer\r\nD", "D"),
        ("**Answer**: `D`", "D"),
        ("#### D", "D"),
        ("The answer is Ｄ.", "D"),
        ("The answer is D: Paris", "D"),
        ("The answer is D. Paris", "D"),
        ("The answer is D because it rises.", "D"),
        ("The answer is (D), since both (A) and (B) are right.", "D"),
        ("The answer is (D), not (B).", "D"),
        ("The answer is I, since it is the only one.", "I"),
        ("The answer is A or B. It is cold, so the answer is B.", "B"),
        ("The answer is (A) or (B).", None),
        ("The answer is (A) and (B).", None),
        ("The answer is A, B and C.", None),
        ("The answer is A/B.", None),
        ("The answer is (A), or maybe (B).", None),
        ("The answer is (A) 12 or (B) 13.", None),
        ("The answer is (A). Alternatively, (B).", None),
        ("The answer is (A) if it rains, or (B) if not.", None),
        ("The answer is (A). Another possible answer is (B).", None),
        ("\\boxed{A, B}", None),
        ("\\boxed{AB}", None),
        ('{"answer": ["A", "B"]}', None),
        ("<answer>A</answer> or <answer>B</answer>", None),
        ("The answer is (A) or (B). The answer is (C).", None),
        ("The answer is A and C only.", None),
        ("The answer is A; B.", None),
        ("The answer is B rather than A.", "B"),
        ("The answer is 'B'.", "B"),
        ("The answer is B (Paris), as (A) is wrong.", "B"),
        ("The answer is Paris, which is option (B).", "B"),
        ("The answer is A. A. Milne.", None),
        ("The answer is C-14.", None),
        ("The answer is D major.", None),
        ("The answer is F = ma.", None),
        ("The answer is A lot of work.", None),
        ("The answer is E. coli.", None),
        ("The answer is B cells.", None),
        ("The answer is I, and I know it.", None),
        ("The answer is A-level physics.", None),
        ("The answer is C++.", None),
        ("If the answer is B, it falls.", None),
        ("Option A is incorrect.", None),
        ("The answer is I don't know.", None),
        ("The answer is I think B", None),
        ("The answer is H2O.", None),
        ("The answer is (K).", None),
        ("The answer is Bob.", None),
        ("The answer is not among the choices. I think of C.", None),
        ("(A) is wrong, so it is B", None),
        ("", None),
    ],
)
def test_the_first_stated_letter_is_read_and_none_guessed(text, letter):
    assert extract_answer(text, "mmlu_pro") == letter
    assert extract_answer(text, "mini_choice") == letter


@pytest.mark.parametrize(
    ("a", "b", "is_match"),
    [
        ("3/4", "0.75", True),
        ("1000", "1,000.00", True),
        ("203", "203.0", True),
        ("1/3", "0.3333", True),  # 1/3 − 0.3333 = 3.3e-5 < 1e-4
        ("1/3", "0.33", False),
        ("1/3", "0.333", False),  # three places are not taken to be rounded
        ("2469/20000", "0.1235", True),  # 0.12345, exactly half of the last place off
        ("1000", "1000.0001", False),  # one ten-millionth apart is no floating-point noise
        ("1/3", "0.3334", False),  # neither rounded nor cut off
        ("1/20000", "0.0001", False),
        ("1/10000", "0.0001", True),
        ("0.00001", "1/99999", False),
        ("0.0000000001234", "0.0000000001235", False),
        ("-1/3", "-0.3333", True),
        ("-1/3", "-0.3334", False),
        ("12345678901", "12345678902", False),
        ("4, 10", "4,10", True),
        ("4, 10", "4", False),
        ("4, 10", "10, 4", False),
        ("3 R 2", "3 r 2", True),
        ("3 R 2", "3", False),
        ("3 R 2", "3 R 1", False),
        ("1/3", "0.334", False),  # 6.7e-4
        ("2.9999999999999996", "3", True),
        ("2.5", "2.50001", False),  # rounded to five places
        ("2/3", "0.6666", True),
        ("0.00001", "0.00002", False),
        ("1000000", "1000090.1111", False),
        ("2.5", "2.51", False),
        ("5", "5.01", False),
        ("0.0001", "0.0002", False),
        ("5", "-5", False),
        (None, "5", False),
        (None, None, False),
        ("five", "five", False),
    ],
)
def test_numbers_match_by_value_in_either_order(a, b, is_match):
    assert answers_match(a, b, "gsm8k") is is_match
    assert answers_match(b, a, "gsm8k") is is_match


def test_letters_match_when_equal_and_none_matches_nothing():
    assert answers_match("C", "C", "mmlu_pro")
    assert not answers_match("C", "D", "mmlu_pro")
    assert not answers_match(None, None, "mmlu_pro")


@given(st.integers(-(10**12), 10**12))
def test_every_integer_survives_its_thousands_separators(number):
    assert extract_answer(f"The answer is {number:,}.", "gsm8k") == str(number)


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_every_fraction_matches_itself_before_and_after_reading(over, under):
    answer = extract_answer(f"The answer is {over}/{under}.", "gsm8k")
    assert answers_match(answer, f"{over}/{under}", "gsm8k")


PIECES = st.sampled_from(
    [
        "The answer is ",
        "answer",
        "####",
        "\\boxed{",
        "\nA: ",
        "\nQ: ",
        "(C)",
        "1,000",
        "1/2",
        "\\frac{1}",
        "e9",
        "10^",
        "$",
        "\\sqrt{",
        "}",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=5), st.from_regex(r"[-−+$.,/ 0-9]{1,9}", fullmatch=True))))
def test_any_text_gives_none_or_an_answer_that_reads_as_itself(pieces):
    text = "".join(pieces)
    number, letter = extract_answer(text, "gsm8k"), extract_answer(text, "mmlu_pro")
    if number is not None and canonical_expression(number) != number:
        assert re.fullmatch(r"-?\d+(\.\d+|/\d+)?", number)
        assert canonical_number(number) == number
    assert letter is None or letter in "ABCDEFGHIJ"


HOSTILE = [
    "answer is ",
    "answer to ",
    "####",
    "\\boxed{",
    "A: 1 ",
    "1,",
    "1 ",
    "((",
    " ",
    "\n",
    "answer is 1+1=",
    "<<",
    "answer is $",
    "\\boxed{{",
    "^{",
    "A ",
]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("dataset", ["gsm8k", "mmlu_pro"])
def test_a_hundred_kilobytes_take_under_fifty_milliseconds(piece, dataset):
    text = "The answer is " + piece * (100_000 // len(piece)) + " 5"
    seconds = []
    for _ in range(5):  # the fastest of five: other work on the machine is no fault of the pattern
        start = time.process_time()
        extract_answer(text, dataset)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05


@pytest.mark.parametrize("model", MODELS)
def test_recorded_correctness_of_real_gsm8k_solutions_is_reproduced(shared_data, model):
    rows = [json.loads(line) for line in (shared_data / "gsm8k" / "model_solutions.jsonl").open(encoding="utf-8")]
    gold = [extract_answer(row["ground_truth"], "gsm8k") for row in rows]
    answers = [extract_answer(row[model]["solution"], "gsm8k") for row in rows]
    is_right = [answers_match(answer, truth, "gsm8k") for answer, truth in zip(answers, gold, strict=True)]
    assert is_right == [row[model]["is_correct"] for row in rows]


@pytest.mark.parametrize(("model", "stated", "unstated", "differ"), [("8b", 5497, 174, 1), ("70b", 5888, 30, 0)])
def test_recorded_predictions_of_mmlu_pro_are_reproduced(shared_data, model, stated, unstated, differ):
    with gzip.open(shared_data / "mmlu_pro" / f"outputs_llama31_{model}_instruct.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    # Without any lone capital A to J the recorded prediction is a filler, and there is nothing to read.
    fillers = [row for row in rows if last_letter(row["model_output"]) is None]
    assert {extract_answer(row["model_output"], "mmlu_pro") for row in fillers} == {None}
    predicted = [row for row in rows if last_letter(row["model_output"]) is not None]
    answers = [extract_answer(row["model_output"], "mmlu_pro") for row in predicted]
    read = [(answer, row["pred"]) for answer, row in zip(answers, predicted, strict=True) if answer is not None]
    assert (len(read), len(answers) - len(read)) == (stated, unstated)
    # "… the closest answer is A1's share … The answer is (E).": the record took the A.
    assert [pair for pair in read if pair[0] != pair[1]] == [("E", "A")] * differ
    # Where no answer is stated (nearly all are run-aways, cut off in the middle), or several are, the record guesses.
    published = [answer or last_letter(row["model_output"]) for answer, row in zip(answers, predicted, strict=True)]
    agreed = sum(answer == row["pred"] for answer, row in zip(published, predicted, strict=True))
    assert agreed == len(predicted) - differ
    assert agreed / len(predicted) >= 0.995
