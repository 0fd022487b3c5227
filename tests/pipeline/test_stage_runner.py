"""The runner: what was made is read back, what it cost is remembered, and what the user is told."""

import io
import json
from dataclasses import dataclass

import pytest
from rich.console import Console

from rkd.pipeline.stage_runner import StageRunner
from rkd.records import PseudoLabel
from tests.support.fakes import query, responses


@dataclass(frozen=True)
class Report:
    """What a fit returns."""

    steps: int


class Counter:
    """Makes `value`, and counts how often."""

    def __init__(self, value) -> None:
        self.value, self.calls = value, 0

    def __call__(self, *_):
        self.calls += 1
        return self.value


def runner(folder, *, terminal: bool = False, **options) -> StageRunner:
    return StageRunner(folder, Console(file=io.StringIO(), width=200, force_terminal=terminal), **options)


def seen(own: StageRunner) -> str:
    return own.console.file.getvalue()


def test_records_are_made_once_and_read_back_by_another_job(tmp_path):
    labels = [PseudoLabel("a", "1", 0.75), PseudoLabel("b", None, 0.5)]
    make = Counter(labels)
    first, second = runner(tmp_path), runner(tmp_path)
    assert first.records("labels", {"x": 1}, PseudoLabel, make) == labels
    assert second.records("labels", {"x": 1}, PseudoLabel, make) == labels
    assert make.calls == 1
    assert "✓ labels" in seen(first)
    assert "made in" in seen(first)
    assert "reused, made before in" in seen(second)


def test_another_recipe_is_made_anew(tmp_path):
    make = Counter([PseudoLabel("a", "1", 1.0)])
    own = runner(tmp_path)
    own.records("labels", {"x": 1}, PseudoLabel, make)
    own.records("labels", {"x": 2}, PseudoLabel, make)
    assert make.calls == 2


def test_responses_return_in_groups_in_the_order_of_the_queries(tmp_path):
    queries = [query("b"), query("a"), query("c")]
    groups = [responses("b", ["x", "y"]), responses("a", ["z"]), []]
    for own in (runner(tmp_path), runner(tmp_path)):
        assert own.responses("samples", {}, queries, lambda _: groups) == groups


def test_other_queries_are_another_fingerprint(tmp_path):
    own = runner(tmp_path)
    own.responses("samples", {}, [query("a")], lambda _: [responses("a", ["x"])])
    assert own.responses("samples", {}, [query("b")], lambda _: [responses("b", ["y"])])[0][0].text == "y"


def test_a_checkpoint_has_the_stores_digest_and_its_report(tmp_path):
    own = runner(tmp_path)

    def fit(folder, _):
        (folder / "model").write_text("weights")
        return Report(7)

    checkpoint = own.checkpoint("sft", {"x": 1}, fit)
    assert checkpoint.folder == tmp_path / "sft" / checkpoint.digest
    assert (checkpoint.folder / "model").read_text() == "weights"
    assert own.report(checkpoint) == {"steps": 7}
    assert own.made["sft"].folder == checkpoint.folder


def test_a_value_is_told_under_the_name_it_is_shown_by(tmp_path):
    own = runner(tmp_path)
    assert own.value("evaluation", {"x": 1}, lambda _: {"n": 3}, shown="teacher on svamp") == {"n": 3}
    assert "✓ teacher on svamp" in seen(own)


def test_costs_add_up_over_a_name_and_reused_stages_cost_this_job_nothing(tmp_path):
    first, second = runner(tmp_path), runner(tmp_path)
    for own in (first, second):
        for x in (1, 2):
            own.value("evaluation", {"x": x}, lambda _: {})
    assert first.costs["evaluation"]["seconds_this_job"] > 0
    assert second.costs["evaluation"]["seconds_this_job"] == 0
    stored = [artifact.folder for artifact in second.made.values()]
    assert len(stored) == 1  # the last of a name; their seconds are summed
    assert second.costs["evaluation"]["seconds"] == first.costs["evaluation"]["seconds"]


def test_a_stage_that_fails_leaves_nothing_and_costs_nothing(tmp_path):
    own = runner(tmp_path)

    def fail(_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        own.value("evaluation", {}, fail)
    assert not own.made
    assert not own.costs
    assert not own.store.folders()


def test_a_warning_is_shown_and_remembered(tmp_path):
    own = runner(tmp_path)
    own.warn("50% [of] samples are cut")
    assert own.warnings == ["50% [of] samples are cut"]
    assert "50% [of] samples are cut" in seen(own)


def test_without_a_terminal_short_work_shows_no_progress(tmp_path):
    own = runner(tmp_path)
    with own.progress("sampling", 10) as advance:
        advance(10)
    assert seen(own) == ""


def test_without_a_terminal_long_work_prints_a_line(tmp_path):
    own = runner(tmp_path, seconds_between_lines=0.0)
    with own.progress("sampling", 10) as advance:
        advance(4)
        advance(3)
    assert "sampling: 4/10" in seen(own)
    assert "sampling: 7/10" in seen(own)


def test_on_a_terminal_a_bar_is_drawn_and_closed_when_the_work_fails(tmp_path):
    own = runner(tmp_path, terminal=True)

    def fail_half_way():
        with own.progress("sampling", 10) as advance:
            advance(5)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail_half_way()
    assert "sampling" in seen(own)
    with own.progress("again", 1):  # Rich refuses a second bar while one is open
        pass


def test_a_job_notes_what_it_uses_before_it_does_and_keeps_what_an_earlier_attempt_noted(tmp_path):
    def noted() -> list[str]:
        return json.loads((tmp_path / "artifacts.json").read_text())

    def make(_):
        assert [label.split("/")[0] for label in noted()] == ["sft"]
        return {}

    own = runner(tmp_path / "store", job=tmp_path)
    own.value("sft", {}, make)
    again = runner(tmp_path / "store", job=tmp_path)
    again.value("rl", {}, lambda _: {})
    assert noted() == sorted(artifact.label for artifact in (own.made["sft"], again.made["rl"]))


class Watching:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.seen = []

    def artifact(self, artifact, *, was_made) -> None:
        self.seen.append((artifact.manifest["name"], was_made))

    def records(self, name, records, digest, inputs) -> None:
        self.seen.append((name, len(records), digest, dict(inputs)))


def test_a_watcher_is_told_what_is_made_what_is_reused_and_what_it_was_made_from(tmp_path):
    first, second = Watching(), Watching()
    for watcher in (first, second):
        own = runner(tmp_path, watcher=watcher)
        own.value("teacher", {"x": 1}, lambda _: {})
        own.note("labels", ["one"], "digest of labels", made_from=["teacher", "second pass"])
        own.note("pairs", [], "digest of pairs", made_from=["labels"])
    teacher = own.made["teacher"].digest
    labels = ("labels", 1, "digest of labels", {"teacher": teacher})
    pairs = ("pairs", 0, "digest of pairs", {"labels": "digest of labels"})
    assert first.seen == [("teacher", True), labels, pairs]
    assert second.seen == [("teacher", False), labels, pairs]


@pytest.mark.parametrize("terminal", [False, True])
def test_how_it_goes_stands_beside_the_progress_and_is_said_at_the_end(tmp_path, terminal):
    own = runner(tmp_path, terminal=terminal, seconds_between_lines=0)
    with own.progress("sampling", 3) as advance:
        advance(1)
        advance(1, "12 tokens/s, 0.5 spent")
        advance(1, "14 tokens/s, 0.7 spent")
    assert seen(own).rstrip().endswith("sampling: 3/3, 0 s, 14 tokens/s, 0.7 spent")
    assert ("sampling: 2/3, 0 s, 12 tokens/s, 0.5 spent" in seen(own)) != terminal


def test_a_stage_that_fails_says_how_far_it_came(tmp_path):
    own = runner(tmp_path)

    def fail() -> None:
        with own.progress("sampling", 3) as advance:
            advance(1, "0.5 spent")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert "sampling: 1/3, 0 s, 0.5 spent" in seen(own)
