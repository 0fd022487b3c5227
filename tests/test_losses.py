"""The formulas of `rkd.losses`, on numbers worked by hand."""

from math import inf, log, nan, sqrt

import pytest
import torch
from torch import Tensor

from rkd.losses import (
    bradley_terry_loss,
    center_and_scale,
    check_same_shape,
    classification_loss,
    clipped_surrogate_loss,
    dpo_loss,
    explained_variance,
    generalised_jsd,
    in_chunks,
    kl_estimate,
    kl_from_uniform,
    masked_mean,
    mean_of_response_means,
    mean_of_response_sums,
    reward_model_loss,
    scale,
    sequence_logprobs,
    sft_loss,
    token_entropy,
    token_logprobs,
    truncated_importance,
    value_loss,
)


def mask(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype))


def test_masked_mean_is_over_tokens_not_over_responses():
    values = torch.tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]])
    # (1 + 2 + 6) / 3; a mean of the responses' means would be (1.5 + 6) / 2 = 3.75.
    close(masked_mean(values, mask([1, 1, 0], [1, 0, 0])), 3.0)


def test_masked_mean_of_no_token_is_refused():
    with pytest.raises(ValueError, match="selects no token"):
        masked_mean(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))


def test_mean_of_response_means_counts_each_response_once():
    values, selected = torch.tensor([[1.0, 2.0, nan], [6.0, inf, 9.0]]), mask([1, 1, 0], [1, 0, 0])
    close(mean_of_response_means(values, selected), 3.75)  # ((1 + 2) / 2 + 6) / 2
    with pytest.raises(ValueError, match="1 of 2 responses have no token"):
        mean_of_response_means(values, mask([1, 1, 0], [0, 0, 0]))


@pytest.mark.parametrize(("divisor", "expected"), [(1.0, 4.5), (5.0, 0.9), (512.0, 4.5 / 512)])
def test_mean_of_response_sums_divides_by_the_constant_whatever_the_width(divisor, expected):
    values, selected = torch.tensor([[1.0, 2.0, nan], [6.0, inf, 9.0]]), mask([1, 1, 0], [1, 0, 0])
    close(mean_of_response_sums(values, selected, divisor=divisor), expected)  # (3 + 6) / 2 / divisor
    wider = [torch.cat([own, torch.zeros_like(own)], 1) for own in (values, selected)]
    close(mean_of_response_sums(*wider, divisor=divisor), expected)


def test_a_sum_over_responses_gives_each_token_one_gradient_however_long_its_response():
    values = torch.ones(2, 3, requires_grad=True)
    mean_of_response_sums(values, mask([1, 1, 1], [1, 0, 0]), divisor=10.0).backward()
    close(values.grad, [[0.05, 0.05, 0.05], [0.05, 0.0, 0.0]])  # 1 / (2 responses · 10)


def test_shapes_that_would_broadcast_are_refused_by_name():
    with pytest.raises(ValueError, match=r"logprobs \(2, 3\), response_mask \(1, 3\)"):
        check_same_shape(logprobs=torch.ones(2, 3), response_mask=torch.ones(1, 3))


def test_center_and_scale_removes_the_mean():
    # Selected: 1 and 3; mean 2, variance ((−1)² + 1²) / (2 − 1) = 2; so ∓1/√2.
    whitened = center_and_scale(torch.tensor([[1.0, 3.0, 100.0]]), mask([1, 1, 0]))
    close(whitened, [[-1 / sqrt(2), 1 / sqrt(2), 0.0]])


def test_scale_keeps_the_mean():
    scaled = scale(torch.tensor([[1.0, 3.0, 100.0]]), mask([1, 1, 0]))
    close(scaled, [[2 - 1 / sqrt(2), 2 + 1 / sqrt(2), 0.0]])


def test_one_selected_token_whitens_to_zero():
    close(center_and_scale(torch.tensor([[5.0, 7.0]]), mask([1, 0])), [[0.0, 0.0]])


