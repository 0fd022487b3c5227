"""Annotators: what compares a response with its reference where a task is open-ended, as a configuration names it."""

from rkd.judges.base import ConfiguredJudge, NoJudge


def check_annotator(annotator: ConfiguredJudge | NoJudge, dataset: str) -> None:
    """Refuse what cannot annotate.

    Raises:
        ValueError: it is none, or its prompt asks about one response.
    """
    if not annotator.annotates:
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
