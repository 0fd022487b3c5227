"""How often the bootstrap over seeds and questions finds a difference between rows that are equally good.

    python tests/benchmarks/false_positives.py

A question has a difficulty, and each row finds it somewhat easier or harder (logits, deviations 2 and 0.7). A training
seed shifts all questions of its row, so that its accuracy has the given deviation over seeds. The two rows of an
experiment have the same distribution, so a p-value below 0.05 is a false positive: a sound test has 5 %.
"""

import numpy as np
from common import write_result  # first: it makes rkd importable
from numpy.typing import NDArray

from rkd.evaluation.statistics import bootstrap_over_seeds_and_questions

EXPERIMENTS, REPLICATES, SEEDS, QUESTIONS, LEVEL = 1000, 2000, 3, 1000, 0.05
DEVIATIONS = (0, 1, 2, 4)  # over training seeds, in points


def chance(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The chance of a right answer."""
    return 1 / (1 + np.exp(-logits))


def row(easiness: NDArray[np.float64], deviation: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """The outcomes of one row, (seeds, questions)."""
    own = easiness + generator.normal(0, 0.7, easiness.size)
    points_per_logit = 100 * float((chance(own) * (1 - chance(own))).mean())
    shifts = generator.normal(0, deviation / points_per_logit, (SEEDS, 1))
    outcomes: NDArray[np.float64] = (generator.random((SEEDS, easiness.size)) < chance(own + shifts)).astype(float)
    return outcomes


def percent_of_false_positives(deviation: int) -> float:
    """The share of experiments with a p-value below `LEVEL`, in percent."""
    generator = np.random.default_rng([SEEDS, deviation])
    found = 0
    for experiment in range(EXPERIMENTS):
        easiness = generator.normal(0.5, 2.0, QUESTIONS)
        rows = [row(easiness, deviation, generator) for _ in range(2)]
        found += bootstrap_over_seeds_and_questions(*rows, replicates=REPLICATES, seed=experiment).p_value < LEVEL
    return 100 * found / EXPERIMENTS


if __name__ == "__main__":
    settings = {"experiments": EXPERIMENTS, "replicates": REPLICATES, "seeds": SEEDS, "questions": QUESTIONS}
    percent = {str(points): percent_of_false_positives(points) for points in DEVIATIONS}
    write_result("false_positives", {**settings, "level": LEVEL}, {"percent": percent})
