"""Preference pairs: Eq. 5 and 6 on sets small enough to write down."""

from collections import Counter
from dataclasses import replace

import pytest

from rkd.stages.preferences import MatchedPairs, OneSourcePairs, Pairs, ValidationPairs
from tests.support.fakes import query, scored

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


def changed(one, **change):
    return replace(one, response=replace(one.response, **change))


EMPTY, WITHHELD = {"text": " \n"}, {"withheld": "content_filter"}
CUT = {"is_finished": False}


@pytest.mark.parametrize("change", [CUT, EMPTY, WITHHELD])
def test_a_right_text_of_the_teacher_that_is_not_whole_is_never_chosen(change):
    teacher = [changed(TEACHER[0], **change), *TEACHER[1:]]
    assert made(ALL, teacher) == [("T2", "S1"), ("S1", "s2"), ("S1", "s3")]
    assert one_source("teacher", teacher) == [("T2", "t3")]
    assert [chosen for chosen, _ in held_out(teacher) if chosen != "S1"] == ["T2"] * 3


@pytest.mark.parametrize(("change", "is_chosen"), [(CUT, True), (EMPTY, False), (WITHHELD, False)])
def test_a_right_sample_of_the_student_may_be_chosen_if_cut_but_never_blank_or_withheld(change, is_chosen):
    student = [changed(STUDENT[0], **change), *STUDENT[1:]]
    expected = [("S1", "s2"), ("S1", "s3")] if is_chosen else []
    assert [pair for pair in made(ALL, student=student) if pair[0][0] != "T"] == expected
    assert one_source("student", student=student) == expected if is_chosen else True


@pytest.mark.parametrize("change", [CUT, EMPTY, WITHHELD])
def test_a_wrong_text_may_be_rejected_whatever_is_the_matter_with_it(change):
    student = [STUDENT[0], changed(STUDENT[1], **change)]
    assert made(ALL, [], student) == [("S1", student[1].response.text)]


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


def test_a_query_that_equation_4_drops_has_no_pairs():
    assert made(ALL, student=scored("q", ("S1", 1.0), ("S2", 1.0))) == []
    assert made(ALL, student=scored("q", ("s1", 0.0), ("s2", 0.0))) == []


@pytest.mark.parametrize("limit", [1, 2, 5, 10])
def test_the_number_of_pairs_is_the_same_whatever_the_teachers_share(limit):
    teacher = [scored(str(i), *many(1 + i % 3, "T", 1.0)) for i in range(40)]
    student = [scored(str(i), *many(1 + i % 3, "S", 1.0), *many(3 - i % 3, "s", 0.0)) for i in range(40)]
    queries = [query(str(i)) for i in range(40)]
    counts = {
        share: len(Pairs(max_pairs_per_query=limit, teacher_share=share).pair(queries, teacher, student, 0))
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    }
    assert len(set(counts.values())) == 1


def test_a_share_that_is_no_whole_number_of_pairs_holds_over_many_queries():
    # N = 2, a quarter: half a pair for each query, so half of the queries have one.
    queries = [query(str(i)) for i in range(400)]
    teacher, student = ([scored(one.id, *own) for one in queries] for own in (
        many(3, "T", 1.0), [*many(2, "S", 1.0), *many(2, "s", 0.0)]
    ))  # fmt: skip
    drawn = kinds(texts(Pairs(max_pairs_per_query=2, teacher_share=0.25).pair(queries, teacher, student, 0)))
    assert drawn["T"] + drawn["S"] == 800
    assert drawn["T"] == pytest.approx(200, abs=30)


def test_an_exact_share_takes_the_queries_that_have_enough_pairs_of_each_kind():
    queries = [query(str(i)) for i in range(400)]
    teacher = [scored(one.id, *many(int(one.id) % 3, "T", 1.0)) for one in queries]  # none, 1 or 2 pairs
    student = [scored(one.id, ("S", 1.0), ("s1", 0.0), ("s2", 0.0)) for one in queries]
    for limit, kept in ((1, 266), (2, 133)):  # of 0 … 399, those that leave 1 or 2, and 2, divided by 3
        for share in (0.0, 0.25, 0.5, 1.0):
            pairs = Pairs(max_pairs_per_query=limit, teacher_share=share, exact_share=True)
            drawn = kinds(texts(pairs.pair(queries, teacher, student, 0)))
            assert sum(drawn.values()) == limit * kept
            assert drawn.get("T", 0) / (limit * kept) == pytest.approx(share, abs=0.08)


