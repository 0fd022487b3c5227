"""A teacher behind a server that fails: no response is lost, none is paid for twice, and no key is written down."""

import json
import math
import multiprocessing
import time
from collections import Counter
from pathlib import Path

import pytest

from rkd.data.prompts import Example, PromptTemplate
from rkd.errors import EndpointError
from rkd.generation.endpoint_client import JOURNAL
from rkd.generation.endpoint_replies import MalformedReplyError, logprobs_of, read_reply, text_of
from rkd.generation.endpoint_server import Server
from rkd.generation.endpoint_teacher import EndpointTeacher
from rkd.generation.resumable import InShards
from rkd.protocols import Sampling
from rkd.records import Query, Response, read_jsonl, to_json_line
from rkd.store.partial_results import PartialResults
from tests.support.faulty_server import files_with, serving

pytest.importorskip("openai", reason="optional: pip install -r requirements-openai.txt")

PROMPT = PromptTemplate(template="Q: {question}\nA:", examples=[Example("1 + 1?", "The answer is 2.")])
SAMPLING = Sampling((0.0, 0.5, 0.5, 0.9, 0.5), 5, 16)
QUICK = {"first_wait_seconds": 0.01, "longest_wait_seconds": 0.05}
KEY = "secret-0123456789"


def queries(count: int) -> list[Query]:
    return [Query(f"q{i}", "svamp", f"What is {i}?") for i in range(count)]


def teacher_at(url: str, *, requests: str = "chat", prompt: PromptTemplate = PROMPT, **server: object):
    return EndpointTeacher(
        name="big", model="served", prompt=prompt, requests=requests, server=Server(base_url=url, **QUICK | server)
    )


def sample(teacher: EndpointTeacher, folder: Path, count: int, sampling: Sampling = SAMPLING, advance=lambda *_: None):
    """The responses of a stage, as the store asks for them."""
    partial = PartialResults(folder)
    return InShards(teacher.open("teacher", partial, advance), partial, advance).generate(queries(count), sampling, 7)


def test_a_response_is_that_of_its_query_temperature_and_place(tmp_path):
    with serving() as server:
        drawn = sample(teacher_at(server.url), tmp_path, 3)
    assert [[one.sample_index for one in own] for own in drawn] == [[0, 1, 2, 3, 4]] * 3
    for query, own in zip(queries(3), drawn, strict=True):
        assert {one.query_id for one in own} == {query.id}
        assert {one.generator for one in own} == {"teacher"}
        assert all(one.text.startswith(f"Q: {query.question}\nA: by ") and one.is_finished for one in own)
        temperatures = [one.text.split(" by ")[1].split(",")[0] for one in own]
        assert temperatures == ["0", "0.5", "0.5", "0.9", "0.5"]
        assert [one.text.rsplit(", ", 1)[1] for one in own] == ["0", "0", "1", "0", "2"]  # choices of a request
    # Samples at one temperature are one request, each with a seed of its own.
    assert sorted(body.get("n", 1) for body in server.asked) == [1] * 6 + [3] * 3
    assert len({body["seed"] for body in server.asked}) == len(server.asked)
    assert {body["top_p"] for body in server.asked} == {1.0}


def test_chat_shows_examples_as_turns_and_completion_one_text(tmp_path):
    with serving() as server:
        sample(teacher_at(server.url), tmp_path / "chat", 1, Sampling(0.0, 1, 16))
        sample(teacher_at(server.url, requests="completion"), tmp_path / "completion", 1, Sampling(0.0, 1, 16))
    chat, completion = server.asked
    assert [turn["role"] for turn in chat["messages"]] == ["user", "assistant", "user"]
    assert completion["prompt"] == "Q: 1 + 1?\nA:The answer is 2.\n\nQ: What is 0?\nA:"
    assert chat["max_tokens"] == completion["max_tokens"] == 16


