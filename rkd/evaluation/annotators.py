"""Annotators, which compare responses with references in open-ended tasks: configured ones enter, loaded ones leave."""

from typing import Protocol, TypeGuard

from rkd.data.judge_prompts import VerdictPrompt
from rkd.judges.base import ConfiguredJudge, NoJudge, open_judge
from rkd.judges.endpoint_single_token import EndpointYesNo
from rkd.judges.single_token import LocalYesNo
from rkd.judges.written import Written
from rkd.store.partial_results import PartialResults


class ConfiguredAnnotator(ConfiguredJudge, Protocol):
    """A judge that can state which of two responses is better."""

    @property
    def prompt(self) -> VerdictPrompt:
        """The prompt of the annotator."""
        ...


def _annotates(judge: ConfiguredJudge | NoJudge) -> TypeGuard[ConfiguredAnnotator]:
    return judge.annotates


OpenAnnotator = LocalYesNo | EndpointYesNo | Written
"""An annotator with its model loaded."""


def open_annotator(annotator: ConfiguredJudge | NoJudge, partial: PartialResults) -> OpenAnnotator:
    """The annotator with its model loaded; one behind a server keeps its replies in `partial`."""
    opened = open_judge(annotator, partial=partial)
    assert isinstance(opened, OpenAnnotator)  # `check_annotator` refuses others
    return opened


def check_annotator(annotator: ConfiguredJudge | NoJudge, dataset: str) -> None:
    """Check that the judge can annotate.

    Raises:
        ValueError: the judge does not annotate, or its prompt shows the wrong number of responses for it.
    """
    if not _annotates(annotator):
        raise ValueError(
            f"dataset={dataset} is open-ended: its responses are compared with references, and "
            "evaluation/annotator=none compares none. Take `python run.py evaluation/annotator=mini_grader`, the "
            "teacher, `evaluation/annotator=teacher`, or a server, `evaluation/annotator=endpoint "
            "evaluation.annotator.model=NAME`."
        )
    if annotator.is_single_token != annotator.prompt.shows_two_responses:
        raise ValueError(
            "evaluation.annotator.prompt must show two responses where the annotator answers with one token "
            "(conf/judge/prompt/compare.yaml), and one where it grades (conf/judge/prompt/rubric.yaml)."
        )
