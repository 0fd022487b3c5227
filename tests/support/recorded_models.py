"""Files of recorded models: what several models answered to the same questions, each with one prompt."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rkd.data.recorded_model import RecordedModel
from rkd.records import Query
from tests.support import tiny_world

PROMPT = "chain_of_thought"


def write_recorded(folder: Path, queries: Sequence[Query], texts: Mapping[str, Sequence[str]]) -> Path:
    """A folder with a file of the responses of each model, by its name, to the queries in their order."""
    rows = [
        {
            "id": query.id,
            "question": query.question,
            "teachers": {name: {PROMPT: {"answer": "", "response": own[place]}} for name, own in texts.items()},
        }
        for place, query in enumerate(queries)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recorded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def recorded_model(folder: Path, model: str) -> RecordedModel:
    """One of the models of `write_recorded`."""
    return RecordedModel(name=model, model=model, path=str(folder), voters=[PROMPT], taught=[PROMPT])


def recorded_by_three(folder: Path) -> Path:
    """Responses to the questions of the tiny world: of a model that is always right, one that never is, and one that
    is right every other time."""
    queries = tiny_world.queries(200, 40)
    gold = [query.gold_answer for query in queries]
    texts = {
        "right": [tiny_world.response(answer) for answer in gold],
        "wrong": [tiny_world.response({"1": "2", "2": "1"}[answer]) for answer in gold],
        "mixed": [tiny_world.response(str(1 + place // 2 % 2)) for place in range(len(gold))],
    }
    return write_recorded(folder, queries, texts)
