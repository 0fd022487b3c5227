"""An arithmetic warm-up before data distillation: a student enters, one that has practised single calculations leaves.

The examples are drawn, not written: the question "71 - 14" with the response "71 - 14 = 57". Neither paper has it
(docs/method.md 5.24).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from rkd.config import AT_LEAST_1, check_ranges
from rkd.records import Query
from rkd.stages.sft import SFT, Examples
from rkd.training.supervised import SupervisedTraining
from rkd.work import STUDENT, Sizes, Work, about, epochs_said

LARGEST_FACTOR = 100


@dataclass(frozen=True, kw_only=True)
class Arithmetic(SFT):
    """Supervised fine-tuning on drawn equations with + - * and whole quotients.

    Args:
        equations: how many are drawn.
        largest_operand: of sums, differences and products; one factor of a product is at most `LARGEST_FACTOR`.
        equations_seed: of the equations; the training has the seed of the job.
    """

    stage = "arithmetic"

    equations: int
    largest_operand: int = 1000
    equations_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self.stage, self, {"equations": AT_LEAST_1, "largest_operand": AT_LEAST_1})

    def fingerprint(self) -> dict[str, Any]:
        """The settings of the training; the equations have a fingerprint of their own, as the examples."""
        of_training = {one.name for one in fields(SupervisedTraining)}
        return {name: value for name, value in super().fingerprint().items() if name in of_training}

    def examples(self) -> Examples:
        """The equations, each as a question and its response."""
        rng = random.Random(self.equations_seed)
        drawn = [_equation(rng, self.largest_operand) for _ in range(self.equations)]
        return [
            (Query(f"equation-{number}", "arithmetic", left, result), f"{left} = {result}")
            for number, (left, result) in enumerate(drawn)
        ]

    def planned_work(self, sizes: Sizes) -> list[Work]:  # noqa: ARG002
        """The equations."""
        amount = f"{about(self.equations)} equations, {epochs_said(self.epochs)}"
        return [Work(self.stage, amount, STUDENT, self.max_tokens, [], trained=self.epochs * self.equations)]


@dataclass(frozen=True, kw_only=True)
class NoArithmetic:
    """No arithmetic warm-up: data distillation starts from the student as it is."""

    is_left_out: ClassVar[Literal[True]] = True

    def planned_work(self, sizes: Sizes) -> Sequence[Work]:  # noqa: ARG002
        """Return no work."""
        return []


def _equation(rng: random.Random, largest: int) -> tuple[str, str]:
    """The left side of an equation, and its result, which is whole and not negative."""
    a, b = _operand(rng, largest), _operand(rng, largest)
    factor = _operand(rng, min(largest, LARGEST_FACTOR))
    match rng.choice("+-*/"):
        case "+":
            return f"{a} + {b}", str(a + b)
        case "-":
            return f"{max(a, b)} - {min(a, b)}", str(abs(a - b))
        case "*":
            return f"{a} * {factor}", str(a * factor)
        case _:
            return f"{a * factor} / {factor}", str(a)


def _operand(rng: random.Random, largest: int) -> int:
    """A number from 1 to `largest`, uniform in its logarithm: one digit is as likely as two or three."""
    return min(largest, int((largest + 1) ** rng.random()))
