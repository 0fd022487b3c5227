"""The smallest world in which every stage has something to do: two answers, two models of some thousand weights.

A question ends with "say one" or "say two", and the answer is that number. The teacher was taught it; the student was
taught the form of an answer, and guesses which. Both are made in seconds, by the repository's own fine-tuning.
"""

import json
import random
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from rkd.records import Checkpoint, Query
from rkd.stages.sft import SFT
from tests.support.fakes import context
from tests.support.tiny_models import PROMPT, llama_folder

REPOSITORY = Path(__file__).parents[2]
NAMES = ("Ada", "Ben", "Eva", "Max", "Nina", "Olga", "Paul", "Tom")
WORDS = {"1": "one", "2": "two"}
SFT_SETTINGS = ["sft.epochs=1", "sft.learning_rate=1e-4"]
REWARD_MODEL_SETTINGS = ["reward_model.epochs=1", "reward_model.pooling=last"]  # one token is the answer
EXAMPLE = "{_target_:rkd.data.prompts.Example,question:'Ada 1: say two',response:'The answer is 2.'}"
ROLLOUTS = ["episodes=64", "queries_per_rollout=4", "responses_per_query=8", "max_response_tokens=16"]
RL_SETTINGS = [*(f"rl.rollouts.{value}" for value in ROLLOUTS), "rl.rollouts_between_validations=1"]


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
    examples = [(query, text) for query, texts in zip(asked, answers, strict=True) for text in texts]
    stage.fit(examples, context(base, folder, prompt=PROMPT))
    return Checkpoint(folder, f"taught-{guesses}")


def write_dataset(folder: Path, *, random_gold: bool = False) -> Path:
    """A folder for `dataset=svamp dataset.source=...`; with `random_gold` the answers of training and validation are
    random."""
    splits = {"train": queries(200, 40), "test": queries(300, 12)}
    poison = random.Random(0)
    (folder / "svamp").mkdir(parents=True)
    for split, of_split in splits.items():
        rows = [
            {
                "question_concat": query.question,
                "Answer": poison.choice(list(WORDS)) if random_gold and split == "train" else query.gold_answer,
                "ID": query.id,
                "Type": "saying",
            }
            for query in of_split
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "svamp" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def make_world(folder: Path) -> Path:
    """Models `teacher`, `student` and `random`, and the dataset `data`."""
    untaught = random_model(folder / "random")
    taught(untaught, folder / "teacher", guesses=False)
    taught(untaught, folder / "student", guesses=True)
    write_dataset(folder / "data")
    return folder


def overrides(world: Path, root: Path, *more: str, stages: list[str] | None = None) -> list[str]:
    """The command line of a tiny job whose files lie in `root`."""
    prompts = [
        override
        for role in ("student", "teacher")
        for override in (f"{role}.name_or_path={world / role}", f"{role}.prompt.template='Q: {{question}}\\nA:'")
    ]
    lengths = [f"{stage}.max_response_tokens=16" for stage in ("teacher_samples", "student_samples", "evaluation")]
    # So few queries need more of each than the mini world's thousands.
    sizes = ["student_samples.samples_per_query=8", "pairs.max_pairs_per_query=4"]
    return [
        "dataset=svamp", f"dataset.source={world / 'data'}", "tracking=none", "trainer.accelerator=cpu",
        "threads=1", f"artifacts.root={root / 'artifacts'}", f"output_root={root / 'outputs'}",
        f"student.prompt.examples=[{EXAMPLE}]", *prompts, *lengths, *sizes,
        *([*SFT_SETTINGS, *REWARD_MODEL_SETTINGS, *RL_SETTINGS] if stages is None else stages), *more,
    ]  # fmt: skip


def composed(overrides: list[str]) -> DictConfig:
    """The config of a command line."""
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return compose("config", overrides=overrides)
