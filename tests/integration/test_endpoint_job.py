"""Whole jobs whose teacher and judge stand behind servers: from the configuration to what is left behind."""

import io
import multiprocessing
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from rkd.errors import JobError
from rkd.evaluation.results import RESULT_FILE, read_result
from rkd.jobs.job import run_job
from tests.support import tiny_world
from tests.support.faulty_server import FaultyServer, files_with, serving
from tests.support.tiny_world import RL_SETTINGS as RL
from tests.support.tiny_world import SFT_SETTINGS as SFT
from tests.support.tiny_world import composed, overrides

pytest.importorskip("openai", reason="optional: pip install -r requirements-openai.txt")

KEY = "secret-0123456789"
LISTED = {"Yes": 0.5, "No": 0.25}
UNTRAINED = ["sft=none", "reward_model=none", "rl=none"]


def answer(body: dict, index: int) -> str:
    """What a teacher says that knows the tiny world, but for every fourth sample."""
    question = body["messages"][-1]["content"]
    number = 1 if "say one" in question else 2
    return tiny_world.response(str(3 - number if body["temperature"] and index % 4 == 3 else number))


def line(world: Path, root: Path, url: str, *more: str, stages: list[str] | None = None) -> list[str]:
    """The command line of a tiny job with both roles behind the server."""
    usual = [one for one in overrides(world, root, stages=stages) if not one.startswith("teacher.")]
    served = [
        one
        for role in ("teacher", "judge")
        for one in (
            f"{role}=endpoint", f"{role}.model=served", f"{role}.server.base_url={url}",
            f"{role}.server.api_key_variable=TINY_KEY", f"{role}.server.first_wait_seconds=0.01",
        )
    ]  # fmt: skip
    return [*usual, *served, *more]


def run(world: Path, root: Path, url: str, *more: str, stages: list[str] | None = None) -> str:
    """Run the job in this process: what the user sees."""
    seen = io.StringIO()
    with redirect_stdout(seen):
        run_job(composed(line(world, root, url, *more, stages=stages)))
    return seen.getvalue()


def results(root: Path) -> list:
    return [read_result(path.parent) for path in (root / "outputs").rglob(RESULT_FILE)]


def test_a_row_is_distilled_from_a_server_and_judged_by_one(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)
    judged = ["experiments=judge_reward", "tracking=wandb"]
    with serving(text_of=answer, logprobs=LISTED, key=KEY, fault_share=0.1, faults=("error", "rate_limit")) as server:
        seen = run(world, tmp_path, server.url, *judged, stages=[*SFT, *RL])
        asked = len(server.asked)
        again = run(world, tmp_path, server.url, *judged, "seed=1", stages=[*SFT, *RL])
        # Another seed asks about rollouts of its own alone, not the teacher, nor about its responses.
        assert all("logprobs" in body for body in server.asked[asked:])
    (first, second) = sorted(results(tmp_path), key=lambda result: result.seed)
    assert first.failure is second.failure is None
    assert "teacher served, behind http://127.0.0.1" in seen
    assert "tokens/s" in seen
    assert "reused, made before" in again
    # All labels are right; the wrong samples are a minority.
    assert first.notes.counts["training_without_label"] == 0
    assert first.notes.labels.precision == 1.0
    assert first.models[0].test_sets["svamp"].accuracy == 1.0
    assert first.costs["teacher_first_training"]["tokens"] > 0
    assert first.notes.judge.mean_yes_no_mass == pytest.approx(0.75)
    assert not files_with(KEY, tmp_path)
    assert KEY not in seen + again
    assert files_with("TINY_KEY", tmp_path)


def test_what_is_empty_is_counted_printed_and_never_taught(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)

    def said(body: dict, index: int) -> str | None:
        return None if body["temperature"] == 0.2 else answer(body, index)

    with serving(text_of=said, logprobs=LISTED) as server:
        seen = run(world, tmp_path, server.url, "experiments=sft", stages=SFT)
    ((counts),) = (result.notes.counts for result in results(tmp_path))
    # One of the four temperatures: a quarter of 36 × 4 responses. The right text of each query is taught alone.
    assert counts["training_withheld_responses"] == counts["training_withheld/empty"] == 36
    assert counts["validation_withheld/empty"] == 4
    assert counts["sft_examples"] == 36
    assert "36 of 144 training responses of the teacher are never taught: 36 empty. A model that thinks" in seen


