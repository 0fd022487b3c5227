"""The reward model: what it learns, how its ranking is counted, and what is kept."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rkd.evaluation.statistics import area_under_curve
from rkd.models.loading import load_tokenizer
from rkd.models.reward_model import load_reward_model, new_reward_model
from rkd.records import Checkpoint, PreferencePair, Query, Response, ScoredResponse
from rkd.stages.preference_batches import collate_pairs, ranking_metrics, tokenize_pairs
from rkd.stages.reward_model import NoRewardModel, PairSets, RewardModelModule, RewardModelTraining, score_pairs
from tests.support.fakes import context
from tests.support.tiny_models import PROMPT, llama_folder

STAGE = RewardModelTraining(
    learning_rate=1e-2, epochs=10, batch_size=4, max_tokens=64, final_learning_rate_fraction=1.0, criterion="loss"
)


def scored(query_id, generator, text, score, sample_index=0, *, is_finished=True):
    return ScoredResponse(Response(query_id, generator, sample_index, text, is_finished), None, score)


def pair_of(number, chosen, rejected):
    """`chosen` and `rejected` are (generator, text, score)."""
    query = Query(f"q{number}", "mini", f"{number} plus {number}?")
    return PreferencePair(query, scored(query.id, *chosen), scored(query.id, *rejected))


def learnable(numbers):
    """Right responses end with "good", wrong ones with "bad", whatever comes before."""
    return [
        pair_of(n, ("teacher", f" step {n % 5} is good.", 1.0), ("student", f" step {n % 3} is bad.", 0.0))
        for n in numbers
    ]


PAIRS, HELD_OUT = learnable(range(8)), learnable(range(20, 26))


@pytest.fixture(scope="module")
def sft(tmp_path_factory) -> Checkpoint:
    texts = [PROMPT.render(p.query) + p.chosen.response.text + p.rejected.response.text for p in PAIRS]
    # Its config names no padding token, as with many published models: the stage has to.
    return llama_folder(tmp_path_factory.mktemp("sft"), texts, 300, pad_token_id=None)


def fit(stage, sft, folder, *, pairs=PAIRS, held_out=HELD_OUT, seed=0):
    return stage.fit(PairSets(pairs, held_out), context(sft, folder, seed=seed))


def tokenized(sft, pairs):
    kept, dropped = tokenize_pairs(load_tokenizer(sft.folder), PROMPT, pairs, 64)
    assert dropped == 0
    return kept


def test_learnable_preference_is_ranked_right_on_held_out_queries(sft, tmp_path):
    report = fit(STAGE, sft, tmp_path)
    # 8 pairs in batches of 4 are 2 steps an epoch, 10 epochs.
    assert (report.steps, report.pairs, report.validation_pairs) == (20, 8, 6)
    assert report.validation["pos_neg_accuracy"] == 1.0
    assert report.validation["auc"] == 1.0
    # An untrained R is 0 everywhere: L = log 2 + 0.5 log 2.
    assert report.validation["loss"] < 0.5 * 1.0397


def test_saved_folder_gives_the_same_rewards_in_plain_transformers(sft, tmp_path):
    fit(dataclasses.replace(STAGE, epochs=2), sft, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [
        PROMPT.render(pair.query) + side.response.text + tokenizer.eos_token
        for pair in HELD_OUT
        for side in (pair.chosen, pair.rejected)
    ]
    with torch.no_grad():
        expected = model(**tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")).logits.view(-1, 2)
    rewards = score_pairs(load_reward_model(tmp_path), tokenized(sft, HELD_OUT), 4)
    torch.testing.assert_close(rewards, expected, rtol=1e-4, atol=1e-5)
    assert rewards.abs().min() > 0


def test_rewards_come_in_the_order_of_the_pairs_whatever_their_lengths(sft):
    # Batches hold pairs of similar length, here from the last one to the first and with a long one in the middle.
    repeats = [5, 4, 9, 3, 2]
    pairs = [
        pair_of(n, ("teacher", " good." * count, 1.0), ("student", f" step {n} is bad.", 0.0))
        for n, count in enumerate(repeats)
    ]
    reward_model = new_reward_model(sft.folder)
    torch.nn.init.normal_(reward_model.model.score.weight, generator=torch.Generator().manual_seed(0))
    reward_model.eval()
    own = tokenized(sft, pairs)
    alone = torch.cat([score_pairs(reward_model, [one], 1) for one in own])
    assert len({round(value, 4) for value in alone.flatten().tolist()}) == 10
    for batch_size in (2, 5):
        torch.testing.assert_close(score_pairs(reward_model, own, batch_size), alone, atol=1e-5, rtol=1e-5)


def test_same_seed_gives_same_weights_whatever_ran_before(sft, tmp_path):
    stage = dataclasses.replace(STAGE, epochs=1)
    fit(stage, sft, tmp_path / "a", seed=3)
    torch.rand(7)
    fit(stage, sft, tmp_path / "b", seed=3)
    a, b = (load_reward_model(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_best_validation_is_kept_and_its_metrics_reported(sft, tmp_path):
    # Held-out preferences are turned round: the more R learns, the worse it ranks them, so the first epoch is best.
    turned = [PreferencePair(pair.query, *_swapped(pair)) for pair in HELD_OUT]
    report = fit(dataclasses.replace(STAGE, epochs=9, patience=2), sft, tmp_path, held_out=turned)
    assert report.steps == 6
    kept = score_pairs(load_reward_model(tmp_path), tokenized(sft, turned), 4)
    assert report.validation["preference_loss"] == pytest.approx(
        float(-torch.nn.functional.logsigmoid(kept[:, 0] - kept[:, 1]).mean()), rel=1e-4
    )
    assert not any(path.suffix == ".pt" for path in tmp_path.iterdir())


def _swapped(pair):
    chosen = dataclasses.replace(pair.rejected, score=1.0)
    rejected = dataclasses.replace(pair.chosen, score=0.0)
    return chosen, rejected


def test_loss_is_equation_9_and_its_gradient_lifts_the_chosen(sft):
    reward_model = new_reward_model(sft.folder)
    module = RewardModelModule(reward_model, STAGE, None)
    logged = {}
    module.log = lambda name, value: logged.update({name: value})
    module.log_dict = logged.update
    module.lr_schedulers = lambda: torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(reward_model.parameters()))
    torch.nn.init.normal_(reward_model.model.score.weight, generator=torch.Generator().manual_seed(0))
    batch = collate_pairs(tokenized(sft, PAIRS))
    loss = module.training_step(batch, 0)
    rewards = reward_model(batch.responses)
    # Eq. 9 by hand: −log σ(r) = log(1 + e⁻ʳ), over pairs for L_pref, over responses for L_cls with λ_cls = 0.5.
    r = rewards.detach().double()
    margins, signed = r[0::2] - r[1::2], torch.cat([r[0::2], -r[1::2]])
    expected = torch.log1p(torch.exp(-margins)).mean() + 0.5 * torch.log1p(torch.exp(-signed)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(STAGE.losses(rewards, batch.is_correct)["loss"], rewards)
    assert (gradient[0::2] < 0).all()
    assert (gradient[1::2] > 0).all()
    assert {"train/loss", "train/preference_loss", "train/classification_loss", "train/pair_accuracy"} <= logged.keys()
    right = float((margins > 0).double().mean())
    assert right != 0.5  # so that the share of wrong ones is another
    assert float(logged["train/pair_accuracy"]) == pytest.approx(right)


def test_outcome_reward_model_is_classification_alone():
    stage = dataclasses.replace(STAGE, preference_weight=0.0, classification_weight=1.0)
    rewards, is_correct = torch.tensor([0.0, 0.0]), torch.tensor([True, False])
    # σ(0) = 1/2 on both sides: the mean of log 2 and log 2.
    assert stage.losses(rewards, is_correct)["loss"].item() == pytest.approx(0.693147, abs=1e-6)


def test_kinds_of_pairs_are_counted_apart(sft):
    pairs = tokenized(
        sft,
        [
            pair_of(0, ("teacher", " good.", 1.0), ("student", " bad.", 0.0)),
            pair_of(1, ("teacher", " good.", 1.0), ("student", " bad.", None)),
            pair_of(2, ("student", " good.", 1.0), ("student", " bad.", 0.0)),
            pair_of(3, ("teacher", " good.", 1.0), ("student", " good too.", 1.0)),
        ],
    )
    rewards = torch.tensor([[2.0, 1.0], [-1.0, 0.5], [1.0, -1.0], [0.5, 0.5]])
    metrics = ranking_metrics(pairs, rewards)
    assert metrics["pair_accuracy"] == 0.5  # the tie of the last pair is ranked wrong
    assert metrics["right_over_wrong_accuracy"] == pytest.approx(2 / 3)
    assert metrics["pos_neg_accuracy"] == 0.5
    assert metrics["student_pos_neg_accuracy"] == 1.0
    assert metrics["pos_pos_accuracy"] == 0.0
    # σ(R) > 1/2 is right for 2, 1, .5, .5 of the five correct responses (not −1) and −1 of the three wrong ones.
    assert metrics["classification_accuracy"] == pytest.approx(5 / 8)
    # Correct 2, −1, 1, .5, .5 above wrong 1, .5, −1, a tie ½: 3, ½, 2½, 1½, 1½ of 3 each: 9 of 15.
    assert metrics["auc"] == pytest.approx(9 / 15)


def test_response_in_many_pairs_counts_once_in_the_classification_metrics(sft):
    pairs = tokenized(
        sft,
        [
            pair_of(0, ("teacher", " good.", 1.0), ("student", " bad.", 0.0)),
            pair_of(0, ("teacher", " good.", 1.0), ("student", " so bad.", 0.0)),
        ],
    )
    metrics = ranking_metrics(pairs, torch.tensor([[1.0, 2.0], [1.0, 3.0]]))
    # One correct response called right, two wrong ones called right too: 1 of 3, not 2 of 4.
    assert metrics["classification_accuracy"] == pytest.approx(1 / 3)


def test_area_under_curve_of_known_ranks():
    # Correct 3 and 1 against wrong 2 and 0: 3 > 2, 3 > 0, 1 > 0 hold, 1 > 2 does not.
    assert area_under_curve(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([True, False, True, False])) == 0.75


def test_kind_without_pairs_has_no_metric(sft):
    metrics = ranking_metrics(tokenized(sft, PAIRS), torch.zeros(8, 2))
    assert "pos_pos_accuracy" not in metrics
    assert "student_pos_neg_accuracy" not in metrics


def test_unfinished_response_gets_no_end_of_sequence(sft):
    query = Query("q", "mini", "1 plus 1?")
    pair = PreferencePair(query, scored("q", "t", " good.", 1.0), scored("q", "s", " good.", 0.0, is_finished=False))
    (tokens,) = tokenized(sft, [pair])
    assert tokens.chosen == [*tokens.rejected, load_tokenizer(sft.folder).eos_token_id]


def test_pair_with_a_too_long_response_is_dropped_and_counted(sft, tmp_path):
    long = pair_of(9, ("teacher", " good.", 1.0), ("student", " bad" * 80, 0.0))
    report = fit(dataclasses.replace(STAGE, epochs=1), sft, tmp_path, pairs=[*PAIRS, long], held_out=[*HELD_OUT, long])
    assert (report.pairs, report.dropped_too_long) == (8, 1)
    assert (report.validation_pairs, report.validation_dropped_too_long) == (6, 1)


def test_highest_score_of_the_rubric_decides_what_is_correct(sft):
    pair = pair_of(0, ("teacher", " good.", 5.0), ("student", " bad.", 4.0))
    (graded,), _ = tokenize_pairs(load_tokenizer(sft.folder), PROMPT, [pair], 64, highest_score=5.0)
    assert graded.is_correct == (True, False)


def test_without_validation_pairs_the_last_weights_are_kept(sft, tmp_path):
    report = fit(dataclasses.replace(STAGE, epochs=1), sft, tmp_path, held_out=[])
    assert (report.steps, report.validation) == (2, {})
    assert (tmp_path / "model.safetensors").is_file()


def test_empty_set_is_refused_with_the_next_command(sft, tmp_path):
    with pytest.raises(ValueError, match=r"no pair to train on.*dataset\.max_training_queries=null"):
        fit(STAGE, sft, tmp_path, pairs=[])
    with pytest.raises(ValueError, match=r"all 8 pairs are longer than reward_model\.max_tokens=4 .*max_tokens=8"):
        fit(dataclasses.replace(STAGE, max_tokens=4), sft, tmp_path)


def test_criterion_that_the_validation_pairs_cannot_show_is_refused(sft, tmp_path):
    equal = [pair_of(3, ("teacher", " good.", 1.0), ("student", " good too.", 1.0))]
    stage = dataclasses.replace(STAGE, criterion="right_over_wrong_accuracy")
    with pytest.raises(ValueError, match=r"none of the 1 validation pairs .*reward_model\.criterion=loss"):
        fit(stage, sft, tmp_path, held_out=equal)
    with pytest.raises(ValueError, match=r"reward_model\.criterion=luck: choose one of student_pos_neg_accuracy"):
        dataclasses.replace(STAGE, criterion="luck")


def test_no_reward_model_leaves_an_empty_folder(sft, tmp_path):
    report = fit(NoRewardModel(), sft, tmp_path / "none")
    assert (report.steps, list((tmp_path / "none").iterdir())) == (0, [])
