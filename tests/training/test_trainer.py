"""What all stages train with: precision by device, batches of alike length, the rate's course, the best weights."""

import logging
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from rkd.models import cpu_workers
from rkd.models.cpu_workers import SMALL
from rkd.store.partial_results import PartialResults
from rkd.training.callbacks import LogLearningRate
from rkd.training.checkpointing import Batches, KeepBest
from rkd.training.supervised import length_batches
from rkd.training.trainer import Training, adamw, learning_rate_factor, one_validation, seeded

CONF = Path(__file__).parents[2] / "conf"
CPU = Training(accelerator="cpu")


class Counting(pl.LightningModule):
    """Its weight is the number of steps done; a validation logs the next of `scores`."""

    def __init__(self, scores=()) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.scores = iter(scores)
        self.seen = []

    def training_step(self, batch, *_):
        self.seen.append(batch)
        return -self.weight.sum()

    def validation_step(self, *_):
        self.log("validation/score", next(self.scores), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def loader(count=2, seed=0):
    return Batches([[i] for i in range(count)], torch.tensor, seed)


def fit(module, best, folder, *, epochs):
    trainer = CPU.trainer("sft", logger=False, folder=folder, max_epochs=epochs, callbacks=[best])
    trainer.fit(module, loader(), one_validation())
    return trainer


def test_precision_follows_the_device_unless_it_is_given(tmp_path):
    assert CPU.trainer("sft", logger=False, folder=tmp_path).precision == "32-true"
    chosen = Training(accelerator="cpu", precision="bf16-mixed").trainer("sft", logger=False, folder=tmp_path)
    assert chosen.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("has_instructions", "parameters", "set_to", "used"),
    [
        (True, SMALL + 1, None, "bf16-mixed"),
        (True, SMALL, None, "32-true"),  # the kept tables of the mini models depend on it
        (False, SMALL + 1, None, "32-true"),
        (True, SMALL + 1, "32-true", "32-true"),
        (False, SMALL, "bf16-mixed", "bf16-mixed"),
    ],
)
def test_large_models_train_in_bfloat16_where_the_processor_computes_it(
    has_instructions, parameters, set_to, used, monkeypatch
):
    # One of the two instruction sets is enough; processors of other kinds name neither.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_instructions})
    assert Training(accelerator="cpu", precision=set_to).of_size(parameters).precision == used


def test_trainer_writes_nothing_and_says_nothing(tmp_path, caplog, recwarn, capsys):
    with caplog.at_level(logging.INFO):
        trainer = CPU.trainer("sft", logger=False, folder=tmp_path, max_epochs=1)
        trainer.fit(Counting(), loader())
    assert [record for record in caplog.records if "lightning" in record.name] == []
    assert [str(warning.message) for warning in recwarn] == []
    # The one line is that of our own progress.
    assert capsys.readouterr().out.splitlines() == ["sft: step 2/2, 0 s"]
    assert list(tmp_path.iterdir()) == []


def test_divergence_names_the_key_of_the_learning_rate(tmp_path):
    class Diverging(Counting):
        def training_step(self, *_):
            return self.weight.sum() * float("nan")

    with pytest.raises(RuntimeError, match=r"Lower `reward_model\.learning_rate`"):
        CPU.trainer("reward_model", logger=False, folder=tmp_path, max_epochs=1).fit(Diverging(), loader())


@pytest.mark.parametrize(
    ("mode", "scores", "best", "epoch"),
    [("max", [0.1, 0.5, 0.5, 0.2], 0.5, 2), ("min", [0.9, 0.3, 0.1, 0.1], 0.1, 3)],
)
def test_best_weights_are_restored(tmp_path, mode, scores, best, epoch):
    module, keep = Counting(scores), KeepBest("validation/score", mode, PartialResults(tmp_path))
    fit(module, keep, tmp_path, epochs=4)
    assert module.weight.item() == 8  # 4 epochs of 2 steps
    keep.restore(module)
    assert module.weight.item() == 2 * epoch
    assert keep.best == pytest.approx(best)
    assert keep.metrics["score"] == pytest.approx(best)


def test_patience_counts_validations_without_a_better_one(tmp_path):
    # Better at validations 1 and 3; then two without: training ends after the fifth.
    keep = KeepBest("validation/score", "max", PartialResults(tmp_path), patience=2)
    trainer = fit(Counting([0.1, 0.0, 0.3, 0.2, 0.3, 0.9, 0.9]), keep, tmp_path, epochs=7)
    assert trainer.global_step == 10


def test_without_validation_the_module_keeps_its_weights(tmp_path):
    module, keep = Counting(), KeepBest("validation/score", "max", PartialResults(tmp_path))
    keep.restore(module)
    assert module.weight.item() == 0
    assert keep.best is None


