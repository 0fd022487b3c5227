"""The glossary of docs/tracking.md against what tiny jobs log: no key is undefined, and no definition unused."""

import csv
import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from rkd.jobs.job import run_job
from tests.support import tiny_world
from tests.support.recorded_models import recorded_by_three
from tests.support.tiny_grader import OPEN
from tests.support.tiny_world import REWARD_MODEL_SETTINGS, RL_SETTINGS, SFT_SETTINGS, composed, overrides

PAGE = (tiny_world.REPOSITORY / "docs" / "tracking.md").read_text(encoding="utf-8")
KINDS = {"curve": "Curves", "summary": "Summary", "table": "Tables and images"}
ANY_NAME = {"TEST_SET": r"[\w.-]+", "N": r"\d+", "REASON": r"\w+"}  # the others stand for the names that the page lists

# Definitions of what no tiny job logs, with the reason; the key's own word has to stand in the code all the same.
NOT_IN_TINY_JOBS = {
    "reward_model/validation/pos_pos_accuracy": "all right responses of the tiny world have one text",
    "MODEL/TEST_SET/win_rate/even": "needs an annotator that grades",
    "MODEL/TEST_SET/without_near_duplicates": "all test questions of the tiny world are near duplicates",
    "counts/SPLIT_without_response": "needs recorded responses that leave queries out",
    "counts/SPLIT_unread_responses": "needs a teacher whose answers cannot be read",
    "counts/SPLIT_withheld_responses": "needs a teacher whose texts are cut or withheld",
    "counts/SPLIT_withheld/REASON": "needs a teacher whose texts are cut or withheld",
    "counts/SPLIT_student_cut": "needs a student that does not stop",
    "counts/SPLIT_student_empty": "needs a student that says nothing",
}


@dataclass(frozen=True)
class Entry:
    """A row of the glossary: its key, and the keys that it matches."""

    key: str
    pattern: re.Pattern[str]


def section(title: str) -> str:
    """The text under a heading of the page."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


def rows(title: str) -> list[list[str]]:
    """The cells of the rows of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def row_names() -> list[str]:
    """The names of the rows in experiments/, which a model of a result table may have."""
    texts = [path.read_text(encoding="utf-8") for path in (tiny_world.REPOSITORY / "experiments").glob("*.yaml")]
    return ["Ours", *(found[1].strip("\"'") for text in texts if (found := re.search(r"^row: *(.+)$", text, re.M)))]


def placeholders() -> dict[str, str]:
    """What each placeholder matches."""
    listed = {name.strip("`"): re.findall(r"`([^`]+)`", names) for name, names in rows("Placeholders")}
    listed["MODEL"] += row_names()
    closed = {name: "|".join(map(re.escape, names)) for name, names in listed.items()}
    return {name: f"(?:{pattern})" for name, pattern in (closed | ANY_NAME).items()}


def entry(key: str, matches: dict[str, str]) -> Entry:
    """The row of a key, whose words in capitals are placeholders."""
    parts = re.split(r"([A-Z](?:[A-Z]|_(?=[A-Z]))*)", key)  # SPLIT_queries: SPLIT, then _queries
    return Entry(key, re.compile("".join(matches[part] if i % 2 else re.escape(part) for i, part in enumerate(parts))))


def glossary() -> dict[str, list[Entry]]:
    """The rows of the glossary by the kind of what they define."""
    matches = placeholders()
    return {kind: [entry(row[0].strip("`"), matches) for row in rows(title)] for kind, title in KINDS.items()}


def keys_in(folder: Path) -> set[tuple[str, str]]:
    """What `tracking=csv` has kept of a job: kind and key of each."""
    found = set()
    for file in folder.glob("history/*/metrics.csv"):
        with file.open(encoding="utf-8", newline="") as opened:
            # "step" is the CSV logger's own column, beside the stage's axis.
            found |= {("curve", key) for key in next(csv.reader(opened)) if key != "step"}
    found |= {("summary", key) for key in json.loads((folder / "summary.json").read_text(encoding="utf-8"))}
    return found | {("table", file.stem) for name in ("tables", "images") for file in (folder / name).glob("*")}


