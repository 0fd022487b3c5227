"""The vote, the scores, the SFT data: counts worked by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from rkd.records import PseudoLabel
from rkd.stages.labels import AllResponses, CorrectResponses, GoldLabels, MajorityVote, RubricGrades, score, two_pass
from rkd.stages.preferences import Pairs
from rkd.stages.student_samples import balanced
from tests.support.fakes import query, responses, says, scored

Q, R = query("q"), query("r")


def vote(*answers: object, threshold: float = 0.7) -> PseudoLabel:
    texts = [says(answer) if answer is not None else "I do not know." for answer in answers]
    (label,) = MajorityVote(threshold=threshold).label([Q], [responses("q", texts)])
    return label


def test_the_answer_of_most_responses_is_the_label():
    assert vote(*[7] * 8, 3, 4) == PseudoLabel("q", "7", 0.8)


def test_consensus_at_the_threshold_is_enough():
    assert vote(*[7] * 7, 1, 2, 3) == PseudoLabel("q", "7", 0.7)
    assert vote(*[7] * 14, *range(10, 16)) == PseudoLabel("q", "7", 0.7)  # 14 of 20
    assert vote(*[7] * 35, *range(10, 25)) == PseudoLabel("q", "7", 0.7)  # 35 of 50


def test_a_query_below_the_threshold_has_no_label_and_keeps_its_consensus():
    assert vote(*[7] * 6, 1, 2, 3, 4) == PseudoLabel("q", None, 0.6)


def test_a_response_without_an_answer_votes_for_none_and_still_divides():
    assert vote(7, 7, 7, None, None) == PseudoLabel("q", None, 0.6)
    assert vote(7, 7, 7, None) == PseudoLabel("q", "7", 0.75)


def test_absent_answers_never_win():
    assert vote(None, None, None, 7, threshold=0.25) == PseudoLabel("q", "7", 0.25)
    assert vote(None, None) == PseudoLabel("q", None, 0.0)


def test_different_spellings_of_a_number_vote_together():
    assert vote("1,000", "$1000", "1000.00", 5) == PseudoLabel("q", "1000", 0.75)


def test_a_rounded_value_votes_for_the_exact_one_and_the_first_form_is_the_label():
    assert vote("1/3", "0.33333", "0.33333", 5) == PseudoLabel("q", "1/3", 0.75)
    assert vote("0.33333", "1/3", "1/3", 5) == PseudoLabel("q", "0.33333", 0.75)


def test_a_tied_vote_above_the_threshold_goes_to_the_first_in_order_of_sampling():
    assert vote(3, 5, 5, 3, threshold=0.5) == PseudoLabel("q", "3", 0.5)


def test_a_tied_vote_below_the_threshold_is_no_consensus():
    assert vote(3, 5, 5, 3) == PseudoLabel("q", None, 0.5)


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_a_threshold_that_is_no_share_of_votes_is_refused(threshold):
    with pytest.raises(ValueError, match=r"labels.threshold=.* above 0 and at most 1"):
        MajorityVote(threshold=threshold)


def test_responses_in_another_order_than_the_queries_are_refused():
    with pytest.raises(ValueError, match="Pass them in the order of the queries"):
        MajorityVote().label([Q, R], [responses("r", ["a"]), responses("q", ["a"])])


def test_gold_labels_are_the_gold_answers():
    labels = GoldLabels().label([query("q", "4"), query("r", "5")], [[], []])
    assert labels == [PseudoLabel("q", "4", 1.0), PseudoLabel("r", "5", 1.0)]


def test_gold_labels_refuse_queries_without_gold_answers():
    with pytest.raises(ValueError, match=r"1 of 2 queries have none \(first: r\). Use `labels=vote`"):
        GoldLabels().label([query("q", "4"), R], [[], []])


class Second:
    """A second pass that notes which queries were put to it."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = texts, []

    def __call__(self, queries):
        self.asked += [one.id for one in queries]
        return [responses(one.id, self.texts) for one in queries]


