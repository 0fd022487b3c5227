"""A server that others wrote: `transformers serve` with a mini model says what the model says here."""

import sys
from collections.abc import Iterator

import pytest

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import read_template
from rkd.errors import EndpointError
from rkd.generation.endpoint_client import JOURNAL
from rkd.generation.endpoint_server import Server
from rkd.generation.endpoint_teacher import EndpointTeacher
from rkd.generation.local import REPOSITORY, open_generator
from rkd.judges.endpoint_single_token import EndpointJudge
from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query, Response
from rkd.store.partial_results import PartialResults
from tests.support.server_process import free_port, running

pytestmark = pytest.mark.slow
for package in ("openai", "fastapi", "uvicorn"):
    pytest.importorskip(package, reason="optional: pip install -r requirements-openai.txt fastapi uvicorn")

MODEL = REPOSITORY / "rkd" / "mini" / "checkpoints" / "mini_1"
PROMPT = read_template(REPOSITORY / "conf" / "dataset" / "prompt", "math").zero_shot()
NAMES = ("Ada", "Ben", "Eva", "Max")
QUERIES = [
    Query(f"q{i}", "mini_math", f"{NAMES[i % 4]} has {i + 5} nuts and buys {2 * i + 3} more. How many nuts is that?")
    for i in range(24)
]
SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    port = free_port()
    place = ("--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port))
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    command = [sys.executable, "-c", SERVE, "serve", str(MODEL), *place]
    with running(command, port, "/health", log) as address:
        yield address


def test_greedy_texts_are_those_of_the_model_here(url, tmp_path):
    greedy = Sampling(0.0, 1, 96)
    teacher = _teacher(url)
    served = teacher.open("teacher", PartialResults(tmp_path)).generate(QUERIES, greedy, 0)
    here = open_generator(Checkpoint(MODEL, ""), PROMPT, "teacher").generate(QUERIES, greedy, 0)
    assert served == here
    assert sum(own[0].is_finished for own in here) > len(here) / 2


def test_one_choice_at_a_time_is_completed(url, tmp_path):
    # It takes a temperature only of a model whose generation config samples, so that the four are one text.
    (own,) = _teacher(url).open("teacher", PartialResults(tmp_path)).generate(QUERIES[:1], Sampling(1.0, 4, 48), 0)
    assert [one.sample_index for one in own] == [0, 1, 2, 3]
    assert [len(row["answers"]) for row in PartialResults(tmp_path).journal(JOURNAL).rows()] == [1, 1, 1, 1]


def test_ignored_logprobs_are_said(url):
    server = Server(base_url=url)
    judge = EndpointJudge(name="judge", model=str(MODEL), prompt=JudgePrompt(), requests="completion", server=server)
    with pytest.raises(EndpointError, match="lists no log-probabilities"):
        judge.open().judge(QUERIES[:1], [Response(QUERIES[0].id, "model", 0, "The answer is 1.", True)])


def _teacher(url: str) -> EndpointTeacher:
    server = Server(base_url=url, requests_in_flight=2, max_attempts=2)
    return EndpointTeacher(name="mini_1", model=str(MODEL), prompt=PROMPT, requests="completion", server=server)
