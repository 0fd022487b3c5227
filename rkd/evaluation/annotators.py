"""Annotators: what compares a response with its reference where a task is open-ended, as a configuration names it."""

from typing import Protocol, TypeGuard

from rkd.data.judge_prompts import VerdictPrompt
from rkd.judges.base import ConfiguredJudge, NoJudge, open_judge
from rkd.judges.endpoint_single_token import EndpointYesNo
from rkd.judges.single_token import LocalYesNo
from rkd.judges.written import Written
from rkd.store.partial_results import PartialResults


class ConfiguredAnnotator(ConfiguredJudge, Protocol):
    """A judge that can say which of two responses is better."""

    @property
    def prompt(self) -> VerdictPrompt:
        """What it is asked."""
        ...


def _annotates(judge: ConfiguredJudge | NoJudge) -> TypeGuard[ConfiguredAnnotator]:
    return judge.annotates


OpenAnnotator = LocalYesNo | EndpointYesNo | Written
"""An annotator with its model loaded."""


def open_annotator(annotator: ConfiguredJudge | NoJudge, partial: PartialResults) -> OpenAnnotator:
    """An annotator, its model loaded; one behind a server keeps what it was answered in `partial`."""
    opened = open_judge(annotator, partial=partial)
    assert isinstance(opened, OpenAnnotator)  # `check_annotator` refuses others
    return opened


def check_annotator(annotator: ConfiguredJudge | NoJudge, dataset: str) -> None:
    """Refuse what cannot annotate.

    Raises:
        ValueError: it is none, or its prompt asks about one response.
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