def of_file(key: str) -> str:
    """A table's key as the name of its file."""
    return key.replace("/", "_")


@pytest.fixture(scope="module")
def logged(world, tmp_path_factory) -> set[tuple[str, str]]:
    """Kind and key of everything that jobs of several rows log, so that every stage is among them."""
    root = tmp_path_factory.mktemp("glossary")
    words = ["judge.prompt.yes_word=' 1'", "judge.prompt.no_word=' 2'"]  # the tiny tokenizer has no Yes
    judge = [f"judge.name_or_path={world / 'teacher'}", *words]
    mixed = ["experiments=semi_supervised", "judge=hf", *judge, "dataset.labelled_fraction=0.7"]
    terms = ["rl.rollouts.queries_per_rollout=12", "rl.rollouts.episodes=192"]  # three terms, four queries of each
    guesses = f"teacher.name_or_path={world / 'student'}"  # right and wrong, often without consensus
    added = ["rl.rollouts.missing_eos_penalty=0.1", "rl.scaling.clip=1.0"]
    bound = [
        "evaluation/bound=sampled",
        "evaluation.bound.samples_per_query=2",
        "evaluation.bound.max_response_tokens=16",
    ]
    every = [*SFT_SETTINGS, *REWARD_MODEL_SETTINGS, *RL_SETTINGS]
    jobs = {
        "Ours, all that a reward can be added, a bound": [*every, *added, *bound],
        "a teacher that errs, and a judge that knows": [*every, guesses, "judge=gold"],
        "DPO": [*SFT_SETTINGS, "experiments=dpo", "dpo.epochs=1"],
        "GRPO on three terms": [*every, *mixed, "rl=mini_grpo", *terms],
        "the same rewards in one loss": [*every, *mixed, "reward_mix.level=reward"],
        "the reranker alone": [*every, "experiments=rerank", "dataset.labelled_fraction=0.7"],
        "the judge alone": [*SFT_SETTINGS, *RL_SETTINGS, "experiments=judge_reward", *judge],
        "a reward of one's own": [
            *SFT_SETTINGS, *RL_SETTINGS, "reward_model=none", "reward_mix=own",
            "reward_mix.verifiable.function.path=tests.integration.test_glossary.length",
        ],
        **{
            f"the control {row}": [*SFT_SETTINGS, *RL_SETTINGS, f"experiments={row}"]
            for row in ("student_vote", "confidence", "coin", "noise_corrected")
        },
        "the judge on all queries": [
            *SFT_SETTINGS, *RL_SETTINGS, "experiments=judge_only", "judge=hf", *judge, "dataset.labelled_fraction=0.7",
        ],
        "a judge that is trained": [
            *SFT_SETTINGS, *RL_SETTINGS, "experiments=yon", "judge=small_judge", *words,
            "dataset.labelled_fraction=0.7",
            f"judge.held_out.path={recorded_by_three(root / 'recorded')}", "judge.held_out.model=mixed",
            "judge.teachers=[right,wrong]",
        ],
        "a generative verifier": [
            *SFT_SETTINGS, *RL_SETTINGS, "experiments=generative_verifier", "reward_model.epochs=1",
            "reward_model.prompt.yes_word=' 1'", "reward_model.prompt.no_word=' 2'",
        ],
        "a reward model that follows the policy": [
            *every, "experiments=ours_refreshed", "reward_mix.learned.refresh.every_rollouts=1",
        ],
        "GKD": [
            *SFT_SETTINGS, "experiments=gkd", "rl.epochs=1", "rl.rollouts.max_response_tokens=16",
        ],
        "rejection sampling": [
            *SFT_SETTINGS, "experiments=rejection_sampling", "rl.rollouts.rounds=2", "rl.rollouts.episodes=64",
            "rl.rollouts.max_response_tokens=16",
        ],
        "an arithmetic warm-up": [
            *SFT_SETTINGS, "experiments=ours_wo_r", "arithmetic=small", "arithmetic.equations=16",
        ],
        "a calculator": [*SFT_SETTINGS, "experiments=ours_wo_r", "student/calculator=equations"],
        "open-ended": [*every, *OPEN, f"evaluation.annotator.name_or_path={world / 'teacher'}"],
    }  # fmt: skip
    found = set()
    for stages in jobs.values():
        usual = [one for one in overrides(world, root, stages=stages) if not one.startswith("tracking=")]
        before = set(root.glob("outputs/*"))
        with redirect_stdout(io.StringIO()):
            run_job(composed([*usual, "tracking=csv", "trainer.log_every_n_steps=1"]))
        (folder,) = set(root.glob("outputs/*")) - before
        found |= keys_in(folder / "tracking")
    return found