def test_a_question_cannot_open_a_turn(tmp_path):
    asked = [Query("q", "svamp", "a <|im_end|> b </s> c <end_of_turn> 1 < 2 [INST]")]
    with serving() as server:
        teacher_at(server.url).open("teacher", PartialResults(tmp_path)).generate(asked, Sampling(0.0, 1, 8), 0)
    said = server.asked[0]["messages"][-1]["content"]
    assert said == "Q: a < |im_end|> b < /s> c < end_of_turn> 1 < 2 [ INST]\nA:"


@pytest.mark.parametrize("requests", ["chat", pytest.param("completion", marks=pytest.mark.slow)])
def test_a_thousand_responses_survive_a_fifth_of_faults(tmp_path, requests):
    advance = []
    with serving(fault_share=0.2, slow_seconds=3.0) as server:
        teacher = teacher_at(server.url, requests=requests, timeout_seconds=2.0, max_attempts=20)
        drawn = sample(teacher, tmp_path, 200, advance=lambda count, _="": advance.append(count))
    texts = [one.text for own in drawn for one in own]
    assert len(texts) == len(set(texts)) == 1000
    assert sum(advance) == 200
    assert len(server.answered) == 600 < len(server.asked)
    # What was answered was not asked again: three temperatures of each of 200 queries, each with one readable reply.
    assert set(Counter(json.dumps(body) for body in server.answered).values()) == {1}
    assert server.most_in_flight > 8
    # Without faults the texts are the same.
    with serving() as good:
        assert sample(teacher_at(good.url, requests=requests), tmp_path / "good", 200) == drawn


@pytest.mark.slow
def test_requests_in_flight_are_as_many_as_allowed_and_five_times_as_fast_as_one_at_a_time(tmp_path):
    fastest: dict[int, float] = {}
    for attempt, in_flight in enumerate((1, 32, 32, 32)):  # other processes may want the cores meanwhile
        with serving(seconds=0.05) as server:
            started = time.perf_counter()
            teacher = teacher_at(server.url, requests_in_flight=in_flight)
            sample(teacher, tmp_path / str(attempt), 96, Sampling(0.0, 1, 8))
            seconds = time.perf_counter() - started
            fastest[in_flight] = min(seconds, fastest.get(in_flight, seconds))
            assert server.most_in_flight <= in_flight
    assert fastest[1] > 5 * fastest[32], fastest


@pytest.mark.parametrize("most", [1, 2])
def test_fewer_choices_than_asked_are_completed_by_further_requests(tmp_path, most):
    with serving(most_choices=most) as server:
        drawn = sample(teacher_at(server.url), tmp_path, 4)
    texts = [one.text for own in drawn for one in own]
    assert len(texts) == len(set(texts)) == 20
    assert Counter(body.get("n", 1) for body in server.asked) == (
        {1: 8 + 4, 2: 4, 3: 4} if most == 1 else {1: 12, 3: 4}
    )


def test_choices_in_one_request_can_be_limited(tmp_path):
    with serving() as server:
        sample(teacher_at(server.url, choices_per_request=1), tmp_path, 2)
    assert all("n" not in body for body in server.asked)
    assert len(server.asked) == 10


def test_a_server_that_gives_no_choice_is_named(tmp_path):
    with serving(most_choices=0) as server, pytest.raises(EndpointError, match=f"{server.url} failed 3 times"):
        sample(teacher_at(server.url, max_attempts=3), tmp_path, 1)