def test_token_logprobs_are_the_log_softmax_at_the_token():
    # softmax(0, ln 3) = (1/4, 3/4).
    logits = torch.tensor([[[0.0, log(3)], [0.0, log(3)]]])
    close(token_logprobs(logits, torch.tensor([[1, 0]])), [[log(0.75), log(0.25)]])


def test_token_entropy_is_the_entropy_of_the_softmax():
    # −(1/4 ln 1/4 + 3/4 ln 3/4) = 0.3465736 + 0.2157616 = 0.5623351; uniform over two: ln 2.
    logits = torch.tensor([[[0.0, log(3)], [5.0, 5.0]]])
    close(token_entropy(logits), [[0.5623351, log(2)]])


def test_the_kl_from_the_uniform_distribution():
    # π = (1/4, 3/4): ½ ln(½ / ¼) + ½ ln(½ / ¾) = ½ ln 2 + ½ ln 2/3; π uniform: 0.
    logits = torch.tensor([[[0.0, log(3)], [5.0, 5.0]]])
    close(kl_from_uniform(logits), [[log(4 / 3) / 2, 0.0]])


def test_a_forbidden_token_leaves_entropy_and_its_gradient_finite():
    logits = torch.tensor([[[0.0, 0.0, -inf]]], requires_grad=True)
    entropy = token_entropy(logits)
    entropy.sum().backward()
    close(entropy.detach(), [[log(2)]])
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("chunk_tokens", [1, 2, 3, 5, 8])
def test_chunks_change_neither_logprobs_nor_gradients(chunk_tokens):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(7, (2, 5), generator=generator)
    whole = torch.randn(2, 5, 7, generator=generator, requires_grad=True)
    chunked = whole.detach().clone().requires_grad_()
    weights = torch.randn(2, 5, generator=generator)
    (token_logprobs(whole, tokens) * weights).sum().backward()
    logprobs = in_chunks(token_logprobs, chunk_tokens, chunked, tokens)
    (logprobs * weights).sum().backward()
    close(logprobs.detach(), token_logprobs(whole, tokens).detach())
    close(chunked.grad, whole.grad)


def test_half_precision_logits_give_float32_logprobs():
    # 257 equal logits: ln 1/257 = −5.549, which bfloat16 would round to −5.5625.
    logprobs = token_logprobs(torch.zeros(1, 1, 257, dtype=torch.bfloat16), torch.tensor([[0]]))
    assert logprobs.dtype == torch.float32
    close(logprobs, [[-log(257)]])


def test_tokens_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"logits without V \(2, 5\), tokens \(2, 4\)"):
        token_logprobs(torch.zeros(2, 5, 7), torch.zeros(2, 4, dtype=torch.long))


def test_sequence_logprobs_sum_the_selected_tokens():
    logprobs = torch.tensor([[-1.0, -2.0, -4.0], [-1.0, nan, -inf]])
    close(sequence_logprobs(logprobs, mask([0, 1, 1], [1, 0, 0])), [-6.0, -1.0])


def test_sft_loss_is_the_mean_negative_logprob_of_response_tokens():
    logprobs = torch.tensor([[-5.0, log(1 / 2), log(1 / 4)], [log(1 / 8), 0.0, 0.0]])
    # Selected: 1/2, 1/4, 1/8; (1 + 2 + 3) ln 2 / 3.
    close(sft_loss(logprobs, mask([0, 1, 1], [1, 0, 0])), 2 * log(2))


def test_prompt_tokens_get_no_gradient():
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logprobs = token_logprobs(logits, torch.tensor([[1, 2, 3, 4]]))
    sft_loss(logprobs, mask([0, 0, 1, 1])).backward()
    assert (logits.grad[:, :2] == 0).all()
    assert (logits.grad[:, 2:] != 0).all()


def test_sft_loss_raises_the_probability_of_the_token():
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    sft_loss(token_logprobs(logits, torch.tensor([[1]])), mask([1])).backward()
    close(logits.grad, [[[0.5, -0.5]]])  # softmax − one-hot