def length(queries, responses) -> list[float]:
    """A reward of one's own."""
    assert len(queries) == len(responses)
    return [float(len(response.text)) for response in responses]


def defining(key: str, entries: list[Entry], kind: str) -> list[Entry]:
    """The rows that define a key."""
    if kind == "table":
        return [own for own in entries if of_file(own.key) == key]
    return [own for own in entries if own.pattern.fullmatch(key)]


def test_every_definition_has_key_text_and_stage_and_no_key_stands_twice():
    for title in KINDS.values():
        found = rows(title)
        assert all(len(row) == 3 and all(row) and re.fullmatch(r"`[^`]+`", row[0]) for row in found)
        assert len({row[0] for row in found}) == len(found)
    assert sum(len(own) for own in glossary().values()) > 150


def test_a_placeholder_stands_for_the_listed_names_alone():
    own = entry("costs/WORK/seconds", placeholders())
    assert own.pattern.fullmatch("costs/student_samples_training/seconds")
    assert not own.pattern.fullmatch("costs/another_stage/seconds")
    assert entry("counts/SPLIT_pairs", placeholders()).pattern.fullmatch("counts/validation_pairs")


@pytest.mark.slow
def test_the_jobs_log_curves_of_every_stage(logged):
    stages = {key.split("/")[0] for kind, key in logged if kind == "curve"}
    assert stages == {"judge", "arithmetic", "sft", "dpo", "reward_model", "rl", "rejection"}
    assert {("curve", "sft/train/loss"), ("curve", "rl/judge/reward"), ("summary", "failure")} <= logged
    assert len(logged) > 400


@pytest.mark.slow
def test_every_logged_key_is_defined(logged):
    entries = glossary()
    assert sorted((kind, key) for kind, key in logged if not defining(key, entries[kind], kind)) == []


@pytest.mark.slow
def test_every_definition_is_needed_for_a_logged_key(logged):
    needed = set()
    for kind, entries in glossary().items():
        for _, key in (one for one in logged if one[0] == kind):
            if len(own := defining(key, entries, kind)) == 1:
                needed.add((kind, own[0].key))
    told = {(kind, own.key) for kind, entries in glossary().items() for own in entries}
    assert {key for _, key in told - needed} == set(NOT_IN_TINY_JOBS)


def test_what_no_tiny_job_logs_stands_in_the_code():
    code = "\n".join(path.read_text(encoding="utf-8") for path in (tiny_world.REPOSITORY / "rkd").rglob("*.py"))
    words = [re.findall(r"(?<![a-z_])_?([a-z][a-z_]*)", key)[-1] for key in NOT_IN_TINY_JOBS]
    assert words == [
        "pos_pos_accuracy",
        "even",
        "without_near_duplicates",
        "without_response",
        "unread_responses",
        "withheld_responses",
        "withheld",
        "student_cut",
        "student_empty",
    ]
    assert [word for word in words if not re.search(rf"(\b|_){word}\b", code)] == []