def one_source(source: str, teacher=TEACHER, student=STUDENT, limit: int = 100) -> list[tuple[str, str]]:
    pairs = OneSourcePairs(source=source, max_pairs_per_query=limit)
    return texts(pairs.pair([query("q")], [teacher], [student], 0))


def test_pairs_of_one_source_are_its_right_responses_over_its_wrong_ones():
    assert one_source("teacher") == [("T1", "t3"), ("T2", "t3")]
    assert one_source("student") == [("S1", "s2"), ("S1", "s3")]
    assert len(one_source("student", limit=1)) == 1


def test_pairs_of_the_teacher_do_not_ask_what_the_student_said():
    assert one_source("teacher", student=scored("q", ("S1", 1.0))) == [("T1", "t3"), ("T2", "t3")]


def test_a_teacher_that_is_never_right_and_wrong_says_what_to_do():
    message = r"pairs\.source=teacher: none of 1 labelled queries has right and wrong .* with teacher_samples"
    with pytest.raises(ValueError, match=message):
        one_source("teacher", teacher=scored("q", ("T1", 1.0), ("T2", 1.0)))


def held_out(teacher=TEACHER, student=STUDENT, limit: int = 100) -> list[tuple[str, str]]:
    pairs = ValidationPairs(max_pairs_per_kind=limit)
    return texts(pairs.pair([query("q")], [teacher], [student], 0))


def test_a_reward_model_is_judged_by_pairs_of_all_kinds():
    # T⁺ × S⁻, S⁺ × S⁻, T⁺ × S⁺; the teacher's wrong text is in none.
    assert held_out() == [
        ("T1", "s2"), ("T1", "s3"), ("T2", "s2"), ("T2", "s3"), ("S1", "s2"), ("S1", "s3"), ("T1", "S1"), ("T2", "S1"),
    ]  # fmt: skip
    assert kinds(held_out(limit=1)) == {"T": 2, "S": 1}


def test_a_query_outside_of_d_r_judges_no_reward_model():
    assert held_out(student=scored("q", ("S1", 1.0), ("S2", 1.0))) == []
    assert held_out(student=scored("q", ("s1", 0.0), ("x", None))) == []


@pytest.mark.parametrize("wrong", [{"max_pairs_per_query": 0}, {"max_pairs_per_query": 1, "teacher_share": 1.5}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        Pairs(**wrong)


def test_matched_pairs_are_a_random_subset_as_large_as_the_other_kind():
    queries = [query(str(i)) for i in range(30)]
    # 2 × 2 pairs of the student's responses to each query, and of the teacher's to every third query.
    student = [scored(str(i), ("S1", 1.0), ("S2", 1.0), ("s1", 0.0), ("s2", 0.0)) for i in range(30)]
    teacher = [scored(str(i), ("T1", 1.0), ("T2", 1.0), *many(2 * (i % 3 == 0), "t", 0.0)) for i in range(30)]
    of_student, of_teacher = (OneSourcePairs(source=s, max_pairs_per_query=4) for s in ("student", "teacher"))
    fewer = MatchedPairs(drawn=of_student, as_many_as=of_teacher)
    drawn = fewer.pair(queries, teacher, student, 0)
    whole = of_student.pair(queries, teacher, student, 0)
    assert len(drawn) == len(of_teacher.pair(queries, teacher, student, 0)) == 40
    assert [pair for pair in whole if pair in drawn] == drawn  # a subset, in order
    assert len({pair.query.id for pair in drawn}) > 15  # of all queries, not of the first ten
    assert drawn != fewer.pair(queries, teacher, student, 1)
    assert MatchedPairs(drawn=of_teacher, as_many_as=of_student).pair(queries, teacher, student, 0) == of_teacher.pair(
        queries, teacher, student, 0
    )
