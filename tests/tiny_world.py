"""The smallest world in which every stage has something to do: two answers, two models of some thousand weights.

A question ends with "say one" or "say two", and the answer is that number. The teacher was taught it; the student was
taught the form of an answer, and guesses which. Both are made in seconds, by the repository's own fine-tuning.
"""

import json
from pathlib import Path

from fakes import progress_beside
from tiny_models import PROMPT, llama_folder

from rkd.records import Checkpoint, Query
from rkd.sft import SFT
from rkd.training import Training

NAMES = ("Ada", "Ben", "Eva", "Max", "Nina", "Olga", "Paul", "Tom")
WORDS = {"1": "one", "2": "two"}


def queries(first: int, count: int) -> list[Query]:
    """Distinct queries with their gold answers, as many of each answer."""
    return [
        Query(f"q{i}", "svamp", f"{NAMES[i % 8]} {i}: say {WORDS[answer]}", answer)
        for i in range(first, first + count)
        for answer in [str(1 + i % 2)]
    ]


def response(answer: str) -> str:
    """The text of a response."""
    return f"The answer is {answer}."


def random_model(folder: Path, *, seed: int = 0, hidden: int = 32) -> Checkpoint:
    """A model and a tokenizer in `folder`, with random weights."""
    texts = [PROMPT.render(query) + response("1") for query in queries(0, 64)]
    return llama_folder(folder, texts, 320, seed=seed, hidden=hidden)


def taught(base: Checkpoint, folder: Path, *, guesses: bool) -> Checkpoint:
    """`base` taught to answer rightly, or, if it `guesses`, to answer either number to any question."""
    asked = queries(0, 128)
    answers = [[response("1"), response("2")] if guesses else [response(query.gold_answer)] * 2 for query in asked]
    stage = SFT(learning_rate=1e-2, epochs=6, batch_size=16, max_tokens=128)
    stage.fit(
        base,
        [(query, text) for query, texts in zip(asked, answers, strict=True) for text in texts],
        prompt=PROMPT,
        validate=None,
        training=Training(accelerator="cpu"),
        logger=False,
        folder=folder,
        progress=progress_beside(folder),
        seed=0,
    )
    return Checkpoint(folder, f"taught-{guesses}")


def write_dataset(folder: Path, *, wrong_gold: bool = False) -> Path:
    """A folder for `dataset=svamp dataset.source=...`; `wrong_gold` poisons the training answers."""
    splits = {"train": queries(200, 40), "test": queries(300, 12)}
    (folder / "svamp").mkdir(parents=True)
    for split, of_split in splits.items():
        rows = [
            {
                "question_concat": query.question,
                "Answer": "777" if wrong_gold and split == "train" else query.gold_answer,
                "ID": query.id,
                "Type": "saying",
            }
            for query in of_split
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "svamp" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder
