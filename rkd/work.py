"""Planned work: the queries that a stage will ask of a model, and the responses that it will train on or judge.

Every stage plans its own work (`planned_work`); `rkd.jobs.work_plan` lists the stages of a job in order. Sizes are
expected ones: only the stages can find out which queries keep a label and which pairs there are. The plan uses the
shares that one job of the mini world found (`EXPECTED`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rkd.protocols import Sampling

TEACHER, STUDENT, FEW_SHOT = "teacher", "student", "student few-shot"  # the models that are asked
JUDGE, ANNOTATOR = "judge", "annotator"
# A backward pass costs about two forward passes, so a forward pass alone is a third of a training step.
FORWARD = 1 / 3


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one stage: queries asked of `model`, and responses that it is trained on or judges.

    `asked` holds numbers of queries, each with its sampling. `trained` counts a response once for each forward and
    backward pass; a forward pass alone is a third. `judged` is the largest number of verdicts: equal responses to a
    query share one. `group_size` responses share the reading of their prompt.
    """

    stage: str
    amount: str
    model: str
    max_response_tokens: int
    asked: Sequence[tuple[float, Sampling]] = ()
    trained: float = 0.0
    judged: float = 0.0
    group_size: int = 1

    @property
    def queries(self) -> float:
        """Number of queries asked, counted once for each sampling."""
        return sum(queries for queries, _ in self.asked)

    @property
    def sampled(self) -> float:
        """Number of responses drawn."""
        return sum(queries * sampling.samples_per_query for queries, sampling in self.asked)

    @property
    def tokens(self) -> int:
        """The largest number of response tokens that these responses can have."""
        return round((self.sampled + self.trained + self.judged) * self.max_response_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Expected ratios of a stage's output to its input; beside each, the counts in `result.json` that it divides."""

    second_pass: float  # training_second_pass_queries / training_queries
    labelled: float  # 1 - training_without_label / training_queries
    first_pass_texts: float  # different texts of a query in the first pass: sft_examples / training_queries, row sft
    voted_texts: float  # different texts with the label of a query that has one: sft_examples / labelled queries
    balanced: float  # training_balanced_queries / labelled queries
    pairs: float  # training_pairs / (training_balanced_queries × pairs.max_pairs_per_query)
    validation_pairs: float  # validation_pairs / (balanced validation queries × validation_pairs.max_pairs_per_kind)


# Dataset mini_math, teacher mini_large, student mini_1, seed 0: 274 of 5,000 queries had a second pass and 4,778 a
# label; 6,697 texts in the first pass, 5,510 with the label; 1,634 balanced queries, 2,761 pairs of at most 2 each.
EXPECTED = Expected(
    second_pass=0.055, labelled=0.956, first_pass_texts=1.34, voted_texts=1.15, balanced=0.34, pairs=0.84,
    validation_pairs=1.9,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The amount of work of a job's stages, as far as a plan knows it.

    Args:
        answered: queries that the teacher answers.
        validated: validation queries by which a student's weights are chosen, each answered with the sampling `greedy`.
        examples: responses that the student is trained on, of at most `example_tokens`; that is None for recorded
            responses, whose lengths are unknown before the training.
        sampled: queries that the student is sampled on.
        pairs, held_out_pairs: pairs for training and for validation; their responses have at most `pair_tokens`.
        is_graded: a judge grades the responses, and there is no vote.
        has_reward_model: reinforcement learning uses a reward model.
        recorded: responses to labelled queries that a judge can be trained on.
    """

    expected: Expected
    answered: int
    validated: float
    greedy: Sampling
    examples: float
    example_tokens: int | None
    sampled: float
    pairs: float
    held_out_pairs: float
    pair_tokens: int
    is_graded: bool
    has_reward_model: bool
    recorded: float = 0.0


def about(number: float) -> str:
    """The number rounded to two digits, since more would look like an exact count."""
    digits = max(0, len(str(round(number))) - 2)
    return f"{round(number, -digits):,.0f}"


def epochs_said(count: int) -> str:
    """A number of epochs in words."""
    return "1 epoch" if count == 1 else f"{count} epochs"


def short_number(number: float) -> str:
    """The number with three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
