"""What judges write: scores and verdicts that are read, and those that are not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkd.judges.written import read_grade, read_score

# By the score that each reply states; None: no score, or several.
REPLIES: dict[int | None, list[str]] = {
    1: [
        " 1.",
        "Verdict: wrong, since 2 + 2 = 4.",
        "incorrect.",
        "No",
        "No.",
        "not correct",
        "Not correct.",
        "Correct: No",
        "Wrong? Yes.",
        "Is it correct? No.",
        "No, it is wrong.",
        "The answer is not right.",
        "The answer isn't correct.",
        "It's wrong.",
        "The final answer is incorrect because 2+2=4.",
        "Wrong answer!",
        '{"correct": false}',
        '{"verdict": "wrong"}',
        "<verdict>incorrect</verdict>",
        "Verdict: not right",
        "<think>Yes</think>No",
        "False.",
        "No.\n\nThe last step is wrong.",
    ],
    2: [
        "2/5",
        '```json\n{"rating": 2}\n```',
        "I'd give it a 2.",
    ],
    3: [
        "**3**",
        "3\nThe way is sensible.",
        "It deserves a 3.",
        "A score of 5 would need more. Score: 3",
        "Score: 5? No. Score: 3",
    ],
    4: [
        "Score: 4",
        "4 out of 5. The last step is right.",
        "**Score: 4**",
        "[[4]]",
        '{"score": 4}',
        "<think>Score: 1? no</think>Score: 4",
        "Score: 4 <think> hmm Score: 2",
        "**Score:** 4",
        "**Score**: 4",
        "### Score: 4",
        "Score: **4**",
        "Score:4",
        "SCORE = 4",
        "score - 4",
        "Score — 4",
        "Rating: 4/5",
        "Rating: [[4]]",
        "Grade: 4",
        "<score>4</score>",
        "<score> 4 </score>",
        "<final_score>4</final_score>",
        "\\boxed{4}",
        "$\\boxed{4}$",
        "Score: \\boxed{4}",
        '{"score": "4/5", "reason": "x"}',
        "{'score': 4, 'why': 'It isn\\'t done'}",
        "| Score | 4 |",
        "Score:\r\n4\r\n",
        "Score:\n\n4",
        "4 points out of 5",
        "Score: 4 (out of 5)",
        "Score: 4 stars out of 5",
        "Score: 4.0",
        "Score: 4\nScore: 4",
        "The score is 4.",
        "I give it a score of 4 out of 5.",
        "I would rate this response 4/5.",
        "I would rate it a 4.",
        "Score: 5 if all is right. Score: 4",
        "Score (1-5): 4",
        "Score out of 5: 4",
        "Score on a scale from 1 to 5: 4",
        "Score for this response: 4",
        "Final score: 4",
        "Overall rating: 4 stars",
        "4 stars",
        "4 points",
        "4 - good",
        "4: good",
        "4, because it adds.",
        "4 because it adds",
        "4!",
        "(4)",
        "- 4",
        "4\n4",
        "４",
        "④",
        "Score: 4 ",
        "Score: 4 because 3 + 2 = 5",
        "Score: 4. 5 steps are right.",
        "Score: 4, Score: 4",
        "> Score: 4",
        "- **Score**: 4",
        "4 of 5",
        "Score: 4 for a sensible way",
        "I would rate the response 4 out of 5.",
        "Score:\u00a04",
        "Score: ٤",
        "Ｓｃｏｒｅ：４",
        "“Score: 4”",
        "<Think>Score: 2</THINK>\n\nScore: 4",
        "Score: 1</think>Score: 4",
        "Score: 4\u0000",
        "Score: 4 / 5",
        "Score: 4/ 5.",
    ],
    5: [
        "5",
        "Right",
        "1. It adds.\n2. It divides.\nScore: 5",
        "Wrong? No, it is right.",
        "Score: 5. It is right.",
        "Yes",
        "yes.",
        "Correct: Yes",
        "Correct? Yes.",
        "Wrong: No",
        "Is the answer wrong? No, it is right.",
        "Wrong? No.",
        "Yes, it is right",
        "The answer is right.",
        "Correct answer.",
        '{"is_correct": true}',
        "[[correct]]",
        "Verdict: **Right**",
        "**Verdict:** Yes",
        "Judgement: correct",
        "The answer is not wrong.",
        "Right.\nThe way is sensible.",
        "True",
        "Answer: Yes",
        "I think it is right, but I am not sure it is right.",
        "Yes!",
    ],
    None: [
        "",
        "6",
        "0",
        "4.5",
        "45",
        "1 to 5",
        "On a scale of 1 to 5, I would say",
        "3 apples are left.",
        "5 + 3 = 8",
        "I cannot tell.",
        "Score: 4-5",
        "<think>Score: 1 ...",
        "Score\r\n4",
        "Score:\n1. It adds.\n2. It divides.",
        "4/5 apples are left.",
        "4/5 of it is left.",
        "8/10",
        "Score: 8/10",
        "Score: 4/10",
        "Score: 80%",
        "Score: 4%",
        "Score: 4.5",
        "Score: 4,5",
        "Score: 4 or 5",
        "Score: 4 to 5",
        "Score: 4–5",
        "Score: 4/5/5",
        "4-5",
        "4 or 5",
        "3, 4",
        "Score: 3\nScore: 4",
        "Score: 6",
        "Score: 0",
        "Score: -4",
        "Score: 14",
        "Score: 4th",
        "I would not give it a 5.",
        "Score: 5?",
        "2 + 3 gives 5.",
        "She gets 3 points.",
        "She gives it 4 apples.",
        "-4",
        "4. The last step is wrong.",
        "1. It is right.\n2. It is wrong.",
        "1) It adds",
        "1: adds\n2: divides",
        "1, 2 and 3 are right.",
        "4\n5",
        "4½",
        "Score: four",
        "Scores: 4",
        "underscore: 4",
        "Score: 4 of the 5 steps",
        "Wrong. Score: 5",
        "Score: 1. It is right.",
        "Yes and no",
        "Yes/No",
        "Yes or no",
        "No, it is right.",
        "The response is partially correct.",
        "Partly right.",
        "Neither right nor wrong.",
        "Right or wrong?",
        "Right? I am not sure.",
        "I am not sure it is right.",
        "If it is right, say so.",
        "Right triangle",
        "No apples are left.",
        "Right and wrong.",
        "Correct, but the final answer is wrong.",
        "Correct answer: 5",
        "The student says the answer is right.",
        "It is correct that 2 + 2 = 4.",
        "The step is wrong.",
        "Definitely right",
        "Yes, the answer is wrong.",
        "correct\nincorrect",
        "Verdict: right. Verdict: wrong.",
        "Score: 5 – 4",
        "Score: between 4 and 5",
        "Score: 4+",
        "Score: ~4",
        "Score: <4>",
        "Score: >4",
        "Score: N/A",
        "✓",
        "👍",
    ],
}

# Replies with evidence, and the grade from 0 to 5 that their last line states.
GRADED: list[tuple[str, int | None]] = [
    ("Score: 5", 5),
    ("It lists two fruits. The third is none.\nScore: 2", 2),
    ("Good.\n**Score:** 4", 4),
    ("- score : 0", 0),
    ("Score: 3/5", 3),
    ("Score: 3 out of 5", 3),
    ("Score: 1 for the first part.\nScore: 4", 4),
    ("The score: 4 is what I would give", None),
    ("Score: 6", None),
    ("Score: 45", None),
    ("Score: 4.5", None),
    ("Score: 4/10", None),
    ("Score:", None),
    ("", None),
    ("x Score: 3", None),
    ('Good.\n{"score": 4}', 4),
    ("Evidence: a\n[[4]]", 4),
    ("Evidence.\n<score>4</score>", 4),
    ("<think>Score: 1</think>Fine.\nScore: 4", 4),
    ("<think>Score: 1\nScore: 2", None),
    ("Score: 4-5", None),
    ("Score: 3\nScore: 4-5", None),
    ("1. a\n2. b\nScore: 5", 5),
    ("Final score: 4", 4),
    ("a\r\nScore: 3\r\n", 3),
    ("Score: 3 Score: 4", 3),
]

LONG = {
    "words": "The answer is right. ", "scores": "Score: 4 ", "labels": "score for ", "brackets": "[[", "numbers": "4\n",
    "blanks": " ", "lines": "\n", "digits": "4", "shares": "4/", "thoughts": "<think>", "items": "- ", "quotes": "'",
    "denials": "it is not ", "letters": "é", "prose": "So we add the numbers and get the score of a game. ",
}  # fmt: skip


@pytest.mark.parametrize(("score", "reply"), [(score, reply) for score, own in REPLIES.items() for reply in own])
def test_a_score_or_a_verdict_is_read_where_the_reply_states_one_alone(reply, score):
    assert read_score(reply) == (None if score is None else (score - 1) / 4)


@pytest.mark.parametrize(("reply", "grade"), GRADED)
def test_a_grade_is_that_of_the_last_line_that_states_one(reply, grade):
    assert read_grade(reply) == (None if grade is None else grade / 5)


@pytest.mark.parametrize("around", ["{}", "\n{}\n", "<think>Score: 2</think>{}", "Score: 2</think>\r\n{}", "{}\0"])
def test_what_stands_around_a_score_changes_nothing(around):
    for score, replies in REPLIES.items():
        for reply in replies[:20]:
            assert read_score(around.format(reply)) == (None if score is None else (score - 1) / 4), reply


@pytest.mark.parametrize("name", LONG)
def test_a_hundred_thousand_characters_are_read_in_a_moment(name):
    reply = (LONG[name] * 100_000)[:100_000]
    for read in (read_score, read_grade):
        started = time.perf_counter()
        read(reply)
        assert time.perf_counter() - started < 0.5  # a tenth of it alone; the cores may be shared


def test_of_a_reply_that_runs_away_both_ends_are_read():
    for long in ("x" * 100_000, "x " * 50_000):
        assert read_score(f"{long}\nScore: 4") == read_score(f"Score: 4\n{long}") == 0.75
        assert read_score(f"Score: 3\n{long}\nScore: 4") is None
        assert read_grade(f"{long}\nScore: 4") == 0.8


PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "Score",
                "score",
                "Rating",
                ":",
                " ",
                "\n",
                "4",
                "5",
                "1",
                "10",
                "/",
                "-",
                ".",
                ",",
                "**",
                "[[",
                "]]",
                "{",
                "}",
            ),
            *("<think>", "</think>", "<score>", "right", "wrong", "not", "Yes", "No", "?", "is", "it", "the answer"),
            *("out of", "or", "and", "if"),
        ]
    ),
    max_size=12,
)


@given(PIECES)
def test_a_score_that_is_read_stands_in_the_reply(pieces):
    reply = "".join(pieces)
    score, grade = read_score(reply), read_grade(reply)
    words = {"right", "wrong", "Yes", "No"} & set(pieces)
    assert score is None or str(round(1 + 4 * score)) in reply or (words and score in (0, 1))
    assert grade is None or str(round(5 * grade)) in reply


@given(st.text(max_size=60))
def test_any_text_is_read_or_not_and_no_error(text):
    assert read_score(text) in (None, 0.0, 0.25, 0.5, 0.75, 1.0)
    assert read_grade(text) in (None, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
