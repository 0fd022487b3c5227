"""Preference pairs: Eq. 5 and 6 on sets small enough to write down."""

from collections import Counter

import pytest
from fakes import query, scored

from rkd.preferences import Pairs

TEACHER = scored("q", ("T1", 1.0), ("T2", 1.0), ("t3", 0.0))
STUDENT = scored("q", ("S1", 1.0), ("s2", 0.0), ("s3", 0.0))
ALL = Pairs(max_pairs_per_query=100)


def texts(pairs) -> list[tuple[str, str]]:
    return [(pair.chosen.response.text, pair.rejected.response.text) for pair in pairs]


def made(pairs: Pairs, teacher=TEACHER, student=STUDENT, seed: int = 0) -> list[tuple[str, str]]:
    return texts(pairs.pair([query("q")], [teacher], [student], seed))


def kinds(pairs: list[tuple[str, str]]) -> dict[str, int]:
    return dict(Counter(chosen[0].upper() for chosen, _ in pairs))


def test_teacher_texts_stand_above_right_student_texts_and_these_above_wrong_ones():
    # T⁺ × S⁺ = {T1, T2} × {S1}; the teacher's wrong text is in no pair, nor is T⁺ over a wrong student text.
    assert made(ALL) == [("T1", "S1"), ("T2", "S1"), ("S1", "s2"), ("S1", "s3")]


def test_graded_student_samples_pair_wherever_one_grade_is_higher():
    graded = scored("q", ("a", 5.0), ("b", 3.0), ("c", 3.0), ("d", 1.0))
    pairs = made(Pairs(max_pairs_per_query=100, best_score=5.0), scored("q", ("T", 5.0), ("U", 4.0)), graded)
    assert pairs == [("T", "a"), ("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")]


def test_equal_texts_are_paired_once():
    teacher = scored("q", *[("T", 1.0)] * 5)
    student = scored("q", ("S", 1.0), ("s", 0.0), ("S", 1.0), ("s", 0.0))
    assert made(ALL, teacher, student) == [("T", "S"), ("S", "s")]


def test_a_text_that_teacher_and_student_both_wrote_is_not_paired_with_itself():
    student = scored("q", ("T1", 1.0), ("s", 0.0))
    assert made(ALL, student=student) == [("T2", "T1"), ("T1", "s")]


def test_a_response_without_a_verdict_is_in_no_pair():
    student = scored("q", ("S", 1.0), ("x", None), ("s", 0.0))
    assert made(ALL, scored("q", ("T", None)), student) == [("S", "s")]


def many(count: int, name: str, score: float):
    return [(f"{name}{i}", score) for i in range(count)]


def test_the_two_kinds_are_balanced_under_the_cap():
    teacher = scored("q", *many(5, "T", 1.0))
    student = scored("q", *many(4, "S", 1.0), *many(4, "s", 0.0))  # 20 and 16 pairs
    assert kinds(made(Pairs(max_pairs_per_query=10), teacher, student)) == {"T": 5, "S": 5}
    assert kinds(made(Pairs(max_pairs_per_query=10, teacher_share=0.2), teacher, student)) == {"T": 2, "S": 8}
    assert kinds(made(Pairs(max_pairs_per_query=10, teacher_share=0.0), teacher, student)) == {"S": 10}
    assert kinds(made(Pairs(max_pairs_per_query=10, teacher_share=1.0), teacher, student)) == {"T": 10}


def test_where_one_kind_has_too_few_pairs_the_other_fills_up():
    student = scored("q", *many(4, "S", 1.0), *many(4, "s", 0.0))
    assert kinds(made(Pairs(max_pairs_per_query=10), scored("q"), student)) == {"S": 10}
    few = scored("q", ("S", 1.0), ("s", 0.0))  # 20 pairs with the teacher, 1 of its own
    assert kinds(made(Pairs(max_pairs_per_query=10), scored("q", *many(20, "T", 1.0)), few)) == {"T": 9, "S": 1}


def test_pairs_are_drawn_without_repeats_and_by_the_seed():
    teacher = scored("q", *many(5, "T", 1.0))
    student = scored("q", *many(4, "S", 1.0), *many(4, "s", 0.0))
    pairs = Pairs(max_pairs_per_query=10)
    drawn = made(pairs, teacher, student, seed=1)
    assert len(set(drawn)) == 10
    assert drawn == made(pairs, teacher, student, seed=1)
    assert drawn != made(pairs, teacher, student, seed=2)


def test_a_querys_pairs_do_not_depend_on_the_other_queries():
    teacher = scored("q", *many(5, "T", 1.0))
    student = scored("q", *many(4, "S", 1.0), *many(4, "s", 0.0))
    pairs = Pairs(max_pairs_per_query=4)
    both = pairs.pair([query("r"), query("q")], [TEACHER, teacher], [STUDENT, student], seed=0)
    assert texts(pair for pair in both if pair.query.id == "q") == made(pairs, teacher, student)


def test_a_query_that_equation_4_drops_is_refused():
    with pytest.raises(ValueError, match=r"student samples of q all have one score, so Eq\. 4 drops it"):
        made(ALL, student=scored("q", ("S1", 1.0), ("S2", 1.0)))


@pytest.mark.parametrize("wrong", [{"max_pairs_per_query": 0}, {"max_pairs_per_query": 1, "teacher_share": 1.5}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        Pairs(**wrong)