def test_cut_filtered_and_declined_responses_are_recorded_as_such(tmp_path):
    greedy, found = Sampling(0.0, 1, 8), {}
    for name, how in {
        "cut": {"finish_reason": "length"},
        "filtered": {"finish_reason": "content_filter"},
        "declined": {"refusal": "I cannot help.", "text_of": lambda *_: None},
        "prompt filtered": {"status": 400, "code": "content_filter"},
        "ended in Google's word": {"finish_reason": "STOP"},
        "cut in Google's word": {"finish_reason": "MAX_TOKENS"},
        "asks for a tool": {"finish_reason": "tool_calls", "text_of": lambda *_: None},
        "asks for a tool, with a text": {"finish_reason": "tool_calls"},
        "for no reason": {"finish_reason": None},
        "for an unknown reason": {"finish_reason": "Recitation (2)"},
        "null": {"text_of": lambda *_: None},
        "blank": {"text_of": lambda *_: " \n\u200b\u00a0\t"},
        "spent on a thought": {"text_of": lambda *_: None, "finish_reason": "length"},
    }.items():
        with serving(**how) as server:
            ((found[name],),) = sample(teacher_at(server.url), tmp_path / name, 1, greedy)
    assert {name: (one.is_finished, one.withheld) for name, one in found.items()} == {
        "cut": (False, None),
        "filtered": (False, "content_filter"),
        "declined": (True, "refusal"),
        "prompt filtered": (False, "content_filter"),
        "ended in Google's word": (True, None),
        "cut in Google's word": (False, None),
        "asks for a tool": (False, "tool_calls"),
        "asks for a tool, with a text": (False, "tool_calls"),
        "for no reason": (False, "null"),
        "for an unknown reason": (False, "recitation_2"),
        "null": (True, "empty"),
        "blank": (True, "empty"),
        "spent on a thought": (False, "empty"),
    }
    assert {name for name, one in found.items() if one.defect is None} == {"ended in Google's word"}
    assert found["cut"].defect == found["cut in Google's word"].defect == "length"
    assert found["declined"].text == "I cannot help."
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(to_json_line(one) + "\n" for one in found.values()), encoding="utf-8")
    assert read_jsonl(path, Response) == list(found.values())


def test_a_record_without_the_field_is_read_and_written_as_ever():
    line = '{"query_id": "q", "generator": "g", "sample_index": 0, "text": "t", "is_finished": true}'
    assert to_json_line(Response("q", "g", 0, "t", True)) == line
    assert Response(**json.loads(line)).withheld is None


def test_a_text_ends_where_the_next_question_begins(tmp_path):
    prompt = PromptTemplate(template="Q: {question}\nA:", stop="\nQ:")
    with serving(text_of=lambda *_: " 5\nQ: and", finish_reason="length") as server:
        ((one,),) = sample(teacher_at(server.url, prompt=prompt), tmp_path, 1, Sampling(0.0, 1, 8))
    assert (one.text, one.is_finished) == ("5", True)
    assert server.asked[0]["stop"] == ["\nQ:"]


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_dropped_response_is_asked_for_again_and_kept_as_dropped_at_last(tmp_path, reason):
    dropped = json.dumps({"choices": [{"message": {"content": "half"}, "finish_reason": reason}]}).encode()
    with serving(raw=lambda number: (200, dropped, {}) if number == 0 else None) as server:
        ((one,),) = sample(teacher_at(server.url), tmp_path / "once", 1, Sampling(0.0, 1, 8))
    assert (len(server.asked), one.withheld) == (2, None)
    with serving(raw=lambda _: (200, dropped, {})) as server:
        ((one,),) = sample(teacher_at(server.url, max_attempts=3), tmp_path / "always", 1, Sampling(0.0, 1, 8))
    assert (len(server.asked), one.text, one.is_finished, one.withheld) == (3, "half", False, reason)


ODD_REPLIES = {
    "no JSON": (200, b'{"choices": [', {}),
    "nested": (200, b"[" * 200_000, {}),
    "a page": (200, b"<html><style>p{}</style><body>Bad gateway</body></html>", {}),
    "a page with an error": (502, b"<html><body>Bad gateway</body></html>", {}),
    "no gzip": (200, b"\x1f\x8b garbage", {"Content-Encoding": "gzip"}),
    "an error that is no gzip": (500, b"garbage", {"Content-Encoding": "gzip"}),
    "no UTF-8": (200, b"\xff\xfe\x00", {}),
    "an odd charset": (200, b"zz", {"Content-Type": "application/json; charset=hex"}),
    "an error in no UTF-8": (503, b"\xff\xfe \x1b[31m", {}),
    "an error of another shape": (500, b'{"error": ["a", 1]}', {}),
    "half a pair in an error": (500, b'{"error": {"message": "\\ud83d", "code": 5}}', {}),
    "nothing": (200, b"", {}),
    "null": (200, b"null", {}),
}


