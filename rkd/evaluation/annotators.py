"""Annotators: what compares a response with its reference where a task is open-ended, as a configuration names it."""

from rkd.data.judge_prompts import ComparePrompt
from rkd.judges.base import NoJudge
from rkd.judges.endpoint_single_token import EndpointJudge
from rkd.judges.endpoint_written import EndpointWrittenJudge
from rkd.judges.single_token import YesNoJudge
from rkd.judges.written import WrittenJudge

Comparing = YesNoJudge | EndpointJudge
Grading = WrittenJudge | EndpointWrittenJudge
Annotator = Comparing | Grading
"""The annotator of a configuration: a judge of one token whose prompt is a `ComparePrompt`, or a judge that grades."""


def check_annotator(annotator: Annotator | NoJudge, dataset: str) -> None:
    """Refuse what cannot annotate.

    Raises:
        ValueError: it is none, or its prompt asks about one response.
    """
    if not isinstance(annotator, Annotator):
        raise ValueError(
            f"dataset={dataset} is open-ended: its responses are compared with references, and "
            "evaluation/annotator=none compares none. Take `python run.py evaluation/annotator=mini_grader`, the "
            "teacher, `evaluation/annotator=teacher`, or a server, `evaluation/annotator=endpoint "
            "evaluation.annotator.model=NAME`."
        )
    if isinstance(annotator, Comparing) != isinstance(annotator.prompt, ComparePrompt):
        raise ValueError(
            "evaluation.annotator.prompt must show two responses where the annotator answers with one token "
            "(conf/judge/prompt/compare.yaml), and one where it grades (conf/judge/prompt/rubric.yaml)."
        )
