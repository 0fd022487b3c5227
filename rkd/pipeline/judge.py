"""The measures of a row's judge, through the store: responses that it judges enter, the quality of its verdicts leaves.

They are for the report only: no training sees them.
"""

from collections.abc import Sequence

from rkd.evaluation.label_quality import judge_quality
from rkd.evaluation.verdict_counts import JudgeQuality
from rkd.judges.attacks import ATTACKED_QUERIES, attacks
from rkd.pipeline.label import Labelled, Labelling, example_of, percent
from rkd.records import Checkpoint, Query, Response, ScoredResponse
from rkd.stages.judge_training import JUDGED_QUERIES, TrainedJudge
from rkd.stages.labels import score


class Judging(Labelling):
    """The steps of one row that measure how good its judge is."""

    def note_judge(self, labelled: Labelled) -> None:
        """Let the judge, if any, judge the teacher's first-pass responses to the training queries.

        The judge also sees attacks on it as responses to some queries. A judge that grades for the labels is measured
        by its grades.
        """
        s = self.stages
        if s.judge.is_left_out or s.labels.is_graded:
            return
        gold, groups = self._queries("training", labelled=True), self._first_pass(labelled)
        attacked = [(query, kind, text) for query in gold[:ATTACKED_QUERIES] for kind, text in attacks(query).items()]
        quality = self._quality("training", "the teacher's responses", gold, groups, attacked)
        self.notes.judge = quality
        counts = quality.verdicts
        if counts.accuracy is not None:
            self.runner.say(
                f"    of the teacher's responses, {percent(counts.precision_of_right)} of those that the judge calls "
                f"right are right, {percent(counts.precision_of_wrong)} of the others wrong; it accepts "
                f"{percent(quality.mean_attacks_accepted)} of attacks"
            )

    def note_trained_judge(self, sft: Checkpoint, validation: Labelled) -> None:
        """Let a judge that the job has trained judge responses to validation queries, which it was not trained on.

        They are those of the recorded model that was held out, and samples of the SFT student, which the judge will
        reward.
        """
        s = self.stages
        if not isinstance(s.judge, TrainedJudge):
            return
        gold = self._queries("validation", labelled=True)
        self._note_test(
            "held_out", f"responses of {s.judge.held_out.name}", gold, validation, s.judge.held_out.recorded(gold)
        )
        sampled = self._responses(
            "judge_student_samples",
            {
                "stage": s.student_samples, "student": sft, "prompt": s.zero_shot, "sampling_seed": s.sampling_seed,
                "options": s.student.options, "generation": self._generation_fingerprint(sft),
            },
            validation.queries[:JUDGED_QUERIES],
            ("student", sft, s.zero_shot, s.student_samples.sample),
        )  # fmt: skip
        self._note_test("student", "the student's samples", gold[:JUDGED_QUERIES], validation, sampled)

    def _note_test(
        self, name: str, what: str, gold: list[Query], validation: Labelled, responses: Sequence[Sequence[Response]]
    ) -> None:
        groups = score(gold, responses, validation.labels[: len(gold)])
        if not any(groups):
            self.runner.warn(f"the judge is not tested on {what}: there are none to the validation questions.")
            return
        quality = self.notes.judge_tests[name] = self._quality(name, what, gold, groups)
        auc, error = quality.area_under_curve, quality.expected_calibration_error
        if auc is not None and error is not None:
            self.runner.say(
                f"    of {what}, {percent(quality.verdicts.accuracy)} of the judge's verdicts are correct; AUC "
                f"{auc:.3f}, calibration error {error:.3f}"
            )

    def _quality(
        self,
        name: str,
        what: str,
        gold: Sequence[Query],
        groups: Sequence[Sequence[ScoredResponse]],
        attacked: Sequence[tuple[Query, str, str]] = (),
    ) -> JudgeQuality:
        """The quality of the judge's verdicts on these responses, and on attacks: query, kind and text of each."""
        asked = [(query, one.response) for query, own in zip(gold, groups, strict=True) for one in own]
        made = self._judged(name, what, asked)
        by_kind = []
        if attacked:
            fooled = self._judged(
                "attacks", "attacks", [(q, Response(q.id, k, 0, text, True)) for q, k, text in attacked]
            )
            by_kind = [(kind, score) for (_, kind, _), score in zip(attacked, fooled["scores"], strict=True)]
        quality = judge_quality(gold, groups, made["scores"], made["masses"], by_kind, self.stages.judge.threshold)
        if quality.verdicts.without_verdict:
            unread = f"{quality.verdicts.without_verdict} of {len(asked)} verdicts on {what}"
            self.runner.warn(f"{unread} could not be read, and count for nothing.{example_of(made)}")
        return quality