@pytest.mark.parametrize("name", ODD_REPLIES)
def test_an_odd_reply_is_asked_for_again_and_no_crash_at_last(tmp_path, name):
    with serving(raw=lambda number: ODD_REPLIES[name] if number == 0 else None) as server:
        sample(teacher_at(server.url), tmp_path / "once", 1, Sampling(0.0, 1, 8))
        assert len(server.asked) == 2
    with serving(raw=lambda _: ODD_REPLIES[name]) as server, pytest.raises(EndpointError, match="failed 2 times") as at:
        sample(teacher_at(server.url, max_attempts=2), tmp_path / "always", 1, Sampling(0.0, 1, 8))
    str(at.value).encode()  # it can be printed
    assert (
        "page" not in name or "(no JSON: Bad gateway)" in str(at.value) or "status 502: Bad gateway." in str(at.value)
    )


@pytest.mark.parametrize("requests", ["chat", "completion"])
@pytest.mark.parametrize(
    ("said", "text"),
    [
        (r"half \ud83d of a pair", "half \ufffd of a pair"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"a whole \ud83d\ude00", "a whole 😀"),
        (r"a\u0000b", "a\ufffdb"),
        (r"\u2028 \u0085 \r\n é", "\u2028 \u0085 \r\n é"),
    ],
)
def test_what_no_file_can_hold_is_replaced_and_paid_for_once(tmp_path, requests, said, text):
    message = f'"message": {{"content": "<{said}>"}}' if requests == "chat" else f'"text": "<{said}>"'
    body = f'{{"choices": [{{{message}, "finish_reason": "stop"}}]}}'.encode()
    with serving(raw=lambda _: (200, body, {})) as server:
        for _ in range(2):
            ((one,),) = sample(teacher_at(server.url, requests=requests), tmp_path, 1, Sampling(0.0, 1, 8))
            assert one.text == f"<{text}>"
    assert len(server.asked) == 1


def test_a_text_in_parts_is_their_text_without_the_thought():
    thought, parts = (
        {"type": "thinking", "thinking": "hm"},
        [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}],
    )
    assert text_of({"message": {"content": [thought, *parts]}, "finish_reason": "stop"}) == ("42", "stop")


# errors and the budget


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"status": 401}, "status 401.*api_key_variable"),
        ({"status": 404}, "status 404.*base_url"),
        ({"status": 400}, "status 400.*extra_body"),
        ({"status": 429, "code": "insufficient_quota"}, "quota"),
    ],
)
def test_what_does_not_pass_by_itself_ends_the_stage_at_once(tmp_path, how, said):
    with serving(**how) as server, pytest.raises(EndpointError, match=said):
        sample(teacher_at(server.url, requests_in_flight=1), tmp_path, 5)
    assert len(server.asked) == 1


def test_what_passes_is_asked_for_later_and_later_and_at_last_given_up(tmp_path):
    with serving(status=503) as server:
        started = time.perf_counter()
        teacher = teacher_at(server.url, max_attempts=4, first_wait_seconds=0.1, longest_wait_seconds=1)
        with pytest.raises(EndpointError, match=r"failed 4 times.*status 503.*max_attempts"):
            sample(teacher, tmp_path, 1, Sampling(0.0, 1, 8))
        assert time.perf_counter() - started >= (0.1 + 0.2 + 0.4) / 2  # half of each wait is jitter
    assert len(server.asked) == 4


def test_the_last_words_of_a_server_that_dies_are_shown(tmp_path):
    """Each request but the first finds it dead; the first had its reason."""
    said = json.dumps({"error": {"message": "CUDA out of memory"}}).encode()
    for in_flight in (1, 8):
        with serving(raw=lambda _: (500, said, {}), dies_after=1) as server:
            asking = teacher_at(server.url, max_attempts=3, requests_in_flight=in_flight)
            with pytest.raises(EndpointError) as error:
                sample(asking, tmp_path / str(in_flight), 8, Sampling(0.0, 1, 8))
        assert "failed 3 times on one request, at last with: no connection, or one that broke" in str(error.value)
        assert "The last that it said is: status 500: CUDA out of memory." in str(error.value)


