"""Supervised fine-tuning: what the student learns, what it must not, and what is kept."""

import dataclasses
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rkd.data.calculator_tokens import chosen_tokens
from rkd.losses import sft_loss
from rkd.models.batches import collate
from rkd.models.policy import Policy
from rkd.records import Checkpoint, Query
from rkd.stages.sft import SFT, NoSFT, SFTModule
from rkd.training.trainer import Training
from tests.support.fakes import context
from tests.support.model_families import of_settings
from tests.support.tiny_calculations import CALCULATING, QUERIES, SUMS, response
from tests.support.tiny_models import PROMPT, llama_folder, weights

EXAMPLES = [(Query(f"q{i}", "mini", f"{i} plus {i}?"), f" Step 1: The answer is {2 * i}.") for i in range(8)]
STAGE = SFT(learning_rate=3e-2, epochs=12, batch_size=4, max_tokens=64, final_learning_rate_fraction=1.0)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Checkpoint:
    texts = [PROMPT.render(query) + text for query, text in EXAMPLES]
    return llama_folder(tmp_path_factory.mktemp("student"), texts, 300)


def fit(stage, student, folder, *, examples=EXAMPLES, validate=None, seed=0, training=None):
    own = training or Training(accelerator="cpu")
    return stage.fit(examples, context(student, folder, validate=validate, training=own, seed=seed))


