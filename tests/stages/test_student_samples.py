"""Student samples and the queries that Eq. 4 keeps."""

import pytest

from rkd.protocols import Sampling
from rkd.stages.student_samples import StudentSamples, balanced
from tests.support.fakes import ScriptedGenerator, query, scored


def test_the_paper_draws_thirty_samples_at_temperature_point_seven():
    generator = ScriptedGenerator(sampled={"q": ["a", "b"], "r": ["c"]})
    samples = StudentSamples(max_response_tokens=64).sample(generator, [query("r"), query("q")], seed=5)
    assert generator.asked == [(["r", "q"], Sampling(0.7, 30, 64), 5)]
    assert [len(own) for own in samples] == [30, 30]
    assert samples[1][1].text == "b"


def test_queries_with_all_right_or_all_wrong_samples_are_dropped():
    right = scored("a", ("x", 1.0), ("y", 1.0))
    wrong = scored("b", ("x", 0.0), ("y", 0.0))
    mixed = scored("c", ("x", 1.0), ("y", 0.0))
    assert balanced([right, mixed, wrong, mixed]) == [1, 3]


def test_a_sample_without_a_verdict_is_neither_right_nor_wrong():
    assert balanced([scored("a", ("x", None), ("y", 1.0)), scored("b", ("x", None), ("y", 0.0))]) == []
    assert balanced([scored("a", ("x", None), ("y", 1.0), ("z", 0.0))]) == [0]


def test_a_query_without_label_or_samples_is_dropped():
    assert balanced([scored("a", ("x", None)), []]) == []


def test_open_ended_samples_of_one_grade_are_dropped():
    assert balanced([scored("a", ("x", 3.0), ("y", 3.0)), scored("b", ("x", 3.0), ("y", 4.0))]) == [1]


@pytest.mark.parametrize("wrong", [{"samples_per_query": 1}, {"temperature": 0.0}])
def test_samples_that_could_give_no_pair_are_refused(wrong):
    with pytest.raises(ValueError, match="pairs need at least 2 samples, and a temperature above 0"):
        StudentSamples(max_response_tokens=64, **wrong)
