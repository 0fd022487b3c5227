"""GKD: whose responses a step has, that the student takes over the teacher's probabilities, and what is kept."""

import dataclasses
import math

import pytest
import torch
from pytorch_lightning import Callback

from rkd.errors import ModelError
from rkd.generation.local import LocalModel
from rkd.losses import generalised_jsd
from rkd.models.batches import collate
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.stages.gkd import GKD, GKDInputs, OwnSamples
from rkd.stages.sft import SFT
from rkd.store.partial_results import PartialResults
from rkd.training.trainer import Training
from tests.support import tiny_world
from tests.support.fakes import context
from tests.support.tiny_models import llama_folder, weights

QUERIES = tiny_world.queries(0, 32)
EXAMPLES = [(query, tiny_world.response("2")) for query in QUERIES]
STAGE = GKD(
    learning_rate=2e-3, epochs=4, batch_size=8, max_tokens=128, beta=0.5,
    rollouts=OwnSamples(student_share=0.5, max_response_tokens=12),
)  # fmt: skip


@pytest.fixture(scope="module")
def student(guessing_student):
    return guessing_student


@pytest.fixture(scope="module")
def teacher(student, tmp_path_factory) -> LocalModel:
    """A model that says two more often than one."""
    folder = tmp_path_factory.mktemp("teacher")
    taught = [(query, tiny_world.response(answer)) for query in tiny_world.queries(0, 64) for answer in "2221"]
    SFT(learning_rate=3e-3, epochs=1, batch_size=16, max_tokens=128).fit(
        taught, context(student, folder, prompt=tiny_world.PROMPT)
    )
    return LocalModel(name="teacher", name_or_path=str(folder), prompt=tiny_world.PROMPT)


def fit(stage, student, teacher, folder, *, examples=EXAMPLES, **settings):
    usual = {"prompt": tiny_world.PROMPT, "validate": None, **settings}
    return stage.fit(GKDInputs(examples, teacher), context(student, folder, **usual))


def with_share(student_share: float) -> GKD:
    return dataclasses.replace(STAGE, rollouts=dataclasses.replace(STAGE.rollouts, student_share=student_share))