def mean_nll(folder, examples=EXAMPLES) -> float:
    """Mean negative log-likelihood of the responses' tokens and the end of sequence, by transformers alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for query, text in examples:
        prompt = tokenizer(PROMPT.render(query))["input_ids"]
        response = tokenizer(text + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([prompt + response])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        with torch.no_grad():
            total += float(model(ids, labels=labels).loss) * len(response)
        count += len(response)
    return total / count


def test_memorised_set_becomes_likely_and_the_folder_loads_in_plain_transformers(student, tmp_path):
    report = fit(STAGE, student, tmp_path)
    # 8 examples in batches of 4 are 2 steps an epoch, 12 epochs.
    assert dataclasses.astuple(report) == (24, 8, 0, None)
    assert mean_nll(tmp_path) < 0.3 * mean_nll(student.folder)


@pytest.mark.parametrize("family", ["llama", "cohere", "gemma2", "granite"])
def test_prompt_tokens_get_no_gradient(family):
    # The oracle is transformers' own loss with the prompt's labels ignored: loss and every gradient agree with it.
    model = of_settings(family)
    prompts, responses = [[5, 6, 7, 8], [9, 10]], [[11, 12, 1], [13, 1]]
    module = SFTModule(Policy(model), STAGE, None)
    module.log = lambda *_, **__: None
    module.lr_schedulers = lambda: torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(module.parameters()))
    loss = module.training_step(collate(prompts, responses, 0), 0)
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    rows = zip(prompts, responses, strict=True)
    summed = [model(torch.tensor([p + r]), labels=torch.tensor([[-100] * len(p) + r])).loss * len(r) for p, r in rows]
    expected = sum(summed) / 5
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_calculated_tokens_are_read_and_get_no_gradient():
    # The oracle is transformers' own loss with the labels of prompt and calculated tokens ignored.
    model = of_settings("llama")
    prompts, responses, chosen = [[5, 6], [9]], [[11, 12, 13, 1], [13, 1]], [[True, False, False, True], [True, True]]
    policy = Policy(model)
    batch = collate(prompts, responses, is_chosen=chosen)
    loss = sft_loss(policy(batch).logprobs, batch.chosen_mask)
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    first = model(torch.tensor([[5, 6, 11, 12, 13, 1]]), labels=torch.tensor([[-100, -100, 11, -100, -100, 1]])).loss
    second = model(torch.tensor([[9, 13, 1]]), labels=torch.tensor([[-100, 13, 1]])).loss
    expected = (2 * first + 2 * second) / 4
    expected.backward()
    assert batch.weight == 4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_with_a_calculator_the_digits_of_right_results_are_not_learnt(calculating_student, tmp_path):
    examples = [(query, response(*pair, sum(pair))) for query, pair in zip(QUERIES, SUMS, strict=True)]
    stage = SFT(learning_rate=1e-2, epochs=8, batch_size=4, max_tokens=96)
    tokenizer = AutoTokenizer.from_pretrained(calculating_student.folder)
    for name, prompt in (("with", CALCULATING), ("without", PROMPT)):
        stage.fit(examples, context(calculating_student, tmp_path / name, prompt=prompt))
    learnt = {}
    for name in ("with", "without"):
        policy = Policy(AutoModelForCausalLM.from_pretrained(tmp_path / name))
        rows = PROMPT.encode_responses([text for _, text in examples], [True] * 4, tokenizer)
        is_chosen = chosen_tokens(CALCULATING.calculator_tokens(tokenizer), rows)
        batch = collate(PROMPT.encode(QUERIES, tokenizer), rows)
        is_calculated = batch.response_mask & ~batch.with_chosen(is_chosen).chosen_mask
        with torch.no_grad():
            learnt[name] = float(policy(batch).logprobs[is_calculated].mean())
    assert learnt["with"] < learnt["without"] - 1


def test_same_seed_gives_same_weights_whatever_ran_before(student, tmp_path):
    stage = dataclasses.replace(STAGE, epochs=2)
    fit(stage, student, tmp_path / "a", seed=3)
    torch.rand(7)
    fit(stage, student, tmp_path / "b", seed=3)
    fit(stage, student, tmp_path / "c", seed=4)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_training_leaves_the_global_generator_alone(student, tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fit(dataclasses.replace(STAGE, epochs=1), student, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_best_validation_is_kept_and_not_the_last(student, tmp_path):
    seen = []

    def validate(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return [0.25, 0.75, 0.75, 0.5][len(seen) - 1]

    report = fit(dataclasses.replace(STAGE, epochs=4), student, tmp_path, validate=validate)
    assert (report.steps, report.best_validation) == (8, 0.75)
    kept = weights(tmp_path)
    # The second of four: of two equal validations the earlier one.
    assert all(torch.equal(kept[name], seen[1][name]) for name in kept)
    assert not any(path.suffix == ".pt" for path in tmp_path.iterdir())


def test_patience_ends_training_early(student, tmp_path):
    stage = dataclasses.replace(STAGE, epochs=9, patience=2)
    # Validations after each epoch of 2 steps: the first is the best, the third ends it.
    assert fit(stage, student, tmp_path, validate=lambda _: 0.5).steps == 6


def test_validations_per_epoch_are_counted(student, tmp_path):
    calls = []
    stage = dataclasses.replace(STAGE, epochs=3, validations_per_epoch=2)
    fit(stage, student, tmp_path, validate=lambda _: float(len(calls.append(0) or calls)))
    assert len(calls) == 6


def test_too_long_example_is_dropped_and_counted_never_cut(student, tmp_path):
    long = (Query("long", "mini", "word " * 80), " Step 1: The answer is 1.")
    report = fit(dataclasses.replace(STAGE, epochs=1), student, tmp_path / "a", examples=[*EXAMPLES, long])
    fit(dataclasses.replace(STAGE, epochs=1), student, tmp_path / "b")
    assert (report.examples, report.dropped_too_long) == (8, 1)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_set_without_fitting_examples_is_refused_with_the_key_to_raise(student, tmp_path):
    with pytest.raises(ValueError, match=r"all 8 examples are longer than sft\.max_tokens=4 .*sft\.max_tokens=8"):
        fit(dataclasses.replace(STAGE, max_tokens=4), student, tmp_path)


def test_empty_set_is_refused_with_the_next_command(student, tmp_path):
    with pytest.raises(ValueError, match=r"no example to train on.*dataset\.max_training_queries=null"):
        fit(STAGE, student, tmp_path, examples=[])


def test_no_sft_hands_the_student_on(student, tmp_path):
    report = fit(NoSFT(), student, tmp_path)
    assert dataclasses.astuple(report) == (0, 0, 0, None)
    assert mean_nll(tmp_path) == mean_nll(student.folder)


@pytest.mark.parametrize(
    ("training", "steps"),
    [(Training(accelerator="cpu", fast_dev_run=True), 1), (Training(accelerator="cpu", overfit_batches=1), 12)],
)
def test_debugging_switches_run_few_batches(student, tmp_path, training, steps):
    # Overfitting: one batch in each of 12 epochs.
    assert fit(STAGE, student, tmp_path, validate=lambda _: 0.0, training=training).steps == steps
    assert math.isfinite(mean_nll(tmp_path))


def test_impossible_value_is_refused_by_its_key():
    with pytest.raises(ValueError, match=r"sft\.warmup_fraction=1\.5: must be in \[0, 1\)"):
        dataclasses.replace(STAGE, warmup_fraction=1.5)