def test_a_teacher_that_never_ends_leaves_nothing_to_teach_and_the_reason_is_said(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)
    for reason, said in (
        (
            "length",
            r"sft: there is no example.*144 of 144 .* never taught: 144 cut at the limit\. Raise teacher_samples",
        ),
        ("tool_calls", r"no query is left after the vote.*504 of 504 .* never taught: 504 calls of a tool"),
    ):
        how = {"text_of": answer, "logprobs": LISTED, "finish_reason": reason}
        with serving(**how) as server, pytest.raises(JobError, match=said):
            run(world, tmp_path / reason, server.url, "experiments=sft", stages=SFT)


def _job_alone(world: Path, root: Path, url: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    sys.stdout = (root / "seen.txt").open("a")
    run_job(composed(line(world, root, url, stages=UNTRAINED)))


@pytest.mark.slow
def test_a_killed_job_ends_as_one_that_was_left_alone_and_pays_once(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)
    with serving(text_of=answer, logprobs=LISTED) as server:
        run(world, tmp_path / "whole", server.url, stages=UNTRAINED)
        needed = len(server.answered)
    context = multiprocessing.get_context("spawn")
    with serving(text_of=answer, logprobs=LISTED, seconds=0.05) as server:
        for share in (0.2, 0.6):  # while it samples, and while it judges
            process = context.Process(target=_job_alone, args=(world, tmp_path / "killed", server.url))
            process.start()
            while len(server.answered) < share * needed:
                assert process.is_alive(), (tmp_path / "killed" / "seen.txt").read_text()
                time.sleep(0.005)
            process.kill()
            process.join()
        seen = run(world, tmp_path / "killed", server.url, stages=UNTRAINED)
        assert needed <= len(server.answered) <= needed + 2 * 32  # what was in flight
    assert "going on where an earlier job ended" in seen
    (alone,), (resumed,) = results(tmp_path / "whole"), results(tmp_path / "killed")
    assert resumed.models == alone.models
    assert resumed.notes.judge == alone.notes.judge
    tokens = [{name: cost.get("tokens") for name, cost in one.costs.items()} for one in (alone, resumed)]
    assert tokens[0] == tokens[1]


def _trained_alone(world: Path, root: Path, url: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    sys.stdout = (root / "seen.txt").open("a")
    longer = ["experiments=judge_reward", "rl.rollouts.episodes=320", "trainer.seconds_between_checkpoints=0"]
    run_job(composed(line(world, root, url, *longer, stages=[*SFT, *RL[1:]])))


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_and_pays_for_no_verdict_twice(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)
    context, answered, weights = multiprocessing.get_context("spawn"), {}, {}
    for name in ("whole", "killed"):
        root = tmp_path / name
        with serving(text_of=answer, logprobs=LISTED, seconds=0.05) as server:
            process = context.Process(target=_trained_alone, args=(world, root, server.url))
            process.start()
            if name == "killed":
                while not (found := list(root.glob("artifacts/rl/.*.progress/*.journal"))) or (
                    len(found[0].read_bytes().splitlines()) < 30
                ):
                    assert process.is_alive(), (root / "seen.txt").read_text()
                    time.sleep(0.005)
                process.kill()
                process.join()
                process = context.Process(target=_trained_alone, args=(world, root, server.url))
                process.start()
            process.join()
            assert process.exitcode == 0, (root / "seen.txt").read_text()
            answered[name] = len(server.answered)
        (model,) = root.glob("artifacts/rl/[!.]*/model.safetensors")
        weights[name] = model.read_bytes()
    assert "rl: going on where an earlier job ended" in (tmp_path / "killed" / "seen.txt").read_text()
    assert weights["killed"] == weights["whole"]
    assert answered["whole"] <= answered["killed"] <= answered["whole"] + 32  # what was in flight


def test_a_spent_budget_is_the_reason_that_a_job_failed_for(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)
    with serving(text_of=answer, logprobs=LISTED) as server:
        with pytest.raises(JobError, match=r"budget of .* is spent.*Raise server\.budget_tokens"):
            run(world, tmp_path, server.url, "teacher.server.budget_tokens=200", stages=UNTRAINED)
        (result,) = results(tmp_path)
        assert "is spent" in result.failure
        paid = len(server.answered)
        run(world, tmp_path, server.url, stages=UNTRAINED)
        assert sum("logprobs" not in body for body in server.answered) < 2 * paid + 200
    (result,) = results(tmp_path)
    assert result.failure is None


def test_a_missing_key_ends_the_job_before_it_begins(world, tmp_path, monkeypatch):
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(JobError, match=r"TINY_KEY.*is not set"):
        run(world, tmp_path, FaultyServer(url="http://127.0.0.1:9/v1").url)
    assert not (tmp_path / "outputs").exists()


def test_a_dry_run_needs_no_key_and_names_the_price(world, tmp_path, monkeypatch):
    monkeypatch.delenv("TINY_KEY", raising=False)
    priced = ["teacher.server.prompt_price=1000", "teacher.server.response_price=2000", "teacher.server.budget_cost=7"]
    said = run(world, tmp_path, "http://127.0.0.1:9/v1", "dry_run=true", *priced)
    assert "no GPU hours here" in said
    assert "at the prices of http://127.0.0.1:9/v1; server.budget_cost=7\n" in said


def test_a_provider_has_to_be_told_its_address_prices_and_a_budget(world, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    given = ["teacher=endpoint", "teacher.model=served", "teacher/server=provider"]
    usual = [one for one in overrides(world, tmp_path) if not one.startswith("teacher.")]
    for name, value in (
        ("base_url", "http://127.0.0.1:9/v1"), ("prompt_price", "1"), ("response_price", "1"), ("budget_cost", "1"),
    ):  # fmt: skip
        with pytest.raises(JobError, match=rf"teacher\.server\.{name} has no value of its own"):
            run_job(composed([*usual, *given]))
        given.append(f"teacher.server.{name}={value}")
    run_job(composed([*usual, *given, "dry_run=true"]))


def test_a_local_judge_cannot_be_a_teacher_behind_a_server(world, tmp_path):
    usual = [one for one in overrides(world, tmp_path) if not one.startswith("teacher.")]
    with pytest.raises(JobError, match=r"judge\.name_or_path is that of teacher\.name_or_path.*judge=endpoint"):
        run_job(composed([*usual, "teacher=endpoint", "teacher.model=served", "judge=teacher"]))


def test_a_likelihood_of_a_model_behind_a_server_is_refused_with_what_to_do(world, tmp_path):
    usual = [one for one in overrides(world, tmp_path) if not one.startswith("teacher.")]
    said = (
        r"judge=endpoint_written judge\.model=NAME.*judge=likelihood needs a model here, `judge\.name_or_path=FOLDER`"
    )
    with pytest.raises(JobError, match=said):
        run_job(composed([*usual, "teacher=endpoint", "teacher.model=served", "judge=likelihood"]))


def test_a_row_is_judged_and_rewarded_by_scores_that_a_server_writes(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)

    def said(body: dict, index: int) -> str:
        asked = body["messages"][-1]["content"]
        if "<response>" not in asked:
            return answer(body, index)
        return "I cannot tell." if "answer is 2" in asked else "Score: 5"

    written = ["experiments=judge_reward", "judge=endpoint_written"]
    with serving(text_of=said, key=KEY) as server:
        seen = run(world, tmp_path, server.url, *written, stages=[*SFT, *RL])
    assert "could not be read, and count for nothing. One of them: 'I cannot tell.'." in seen
    (result,) = results(tmp_path)
    assert result.failure is None
    assert result.notes.judge.verdicts.without_verdict > 0
    assert result.notes.judge.mean_yes_no_mass is None
