"""The single-token judge: what shares its reading gives what each prompt gives alone."""

import math

import pytest
import torch

from rkd.data.judge_prompts import JudgePrompt
from rkd.generation.local import ModelFolder
from rkd.judges.base import Remembered, Verdict
from rkd.judges.single_token import LocalYesNo, YesNoJudge, verdict_of
from rkd.mini.tokenizer import train_tokenizer
from rkd.models.batches import encode
from rkd.records import Query, Response
from tests.support.model_families import of_settings
from tests.support.tiny_models import gpt2, llama

TEXTS = [
    "Q: What is 1? Say Yes or No. <response> 1 2 3 </response> Verdict: Yes",
    "yes Yes",
    "Verdict: No",
    "no No",
] * 9
PROMPT = JudgePrompt()
QUESTIONS = ["What is 1?", "What is 1 2 3?", "What is 3?"]
ASKED = [(0, "1 2"), (0, "1 3"), (1, "3"), (0, "1 2"), (2, "1 2"), (2, "1 2 3 1"), (1, "2 2"), (2, "")]
QUERIES = [Query(f"q{place}", "svamp", QUESTIONS[place]) for place, _ in ASKED]
RESPONSES = [Response(f"q{place}", "model", 0, text, True) for place, text in ASKED]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="module", params=[llama, gpt2])
def judge(request, tokenizer) -> LocalYesNo:
    model = request.param(vocab_size=len(tokenizer), pad_token_id=0)
    return LocalYesNo(model.eval(), tokenizer, PROMPT)


def alone(judge: LocalYesNo, query: Query, response: Response) -> Verdict:
    """The verdict by a forward pass over one whole prompt, with every spelling of a word written out here."""
    (ids,) = encode(judge.tokenizer, [PROMPT.render(query, response.text)])
    with torch.no_grad():
        shares = judge.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    yes, no = (
        sum(float(shares[row[0]]) for row in encode(judge.tokenizer, words) if len(row) == 1)
        for words in (["Yes", " Yes", "yes", " yes", "YES", " YES"], ["No", " No", "no", " no", "NO", " NO"])
    )
    return Verdict(yes / (yes + no), yes + no)


def test_each_verdict_is_that_of_its_whole_prompt_read_alone(judge):
    verdicts = LocalYesNo(judge.model, judge.tokenizer, PROMPT).verdicts(QUERIES, RESPONSES)
    for verdict, query, response in zip(verdicts, QUERIES, RESPONSES, strict=True):
        expected = alone(judge, query, response)
        assert (verdict.score, verdict.mass) == pytest.approx((expected.score, expected.mass), abs=1e-5)
    assert len({round(verdict.score, 6) for verdict in verdicts}) == len(set(ASKED))


@pytest.mark.parametrize("family", ["bert", "cohere", "falcon_h1", "gemma2", "granite", "opt"])
def test_verdicts_of_a_model_that_changes_its_logits_are_those_of_its_own_forward(family, tokenizer):
    model = of_settings(family, vocab_size=len(tokenizer), max_position_embeddings=256)
    judge = LocalYesNo(model, tokenizer, PROMPT)
    for verdict, query, response in zip(judge.verdicts(QUERIES, RESPONSES), QUERIES, RESPONSES, strict=True):
        expected = alone(judge, query, response)
        assert (verdict.score, verdict.mass) == pytest.approx((expected.score, expected.mass), abs=1e-6)


def test_responses_to_a_question_share_the_reading_of_what_they_begin_with(judge):
    read = []
    handle = judge.model.base_model.register_forward_pre_hook(
        lambda *called: read.append(called[2]["input_ids"].numel()), with_kwargs=True
    )
    LocalYesNo(judge.model, judge.tokenizer, PROMPT).judge(QUERIES, RESPONSES)
    handle.remove()
    rows = PROMPT.encode(QUERIES, [response.text for response in RESPONSES], judge.tokenizer)
    beginnings = {tuple(row[:length]) for row in rows for length in range(1, len(row) + 1)}
    assert len(beginnings) <= sum(read) < 0.6 * sum(map(len, rows))


def test_an_equal_response_is_read_once(judge):
    read = []
    counting = LocalYesNo(judge.model, judge.tokenizer, PROMPT)
    handle = judge.model.base_model.register_forward_hook(lambda *_: read.append(1))
    first = counting.judge(QUERIES, RESPONSES)
    passes = len(read)
    assert counting.judge(QUERIES[::-1], RESPONSES[::-1]) == first[::-1]
    assert len(read) == passes
    handle.remove()


