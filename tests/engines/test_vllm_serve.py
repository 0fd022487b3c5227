"""`vllm serve` as teacher and judge. RKD_VLLM_PYTHON names a Python with vLLM (`tests/engines/vllm.sh`).

RKD_VLLM_PYTHON=vllm_env/bin/python pytest -m "" -n 0 tests/engines/test_vllm_serve.py
"""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import read_template
from rkd.errors import EndpointError
from rkd.generation.endpoint_client import JOURNAL
from rkd.generation.endpoint_server import Server
from rkd.generation.endpoint_teacher import EndpointTeacher
from rkd.generation.local import REPOSITORY, open_generator
from rkd.judges.endpoint_single_token import EndpointJudge
from rkd.judges.single_token import YesNoJudge
from rkd.models.loading import ModelOptions
from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query, Response
from rkd.store.partial_results import PartialResults
from tests.support.server_process import free_port, running

PYTHON = os.environ.get("RKD_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="RKD_VLLM_PYTHON names no Python with vLLM (tests/engines/vllm.sh)"),
]
pytest.importorskip("openai", reason="optional: pip install -r requirements-openai.txt")

MODELS = REPOSITORY / "rkd" / "mini" / "checkpoints"
PROMPT = read_template(REPOSITORY / "conf" / "dataset" / "prompt", "math").zero_shot()
SMOLLM2 = REPOSITORY / "checkpoints" / "smollm2_135m"
NAMES = ("Ada", "Ben", "Eva", "Max")
FLOAT32 = ModelOptions(device="cpu", dtype="float32")


def queries(count: int) -> list[Query]:
    return [
        Query(
            f"q{i}", "mini_math", f"{NAMES[i % 4]} has {i + 5} nuts and buys {i % 9 + 3} more. How many nuts is that?"
        )
        for i in range(count)
    ]


@contextmanager
def served(model: str, folder: Path, port: int, checkpoint: Path | None = None) -> Iterator[str]:
    """The address of `vllm serve`, without chunks of prompts: its generators with a seed cannot read one in parts."""
    options = ["--dtype", "float32", "--max-model-len", "1024", "--generation-config", "vllm", "--enforce-eager"]
    seeds = ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"]
    place = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", model]
    command = [str(Path(PYTHON).parent / "vllm"), "serve", str(checkpoint or MODELS / model), *place, *options, *seeds]
    with running(command, port, "/health", folder / f"{port}.log", seconds=300, VLLM_CPU_KVCACHE_SPACE="1") as url:
        yield url


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with served("mini_large", tmp_path_factory.mktemp("serve"), free_port()) as address:
        yield address


def teacher(
    url: str, *, model: str = "mini_large", prompt=PROMPT, requests: str = "completion", **options
) -> EndpointTeacher:
    server = Server(base_url=url, max_attempts=options.pop("max_attempts", 2), **options)
    return EndpointTeacher(name=model, model=model, prompt=prompt, requests=requests, server=server)


def test_greedy_texts_are_those_of_the_model_here(url, tmp_path):
    asked, greedy = queries(24), Sampling(0.0, 1, 96)
    served_texts = teacher(url).open("teacher", PartialResults(tmp_path)).generate(asked, greedy, 0)
    here = open_generator(Checkpoint(MODELS / "mini_large", ""), PROMPT, "teacher", options=FLOAT32)
    assert served_texts == here.generate(asked, greedy, 0)


def test_samples_of_a_seed_are_the_same_again(url, tmp_path):
    asked, sampling = queries(12), Sampling(2.0, 4, 48)
    first, same, other = (
        teacher(url).open("teacher", PartialResults(tmp_path / name)).generate(asked, sampling, seed)
        for name, seed in (("first", 0), ("same", 0), ("other", 1))
    )
    assert first == same != other
    assert any(len({one.text for one in own}) > 1 for own in first)


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="no model: python -m rkd models get smollm2_135m")
def test_a_chat_has_the_system_turn_that_the_model_has_here(tmp_path):
    asked, greedy = queries(8), Sampling(0.0, 1, 32)
    chat = dataclasses.replace(PROMPT, is_chat=True)
    here = open_generator(Checkpoint(SMOLLM2, ""), chat, "teacher", options=FLOAT32).generate(asked, greedy, 0)
    with served("smollm2", tmp_path, free_port(), SMOLLM2) as address:
        asking = teacher(address, requests="chat", model="smollm2", prompt=chat)
        there = asking.open("teacher", PartialResults(tmp_path / "kept")).generate(asked, greedy, 0)
    # Two likeliest tokens that float32 cannot tell apart may fall either way.
    assert sum(one[0].text == other[0].text for one, other in zip(here, there, strict=True)) >= len(asked) - 1


def test_a_prompt_that_is_too_long_is_refused_in_the_servers_words(url, tmp_path):
    long = [Query("long", "mini_math", "Ada has 5 nuts. " * 2000)]
    with pytest.raises(EndpointError, match="status 400") as error:
        teacher(url).open("teacher", PartialResults(tmp_path)).generate(long, Sampling(0.0, 1, 16), 0)
    assert "maximum" in str(error.value)
    assert "length" in str(error.value)


def test_a_thousand_requests_outlive_a_server_that_is_killed(tmp_path):
    asked, sampling, port = queries(1000), Sampling(1.0, 1, 24), free_port()
    kept, answers = PartialResults(tmp_path / "kept"), []
    patient = {"max_attempts": 100, "first_wait_seconds": 0.5, "longest_wait_seconds": 3.0, "requests_in_flight": 32}

    def ask(address: str) -> None:
        answers.extend(teacher(address, **patient).open("teacher", kept).generate(asked, sampling, 0))

    with served("mini_large", tmp_path, port) as address:
        asking = threading.Thread(target=ask, args=(address,))
        asking.start()
        while len(list(kept.journal(JOURNAL).rows())) < 200:
            assert asking.is_alive()
            time.sleep(0.1)
    killed_at = len(list(kept.journal(JOURNAL).rows()))
    assert killed_at < 1000
    with served("mini_large", tmp_path, port):
        asking.join(300)
    rows = list(kept.journal(JOURNAL).rows())
    assert len(answers) == len(rows) == len({row["key"] for row in rows}) == 1000
    assert [own[0].query_id for own in answers] == [query.id for query in asked]


def test_a_verdict_is_that_of_the_judge_here(tmp_path):
    asked, responses = [], []
    for place, query in enumerate(queries(24)):
        right = place + 5 + place % 9 + 3
        for at, text in enumerate((f"The answer is {right}.", f"The answer is {right + 1}.")):
            asked.append(query)
            responses.append(Response(query.id, "model", at, text, True))
    prompt, folder = JudgePrompt(), MODELS / "mini_judge"
    own = YesNoJudge(name="mini_judge", name_or_path=str(folder), prompt=prompt, options=FLOAT32)
    here = own.open().verdicts(asked, responses)
    with served("mini_judge", tmp_path, free_port()) as address:
        judge = EndpointJudge(
            name="judge", model="mini_judge", prompt=prompt, requests="completion", server=Server(base_url=address)
        )
        there = judge.open().verdicts(asked, responses)
    assert max(abs(one.score - other.score) for one, other in zip(here, there, strict=True)) < 1e-3
