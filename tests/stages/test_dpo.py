"""Direct preference optimisation: what it raises, what stays fixed, and what is kept. Its loss: test_losses.py."""

import dataclasses
import math

import pytest
import torch
from pytorch_lightning import Callback

from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.records import Checkpoint, PreferencePair, Query, Response, ScoredResponse
from rkd.stages.dpo import DPO, NoDPO, pair_logprobs
from rkd.stages.preference_batches import collate_pairs, tokenize_pairs
from rkd.store.partial_results import PartialResults
from rkd.training.checkpointing import HISTORY_FILE
from rkd.training.trainer import Training
from tests.support.fakes import context, progress_beside
from tests.support.tiny_calculations import CALCULATING, response
from tests.support.tiny_models import PROMPT, gpt2, llama_folder, weights

STAGE = DPO(learning_rate=3e-3, epochs=4, batch_size=4, max_tokens=64, final_learning_rate_fraction=1.0)


def pair_of(number, chosen, rejected):
    query = Query(f"q{number}", "mini", f"{number} plus {number}?")
    sides = [
        ScoredResponse(Response(query.id, "student", place, text, True), None, score)
        for place, (text, score) in enumerate(((chosen, 1.0), (rejected, 0.0)))
    ]
    return PreferencePair(query, *sides)


PAIRS = [pair_of(n, f" step {n % 5} is good.", f" step {n % 3} is bad, as it is.") for n in range(8)]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Checkpoint:
    texts = [PROMPT.render(p.query) + p.chosen.response.text + p.rejected.response.text for p in PAIRS]
    return llama_folder(tmp_path_factory.mktemp("student"), texts, 300)


class Logged(Callback):
    """What each training step logs."""

    def __init__(self, rows):
        self.rows = rows

    def on_train_batch_end(self, trainer, *_):
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(stage, student, folder, *, pairs=PAIRS, validate=None, rows=None, partial=None, **training):
    callbacks = {"logged": lambda: Logged([] if rows is None else rows)}
    own = Training(**{"accelerator": "cpu", "callbacks": callbacks, "log_every_n_steps": 1, **training})
    kept = partial or progress_beside(folder)
    return stage.fit(pairs, context(student, folder, validate=validate, training=own, partial=kept))


def logprobs(folder, pairs=PAIRS):
    """log π of chosen and rejected responses, (B, 2)."""
    tokenizer = load_tokenizer(folder)
    tokenized, _ = tokenize_pairs(tokenizer, PROMPT, pairs, 64)
    with torch.no_grad():
        return pair_logprobs(Policy(load_causal_lm(folder)), collate_pairs(tokenized))


def test_chosen_responses_become_likelier_than_rejected_ones_beside_the_reference(student, tmp_path):
    rows = []
    report = fit(STAGE, student, tmp_path, rows=rows)
    # 8 pairs in batches of 4 are 2 steps an epoch, 4 epochs.
    assert dataclasses.astuple(report) == (8, 8, 0, None)
    before, after = logprobs(student.folder), logprobs(tmp_path)
    margins = (after[:, 0] - after[:, 1]) - (before[:, 0] - before[:, 1])
    assert (margins > 0).all()
    assert rows[-1]["train/pair_accuracy"] == 1.0
    assert rows[-1]["train/reward_margin"] > rows[1]["train/reward_margin"] > 0
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_the_first_loss_is_that_of_a_policy_that_is_its_own_reference(student, tmp_path):
    # Every margin is 0, and −log σ(0) = log 2. Dropout would spoil it: GPT-2 has some.
    vocabulary = len(load_tokenizer(student.folder))
    gpt2(vocab_size=vocabulary, pad_token_id=0, eos_token_id=1).save_pretrained(tmp_path / "gpt2")
    load_tokenizer(student.folder).save_pretrained(tmp_path / "gpt2")
    for folder in (student.folder, tmp_path / "gpt2"):
        rows = []
        fit(STAGE, Checkpoint(folder, "x"), tmp_path / "fit" / folder.name, rows=rows)
        assert rows[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert rows[0]["train/reward_margin"] == pytest.approx(0, abs=1e-5)


def test_the_reference_stays_what_the_student_was(student, tmp_path):
    before = weights(student.folder)
    seen = []

    class Reference(Callback):
        def on_train_batch_end(self, _, module, *__):
            seen.append(module.reference_logprobs.clone())

    fit(STAGE, student, tmp_path / "a", callbacks={"reference": Reference})
    assert all(torch.equal(one, seen[0]) for one in seen)
    torch.testing.assert_close(seen[0], logprobs(student.folder), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, weights(student.folder)[name]) for name, value in before.items())


def test_a_stronger_tie_keeps_the_policy_nearer_to_its_reference(student, tmp_path):
    moved = []
    for beta in (0.1, 10.0):
        stage = dataclasses.replace(STAGE, beta=beta, epochs=20, learning_rate=1e-2)
        fit(stage, student, tmp_path / str(beta))
        moved.append((logprobs(tmp_path / str(beta)) - logprobs(student.folder)).abs().mean())
    assert moved[1] < moved[0]