def test_progress_counts_every_response(judge):
    done = []
    LocalYesNo(judge.model, judge.tokenizer, PROMPT, advance=done.append).judge(QUERIES, RESPONSES)
    assert sum(done) == len(RESPONSES)


def test_a_hard_verdict_is_one_or_zero(judge):
    soft = LocalYesNo(judge.model, judge.tokenizer, PROMPT).judge(QUERIES, RESPONSES)
    hard = LocalYesNo(judge.model, judge.tokenizer, PROMPT, is_hard=True).judge(QUERIES, RESPONSES)
    assert hard == [float(score > 0.5) for score in soft]


def test_a_hard_verdict_keeps_its_mass(judge):
    soft = LocalYesNo(judge.model, judge.tokenizer, PROMPT).verdicts(QUERIES, RESPONSES)
    hard = LocalYesNo(judge.model, judge.tokenizer, PROMPT, is_hard=True).verdicts(QUERIES, RESPONSES)
    assert [one.mass for one in hard] == [one.mass for one in soft]


def test_what_is_remembered_is_what_was_asked_for_last():
    remembered, read = Remembered(limit=2), []

    def verdicts(places):
        read.extend(places)
        return [Verdict(place / 10) for place in places]

    assert remembered.recall(["a", "b", "a"], verdicts) == [Verdict(0.0), Verdict(0.1), Verdict(0.0)]
    assert remembered.recall(["a"], verdicts) == [Verdict(0.0)]  # b is older now
    assert remembered.recall(["x", "c"], verdicts) == [Verdict(0.0), Verdict(0.1)]  # more than 2: a and b are gone
    assert read == [0, 1, 0, 1]
    assert len(remembered.recall(["x", "c", "a"], verdicts)) == 3  # as many as are asked for, whatever the limit
    assert read == [0, 1, 0, 1, 2]


def test_an_unreadable_verdict_is_remembered_too():
    remembered = Remembered()
    assert remembered.recall(["a"], lambda places: [None for _ in places]) == [None]
    assert remembered.recall(["a"], lambda places: [Verdict(1.0) for _ in places]) == [None]


def test_verdicts_are_the_same_when_none_is_remembered(judge):
    forgetful = LocalYesNo(judge.model, judge.tokenizer, PROMPT, remembered=Remembered(limit=1))
    whole = LocalYesNo(judge.model, judge.tokenizer, PROMPT).judge(QUERIES, RESPONSES)
    for _ in range(2):
        assert forgetful.judge(QUERIES, RESPONSES) == pytest.approx(whole)


def test_a_servers_tokens_are_summed_over_the_spellings():
    logprobs = {" Yes": math.log(0.3), "yes": math.log(0.1), "NO": math.log(0.2), " Yesterday": math.log(0.35)}
    verdict = verdict_of(logprobs, PROMPT)
    assert (verdict.score, verdict.mass) == pytest.approx((0.4 / 0.6, 0.6))


def test_a_marked_blank_of_a_servers_token_is_a_blank():
    logprobs = {"▁Yes": math.log(0.2), "ĠYes": math.log(0.1), "Ġno": math.log(0.1)}
    verdict = verdict_of(logprobs, PROMPT)
    assert (verdict.score, verdict.mass) == pytest.approx((0.75, 0.4))


def test_a_servers_list_without_either_word_has_no_verdict():
    assert verdict_of({" Maybe": -0.1, "The": -3.0}, PROMPT) is None
    assert verdict_of({}, PROMPT) is None
    assert verdict_of({" Yes": -9999.0}, PROMPT) is None  # how some servers write that a token is not listed


def test_a_word_that_is_not_listed_beside_the_other_counts_as_nothing():
    verdict = verdict_of({" No": math.log(0.9)}, PROMPT)
    assert (verdict.score, verdict.mass) == pytest.approx((0.0, 0.9))


def test_no_responses_have_no_verdicts(judge):
    assert judge.judge([], []) == []


def test_a_word_without_a_token_of_its_own_is_refused(tokenizer):
    prompt = JudgePrompt(yes_word=" Certainly")
    with pytest.raises(ValueError, match=r"no single token for ' Certainly'.*judge.prompt.yes_word="):
        prompt.spellings(prompt.yes_word, tokenizer)


def test_the_judge_of_a_config_opens_its_folder(tmp_path, tokenizer):
    llama(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    stage = YesNoJudge(name="judge", name_or_path=str(tmp_path), prompt=PROMPT, is_hard=True)
    assert isinstance(stage, ModelFolder)
    assert set(stage.open().judge(QUERIES, RESPONSES)) <= {0.0, 1.0}