def test_only_queries_without_consensus_get_the_second_pass():
    second = Second(says(2))
    first = [responses("q", [says(1)]), responses("r", [says(1), says(2)])]
    labels, _ = two_pass(MajorityVote(), [Q, R], first, second)
    assert second.asked == ["r"]
    assert labels == [PseudoLabel("q", "1", 1.0), PseudoLabel("r", "2", 1.0)]


def test_each_pass_is_voted_alone():
    # Together 4 of 6 answer 1, below 0.7; the second pass alone has 3 of 4.
    first = [responses("q", [says(1), says(2)])]
    labels, _ = two_pass(MajorityVote(), [Q], first, Second(says(1), says(1), says(1), says(2)))
    assert labels == [PseudoLabel("q", "1", 0.75)]


def test_the_responses_of_both_passes_are_kept_in_order_of_sampling():
    first = [responses("q", ["a", "b"])]
    _, both = two_pass(MajorityVote(), [Q], first, Second("c", "d"))
    assert [response.text for response in both[0]] == ["a", "b", "c", "d"]
    assert len(first[0]) == 2


def test_where_all_have_consensus_no_second_pass_is_drawn():
    second = Second("never")
    two_pass(MajorityVote(), [Q], [responses("q", [says(1)])], second)
    assert second.asked == []


def test_without_a_second_pass_the_consensus_of_the_first_stands():
    labels, both = two_pass(MajorityVote(), [Q], [responses("q", [says(1), says(2)])], Second())
    assert labels == [PseudoLabel("q", None, 0.5)]
    assert len(both[0]) == 2


def test_a_score_is_one_for_the_labels_answer_and_zero_for_any_other_or_none():
    (own,) = score([Q], [responses("q", [says("7.0"), says(3), "no idea"])], [PseudoLabel("q", "7", 0.8)])
    assert [(one.answer, one.score) for one in own] == [("7", 1.0), ("3", 0.0), (None, 0.0)]


def test_without_a_label_there_is_no_verdict_but_still_an_answer():
    (own,) = score([Q], [responses("q", [says(7), "no idea"])], [PseudoLabel("q", None, 0.5)])
    assert [(one.answer, one.score) for one in own] == [("7", None), (None, None)]


def test_labels_of_other_queries_are_refused():
    with pytest.raises(ValueError, match="they differ at 0"):
        score([Q], [responses("q", ["a"])], [PseudoLabel("r", "7", 0.8)])


SCORED = [scored("q", ("a", 1.0), ("b", 0.0), ("a", 1.0), ("c", 1.0)), scored("r", ("d", None), ("e", None))]


def texts(selected) -> list[list[str]]:
    return [[one.response.text for one in own] for own in selected]


def test_the_sft_data_hold_correct_responses_and_equal_texts_once():
    assert texts(CorrectResponses().select(SCORED)) == [["a", "c"], []]


def test_of_equal_texts_the_first_sample_is_taught():
    own = [scored("q", ("b", 0.0), ("a", 1.0), ("a", 1.0), ("b", 0.0))]
    assert [one.response.sample_index for one in CorrectResponses().select(own)[0]] == [1]
    assert [one.response.sample_index for one in AllResponses().select(own)[0]] == [0, 1]


def test_the_unfiltered_set_holds_wrong_and_unlabelled_responses_too():
    assert texts(AllResponses().select(SCORED)) == [["a", "b", "c"], ["d", "e"]]


def test_the_unfiltered_set_can_leave_out_the_second_pass():
    first_pass = SimpleNamespace(samples_per_query=2)
    assert texts(AllResponses(first_pass=first_pass).select(SCORED)) == [["a", "b"], ["d", "e"]]
    # Two samples are numbers 0 and 1: the third one, number 2, is the second pass's first.
    later = [scored("q", ("a", 1.0), ("b", 0.0), ("c", 1.0), ("d", 1.0))]
    assert texts(AllResponses(first_pass=first_pass).select(later)) == [["a", "b"]]