def test_bradley_terry_loss_is_minus_log_sigmoid_of_the_margin():
    # Margins ln 3 and 0: σ = 3/4 and 1/2.
    loss = bradley_terry_loss(torch.tensor([log(3) + 1, 2.0]), torch.tensor([1.0, 2.0]))
    close(loss, (log(4 / 3) + log(2)) / 2)


def test_bradley_terry_loss_does_not_see_a_shift_of_all_rewards():
    chosen, rejected = torch.tensor([0.3, -1.0]), torch.tensor([0.1, 2.0])
    close(bradley_terry_loss(chosen + 7, rejected + 7), bradley_terry_loss(chosen, rejected))


def test_bradley_terry_gradient_raises_chosen_and_lowers_rejected():
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    bradley_terry_loss(chosen, rejected).backward()
    close(chosen.grad, [-0.5])  # −σ(−0)
    close(rejected.grad, [0.5])


def test_bradley_terry_loss_refuses_unpaired_rewards():
    with pytest.raises(ValueError, match=r"chosen \(2,\), rejected \(2, 1\)"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(2, 1))


def test_classification_loss_is_binary_cross_entropy():
    # σ(ln 3) = 3/4, right: −ln 3/4. σ(ln 3) = 3/4, wrong: −ln 1/4.
    rewards = torch.tensor([log(3), log(3)])
    close(classification_loss(rewards, torch.tensor([True, False])), (log(4 / 3) + log(4)) / 2)


def test_classification_loss_stays_finite_at_large_rewards():
    close(classification_loss(torch.tensor([200.0]), torch.tensor([False])), 200.0)


def test_reward_model_loss_classifies_both_responses_of_a_pair():
    losses = reward_model_loss(torch.tensor([log(3), 0.0]), torch.tensor([True, False]), classification_weight=0.5)
    # L_pref = ln 4/3; L_cls = (ln 4/3 + ln 2) / 2.
    close(losses.preference_loss, log(4 / 3))
    close(losses.classification_loss, (log(4 / 3) + log(2)) / 2)
    close(losses.loss, log(4 / 3) + 0.5 * (log(4 / 3) + log(2)) / 2)


def test_without_its_classification_term_the_reward_model_loss_is_bradley_terry():
    rewards, is_correct = torch.tensor([0.2, 1.0, 3.0, -1.0]), torch.tensor([True, True, False, False])
    losses = reward_model_loss(rewards, is_correct, classification_weight=0.0)
    close(losses.loss, bradley_terry_loss(torch.tensor([0.2, 3.0]), torch.tensor([1.0, -1.0])))


def test_without_its_preference_term_the_reward_model_loss_is_the_classification_loss():
    rewards, is_correct = torch.tensor([log(3), log(3)]), torch.tensor([True, False])
    losses = reward_model_loss(rewards, is_correct, classification_weight=1.0, preference_weight=0.0)
    close(losses.loss, (log(4 / 3) + log(4)) / 2)


def test_reward_model_loss_refuses_labels_of_another_batch():
    with pytest.raises(ValueError, match=r"rewards \(4,\), is_correct \(3,\)"):
        reward_model_loss(torch.zeros(4), torch.ones(3, dtype=torch.bool), classification_weight=0.5)


def test_reward_model_loss_refuses_a_response_without_a_partner():
    with pytest.raises(ValueError, match=r"chosen \(2,\), rejected \(1,\)"):
        reward_model_loss(torch.zeros(3), torch.ones(3, dtype=torch.bool), classification_weight=0.5)


def test_dpo_loss_compares_the_log_ratios():
    # β [(−1 + 1 + 2 ln 3) − (−3 + 3)] = ½ · 2 ln 3 = ln 3, and σ(ln 3) = 3/4.
    loss = dpo_loss(
        torch.tensor([-1.0]), torch.tensor([-3.0]), torch.tensor([-1 - 2 * log(3)]), torch.tensor([-3.0]), beta=0.5
    )
    close(loss, log(4 / 3))


def test_dpo_loss_of_the_reference_itself_is_log_two():
    chosen, rejected = torch.tensor([-4.0, -9.0]), torch.tensor([-1.0, -2.0])
    close(dpo_loss(chosen, rejected, chosen, rejected, beta=0.1), log(2))


