"""The pairs of a row, through the store: labelled queries enter, pairs of teacher and student responses leave.

The same student samples select the queries of reinforcement learning (Eq. 4).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from rkd.data.prompts import PromptTemplate
from rkd.pipeline.dry_pass import made_up_responses
from rkd.pipeline.experiment import samples_student
from rkd.pipeline.label import Labelled, Labelling
from rkd.records import Checkpoint, PreferencePair, Query, ScoredResponse, digest_of
from rkd.rl.reward_mix import Stream
from rkd.stages.labels import score
from rkd.stages.student_samples import balanced

# Ways to get queries into an empty stream.
WAYS: dict[Stream, str] = {
    "balanced": "No query kept both right and wrong student samples (Eq. 4). Raise student_samples.samples_per_query "
    "or dataset.max_training_queries.",
    "labelled": "No training query has a label. Lower labels.threshold.",
    "unlabelled": "Take a dataset with such queries, `dataset=mini_math_aug`, leave some of these without a label, "
    "`dataset.labelled_fraction=0.5`, or ask them all, `queries=all`.",
    "all": "The dataset has no training queries.",
}


class PairSource(Protocol):
    """Draws pairs from scored responses."""

    def pair(
        self,
        queries: Sequence[Query],
        teacher_scored: Sequence[Sequence[ScoredResponse]],
        student_scored: Sequence[Sequence[ScoredResponse]],
        seed: int,
        prompt: PromptTemplate,
    ) -> list[PreferencePair]:
        """The pairs of all queries."""
        ...


class Pairing(Labelling):
    """The steps of one row that sample the student, make pairs and select the queries of reinforcement learning."""

    def pair(self, sft: Checkpoint, labelled: Labelled) -> tuple[list[Query], list[PreferencePair]]:
        """Sample the SFT student; return the queries of D_R, and the pairs of teacher and student responses.

        Both are empty in a row that needs neither.
        """
        s, split = self.stages, labelled.split
        if not samples_student(s):
            return [], []
        known, scores = self._student_samples(sft, labelled)
        if s.is_dry_pass and not self._suffice(s.pairs, known, scores):
            known, scores = self._made_up(known)
        queries = [known.queries[i] for i in balanced(scores)]
        pairs = s.pairs.pair(known.queries, known.scored, scores, s.sampling_seed, s.zero_shot)
        sources = ["labels", "teacher_first_training", "teacher_second_training", f"student_samples_{split}"]
        self.runner.note("pairs", pairs, digest_of(pairs), made_from=sources)
        across = sum(pair.chosen.response.generator != pair.rejected.response.generator for pair in pairs)
        self.notes.counts |= {
            f"{split}_balanced_queries": len(queries), f"{split}_pairs": len(pairs), f"{split}_teacher_pairs": across,
        }  # fmt: skip
        return queries, pairs

    def streams(self, labelled: Labelled, balanced_queries: list[Query]) -> dict[Stream, list[Query]]:
        """The queries for reinforcement learning, by stream.

        Raises:
            ValueError: a stream that the reward mix uses has no queries.
        """
        s, data = self.stages, self.stages.dataset
        unlabelled = data.unlabelled_queries()
        streams: dict[Stream, list[Query]] = {
            "balanced": balanced_queries,
            "labelled": labelled.with_label().queries,
            "unlabelled": unlabelled,
            "all": [*labelled.queries, *unlabelled],
        }
        if not s.rl.is_left_out:
            for name, (_, source) in s.reward_mix.used.items():
                if not streams[source.queries]:
                    raise ValueError(
                        f"reward_mix.{name}.queries={source.queries}: there are none. {WAYS[source.queries]}"
                    )
            self.notes.counts |= {f"{stream}_queries": len(streams[stream]) for stream in s.reward_mix.streams}
        return streams

    def validation_pairs(self, sft: Checkpoint, labelled: Labelled) -> list[PreferencePair]:
        """The validation pairs of the reward model, the same for all training pairs; empty without a reward model."""
        s = self.stages
        if s.reward_model.is_left_out:
            return []
        known, scores = self._student_samples(sft, labelled)
        if s.is_dry_pass and not self._suffice(s.validation_pairs, known, scores):
            known, scores = self._made_up(known)
        pairs = s.validation_pairs.pair(known.queries, known.scored, scores, s.sampling_seed)
        self.notes.counts[f"{labelled.split}_pairs"] = len(pairs)
        return pairs

    def _suffice(self, pairs: PairSource, known: Labelled, scores: Sequence[Sequence[ScoredResponse]]) -> bool:
        """Whether a pair of complete responses can be drawn, and a query for reinforcement learning."""
        s = self.stages
        try:
            drawn = pairs.pair(known.queries, known.scored, scores, s.sampling_seed, s.zero_shot)
        except ValueError:  # there is none
            return False
        sides = ((pair.chosen.response, pair.rejected.response) for pair in drawn)
        return bool(balanced(scores)) and any(a.defect is None and b.defect is None for a, b in sides)

    def _made_up(self, known: Labelled) -> tuple[Labelled, list[list[ScoredResponse]]]:
        """The queries with made-up responses of the teacher, and made-up samples of the student, for a dry pass."""
        best = self.stages.highest_score
        of_teacher, of_student = (made_up_responses(role, known.queries, best) for role in ("teacher", "student"))
        self._note_made_up(known.split, "student", of_student)
        return replace(known, scored=of_teacher), of_student

    def _student_samples(self, sft: Checkpoint, labelled: Labelled) -> tuple[Labelled, list[list[ScoredResponse]]]:
        """The labelled queries of a split, and the student's scored samples for each."""
        s, known = self.stages, labelled.with_label()
        sampled = self._responses(
            f"student_samples_{labelled.split}",
            {
                "stage": s.student_samples,
                "student": sft,
                "prompt": s.zero_shot,
                "sampling_seed": s.sampling_seed,
                "options": s.student.options,
                "generation": self._generation_fingerprint(sft),
            },
            known.queries,
            ("student", sft, s.zero_shot, s.student_samples.sample),
        )
        if s.labels.is_graded:
            name = f"student_samples_{labelled.split}"
            scores = self._grades(s.labels, name, "the student's samples", known.queries, sampled)
        else:
            scores = score(known.queries, sampled, known.labels)
        self._note_student_samples(labelled.split, scores)
        return known, scores

    def _note_student_samples(self, split: str, scored: Sequence[Sequence[ScoredResponse]]) -> None:
        """Print the numbers of the student's samples; warn if most are cut, which can leave none to use."""
        kept, flat = balanced(scored), [one for own in scored for one in own]
        best = self.stages.highest_score
        all_best = sum(all(one.score == best for one in own) for own in scored)
        found = ("different grades", f"of grade {best:g}", "of one lower grade")
        if best == 1:
            found = ("right and wrong student samples", "right", "wrong")
        self.runner.say(
            f"    {len(scored)} {split} queries: {len(kept)} with {found[0]}, {all_best} all {found[1]}, "
            f"{len(scored) - len(kept) - all_best} all {found[2]}"
        )
        defects = Counter(one.response.defect for one in flat)
        cut, blank = defects["length"], defects["empty"]
        if cut or blank:
            self.notes.counts |= {f"{split}_student_cut": cut, f"{split}_student_empty": blank}
            self.runner.say(f"    {cut} of {len(flat)} samples were cut at the limit, {blank} are empty")
        truncated = sum(not one.response.is_finished for one in flat) / max(1, len(flat))
        if truncated > 0.5:
            self.runner.warn(
                f"{truncated:.0%} of the student's {split} samples do not stop within "
                f"student_samples.max_response_tokens={self.stages.student_samples.max_response_tokens}: raise it, or "
                "train the student to stop (sft=mini, more sft.epochs)."
            )