def test_best_validation_is_kept_and_each_is_in_the_history(student, tmp_path):
    scores, seen = [0.25, 0.5, 0.75, 0.5, 0.75], []

    def validate(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return scores[len(seen) - 1]

    report = fit(STAGE, student, tmp_path, validate=validate)
    assert (report.steps, report.best_validation) == (8, 0.75)
    kept = weights(tmp_path)
    # The start, and each of four epochs of two steps; of two equal validations the earlier one.
    assert all(torch.equal(kept[name], seen[2][name]) for name in kept)
    lines = (tmp_path / HISTORY_FILE).read_text().splitlines()
    assert lines[0] == '{"step": 0, "accuracy": 0.25, "share": 0.0}'
    assert [line[: line.index(", ")] for line in lines] == [f'{{"step": {step}' for step in (0, 2, 4, 6, 8)]


def test_a_student_that_only_gets_worse_stays_as_it_was(student, tmp_path):
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1])
    assert fit(STAGE, student, tmp_path, validate=lambda _: next(scores)).best_validation == 0.5
    before = weights(student.folder)
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path).items())


class Killed(BaseException):
    """What stands for the end of the process."""


@pytest.mark.parametrize("step", [1, 3, 7])
def test_an_interrupted_fit_ends_as_one_that_was_not(student, tmp_path, step):
    def validate(model):
        return float(model.get_input_embeddings().weight.sum())  # the same whenever the weights are

    class Kill(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == step:
                raise Killed

    fit(STAGE, student, tmp_path / "whole", validate=validate)
    resumable = {"validate": validate, "partial": PartialResults(tmp_path / "kept"), "seconds_between_checkpoints": 0}
    with pytest.raises(Killed):
        fit(STAGE, student, tmp_path / "killed", callbacks={"kill": Kill}, **resumable)
    fit(STAGE, student, tmp_path / "killed", **resumable)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole" / HISTORY_FILE).read_text() == (tmp_path / "killed" / HISTORY_FILE).read_text()


def test_too_long_pair_is_dropped_and_counted(student, tmp_path):
    report = fit(STAGE, student, tmp_path, pairs=[*PAIRS, pair_of(9, " good.", " bad" * 80)])
    assert (report.pairs, report.dropped_too_long) == (8, 1)


def test_without_pairs_it_says_what_to_do(student, tmp_path):
    with pytest.raises(ValueError, match=r"dpo: there is no pair to train on.*dataset\.max_training_queries=null"):
        fit(STAGE, student, tmp_path, pairs=[])
    with pytest.raises(ValueError, match=r"all 8 pairs are longer than dpo\.max_tokens=4 .*dpo\.max_tokens=8"):
        fit(dataclasses.replace(STAGE, max_tokens=4), student, tmp_path)


def test_impossible_beta_is_refused_by_its_key():
    with pytest.raises(ValueError, match=r"dpo\.beta=0: must be above 0"):
        dataclasses.replace(STAGE, beta=0)


def test_no_dpo_hands_the_student_on(student, tmp_path):
    assert dataclasses.astuple(fit(NoDPO(), student, tmp_path)) == (0, 0, 0, None)
    before = weights(student.folder)
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path).items())


def test_pairs_are_numbered_among_those_that_are_kept(student):
    tokenizer = load_tokenizer(student.folder)
    long = pair_of(99, " good" * 100, " bad")
    kept, dropped = tokenize_pairs(tokenizer, PROMPT, [PAIRS[0], long, PAIRS[1], PAIRS[2]], 64)
    assert ([pair.number for pair in kept], dropped) == ([0, 1, 2], 1)
    batch = collate_pairs([kept[2], kept[0], kept[1]])
    part = batch.select_prompts(torch.tensor([0, 2]))
    assert (batch.numbers.tolist(), part.numbers.tolist()) == ([2, 0, 1], [2, 1])
    assert part.is_correct.tolist() == [True, False, True, False]


def test_calculated_tokens_do_not_count_in_the_log_probabilities_of_pairs(calculating_student):
    pairs = [pair_of(0, response(12, 3, 15), response(12, 3, 99))]
    tokenizer, policy = load_tokenizer(calculating_student.folder), Policy(load_causal_lm(calculating_student.folder))
    tokenized, _ = tokenize_pairs(tokenizer, CALCULATING, pairs, 96)
    own = collate_pairs(tokenized, CALCULATING.calculator_tokens(tokenizer))
    plain = collate_pairs(tokenized)
    with torch.no_grad():
        counted, all_of_them = pair_logprobs(policy, own), policy(plain.responses).logprobs
    is_left_out = plain.responses.chosen_mask & ~own.responses.chosen_mask
    written = [tokenizer.decode(row[out]) for row, out in zip(own.responses.response_ids, is_left_out, strict=True)]
    assert written == [" 15", ""]  # the wrong result counts whole
    torch.testing.assert_close(counted[0], all_of_them.masked_fill(is_left_out, 0).sum(1))