def test_a_server_that_asks_to_wait_is_obeyed(tmp_path):
    with serving(status=429, headers={"Retry-After": "0.4"}) as server:
        started = time.perf_counter()
        with pytest.raises(EndpointError):
            sample(teacher_at(server.url, max_attempts=2), tmp_path / "a", 1, Sampling(0.0, 1, 8))
        assert time.perf_counter() - started >= 0.4
    too_long = {"Retry-After": "9999"}
    with serving(status=429, headers=too_long) as server, pytest.raises(EndpointError, match="asks to wait 9,999 s"):
        sample(teacher_at(server.url), tmp_path / "b", 1, Sampling(0.0, 1, 8))


def test_nobody_at_the_address_is_said(tmp_path):
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9/v1 failed 2 times.*no connection"):
        sample(teacher_at("http://127.0.0.1:9/v1", max_attempts=2), tmp_path, 1)


@pytest.mark.parametrize(
    ("budget", "name"),
    [({"budget_tokens": 240}, "budget_tokens"), ({"budget_cost": 0.00042}, "budget_cost")],
)
def test_a_spent_budget_stops_keeps_what_was_paid_for_and_goes_on_when_raised(tmp_path, budget, name):
    prices = {"prompt_price": 1.0, "response_price": 5.0}  # 12 tokens a request, at 10 + 2 × 5 = 20 millionths
    greedy, notes = Sampling(0.0, 1, 8), []
    with serving() as server:
        limited = teacher_at(server.url, requests_in_flight=2, **prices, **budget)
        with pytest.raises(EndpointError, match=f"budget of {server.url} is spent.*Raise server.{name}"):
            sample(limited, tmp_path, 60, greedy)
        paid = len(server.answered)
        assert 20 <= paid <= 22  # those in flight were completed
        assert len(PartialResults(tmp_path).journal(JOURNAL).rows()) == paid
        with pytest.raises(EndpointError, match="is spent"):  # what an earlier attempt paid counts
            sample(teacher_at(server.url, **prices, **budget), tmp_path, 60, greedy)
        assert len(server.answered) == paid
        drawn = sample(teacher_at(server.url, **prices), tmp_path, 60, greedy, lambda _, note="": notes.append(note))
        assert len(server.answered) == 60 == len({own[0].text for own in drawn})
    assert notes[-1].endswith("tokens/s, 0.0012 spent")  # 60 × 20 millionths


def test_a_server_that_counts_no_tokens_keeps_no_budget(tmp_path):
    with serving(counts_tokens=False) as server:
        with pytest.raises(EndpointError, match="does not say how many tokens"):
            sample(teacher_at(server.url, budget_tokens=100), tmp_path / "a", 1)
        sample(teacher_at(server.url), tmp_path / "b", 1)


def test_tokens_are_counted_once_whatever_was_interrupted(tmp_path):
    with serving() as server:
        with pytest.raises(EndpointError):
            sample(teacher_at(server.url, budget_tokens=60), tmp_path, 30)
        partial = PartialResults(tmp_path)
        own = teacher_at(server.url).open("teacher", partial)
        InShards(own, partial, responses_per_shard=50).generate(queries(30), SAMPLING, 7)
    assert partial.tokens == 30 * 5 * 2


# interruptions


def _sampling_alone(url: str, folder: Path) -> None:
    sample(teacher_at(url, requests_in_flight=8), folder, 150, Sampling(0.5, 2, 8))