def test_more_validations_than_batches_validate_after_each(tmp_path):
    keep = KeepBest("validation/score", "max", PartialResults(tmp_path))
    trainer = CPU.trainer(
        "sft", logger=False, folder=tmp_path, max_epochs=1, callbacks=[keep], val_check_interval=1 / 4
    )
    trainer.fit(Counting([0.1, 0.2]), loader(2), one_validation())
    assert keep.best == pytest.approx(0.2)


def test_batches_hold_every_example_once_and_alike_lengths_together():
    examples = ["x" * (1 + 7 * i % 40) for i in range(38)]
    batches = length_batches(examples, len, 4, seed=0)
    assert sorted(example for batch in batches for example in batch) == sorted(examples)
    assert sorted(map(len, batches)) == [2, *[4] * 9]
    # Lengths 1 to 40 in ten batches: within a batch they are as near as they can be.
    assert max(len(max(batch, key=len)) - len(min(batch, key=len)) for batch in batches) <= 6


def test_batches_depend_on_the_seed_alone():
    examples = list(range(100))
    a, b, c = (length_batches(examples, lambda _: 1, 8, seed) for seed in (0, 0, 1))
    assert a == b
    assert a != c


def test_order_changes_from_epoch_to_epoch_and_repeats_with_the_seed():
    first, again = loader(12, seed=5), loader(12, seed=5)
    epochs = [[int(batch) for batch in first] for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert [[int(batch) for batch in again] for _ in range(2)] == epochs
    assert sorted(epochs[0]) == list(range(12))


def test_rate_rises_linearly_then_falls_along_a_half_cosine():
    # 10 steps, 4 of them warm-up: fifths up to 4/5, then the peak, and (1 + cos π/2)/2 = 1/2 half way down.
    factors = [learning_rate_factor(step, 10, 0.4, 0.0) for step in range(10)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[7] == pytest.approx(0.5)
    assert learning_rate_factor(10, 10, 0.4, 0.0) == pytest.approx(0.0)
    assert learning_rate_factor(10, 10, 0.4, 0.1) == pytest.approx(0.1)


def test_final_fraction_of_one_keeps_the_rate_constant():
    assert {learning_rate_factor(step, 10, 0.0, 1.0) for step in range(10)} == {1.0}


def test_seeded_draws_repeat_and_leave_the_generator_where_it_was():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(7):
            draws.append(torch.rand(3))
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)


def trainers(training: Training, folder, **options):
    return [training.trainer("sft", logger=False, folder=folder, **options) for _ in range(2)]


def test_each_stage_gets_its_own_callbacks_after_those_it_has(tmp_path):
    own = pl.Callback()
    training = Training(accelerator="cpu", callbacks={"rate": LogLearningRate})
    first, second = trainers(training, tmp_path, callbacks=[own], max_epochs=1)
    assert own in first.callbacks
    (rate,), (other,) = ([c for c in t.callbacks if isinstance(c, LogLearningRate)] for t in (first, second))
    assert first.callbacks.index(rate) > first.callbacks.index(own)
    assert rate is not other


def test_a_number_of_epochs_for_all_stages_goes_before_their_own(tmp_path):
    training = Training(accelerator="cpu", max_epochs=7)
    trainer, _ = trainers(training, tmp_path, max_epochs=1, val_check_interval=10)
    assert (trainer.max_epochs, trainer.val_check_interval, trainer.check_val_every_n_epoch) == (7, 1.0, 7)


def test_a_callback_for_all_stages_at_once_is_refused():
    with pytest.raises(ValueError, match=r"callbacks\.mine is one LogLearningRate.*`_partial_: true`"):
        Training(callbacks={"mine": LogLearningRate()})


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_large_and_small_models_take_the_same_clipped_steps(tmp_path, precision, monkeypatch):
    def trained(largest_small):
        monkeypatch.setattr(cpu_workers, "SMALL", largest_small)
        torch.manual_seed(0)
        module = Scaled()
        options = {"max_epochs": 1, "gradient_clip": 0.1}
        training = Training(accelerator="cpu", precision=precision)
        trainer = training.trainer("sft", logger=False, folder=tmp_path, **options)
        trainer.fit(module, loader(count=3))
        return module.weight.detach(), trainer.optimizers[0].defaults["fused"]

    small, is_fused_small = trained(4)
    large, is_fused_large = trained(3)
    assert (is_fused_small, is_fused_large) == (None, True)
    torch.testing.assert_close(small, large)
    assert (small - 1).abs().min() > 0.01  # three steps of about 0.1


class Scaled(Counting):
    """Four weights with a large gradient, under the AdamW of the stages."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def training_step(self, batch, *_):
        return (self.weight * (batch + 1)).square().sum()

    def configure_optimizers(self):
        return adamw([{"params": [self.weight], "weight_decay": 0.5}], lr=0.1)