def say_two(folder) -> float:
    """The mean probability of two after the form of an answer."""
    model = load_causal_lm(folder)
    tokenizer = load_tokenizer(folder)
    (one,), (two,) = (
        tokenizer([tiny_world.response(answer)], add_special_tokens=False)["input_ids"] for answer in "12"
    )
    place = next(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
    rows = [row + two[:place] for row in tiny_world.PROMPT.encode(QUERIES, tokenizer)]
    with torch.no_grad():
        of_rows = [model(input_ids=torch.tensor([row])).logits[0, -1].softmax(-1)[two[place]] for row in rows]
    return float(torch.stack(of_rows).mean())


@pytest.mark.parametrize(
    ("beta", "student_share", "on_samples"), [(0.0, 0.0, [0]), (0.5, 0.5, range(1, 16)), (1.0, 1.0, [16])]
)
def test_the_student_takes_over_the_teachers_probabilities(student, teacher, tmp_path, beta, student_share, on_samples):
    stage = dataclasses.replace(with_share(student_share), beta=beta)
    report = fit(stage, student, teacher, tmp_path)
    assert report.steps == 16  # 32 examples in batches of 8, 4 epochs
    before, after, target = (say_two(folder) for folder in (student.folder, tmp_path, teacher.name_or_path))
    # All examples say two, so that texts alone would lead beyond the teacher.
    assert abs(before - target) > 0.15
    assert abs(after - target) < 0.05
    assert report.steps_on_samples in on_samples


def test_the_loss_is_the_mean_divergence_of_the_response_tokens(student, teacher):
    prompts, responses = [[5, 6, 7], [8]], [[4, 5, 1], [6]]
    batch = collate(prompts, responses)
    policy, frozen = (Policy(load_causal_lm(folder)) for folder in (student.folder, teacher.name_or_path))
    divergence = policy.divergence(batch, frozen, lambda a, b: generalised_jsd(a, b, beta=0.3))
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids = torch.tensor([prompt + response])
        both = [one.lm(input_ids=ids).logits[0, len(prompt) - 1 : -1] for one in (policy, frozen)]
        expected = generalised_jsd(*both, beta=0.3)
        torch.testing.assert_close(divergence[row, : len(response)], expected, atol=1e-5, rtol=1e-4)
    assert divergence[1, 1:].tolist() == [0, 0]


def test_steps_on_samples_are_drawn_by_seed_and_step():
    own = STAGE.rollouts
    drawn = [own.has_step(0, step) for step in range(400)]
    assert drawn == [own.has_step(0, step) for step in range(400)] != [own.has_step(1, step) for step in range(400)]
    assert abs(sum(drawn) - 200) < 4 * math.sqrt(100)


def test_samples_are_counted_as_tokens_and_the_teachers_responses_are_not(student, teacher, tmp_path):
    partials = {}
    for name, of_student in (("teacher", 0.0), ("student", 1.0)):
        partials[name] = PartialResults(tmp_path / f"{name} progress")
        one_epoch = dataclasses.replace(with_share(of_student), epochs=1)
        fit(one_epoch, student, teacher, tmp_path / name, partial=partials[name])
    assert partials["teacher"].tokens == 0
    assert 32 < partials["student"].tokens <= 32 * 12


def test_the_start_is_kept_where_nothing_is_better(student, teacher, tmp_path):
    report = fit(STAGE, student, teacher, tmp_path, validate=lambda _: 0.5)
    assert report.best_validation == 0.5
    before, after = weights(student.folder), weights(tmp_path)
    assert all(before[name].equal(after[name]) for name in before)


class Killed(BaseException):
    """What stands for the end of the process."""


def test_an_interrupted_training_ends_as_one_that_was_not(student, teacher, tmp_path):
    class Kill(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 7:
                raise Killed

    def training(**callbacks):
        return Training(accelerator="cpu", seconds_between_checkpoints=0, callbacks=callbacks)

    whole, kept = PartialResults(tmp_path / "other"), PartialResults(tmp_path / "kept")
    fit(STAGE, student, teacher, tmp_path / "whole", partial=whole)
    with pytest.raises(Killed):
        fit(STAGE, student, teacher, tmp_path / "killed", partial=kept, training=training(kill=Kill))
    fit(STAGE, student, teacher, tmp_path / "killed", partial=kept, training=training())
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert kept.tokens == whole.tokens > 0


def test_a_teacher_with_another_vocabulary_is_refused(student, tmp_path):
    folder = llama_folder(tmp_path / "teacher", ["Q: other words\nA: The answer is 1."], 300).folder
    other = LocalModel(name="other", name_or_path=str(folder), prompt=tiny_world.PROMPT)
    with pytest.raises(ModelError, match="cannot read the tokens of the student"):
        fit(STAGE, student, other, tmp_path / "made")


def test_too_long_examples_are_dropped_and_none_is_refused(student, teacher, tmp_path):
    short = dataclasses.replace(STAGE, epochs=1, max_tokens=40)
    long = [(QUERIES[0], "two " * 60)]
    assert fit(short, student, teacher, tmp_path, examples=[*EXAMPLES, *long]).dropped_too_long == 1
    with pytest.raises(ValueError, match=r"rl: all 1 examples are longer than rl\.max_tokens=40"):
        fit(short, student, teacher, tmp_path, examples=long)


@pytest.mark.parametrize(("changed", "key"), [({"beta": 1.5}, r"rl\.beta=1\.5"), ({"beta": -0.1}, r"rl\.beta=-0\.1")])
def test_a_beta_that_is_no_weight_is_refused(changed, key):
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(STAGE, **changed)


def test_a_share_that_is_none_is_refused_by_its_key():
    with pytest.raises(ValueError, match=r"rl\.rollouts\.student_share=2"):
        OwnSamples(student_share=2.0, max_response_tokens=4)
