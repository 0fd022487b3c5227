import json

import pytest

from rkd.data.answers import answers_match, extract_answer
from rkd.data.solution_steps import as_steps


def test_the_calculations_of_prose_become_steps():
    text = (
        "First we count.\n\n23 chocolate cookies + 25 oatmeal cookies = 48 cookies in total.\n\n"
        "He packs 48 cookies / 6 per bag = 8 bags.\n\nTherefore, the answer is <8>."
    )
    assert as_steps(text) == "Step 1: 23 + 25 = 48.\nStep 2: 48 ÷ 6 = 8.\nThe answer is 8."


def test_a_repeated_calculation_is_one_step_and_currency_is_left_out():
    text = "$1,200.50 - $200 = $1,000.50. So 1200.5 − 200 = 1000.5. The answer is $1,000.50."
    assert as_steps(text) == "Step 1: 1200.5 - 200 = 1000.5.\nThe answer is 1000.5."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "There are 8 bags. The answer is 8.",  # no calculation
        "2 + 3 = 5.",  # no answer
        "2 + 3 = 6. The answer is 6.",  # wrong
        "2 + 3 = 5. 4 / 0 = 5. The answer is 5.",
        "2 + 3 = 5. The answer is 7.",  # leads elsewhere
        "1 + 2 + 3 = 6. The answer is 6.",  # more than two numbers
        "2 + 3 = 5 + 1. The answer is 5.",  # goes on
        "2 + 3 = 5. The answer is 5." + " " * 10_000,
    ],
)
def test_a_response_that_is_no_chain_of_right_calculations_is_not_rewritten(text):
    assert as_steps(text) is None


def test_most_recorded_responses_can_be_rewritten_and_keep_their_answer(shared_data):
    rows = [json.loads(line) for line in (shared_data / "mawps_asdiv" / "train.jsonl").open(encoding="utf-8")]
    recorded = [row["recorded_response"] for row in rows]
    rewritten = [(text, as_steps(text)) for text in recorded]
    kept = [(text, steps) for text, steps in rewritten if steps is not None]
    assert len(kept) / len(rows) > 0.75
    answers = [[extract_answer(one, "svamp") for one in both] for both in kept]
    assert all(answers_match(before, after, "svamp") for before, after in answers)
