"""What a result says of labels, verdicts and grades: counts, and the shares that tables and figures show of them.

The counts are made in `rkd.evaluation.label_quality`. Shares are in [0, 1].
"""

import dataclasses

CONSENSUS_BINS = 10
RELIABILITY_BINS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class LabelStatistics:
    """Pseudo-labels against the gold answers: of `queries`, `labelled` have one, and `right` of these are right.

    `consensus_histogram` counts the queries by p* in ten bins of width 0.1, 1 being in the last.
    """

    queries: int
    labelled: int
    right: int
    consensus_histogram: list[int]

    @property
    def share_without_label(self) -> float:
        """Table 10."""
        return 1 - self.labelled / self.queries

    @property
    def precision(self) -> float | None:
        """The share of right labels among those given; None where none was."""
        return _share(self.right, self.labelled)


@dataclasses.dataclass(frozen=True, slots=True)
class VerdictCounts:
    """Responses by what the teacher called them and what they are; `without_verdict`: it called them nothing."""

    right_called_right: int
    wrong_called_right: int
    right_called_wrong: int
    wrong_called_wrong: int
    without_verdict: int

    @property
    def precision_of_right(self) -> float | None:
        """Table 5, class True: the share of right responses among those called right; None where none was."""
        return _share(self.right_called_right, self.right_called_right + self.wrong_called_right)

    @property
    def precision_of_wrong(self) -> float | None:
        """Table 5, class False: the share of wrong responses among those called wrong; None where none was."""
        return _share(self.wrong_called_wrong, self.right_called_wrong + self.wrong_called_wrong)

    @property
    def accuracy(self) -> float | None:
        """The share called what they are, of those with a verdict: how far one agrees with a verifier that knows."""
        return _share(self.right_called_right + self.wrong_called_wrong, _with_verdict(self))

    @property
    def kappa(self) -> float | None:
        """That agreement beyond chance: Cohen's κ; None where chance alone would agree on all."""
        if not (total := _with_verdict(self)):
            return None
        right = self.right_called_right + self.right_called_wrong
        called = self.right_called_right + self.wrong_called_right
        by_chance = (right * called + (total - right) * (total - called)) / total**2
        agreement = (self.right_called_right + self.wrong_called_wrong) / total
        return (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else None

    @property
    def right_accepted(self) -> float | None:
        """The share called right of the right ones."""
        return _share(self.right_called_right, self.right_called_right + self.right_called_wrong)

    @property
    def wrong_accepted(self) -> float | None:
        """The share called right of the wrong ones."""
        return _share(self.wrong_called_right, self.wrong_called_right + self.wrong_called_wrong)

    @property
    def share_unreadable(self) -> float | None:
        """The share without a verdict; of a judge, those that could not be read."""
        return _share(self.without_verdict, _with_verdict(self) + self.without_verdict)

    @property
    def shares(self) -> dict[str, float] | None:
        """Fig. 9: the shares of the four kinds among the responses with a verdict; None where there is none."""
        counts = {name: value for name, value in dataclasses.asdict(self).items() if name != "without_verdict"}
        total = sum(counts.values())
        return {name: value / total for name, value in counts.items()} if total else None


@dataclasses.dataclass(frozen=True, slots=True)
class GradeStatistics:
    """Responses that a judge graded, `counts` by grade; `unreadable` further ones have no grade.

    Against the rubric of a generated world: the shares of grades that are `exact` and `within_one`, Spearman's
    `rank_correlation`, and what the mean grade should be; None where there is no such rubric.
    """

    responses: int
    unreadable: int
    mean: float | None
    counts: dict[str, int]
    exact: float | None = None
    within_one: float | None = None
    rank_correlation: float | None = None
    mean_by_rubric: float | None = None

    def __str__(self) -> str:
        said = "none" if self.mean is None else f"{self.mean:.2f} on average"
        if self.exact is not None:
            said += (
                f" ({self.mean_by_rubric:.2f} by the rubric, {self.exact:.1%} equal, {self.within_one:.1%} within 1)"
            )
        return said


@dataclasses.dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The responses whose scores lie in one bin: how many, their mean score, and the share of right ones; or None."""

    count: int
    mean_score: float | None
    share_right: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class JudgeQuality:
    """A judge's verdicts, and the share of the next token's probability that Yes and No have together.

    `area_under_curve` of its scores, right responses against wrong ones; None where there are not both.
    `mean_yes_no_mass` is None of a judge without such tokens. `reliability`: the scores in ten bins of width 0.1, by
    number, 1 being in the last. `agreement_with_label`: the share of responses that the judge and the pseudo-label, the
    verifier of a row without gold answers, call alike, of those with both verdicts; None where there is none.
    `attacks_accepted`: the share called right of the attacks on `attacked_queries` that have a verdict, by kind
    (`rkd.judges.attacks`); a kind without any verdict is not in it.
    """

    verdicts: VerdictCounts
    area_under_curve: float | None
    mean_yes_no_mass: float | None
    reliability: dict[str, ReliabilityBin] = dataclasses.field(default_factory=dict)
    agreement_with_label: float | None = None
    attacked_queries: int = 0
    attacks_accepted: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def expected_calibration_error(self) -> float | None:
        """Σ_b n_b/n |mean score − share right| over the bins (arXiv:1706.04599, Eq. 3); None without a score."""
        filled = [
            (one.count, abs(one.mean_score - one.share_right))
            for one in self.reliability.values()
            if one.mean_score is not None and one.share_right is not None  # of an empty bin both are None
        ]
        total = sum(count for count, _ in filled)
        return sum(count * error for count, error in filled) / total if total else None

    @property
    def mean_attacks_accepted(self) -> float | None:
        """Over the kinds; None where no attack was tried, or none has a verdict."""
        shares = self.attacks_accepted.values()
        return sum(shares) / len(shares) if shares else None


def _with_verdict(counts: VerdictCounts) -> int:
    return int(sum(dataclasses.astuple(counts))) - counts.without_verdict


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
