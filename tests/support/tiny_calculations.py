"""A tiny model that writes calculations with wrong results, and the prompt that gives it a calculator."""

import dataclasses
from pathlib import Path

from rkd.data.calculator import Equations
from rkd.records import Checkpoint, Query
from rkd.stages.sft import SFT
from tests.support.fakes import context
from tests.support.tiny_models import PROMPT, llama_folder

CALCULATING = dataclasses.replace(PROMPT, calculator=Equations())
SUMS = ((12, 3), (40, 2), (7, 6), (30, 11))
QUERIES = [Query(f"sum-{n}", "svamp", f"{a} and {b}?", str(a + b)) for n, (a, b) in enumerate(SUMS)]


def response(a: int, b: int, result: int) -> str:
    """The text of a response."""
    return f" It is {a} + {b} = {result} in all. The answer is {result}."


def make_student(folder: Path) -> Checkpoint:
    """A model in `folder` that answers each of the queries with a sum, and writes 99 as its result."""
    taught = [(query, response(*pair, 99)) for query, pair in zip(QUERIES, SUMS, strict=True)]
    texts = [PROMPT.render(query) + text for query, text in taught] + ["0 1 2 3 4 5 6 7 8 9 -"] * 2
    base = llama_folder(untaught(Checkpoint(folder, "")).folder, texts, 300, hidden=32)
    SFT(learning_rate=1e-2, epochs=40, batch_size=4, max_tokens=96).fit(taught * 2, context(base, folder))
    return Checkpoint(folder, "calculating")


def untaught(student: Checkpoint) -> Checkpoint:
    """The model with random weights that the student was made of."""
    return Checkpoint(student.folder.with_name(f"{student.folder.name}-untaught"), "untaught")
