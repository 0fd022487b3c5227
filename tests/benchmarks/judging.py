"""Judging 1,024 responses, 8 to each of 128 queries: all in one call against one call each, on mini_judge.

    python tests/benchmarks/judging.py

All responses differ and none is remembered, so that each is read: half are written solutions of mini_math, half wrong
ones. The cores are used as a job uses them: one in each operation, since copies of a small model share them out. A call
alone has one copy, so it is measured with all cores in each operation as well. All give the same verdicts, which is
checked.
"""

import itertools
import random
import time
from collections.abc import Callable
from statistics import median

from common import checkpoint, in_turn, ratio, write_result  # first: it makes rkd importable

from rkd.data.judge_prompts import JudgePrompt
from rkd.judges.base import Remembered, Verdict
from rkd.judges.single_token import LocalYesNo
from rkd.mini.math import STYLES, solve, stories, tell, write_response
from rkd.mini.mistakes import wrong_response
from rkd.models.cpu_workers import cores
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.records import Query, Response

QUERIES, SAMPLES, ROUNDS = 128, 8, 7
SETTINGS = {
    "queries": QUERIES, "responses_per_query": SAMPLES, "rounds": ROUNDS, "model": "mini_judge",
    "dataset": "mini_math, training stories", "precision": "float32",
}  # fmt: skip
TOLERANCE = 1e-4  # of a score: rows of other lengths round differently


def written_responses() -> tuple[list[Query], list[Response]]:
    """The queries, each as often as it has responses, and these; all texts of a query differ."""
    rng, queries, responses = random.Random(0), [], []
    for place, story in enumerate(itertools.islice(stories("train", 0), QUERIES)):
        problem, operations = tell(story, ""), solve(story.sentences)
        texts = dict.fromkeys(write_response(operations, style) for style in STYLES)
        while len(texts) < SAMPLES:
            texts[wrong_response(rng, problem.question, operations, rng.choice(STYLES))] = None
        query = Query(f"q{place}", "mini_math", problem.question)
        queries += [query] * SAMPLES
        responses += [Response(query.id, "written", sample, text, True) for sample, text in enumerate(texts)]
    return queries, responses


def main() -> None:
    """Measure in turn, compare the verdicts, write."""
    model, tokenizer = load_causal_lm(checkpoint("mini_judge")).eval(), load_tokenizer(checkpoint("mini_judge"))
    queries, responses = written_responses()
    found: dict[str, list[Verdict]] = {}

    def seconds(name: str, judge_all: Callable[[LocalYesNo], list[Verdict]], *, small_models: bool = True) -> float:
        judge = LocalYesNo(model, tokenizer, JudgePrompt(), remembered=Remembered(limit=0))
        with cores(None, small_models=small_models):
            start = time.perf_counter()
            found[name] = judge_all(judge)
            return time.perf_counter() - start

    def one_by_one(judge: LocalYesNo) -> list[Verdict]:
        return [judge.verdicts([query], [response])[0] for query, response in zip(queries, responses, strict=True)]

    measures = {
        "together": lambda: seconds("together", lambda judge: judge.verdicts(queries, responses)),
        "one_by_one": lambda: seconds("one_by_one", one_by_one),
        "one_by_one_all_cores": lambda: seconds("one_by_one_all_cores", one_by_one, small_models=False),
    }
    taken = in_turn(measures, ROUNDS)
    scores = [[verdict.score for verdict in verdicts] for verdicts in found.values()]
    difference = max(max(own) - min(own) for own in zip(*scores, strict=True))
    if difference > TOLERANCE:
        raise ValueError(f"verdicts differ by {difference:.2g} when responses are read together: they should not.")
    measured = {
        "seconds": {name: median(times) for name, times in taken.items()},
        "times_faster": {name: ratio(taken["together"], taken[name]) for name in taken if name != "together"},
        "largest_difference_of_a_score": difference,
    }
    write_result("judging", SETTINGS, measured)


if __name__ == "__main__":
    main()