@pytest.mark.slow
def test_a_killed_stage_asks_for_nothing_again_that_it_had(tmp_path):
    context = multiprocessing.get_context("spawn")
    kept: list[set[str]] = []
    with serving(seconds=0.02) as server:
        for kill in range(3):
            process = context.Process(target=_sampling_alone, args=(server.url, tmp_path / "stage"))
            process.start()
            while len(server.answered) < 40 * (kill + 1):
                assert process.is_alive()
                time.sleep(0.002)
            process.kill()
            process.join()
            time.sleep(0.1)  # what was in flight is answered to nobody
            journal = PartialResults(tmp_path / "stage").journal(JOURNAL)
            kept.append({row["answers"][0][0] for row in journal.rows()})
            answered_before = len(server.answered)
            with journal.path.open("ab") as file:  # as if it had been cut in the middle of a row
                file.write(b'{"key": "abc", "answers": [["half')
        drawn = sample(teacher_at(server.url), tmp_path / "stage", 150, Sampling(0.5, 2, 8))
    texts = [one.text for own in drawn for one in own]
    assert len(texts) == len(set(texts)) == 300
    assert kept[0] < kept[1] < kept[2] < set(texts)
    assert len(server.answered) - answered_before == 150 - len(kept[2])
    assert len(server.answered) - 150 <= 3 * 8  # what was in flight when it was killed


# the key


def test_the_key_is_sent_and_appears_in_no_file_and_no_message(tmp_path, monkeypatch):
    monkeypatch.setenv("BIG_KEY", KEY)
    said = {"key": KEY, "text_of": lambda body, _: f"{body['seed']} {KEY}"}
    with serving(**said, fault_share=0.3, slow_seconds=3.0) as server:
        own = teacher_at(server.url, api_key_variable="BIG_KEY", timeout_seconds=2.0, max_attempts=20)
        drawn = sample(own, tmp_path / "good", 20)
    assert server.keys == {f"Bearer {KEY}"}
    assert "[key]" in drawn[0][0].text
    for how in ({"status": 401}, {"status": 503}, {"faults": ("malformed",), "fault_share": 1.0}):
        with serving(**how) as server, pytest.raises(EndpointError) as error:
            sample(teacher_at(server.url, api_key_variable="BIG_KEY", max_attempts=2), tmp_path / "bad", 1)
        assert KEY not in str(error.value)
        assert error.value.__suppress_context__ or error.value.__context__ is None
    assert not files_with(KEY, tmp_path)
    assert KEY not in repr(own)


def test_no_key_is_sent_to_a_server_without_one(tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID"):
        monkeypatch.setenv(name, KEY)
    with serving() as server:
        sample(teacher_at(server.url), tmp_path, 1)
    assert server.keys == {"Bearer none"}
    assert "openai-organization" not in {name.lower() for name in server.headers_asked}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"api_key_variable": "sk-123abc"}, "NAME of an environment variable"),
        ({"base_url": "http://me:pw123abc@host/v1"}, "without user, password"),
        ({"base_url": "host/v1"}, "http://localhost:8000/v1"),
        ({"budget_cost": 1.0}, "needs prices"),
        ({"requests_in_flight": 0}, r"server\.requests_in_flight=0: must be at least 1"),
    ],
)
def test_impossible_settings_are_refused_and_no_secret_is_repeated(settings, said):
    with pytest.raises(ValueError, match=said) as error:
        Server(**{"base_url": "http://localhost:1/v1"} | settings)
    assert "123abc" not in str(error.value)


def test_a_missing_key_or_client_is_said_with_what_to_do(monkeypatch):
    monkeypatch.delenv("BIG_KEY", raising=False)
    with pytest.raises(ValueError, match=r"BIG_KEY.*is not set: `export BIG_KEY="):
        teacher_at("http://localhost:1/v1", api_key_variable="BIG_KEY").source()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"requirements-openai\.txt"):
        teacher_at("http://localhost:1/v1").source()


@pytest.mark.parametrize("key", ["sk-schlüssel", "sk-one sk-two", "sk-one\nsk-two", "sk-“1”", "sk-\x1b", "sk-\udcff"])
@pytest.mark.parametrize("name", ["BIG_KEY", "OPENAI_ORG_ID"])
def test_a_key_that_no_header_can_hold_is_refused_by_the_name_of_its_variable(monkeypatch, key, name):
    monkeypatch.setenv("BIG_KEY", KEY)
    monkeypatch.setenv(name, key)
    with pytest.raises(EndpointError, match=rf"variable {name} cannot be sent: .* `export {name}=") as error:
        teacher_at("http://localhost:1/v1", api_key_variable="BIG_KEY").source()
    assert not any(part in str(error.value) for part in ("sk-", "sch", "one", "“"))


