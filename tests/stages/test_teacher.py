"""The teacher's two passes: what is drawn, how often, under which seed."""

import pytest

from rkd.stages.teacher import Schedule, TeacherSamples
from rkd.store.fingerprint import as_fingerprint
from tests.support.fakes import ScriptedGenerator, query

PAPER = TeacherSamples(
    first_pass=Schedule(temperatures=(0.0, 0.1, 0.2, 0.3), samples_per_temperature=5),
    second_pass=Schedule(temperatures=tuple(t / 10 for t in range(1, 11)), samples_per_temperature=5),
    max_response_tokens=64,
)
GENERATOR = {"greedy": {"q": "greedy", "r": "other"}, "sampled": {"q": list("abcde"), "r": list("vwxyz")}}


def test_the_first_pass_of_the_paper_has_twenty_responses_and_the_second_fifty():
    generator = ScriptedGenerator(**GENERATOR)
    (first,) = PAPER.first(generator, [query("q")], seed=0)
    (second,) = PAPER.second(generator, [query("q")], seed=0)
    assert (len(first), len(second)) == (20, 50)


def test_the_greedy_text_is_drawn_once_and_has_five_votes():
    generator = ScriptedGenerator(**GENERATOR)
    (first,) = PAPER.first(generator, [query("q")], seed=0)
    assert [response.text for response in first[:6]] == ["greedy"] * 5 + ["b"]
    ((_, sampling, _),) = generator.asked
    assert sampling.temperatures == (0.0,) + (0.1,) * 5 + (0.2,) * 5 + (0.3,) * 5


def test_sample_indices_run_through_both_passes():
    generator = ScriptedGenerator(**GENERATOR)
    first = PAPER.first(generator, [query("q"), query("r")], seed=0)
    second = PAPER.second(generator, [query("q"), query("r")], seed=0)
    for one, two in zip(first, second, strict=True):
        assert [response.sample_index for response in one + two] == list(range(70))


def test_responses_stand_with_their_query_and_name_the_teacher():
    first = PAPER.first(ScriptedGenerator(**GENERATOR), [query("r"), query("q")], seed=0)
    assert [{response.query_id for response in own} for own in first] == [{"r"}, {"q"}]
    assert {response.generator for own in first for response in own} == {ScriptedGenerator(**GENERATOR).name}


def test_each_pass_has_its_own_seed():
    # Both sample at 0.1: with one seed the second would draw the first one's texts again.
    generator = ScriptedGenerator(**GENERATOR)
    PAPER.first(generator, [query("q")], seed=3)
    PAPER.second(generator, [query("q")], seed=3)
    assert len({seed for _, _, seed in generator.asked}) == 2


def test_the_seed_decides_the_seeds():
    def seeds(seed: int) -> list[int]:
        generator = ScriptedGenerator(**GENERATOR)
        PAPER.first(generator, [query("q")], seed)
        return [asked for _, _, asked in generator.asked]

    assert seeds(1) == seeds(1)
    assert not set(seeds(1)) & set(seeds(2))


def test_a_teacher_without_second_pass_gives_each_query_no_more_responses():
    generator = ScriptedGenerator(**GENERATOR)
    teacher = TeacherSamples(first_pass=PAPER.first_pass, second_pass=None, max_response_tokens=64)
    assert teacher.second(generator, [query("q"), query("r")], seed=0) == [[], []]
    assert generator.asked == []


def test_a_schedule_read_from_yaml_has_the_recipe_of_one_written_in_python():
    from_yaml = Schedule(temperatures=[0, 0.5], samples_per_temperature=2)
    assert as_fingerprint(from_yaml) == as_fingerprint(Schedule(temperatures=(0.0, 0.5), samples_per_temperature=2))


@pytest.mark.parametrize("temperatures", [(), (-0.1,), (0.1, 0.1)])
def test_impossible_temperatures_are_refused(temperatures):
    with pytest.raises(ValueError, match="give at least one, each once, none below 0"):
        Schedule(temperatures=temperatures, samples_per_temperature=5)
