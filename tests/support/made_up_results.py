"""Results of jobs with numbers that nobody measured."""

from rkd.evaluation.results import EvaluationResult


def on_test_set(
    name: str, correct: int, n: int, low: float, high: float, pass_at_8: float | None = None
) -> EvaluationResult:
    """A result on a test set whose first questions are right."""
    return EvaluationResult(
        test_set=name,
        n=n,
        correct=correct,
        accuracy=correct / n,
        interval_low=low,
        interval_high=high,
        pass_at_8=pass_at_8,
        outcomes=[index < correct for index in range(n)],
        answers=["1"] * n,
        question_ids=[f"q{index}" for index in range(n)],
        share_without_answer=0.0,
        share_truncated=0.0,
    )