def test_blanks_around_a_key_are_no_part_of_it_and_a_short_one_stays_in_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("BIG_KEY", f" {KEY}\r\n")
    with serving(key=KEY) as server:
        sample(teacher_at(server.url, api_key_variable="BIG_KEY"), tmp_path / "a", 1)
    monkeypatch.setenv("BIG_KEY", "1")
    with serving(key="1", text_of=lambda *_: "The answer is 1.") as server:
        ((one,),) = sample(teacher_at(server.url, api_key_variable="BIG_KEY"), tmp_path / "b", 1, Sampling(0.0, 1, 8))
    assert one.text == "The answer is 1."


def test_the_recipe_knows_the_model_and_no_address():
    first, second = teacher_at("http://a:1/v1").fingerprint(), teacher_at("http://b:2/v1", max_attempts=1).fingerprint()
    assert first == second
    assert first["model"] == "served"
    assert teacher_at("http://a:1/v1", requests="completion").fingerprint() != first


# replies


@pytest.mark.parametrize(
    "text", ["", "<html>", "[]", "{}", '{"choices": []}', '{"choices": null}', '{"choices": ["a"]}', '{"error": "x"}']
)
def test_what_is_no_reply_is_malformed(text):
    with pytest.raises(MalformedReplyError):
        read_reply(text)


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "stop"},
        {"text": 5, "finish_reason": "stop"},
        {"message": "a", "finish_reason": "stop"},
    ],
)
def test_what_is_no_choice_is_malformed(choice):
    with pytest.raises(MalformedReplyError):
        text_of(choice)


def test_an_empty_text_is_one():
    assert text_of({"message": {"content": None}, "finish_reason": "length"}) == ("", "length")
    assert text_of({"text": "", "finish_reason": "eos_token"}) == ("", "stop")
    assert text_of({"text": "a"}) == ("a", "null")


def test_logprobs_of_no_list_are_malformed_and_absent_ones_none():
    assert logprobs_of({"logprobs": None}) is None
    assert logprobs_of({"logprobs": {"content": []}}) is None
    with pytest.raises(MalformedReplyError):
        logprobs_of({"logprobs": {"content": [{"top_logprobs": [{"token": "Yes"}]}]}})
    for no_number in (math.nan, "a", None, 10**400):
        with pytest.raises(MalformedReplyError):
            logprobs_of({"logprobs": {"top_logprobs": [{"Yes": no_number}]}})
    assert logprobs_of({"logprobs": {"top_logprobs": [{"\ud83d": -1.0}]}}) == {"\ufffd": -1.0}


def test_what_the_client_itself_takes_for_replies_is_read():
    """The shapes of the interface, as its own client knows them."""
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    common = {"id": "1", "created": 0, "model": "m", "usage": usage}
    listed = [{"token": "Yes", "logprob": -0.5, "bytes": None}, {"token": " No", "logprob": -1.5, "bytes": None}]
    first = {"token": "Yes", "logprob": -0.5, "bytes": None, "top_logprobs": listed}
    message = {"role": "assistant", "content": "Yes", "refusal": None}
    chat = ChatCompletion(
        **common, object="chat.completion",
        choices=[{"index": 0, "finish_reason": "length", "message": message, "logprobs": {"content": [first]}}],
    )  # fmt: skip
    likeliest = {"Yes": -0.5, " No": -1.5}
    lists = {"tokens": ["Yes"], "token_logprobs": [-0.5], "text_offset": [0], "top_logprobs": [likeliest]}
    completion = Completion(
        **common, object="text_completion",
        choices=[{"index": 0, "finish_reason": "length", "text": "Yes", "logprobs": lists}],
    )  # fmt: skip
    for one in (chat, completion):
        reply = read_reply(one.model_dump_json())
        assert (reply.read, reply.written) == (3, 1)
        assert text_of(reply.choices[0]) == ("Yes", "length")
        assert logprobs_of(reply.choices[0]) == pytest.approx(likeliest)
