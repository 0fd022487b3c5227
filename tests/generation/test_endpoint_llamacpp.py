"""A server that others wrote: llama.cpp's, with mini models as GGUF files, says what these say here."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import read_template
from rkd.generation.endpoint_server import Server
from rkd.generation.endpoint_teacher import EndpointTeacher
from rkd.generation.local import REPOSITORY, open_generator
from rkd.judges.endpoint_single_token import EndpointJudge
from rkd.judges.single_token import YesNoJudge
from rkd.models.loading import load_tokenizer
from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query, Response
from rkd.store.partial_results import PartialResults
from tests.support import gguf_export
from tests.support.server_process import free_port, running

pytestmark = pytest.mark.slow
for package in ("llama_cpp", "gguf", "openai"):
    pytest.importorskip(package, reason="optional, built from source: pip install -r requirements-llamacpp.txt")

MODELS = REPOSITORY / "rkd" / "mini" / "checkpoints"
PROMPT = read_template(REPOSITORY / "conf" / "dataset" / "prompt", "math").zero_shot()
NAMES = ("Ada", "Ben", "Eva", "Max")
QUERIES = [
    Query(f"q{i}", "mini_math", f"{NAMES[i % 4]} has {i + 5} nuts and buys {2 * i + 3} more. How many nuts is that?")
    for i in range(24)
]
# Of these 72 verdicts the largest deviation was 0.0003, 0.0004 and 0.010.
ALLOWED = {"f32": 0.001, "f16": 0.001, "q8_0": 0.02}
# The server's own are top_k 40, min_p 0.05 and a penalty of 1.1 on what was said before, which changes greedy texts.
PLAIN_SAMPLING = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}


@contextmanager
def served(model: str, quantisation: gguf_export.Quantisation, folder: Path) -> Iterator[str]:
    """The address of a server with the model."""
    file, log = folder / f"{model}.{quantisation}.gguf", folder / "log.txt"
    gguf_export.export(MODELS / model, file, quantisation)
    port = free_port()
    place = {"model": file, "model_alias": model, "host": "127.0.0.1", "port": port, "n_ctx": 1024}
    options = {**place, "logits_all": "true", "n_threads": 1, "n_threads_batch": 1}
    command = [sys.executable, "-m", "llama_cpp.server", *(f"--{name}={value}" for name, value in options.items())]
    with running(command, port, "/v1/models", log) as address:
        yield address


def _asked() -> tuple[list[Query], list[Response]]:
    """A right response to each query, one that adds wrongly, and one without steps."""
    queries, responses = [], []
    for i, query in enumerate(QUERIES):
        right = 3 * i + 8
        steps = (f"Step 1: {i + 5} + {2 * i + 3} = {value}.\nThe answer is {value}." for value in (right, right + 10))
        for at, text in enumerate((*steps, f"The answer is {right - 1}.")):
            queries.append(query)
            responses.append(Response(query.id, "model", at, text, True))
    return queries, responses


@pytest.mark.parametrize("quantisation", list(ALLOWED))
def test_a_verdict_is_that_of_the_model_here(tmp_path, quantisation):
    queries, responses = _asked()
    prompt, folder = JudgePrompt(), MODELS / "mini_judge"
    here = YesNoJudge(name="mini_judge", name_or_path=str(folder), prompt=prompt).open().verdicts(queries, responses)
    with served("mini_judge", quantisation, tmp_path) as url:
        server = Server(base_url=url, requests_in_flight=4, max_attempts=2)
        judge = EndpointJudge(name="judge", model="mini_judge", prompt=prompt, requests="completion", server=server)
        there = judge.open().verdicts(queries, responses)
        texts = [prompt.render(query, response.text) for query, response in zip(queries, responses, strict=True)]
        tokens = [_tokens(url, text) for text in texts]
    assert tokens == load_tokenizer(folder)(texts)["input_ids"]
    deviations = [abs(one.score - other.score) for one, other in zip(here, there, strict=True)]
    print(f"{quantisation}: P(Yes) deviates by {max(deviations):.2g} at most, {len(deviations)} verdicts")
    assert max(deviations) < ALLOWED[quantisation]
    assert [one.mass for one in there] == pytest.approx([one.mass for one in here], abs=ALLOWED[quantisation])
    assert max(one.score for one in here) - min(one.score for one in here) > 0.5


@pytest.mark.parametrize("model", ["mini_1", "mini_large"])
def test_greedy_texts_are_those_of_the_model_here(tmp_path, model):
    greedy = Sampling(0.0, 1, 96)
    here = open_generator(Checkpoint(MODELS / model, ""), PROMPT, "teacher").generate(QUERIES, greedy, 0)
    with served(model, "f32", tmp_path) as url:
        server = Server(base_url=url, requests_in_flight=4, max_attempts=2)
        own = {"name": model, "model": model, "prompt": PROMPT, "requests": "completion", "server": server}
        teacher = EndpointTeacher(**own, extra_body=PLAIN_SAMPLING)
        there = teacher.open("teacher", PartialResults(tmp_path / "progress")).generate(QUERIES, greedy, 0)
    assert there == here
    assert sum(own[0].is_finished for own in here) > len(here) / 2


def _tokens(url: str, text: str) -> list[int]:
    """How the server reads a text."""
    body, kind = json.dumps({"input": text}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(url.removesuffix("/v1") + "/extras/tokenize", body, kind)
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)["tokens"]