def test_a_limit_counts_different_texts_in_order_of_sampling():
    assert texts(CorrectResponses(responses_per_query=2).select(SCORED)) == [["a", "c"], []]
    assert texts(AllResponses(responses_per_query=1).select(SCORED)) == [["a"], ["d"]]


def test_the_best_score_of_an_open_ended_task_is_five():
    graded = [scored("q", ("a", 5.0), ("b", 4.0), ("c", 1.0))]
    assert texts(CorrectResponses(best_score=5.0).select(graded)) == [["a"]]


def test_poisoned_gold_answers_change_neither_labels_nor_pairs_nor_samples():
    teacher = [responses("q", [says(1, "x"), says(1, "y"), says(2)]), responses("r", [says(4)])]
    student = [responses("q", [says(1), says(2), "none"]), responses("r", [says(4), says(5), says(6)])]

    def run(gold: str | None):
        queries = [replace(one, gold_answer=gold) for one in (Q, R)]
        labels, both = two_pass(MajorityVote(threshold=0.6), queries, teacher, Second())
        taught = CorrectResponses().select(score(queries, both, labels))
        answered = score(queries, student, labels)
        kept = balanced(answered)
        assert kept == [0, 1]
        pairs = Pairs(max_pairs_per_query=3).pair(queries, taught, answered, seed=0)
        return labels, taught, answered, [(pair.chosen, pair.rejected) for pair in pairs]

    clean = run(None)
    assert run("2") == clean
    assert run("4") == clean


def test_what_was_withheld_is_never_taught():
    texts = scored("q", ("a", 1.0), ("b", 1.0), ("c", 0.0))
    filtered = replace(texts[0], response=replace(texts[0].response, withheld="content_filter"))
    for sft_data, taught in ((CorrectResponses(), ["b"]), (AllResponses(), ["b", "c"])):
        assert [one.response.text for one in sft_data.select([[filtered, *texts[1:]]])[0]] == taught


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        ({"is_finished": False}, "length"),
        ({"text": ""}, "empty"),
        ({"text": " \n\t\u3000"}, "empty"),
        ({"text": "\ufeff\u200b"}, "empty"),
        ({"text": "\ufffd\ufffd"}, "empty"),
        ({"withheld": "tool_calls", "is_finished": False}, "tool_calls"),
    ],
)
def test_what_is_not_whole_is_never_taught_whatever_its_source(change, defect):
    texts = scored("q", ("a", 1.0), ("b", 1.0), ("c", 0.0))
    odd = replace(texts[0], response=replace(texts[0].response, **change))
    assert odd.response.defect == defect
    assert all(one.response.defect is None for one in texts)
    for sft_data, taught in ((CorrectResponses(), ["b"]), (AllResponses(), ["b", "c"])):
        assert [one.response.text for one in sft_data.select([[odd, *texts[1:]]])[0]] == taught


def test_a_whole_text_is_taught_though_a_cut_one_is_equal():
    (whole,) = scored("q", ("a", 1.0))
    cut = replace(whole, response=replace(whole.response, is_finished=False))
    assert CorrectResponses().select([[cut, whole]]) == [[whole]]


def test_what_a_server_withheld_has_no_vote():
    own = [replace(one, withheld="refusal") for one in responses("q", [says(1), says(1)])]
    labels = MajorityVote(threshold=0.3).label([query("q")], [[*own, *responses("q", [says(2)])]])
    assert (labels[0].answer, labels[0].consensus) == ("2", pytest.approx(1 / 3))


def test_grades_are_whole_and_an_unreadable_one_is_none():
    own = [responses("a", ["x", "y"]), [], responses("b", ["z"])]
    graded = RubricGrades().scored(own, [0.6, None, 1.0])
    assert [[one.score for one in of_query] for of_query in graded] == [[3.0, None], [], [5.0]]
    (nearest,) = RubricGrades().scored([responses("c", ["u", "v"])], [0.58, 0.62])  # 2.9 and 3.1
    assert [one.score for one in nearest] == [3.0, 3.0]
    assert graded[0][0].response.text == "x"
    with pytest.raises(ValueError, match="at least 1"):
        RubricGrades(highest=0)
