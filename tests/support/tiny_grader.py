"""A judge that grades the responses of the tiny world, and the rubric that it follows."""

import re
from dataclasses import dataclass
from typing import ClassVar

from rkd.judges.base import ConfiguredJudge, Verdict
from tests.support import tiny_world


@dataclass(frozen=True)
class Grader(ConfiguredJudge):
    """A judge of the tiny world: 5 for an answer that the question asks for, 2 for another, and some say nothing."""

    asks_model: ClassVar[bool] = False

    name: str = "grader"

    def content(self):
        return {"name": self.name}

    def open(self, advance=lambda _: None):
        advance(0)
        return self

    def judge(self, queries, responses):
        return [verdict and verdict.score for verdict in self.verdicts(queries, responses)]

    def verdicts(self, queries, responses):
        scores = [
            (1.0 if tiny_world.response({"one": "1", "two": "2"}[q.question.split()[-1]]) == r.text else 0.4)
            for q, r in zip(queries, responses, strict=True)
        ]
        return [
            None if q.question.startswith("Ada") and s < 1 else Verdict(s) for q, s in zip(queries, scores, strict=True)
        ]


def read_answer(reply: str) -> float | None:
    """The answer that a reply of the tiny world states, of 0 to 5, as a grade."""
    found = re.search(r"The answer is ([0-5])", reply)
    return int(found[1]) / 5 if found else None


def rubric(question: str, text: str) -> int:
    """The score that the grader should give."""
    return 5 if tiny_world.response({"one": "1", "two": "2"}[question.split()[-1]]) == text else 2


# The overrides of a tiny job on an open-ended task; `evaluation.annotator.name_or_path` is added.
OPEN = [
    "+dataset.is_verifiable=false", "labels=rubric_judge", "judge=mini_judge",
    "judge._target_=tests.support.tiny_grader.Grader",
    "~judge.name_or_path", "~judge.is_hard", "~judge.prompt", "~judge.options",
    "+dataset.rubric={_target_: hydra.utils.get_method, path: tests.support.tiny_grader.rubric}",
    "evaluation/annotator=hf",
    "evaluation.annotator.prompt.first_word=' 1'", "evaluation.annotator.prompt.second_word=' 2'",
]  # fmt: skip