def test_dpo_gradient_reaches_the_policy_alone():
    tensors = [torch.zeros(1, requires_grad=True) for _ in range(4)]
    dpo_loss(*tensors, beta=0.1).backward()
    close(tensors[0].grad, [-0.05])  # −β σ(−0)
    close(tensors[1].grad, [0.05])
    assert tensors[2].grad is None
    assert tensors[3].grad is None


def test_clipped_surrogate_loss_takes_the_smaller_objective():
    logprobs = torch.tensor([[log(1.5), log(0.5), log(1.5), 0.0]])
    advantages = torch.tensor([[1.0, -1.0, -1.0, 50.0]])
    loss = clipped_surrogate_loss(logprobs, torch.zeros(1, 4), advantages, mask([1, 1, 1, 0]), clip_range=0.2)
    # min(1.5, 1.2) = 1.2;  min(−0.5, −0.8) = −0.8;  min(−1.5, −1.2) = −1.5.
    close(loss, -(1.2 - 0.8 - 1.5) / 3)


def test_importance_weights_the_objective_and_gets_no_gradient():
    logprobs = torch.tensor([[log(1.5), log(0.5)]])
    importance = torch.tensor([[0.5, 2.0]], requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0]])
    loss = clipped_surrogate_loss(
        logprobs, torch.zeros(1, 2), advantages, mask([1, 1]), clip_range=0.2, importance=importance
    )
    close(loss, -(0.5 * 1.2 + 2 * -0.8) / 2)
    assert not loss.requires_grad


def test_importance_is_truncated_and_one_outside_the_mask():
    trainer = torch.tensor([[log(0.3), log(0.6), log(0.1), 0.0]], requires_grad=True)
    sampler = torch.tensor([[log(0.6), log(0.2), log(0.1), -float("inf")]])
    weights = truncated_importance(trainer, sampler, mask([1, 1, 1, 0]), cap=2.0)
    close(weights, [[0.5, 2.0, 1.0, 1.0]])  # 0.3 / 0.6; 0.6 / 0.2 = 3, at most 2; equal


def test_the_upper_clip_bound_can_be_wider():
    logprobs, ones = torch.full((1, 1), log(1.5)), torch.ones(1, 1)
    loss = clipped_surrogate_loss(logprobs, 0 * ones, ones, mask([1]), clip_range=0.2, clip_range_high=0.4)
    close(loss, -1.4)
    # The lower bound stays at 0.8: min(0.7 · −1, 0.8 · −1) = −0.8.
    below = clipped_surrogate_loss(
        torch.full((1, 1), log(0.7)), 0 * ones, -ones, mask([1]), clip_range=0.2, clip_range_high=0.4
    )
    close(below, 0.8)


def test_on_policy_the_clipped_surrogate_is_reinforce():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    advantages = torch.tensor([[2.0, -4.0, 7.0]])
    clipped_surrogate_loss(logprobs, logprobs, advantages, mask([1, 1, 0]), clip_range=0.2).backward()
    # Gradient of −mean_t A_t log π(y_t): −A_t / 2 on the two selected tokens, also when both sides are one tensor.
    close(logprobs.grad, [[-1.0, 2.0, 0.0]])


def test_a_clipped_token_gets_no_gradient():
    logprobs = torch.tensor([[log(1.5), log(1.5)]], requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0]])
    clipped_surrogate_loss(logprobs, torch.zeros(1, 2), advantages, mask([1, 1]), clip_range=0.2).backward()
    # Up for a bad token the clip does not bind: d(1.5 / 2)/d log π = 0.75.
    close(logprobs.grad, [[0.0, 0.75]])


def test_policy_and_value_gradients_reach_the_first_argument_alone():
    policy, value = ([torch.ones(1, 1, requires_grad=True) for _ in range(3)] for _ in range(2))
    clipped_surrogate_loss(*policy, mask([1]), clip_range=0.2).backward()
    value_loss(*value[:2], value[2] + 1, mask([1]), value_clip_range=0.2).backward()
    for trained, *fixed in (policy, value):
        assert trained.grad.item() == -1  # −A = −1;  V − R = 1 − 2
        assert all(tensor.grad is None for tensor in fixed)


