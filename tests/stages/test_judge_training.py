"""The training of a judge: which responses it is shown with which verdict, what it learns, and what is refused."""

import dataclasses
import math

import pytest
import torch
from pytorch_lightning import Callback
from transformers import AutoModelForCausalLM, AutoTokenizer

from rkd.data.judge_prompts import JudgePrompt
from rkd.models.policy import Policy
from rkd.records import Checkpoint, PseudoLabel, Query, Response
from rkd.stages.judge_training import (
    JudgedQuery,
    JudgedSets,
    TrainedJudge,
    digest_of_verdicts,
    verdict_batch,
    verdict_rows,
)
from rkd.stages.sft import SFTModule
from rkd.store.partial_results import PartialResults
from rkd.training.trainer import Training
from tests.support.fakes import context
from tests.support.recorded_models import recorded_model, write_recorded
from tests.support.tiny_models import llama_folder, weights

PROMPT = JudgePrompt(is_chat=False)
QUERIES = [Query(f"q{i}", "svamp", f"How many is {i}?") for i in range(24)]
TEXTS = {  # a right model, a wrong one, one that is right about every other question, one that repeats the first
    "right": ["We see: The answer is 1."] * 24,
    "wrong": ["We see: The answer is 2."] * 24,
    "mixed": [f"So: The answer is {1 + i % 2}." for i in range(24)],
    "twin": ["We see: The answer is 1."] * 24,
}
LABELS = [PseudoLabel(query.id, "1", 1.0) for query in QUERIES]


def label(*answers: str | None) -> list[PseudoLabel]:
    """Labels of the first queries."""
    return [PseudoLabel(QUERIES[i].id, answer, 1.0) for i, answer in enumerate(answers)]


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> TrainedJudge:
    """A judge of some thousand random weights, to be trained on `right` and `wrong`, and tested on `mixed`."""
    folder = tmp_path_factory.mktemp("start")
    texts = [
        PROMPT.render(query, own[0]) + word for query in QUERIES for own in TEXTS.values() for word in (" Yes", " No")
    ]
    llama_folder(folder, texts * 2, 320, hidden=32)
    held_out = recorded_model(write_recorded(tmp_path_factory.mktemp("recorded"), QUERIES, TEXTS), "mixed")
    return TrainedJudge(
        name="judge", name_or_path=str(folder), prompt=PROMPT, held_out=held_out, teachers=["right", "wrong"],
        max_verdicts=1000, learning_rate=3e-2, epochs=12, batch_size=4, max_tokens=128, warmup_fraction=0.1,
    )  # fmt: skip


def fit(judge: TrainedJudge, folder, training, validation=(), **settings) -> tuple:
    """The report of a training, and the judge with the trained model."""
    partial = {name: settings.pop(name) for name in ("partial",) if name in settings}
    own = context(judge.source(), folder, training=Training(accelerator="cpu", **settings), **partial)
    return judge.fit(JudgedSets(training, validation), own), judge.trained(Checkpoint(folder, "trained"))


def test_a_response_with_the_answer_of_the_label_is_right_and_a_query_without_label_is_left_out(judge):
    # Labels 1, 2 and none: of the first question the model `right` is right, of the second the model `wrong`.
    judged = judge.judged(QUERIES[:3], label("1", "2", None), 0, balanced=True)
    told = {one.query.id: dict(zip(one.texts, one.is_right, strict=True)) for one in judged}
    one, two = TEXTS["right"][0], TEXTS["wrong"][0]
    assert told == {"q0": {one: True, two: False}, "q1": {one: False, two: True}}


def kinds(judged: list[JudgedQuery]) -> tuple[int, int]:
    """How many responses are right, and how many wrong."""
    flat = [is_right for one in judged for is_right in one.is_right]
    return flat.count(True), flat.count(False)


def test_equal_responses_to_a_query_are_judged_once(judge):
    twins = dataclasses.replace(judge, teachers=["right", "twin"])
    assert kinds(twins.judged(QUERIES, LABELS, 0, balanced=False)) == (24, 0)


@pytest.mark.parametrize(
    ("most", "balanced", "expected"),
    # The model `right` is right 24 times; `mixed` is right 12 times, and wrong 12 times.
    [(1000, True, (12, 12)), (10, True, (5, 5)), (1000, False, (36, 12)), (24, False, (18, 6))],
)
def test_as_many_right_responses_as_wrong_ones_are_kept_and_no_more_than_wanted(judge, most, balanced, expected):
    held_out = dataclasses.replace(judge.held_out, model="wrong")
    own = dataclasses.replace(judge, held_out=held_out, teachers=["right", "mixed"], max_verdicts=most)
    assert kinds(own.judged(QUERIES, LABELS, 0, balanced=balanced)) == expected


