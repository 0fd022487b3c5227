"""The generative verifier: what it is taught of pairs, what it learns, and the reward that it gives."""

import dataclasses

import pytest
import torch

from rkd.data.judge_prompts import JudgePrompt
from rkd.judges.single_token import LocalYesNo
from rkd.models.loading import ModelOptions, load_causal_lm, load_tokenizer
from rkd.records import Checkpoint, PreferencePair
from rkd.stages.generative_verifier import GenerativeVerifier, judged
from rkd.stages.reward_model import PAIRS_FILE, PairSets
from tests.stages.test_reward_model import HELD_OUT, PAIRS, scored
from tests.support.fakes import context
from tests.support.tiny_models import PROMPT, llama_folder

ASKED = JudgePrompt(is_chat=False)
STAGE = GenerativeVerifier(
    learning_rate=1e-2, epochs=20, batch_size=4, max_tokens=128, final_learning_rate_fraction=1.0, prompt=ASKED
)


@pytest.fixture(scope="module")
def sft(tmp_path_factory) -> Checkpoint:
    texts = [
        ASKED.render(pair.query, side.response.text) + word
        for pair in PAIRS
        for side in (pair.chosen, pair.rejected)
        for word in (" Yes", " No")
    ]
    return llama_folder(tmp_path_factory.mktemp("sft"), texts, 320)


def test_each_response_of_a_querys_pairs_is_taught_once_with_its_verdict():
    query = PAIRS[0].query
    right, other, wrong = (scored(query.id, "m", text, score) for text, score in (("a", 5), ("b", 5), ("c", 2)))
    pairs = [PreferencePair(query, *sides) for sides in ((right, other), (right, wrong), (other, wrong))]
    (one,) = judged(pairs, 5)
    assert dict(zip(one.texts, one.is_right, strict=True)) == {"a": True, "b": True, "c": False}


def test_it_learns_to_rank_the_responses_of_other_queries(sft, tmp_path):
    report = STAGE.fit(PairSets(PAIRS, HELD_OUT), context(sft, tmp_path))
    # 8 queries in batches of 4 are 2 steps an epoch, 20 epochs; two responses to each query, one of them right.
    assert (report.steps, report.verdicts, report.dropped_too_long, report.share_yes) == (40, 16, 0, 0.5)
    assert report.validation["loss"] < 0.2  # nats; log 2 = 0.69 is chance
    assert report.validation["pos_neg_accuracy"] == report.validation["auc"] == 1.0
    assert report.validation_pairs_of["pos_neg_accuracy"] == report.validation_pairs == 6
    assert (tmp_path / PAIRS_FILE).is_file()


def test_the_reward_is_the_log_odds_of_yes_whatever_the_students_prompt(sft):
    reward = STAGE.open_reward(sft.folder, PROMPT, ModelOptions())
    queries, responses = [pair.query for pair in PAIRS], [pair.chosen.response for pair in PAIRS]
    verifier = LocalYesNo(load_causal_lm(sft.folder), load_tokenizer(sft.folder), ASKED)
    shares = torch.tensor(verifier.judge(queries, responses))
    total = reward(queries, responses).total
    torch.testing.assert_close(total, shares.log() - (1 - shares).log(), atol=1e-5, rtol=1e-4)
    assert reward(queries, responses).components["learned"].equal(total)


def test_without_validation_pairs_the_last_weights_are_kept_and_nothing_is_measured(sft, tmp_path):
    report = dataclasses.replace(STAGE, epochs=1).fit(PairSets(PAIRS, []), context(sft, tmp_path))
    assert (report.validation, report.validation_pairs_of, report.validation_pairs) == ({}, {}, 0)


def test_without_a_pair_it_says_what_to_do(sft, tmp_path):
    with pytest.raises(ValueError, match=r"reward_model: there is no response to train on: .*max_training_queries"):
        STAGE.fit(PairSets([], HELD_OUT), context(sft, tmp_path))