def test_one_advantage_may_hold_for_a_whole_response():
    logprobs = torch.tensor([[0.1, -0.1], [0.05, 0.0]])
    selected, old = mask([1, 1], [1, 0]), torch.zeros(2, 2)
    per_response = torch.tensor([[2.0], [-1.0]])
    close(
        clipped_surrogate_loss(logprobs, old, per_response, selected, clip_range=0.2),
        clipped_surrogate_loss(logprobs, old, per_response.expand(2, 2), selected, clip_range=0.2),
    )


def test_advantages_of_another_shape_are_refused():
    logprobs, selected = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"logprobs \(2, 3\), advantages \(1, 3\)"):
        clipped_surrogate_loss(logprobs, logprobs, torch.zeros(1, 3), selected, clip_range=0.2)


def test_value_loss_takes_the_larger_error():
    values, old_values = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    loss = value_loss(values, old_values, torch.zeros(1, 2), mask([1, 1]), value_clip_range=0.5)
    # V 2 clips to 1.5: max(4, 2.25) = 4.  V 1 clips to 2.5: max(1, 6.25) = 6.25.  ½ · 10.25 / 2.
    close(loss, 2.5625)


def test_value_loss_without_clip_is_half_the_squared_error():
    values, old_values = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    close(value_loss(values, old_values, torch.zeros(1, 2), mask([1, 1]), value_clip_range=None), 0.5 * (4 + 1) / 2)


@pytest.mark.parametrize("junk", [nan, inf, -inf, 1e30])
def test_what_stands_on_padding_changes_neither_loss_nor_gradient(junk):
    def losses_and_gradients(width: int) -> list[Tensor]:
        def row(*values: float) -> Tensor:
            return torch.tensor([[*values, *[junk] * (width - 2)]])

        selected = mask([1, 1, *[0] * (width - 2)])
        logprobs, values = row(-1.0, -2.0).requires_grad_(), row(0.3, 0.4).requires_grad_()
        losses = [
            clipped_surrogate_loss(logprobs, row(-1.1, -1.9), row(1.0, -2.0), selected, clip_range=0.2),
            sft_loss(logprobs, selected),
            value_loss(values, row(0.1, 0.9), row(1.0, 0.0), selected, value_clip_range=0.2),
        ]
        sum(losses).backward()
        assert (logprobs.grad[:, 2:] == 0).all()
        assert (values.grad[:, 2:] == 0).all()
        return [*(loss.detach() for loss in losses), logprobs.grad[:, :2], values.grad[:, :2]]

    for padded, bare in zip(losses_and_gradients(5), losses_and_gradients(2), strict=True):
        close(padded, bare)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    # d = ln 2: itself; (ln 2)² / 2; ½ − 1 + ln 2.
    [("k1", log(2)), ("k2", log(2) ** 2 / 2), ("k3", log(2) - 0.5)],
)
def test_kl_estimates_of_a_ratio_of_two(estimator, expected):
    close(kl_estimate(torch.zeros(1, 1), torch.full((1, 1), -log(2)), estimator=estimator), [[expected]])


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator):
    policy, reference = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 0.5]])
    estimate = (policy * kl_estimate(policy.log(), reference.log(), estimator=estimator)).sum()
    # KL = ¼ ln ½ + ¾ ln 1.5 = −0.1732868 + 0.3040988.
    close(estimate, 0.1308120)


@pytest.mark.parametrize(
    ("estimator", "gradient"),
    # π = (¼, ¾), π_ref = (½, ½). ∂KL(π‖π_ref)/∂z = π (log π/π_ref − KL): ¼ (−0.6931472 − 0.1308120) = −0.2059898.
    # ∂KL(π_ref‖π)/∂z = π − π_ref.
    [("k1", [0.0, 0.0]), ("k2", [-0.2059898, 0.2059898]), ("k3", [-0.25, 0.25])],
)
def test_as_a_loss_only_k2_has_the_gradient_of_the_kl(estimator, gradient):
    logits = torch.tensor([[0.25, 0.75]]).log().requires_grad_()
    logprobs = logits.log_softmax(-1)
    estimate = kl_estimate(logprobs, torch.full((1, 2), log(0.5)), estimator=estimator)
    (logprobs.detach().exp() * estimate).sum().backward()  # the expectation over tokens sampled by π
    close(logits.grad, [gradient])