def test_the_seed_chooses_the_queries(judge):
    few = dataclasses.replace(judge, max_verdicts=8)
    chosen = [digest_of_verdicts(few.judged(QUERIES, LABELS, seed, balanced=True)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_it_learns_a_rule_and_says_it_of_a_model_that_it_has_not_read(judge, tmp_path):
    training = judge.judged(QUERIES[:16], LABELS[:16], 0, balanced=True)
    validation = judge.judged(QUERIES[16:], LABELS[16:], 0, balanced=True)
    report, trained = fit(judge, tmp_path, training, validation)
    # 16 questions in batches of 4 are 4 steps an epoch, 12 epochs; two responses to each question.
    assert dataclasses.astuple(report)[:-1] == (48, 32, 0, 0.5, 16)
    assert report.best_validation < 0.2  # nats; the untrained judge, of log 2 = 0.69, knows nothing
    responses = judge.held_out.recorded(QUERIES[16:])
    asked = [(query, own[0]) for query, own in zip(QUERIES[16:], responses, strict=True)]
    verdicts = trained.open().verdicts(*zip(*asked, strict=True))
    assert [one.score > 0.5 for one in verdicts] == [i % 2 == 0 for i in range(16, 24)]
    assert min(one.mass for one in verdicts) > 0.9  # it says Yes or No, and nothing else
    assert trained.content()["model"].digest != judge.content()["model"].digest


def test_only_the_token_of_the_verdict_is_taught(judge):
    # The oracle is transformers' own loss of the word after the judge's prompt, by itself for each response.
    model = AutoModelForCausalLM.from_pretrained(judge.name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(judge.name_or_path)
    judged = judge.judged(QUERIES[:3], LABELS[:3], 0, balanced=True)
    module = SFTModule(Policy(model), judge, None)
    module.log = lambda *_, **__: None
    loss = module.training_step(verdict_batch([verdict_rows(PROMPT, one, tokenizer, 128) for one in judged]), 0)
    expected = []
    for one in judged:
        for text, is_right in zip(one.texts, one.is_right, strict=True):
            ids = tokenizer(PROMPT.render(one.query, text) + (" Yes" if is_right else " No"), return_tensors="pt")[
                "input_ids"
            ]
            labels = torch.full_like(ids, -100)
            labels[0, -1] = ids[0, -1]
            expected.append(model(ids, labels=labels).loss.item())
    assert len(expected) == 6
    assert loss.item() == pytest.approx(math.fsum(expected) / 6, rel=1e-4)


def test_without_validation_responses_the_last_weights_are_kept(judge, tmp_path):
    report, _ = fit(dataclasses.replace(judge, epochs=1), tmp_path, judge.judged(QUERIES, LABELS, 0, balanced=True))
    assert (report.steps, report.validation_verdicts, report.best_validation) == (6, 0, None)


def test_the_best_weights_are_those_of_the_least_validation_loss(judge, tmp_path):
    # The loss of P(Yes) = s on one right and one wrong response is the mean of -log s and -log(1 - s).
    validation = judge.judged(QUERIES[:1], LABELS[:1], 0, balanced=True)
    report, trained = fit(judge, tmp_path, validation, validation)
    (asked,) = validation
    opened = trained.open()
    scores = opened.judge([asked.query] * 2, [Response("q0", "", 0, text, True) for text in asked.texts])
    right, wrong = (
        next(s for s, is_right in zip(scores, asked.is_right, strict=True) if is_right == k) for k in (True, False)
    )
    assert report.best_validation == pytest.approx((-math.log(right) - math.log(1 - wrong)) / 2, rel=1e-4)


class Killed(BaseException):
    """What stands for the end of the process."""


def test_an_interrupted_training_ends_as_one_that_was_not(judge, tmp_path):
    class Kill(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 7:
                raise Killed

    sets = (judge.judged(QUERIES[:16], LABELS[:16], 0, balanced=True),) * 2
    fit(judge, tmp_path / "whole", *sets)
    again = {"partial": PartialResults(tmp_path / "kept"), "seconds_between_checkpoints": 0}
    with pytest.raises(Killed):
        fit(judge, tmp_path / "killed", *sets, callbacks={"kill": Kill}, **again)
    fit(judge, tmp_path / "killed", *sets, **again)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_too_long_responses_are_dropped_and_counted(judge, tmp_path):
    long = JudgedQuery(QUERIES[0], ["The answer is 1.", "The answer is 2. " * 40], [True, False])
    report, _ = fit(dataclasses.replace(judge, epochs=1), tmp_path, [long])
    assert (report.verdicts, report.dropped_too_long, report.share_yes) == (1, 1, 1.0)
    with pytest.raises(ValueError, match=r"judge: all 2 responses are longer than judge\.max_tokens=4 .*max_tokens=8"):
        fit(dataclasses.replace(judge, max_tokens=4), tmp_path / "none", [long])


def test_responses_of_one_kind_alone_teach_nothing_and_it_says_what_to_do(judge, tmp_path):
    only = dataclasses.replace(judge, teachers=["right"])
    with pytest.raises(ValueError, match=r"no response to train on: .*right and from wrong.*judge\.teachers"):
        fit(only, tmp_path, only.judged(QUERIES, LABELS, 0, balanced=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teachers": []}, r"judge\.teachers=\[\]: name at least one model"),
        ({"teachers": ["right", "right"]}, "each once"),
        ({"teachers": ["right", "mixed"]}, r"judge\.held_out\.model=mixed is one of judge\.teachers"),
        ({"max_verdicts": 1}, r"judge\.max_verdicts=1: must be at least 2"),
        ({"learning_rate": 0.0}, r"judge\.learning_rate=0\.0"),
    ],
)
def test_impossible_settings_are_refused_by_their_keys(judge, settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(judge, **settings)


def test_a_missing_model_or_folder_is_named(judge, tmp_path):
    unknown = dataclasses.replace(judge, teachers=["right", "gpt-5"])
    with pytest.raises(ValueError, match=r"judge\.teachers.*`gpt-5` is missing \(present: right, wrong"):
        unknown.recorded(QUERIES)
    untested = dataclasses.replace(judge, held_out=dataclasses.replace(judge.held_out, model="gpt-5"))
    with pytest.raises(ValueError, match=r"judge\.held_out.*`gpt-5` is missing \(present: right, wrong"):
        untested.judged(QUERIES, LABELS, 0, balanced=True)
    nowhere = dataclasses.replace(judge, held_out=dataclasses.replace(judge.held_out, path=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r"judge\.held_out.*holds no recorded answers"):
        nowhere.recorded(QUERIES)
