"""Win rates against references: both places, length control, grades and unreadable preferences."""

import re
from collections.abc import Callable

import pytest

from rkd.data.judge_prompts import ComparePrompt, JudgePrompt
from rkd.evaluation.accuracy import Evaluation
from rkd.evaluation.win_rate import evaluate_open_ended
from rkd.judges.single_token import LocalYesNo
from rkd.judges.written import Written, read_grade
from rkd.records import Query, Response
from tests.support.compare_prompt import PROMPT
from tests.support.fakes import ScriptedGenerator


class Scripted(LocalYesNo):
    """An annotator with a rule for P(the first shown is better)."""

    def __init__(self, rule: Callable[[str, str], float | None], prompt: ComparePrompt = PROMPT) -> None:
        self.__dict__.update(rule=rule, prompt=prompt)

    def with_prompt(self, prompt):
        return Scripted(self.rule, prompt)

    def judge(self, queries, responses):
        found = []
        for asked, response in zip(queries, responses, strict=True):
            pair = [asked.gold_answer, response.text][:: 1 if self.prompt.reference_first else -1]
            first = self.rule(*pair)
            found.append(None if first is None else 1 - first if self.prompt.reference_first else first)
        return found


def win_rates(rule, texts, references, cut=()):
    queries = [
        Query(f"q-{i}", "mini_open", f"Question {i}", reference, "list") for i, reference in enumerate(references)
    ]
    generator = ScriptedGenerator(greedy=dict(zip((q.id for q in queries), texts, strict=True)), cut=frozenset(cut))
    stage = Evaluation(max_response_tokens=9)
    return evaluate_open_ended(
        stage, generator, queries, Scripted(rule), test_set="mini_open", rubric=lambda _, t: len(t)
    )


def test_a_preference_for_the_first_place_cancels_out():
    result = win_rates(lambda first, second: 0.9, ["a", "b", "c"], ["x", "y", "z"])  # noqa: ARG005
    assert result.outcomes == pytest.approx([0.5, 0.5, 0.5])
    assert result.accuracy == pytest.approx(0.5)
    assert result.win_rate.first_preferred == pytest.approx(0.9)
    assert result.win_rate.orders_agree == 0


def test_each_instruction_has_the_difficulty_of_its_number(tmp_path):
    # Even lengths and preferences: instruction 7 (hard), then 1 for an id that ends with no number ("²" is a digit
    # for Python, and no number). Only these two have a difficulty, so any other number would be refused.
    path = tmp_path / "difficulty.csv"
    path.write_text("index,instruction_difficulty\n7,2\n1,-2\n", encoding="utf-8")
    queries = [Query(f"q-{end}", "mini_open", "Question", "x", "list") for end in ("7", "²")]
    result = evaluate_open_ended(
        Evaluation(max_response_tokens=9, difficulty=str(path)),
        ScriptedGenerator(greedy={query.id: "x" for query in queries}),
        queries,
        Scripted(lambda first, second: 0.5),  # noqa: ARG005
        test_set="mini_open",
    )
    assert result.win_rate.length_controlled == pytest.approx(0.5, abs=0.01)


def test_win_rates_by_hand():
    longer_is_better = {True: 0.8, False: 0.1}
    result = win_rates(
        lambda first, second: longer_is_better[len(first) > len(second)],
        ["long", "", "ab"],
        ["x", "yy", "zzzz"],
        ["ab"],
    )
    # First place: .8 if longer; second place: 1 − .1 if longer. Mean .85 for the longer, .15 for the shorter.
    assert result.outcomes == pytest.approx([0.85, 0.15, 0.15])
    assert (result.correct, result.n, result.accuracy) == (1, 3, pytest.approx(1.15 / 3))
    assert result.interval_low < result.accuracy < result.interval_high
    assert result.answers == ["long", None, "ab"]
    assert (result.share_without_answer, result.share_truncated) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    advance = result.win_rate
    assert (advance.characters, advance.reference_characters, advance.rubric) == (2, pytest.approx(7 / 3), 2)
    assert advance.orders_agree == 1
    assert advance.unreadable == 0
    assert result.by_category["list"].accuracy == pytest.approx(result.accuracy)


def test_length_control_takes_off_what_length_alone_gives():
    # The annotator sees nothing but length: at equal length it would be even.
    texts = ["a" * n for n in (9, 3, 8, 2, 9, 1)]
    result = win_rates(lambda a, b: 1 / (1 + 2.7 ** ((len(b) - len(a)) / 2)), texts, ["x" * 3] * 6)
    assert result.accuracy > 0.6
    assert result.win_rate.length_controlled == pytest.approx(0.5, abs=0.06)


def test_grades_of_both_responses_prefer_the_better_and_are_even_where_equal_or_unreadable():
    replies = {"good": "Score: 5", "fair": "Score: 3", "bad": "Score: 0", "odd": "no idea"}

    class Replies:
        def generate(self, queries, *_, **__):
            graded = [re.search(r"<response>\n(.*)\n</response>", query.question)[1] for query in queries]
            return [[Response(q.id, "g", 0, replies[text], True)] for q, text in zip(queries, graded, strict=True)]

    grader = Written(Replies(), JudgePrompt(), 9, read_reply=read_grade)
    texts, references = ["good", "fair", "bad", "odd"], ["fair", "fair", "good", "good"]
    queries = [Query(f"q-{i}", "mini_open", f"Question {i}", text, "list") for i, text in enumerate(references)]
    generator = ScriptedGenerator(greedy=dict(zip((q.id for q in queries), texts, strict=True)))
    result = evaluate_open_ended(Evaluation(max_response_tokens=9), generator, queries, grader, test_set="mini_open")
    assert result.outcomes == [1.0, 0.5, 0.0, 0.5]
    advance = result.win_rate
    assert (advance.even, advance.unreadable, advance.first_preferred, advance.orders_agree) == (0.5, 1, None, None)


def test_an_unreadable_preference_is_even_and_counted():
    result = win_rates(lambda first, _: None if first == "a" else 0.2, ["a"], ["x"])
    assert result.win_rate.unreadable == 1
    assert result.outcomes == pytest.approx([(0.5 + 0.8) / 2])