def test_k3_of_nearby_policies_is_not_lost_to_rounding():
    # d = 1e-4: d² / 2 − d³ / 6 = 5.0e-9, below the rounding (6e-8) of e^(−d) in float32.
    difference = torch.full((1, 1), 1e-4)
    assert kl_estimate(difference, 0 * difference, estimator="k3").item() == pytest.approx(5e-9, rel=0.01)


def test_an_unknown_kl_estimator_names_the_known_ones():
    with pytest.raises(ValueError, match="estimator='k4' is none of k1, k2, k3"):
        kl_estimate(torch.zeros(1, 1), torch.zeros(1, 1), estimator="k4")


@pytest.mark.parametrize(
    ("values", "expected"),
    # Returns 1 and 3, variance 1. Errors 0, 1: variance ¼. Errors 0, 0. Errors equal: a constant head explains nothing.
    [([1.0, 2.0], 0.75), ([1.0, 3.0], 1.0), ([2.0, 2.0], 0.0)],
)
def test_explained_variance_of_good_and_bad_value_heads(values, expected):
    returns = torch.tensor([[1.0, 3.0, 99.0]])
    close(explained_variance(torch.tensor([[*values, 0.0]]), returns, mask([1, 1, 0])), expected)


P, Q = [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]  # of a teacher and a student over three tokens


def logits_of(probabilities: list[float]) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log() + 3  # a constant changes no probability


def test_the_divergence_of_two_distributions_worked_by_hand():
    # M = (3/8, 3/8, 1/4): KL(P ‖ M) = log 4/3, KL(Q ‖ M) = 1/2 log 2/3 + 1/2 log 2; their mean.
    expected = 0.5 * log(4 / 3) + 0.5 * (0.5 * log(2 / 3) + 0.5 * log(2))
    assert float(generalised_jsd(logits_of(Q), logits_of(P), beta=0.5)) == pytest.approx(expected)


def test_at_its_ends_the_divergence_is_forward_and_reverse_kl():
    # KL(P ‖ Q) = 2 · 1/2 log 2.
    assert float(generalised_jsd(logits_of(Q), logits_of(P), beta=0.0)) == pytest.approx(log(2))
    # Here the roles are swapped: KL(student ‖ teacher) of the same two.
    assert float(generalised_jsd(logits_of(P), logits_of(Q), beta=1.0)) == pytest.approx(log(2))


@pytest.mark.parametrize("small", [1e-3, 1e-5])
def test_towards_its_ends_the_divergence_over_its_weight_tends_to_the_kl(small):
    student, teacher = torch.randn(2, 4, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p, q = teacher.softmax(-1), student.softmax(-1)
    forward, reverse = (p * (p / q).log()).sum(-1), (q * (q / p).log()).sum(-1)
    for beta, weight, kl in ((small, small, forward), (1 - small, small, reverse)):
        torch.testing.assert_close(generalised_jsd(student, teacher, beta=beta) / weight, kl, rtol=50 * small, atol=0)
    torch.testing.assert_close(generalised_jsd(student, teacher, beta=0.0), forward)
    torch.testing.assert_close(generalised_jsd(student, teacher, beta=1.0), reverse)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_equal_distributions_do_not_diverge_and_only_the_student_gets_a_gradient(beta):
    student = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, -torch.inf, 5.0]], requires_grad=True)  # an embedding without a token
    divergence = generalised_jsd(student, teacher, beta=beta)
    assert float(divergence.detach()) == pytest.approx(0.0, abs=1e-6)
    generalised_jsd(student[:, :2], teacher[:, 1:3].clamp(min=-3), beta=beta).sum().backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
