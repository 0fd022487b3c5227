"""Records of labels, verdicts and grades in a result: counts, and the shares of them in tables and figures.

`rkd.evaluation.label_quality` makes the counts. Shares are in [0, 1].
"""

import dataclasses

CONSENSUS_BINS = 10
RELIABILITY_BINS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class LabelStatistics:
    """Pseudo-labels compared with the gold answers: `labelled` of `queries` have a label, `right` of these are right.

    `consensus_histogram` counts the queries by p* in ten bins of width 0.1; 1 is in the last bin.
    """

    queries: int
    labelled: int
    right: int
    consensus_histogram: list[int]

    @property
    def share_without_label(self) -> float:
        """The share of queries without a label (Table 10)."""
        return 1 - self.labelled / self.queries

    @property
    def precision(self) -> float | None:
        """The share of labels that are right; None without labels."""
        return _share(self.right, self.labelled)


@dataclasses.dataclass(frozen=True, slots=True)
class VerdictCounts:
    """Numbers of responses by the teacher's verdict and by the truth; `without_verdict` have no verdict."""

    right_called_right: int
    wrong_called_right: int
    right_called_wrong: int
    wrong_called_wrong: int
    without_verdict: int

    @property
    def precision_of_right(self) -> float | None:
        """Table 5, class True: the share of right responses among those called right; None if none is called right."""
        return _share(self.right_called_right, self.right_called_right + self.wrong_called_right)

    @property
    def precision_of_wrong(self) -> float | None:
        """Table 5, class False: the share of wrong responses among those called wrong; None if none is."""
        return _share(self.wrong_called_wrong, self.right_called_wrong + self.wrong_called_wrong)

    @property
    def accuracy(self) -> float | None:
        """The share of correct verdicts among all verdicts: the agreement with a perfect verifier."""
        return _share(self.right_called_right + self.wrong_called_wrong, _with_verdict(self))

    @property
    def kappa(self) -> float | None:
        """Cohen's κ, the agreement beyond chance; None if chance alone would agree on all."""
        if not (total := _with_verdict(self)):
            return None
        right = self.right_called_right + self.right_called_wrong
        called = self.right_called_right + self.wrong_called_right
        by_chance = (right * called + (total - right) * (total - called)) / total**2
        agreement = (self.right_called_right + self.wrong_called_wrong) / total
        return (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else None

    @property
    def right_accepted(self) -> float | None:
        """The share of right responses that are called right."""
        return _share(self.right_called_right, self.right_called_right + self.right_called_wrong)

    @property
    def wrong_accepted(self) -> float | None:
        """The share of wrong responses that are called right."""
        return _share(self.wrong_called_right, self.wrong_called_right + self.wrong_called_wrong)

    @property
    def share_unreadable(self) -> float | None:
        """The share of responses without a verdict; for a judge, of unreadable verdicts."""
        return _share(self.without_verdict, _with_verdict(self) + self.without_verdict)

    @property
    def shares(self) -> dict[str, float] | None:
        """Fig. 9: the shares of the four kinds among the responses with a verdict; None without verdicts."""
        counts = {name: value for name, value in dataclasses.asdict(self).items() if name != "without_verdict"}
        total = sum(counts.values())
        return {name: value / total for name, value in counts.items()} if total else None


@dataclasses.dataclass(frozen=True, slots=True)
class GradeStatistics:
    """Responses that a judge graded, `counts` by grade; `unreadable` more responses have no grade.

    The other fields compare with the rubric of a generated world: the shares of grades that are `exact` and
    `within_one`, Spearman's `rank_correlation`, and the mean grade by the rubric. They are None without such a rubric.
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
    """The responses whose scores lie in one bin: number, mean score and share of right ones; None in an empty bin."""

    count: int
    mean_score: float | None
    share_right: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class JudgeQuality:
    """The quality of a judge's verdicts.

    `area_under_curve` compares its scores of right and wrong responses; None unless there are both. `mean_yes_no_mass`
    is the probability of Yes and No together as the next token; None for a judge without such tokens. `reliability`
    holds the scores in ten bins of width 0.1, by number; 1 is in the last bin. `agreement_with_label` is the share of
    equal verdicts of the judge and the pseudo-label, the verifier of a row without gold answers, among responses with
    both; None without any. `attacks_accepted` is, by kind (`rkd.judges.attacks`), the share called right among the
    attacks on `attacked_queries` that have a verdict; kinds without verdict are left out.
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
            if one.mean_score is not None and one.share_right is not None  # both are None in an empty bin
        ]
        total = sum(count for count, _ in filled)
        return sum(count * error for count, error in filled) / total if total else None

    @property
    def mean_attacks_accepted(self) -> float | None:
        """Mean of `attacks_accepted` over the kinds; None if no attack was tried, or none has a verdict."""
        shares = self.attacks_accepted.values()
        return sum(shares) / len(shares) if shares else None


def _with_verdict(counts: VerdictCounts) -> int:
    return int(sum(dataclasses.astuple(counts))) - counts.without_verdict


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
