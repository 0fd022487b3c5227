"""Every loss and tensor formula of the method; torch enters, scalars and per-token tensors leave.

Eq. (n) is that of paper D. Shapes: B responses (or pairs), T tokens, V vocabulary. Log-probabilities, entropies and KL
are in nats. A `response_mask` is boolean, (B, T), True where a token counts. Values elsewhere, NaN and infinity
included, change neither a loss nor its gradient. Unless a docstring says otherwise, a loss is a mean over all selected
tokens of the batch, not a mean of per-response means.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

KLEstimator = Literal["k1", "k2", "k3"]
Reduce = Callable[[Tensor, Tensor], Tensor]
"""Reduces values (B, T) and their mask to a scalar: the mean of a loss over tokens."""


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of different shapes: broadcasting would silently train on the wrong tokens.

    Raises:
        ValueError: two shapes differ; the message names each tensor with its shape.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"expected tensors of one shape, got {shapes}.")


def masked_mean(
    values: Tensor, response_mask: Tensor, *, total: Callable[[Tensor], Tensor] = lambda own: own
) -> Tensor:
    """Mean of `values` (B, T) over all tokens that `response_mask` (B, T) selects in the batch, a scalar.

    `total` as for `center_and_scale`; a `total` other than the identity gives no gradient.

    Raises:
        ValueError: the shapes differ, or no token is selected (the mean, and then the weights, would be NaN).
    """
    check_same_shape(values=values, response_mask=response_mask)
    if not response_mask.any():
        raise ValueError(f"response_mask {tuple(response_mask.shape)} selects no token; drop empty batches before.")
    return total(values.masked_fill(~response_mask, 0).sum()) / total(response_mask.sum())


def mean_of_response_means(values: Tensor, response_mask: Tensor) -> Tensor:
    """Mean over responses of the mean over the selected tokens of each, a scalar: GRPO as published, arXiv:2402.03300.

    A token of a short response counts for more than one of a long response. (B, T) each.

    Raises:
        ValueError: the shapes differ, or a response has no selected token.
    """
    check_same_shape(values=values, response_mask=response_mask)
    tokens = response_mask.sum(1)
    if not tokens.all():
        raise ValueError(f"{int((tokens == 0).sum())} of {len(tokens)} responses have no token; drop them before.")
    return (values.masked_fill(~response_mask, 0).sum(1) / tokens).mean()


def mean_of_response_sums(values: Tensor, response_mask: Tensor, *, divisor: float) -> Tensor:
    """Mean over responses of (sum over the selected tokens of each) / `divisor`, a scalar: Dr. GRPO, arXiv:2503.20783.

    The divisor is a constant, such as the longest length: a long response then has no smaller gradient per token than
    a short one. (B, T) each.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(values=values, response_mask=response_mask)
    return values.masked_fill(~response_mask, 0).sum(1).mean() / divisor


def center_and_scale(
    values: Tensor, response_mask: Tensor, *, total: Callable[[Tensor], Tensor] = lambda own: own
) -> Tensor:
    """Whiten: (v − mean) / √(var + 1e-8), mean 0 and variance 1 over the selected tokens, 0 elsewhere; (B, T).

    The variance divides by n − 1, as in the PPO code of Ziegler et al., arXiv:1909.08593, and its successors.

    Args:
        total: sums a tensor over all processes, if `values` are the share of one process.

    Raises:
        ValueError: the shapes differ, or no token is selected.
    """
    mean = masked_mean(values, response_mask, total=total)
    centered = (values - mean).masked_fill(~response_mask, 0)
    # One selected token has no variance: n − 1 is taken as 1, and the result is 0 instead of NaN.
    variance = total(centered.square().sum()) / (total(response_mask.sum()) - 1).clamp(min=1)
    return centered * torch.rsqrt(variance + 1e-8)


def scale(values: Tensor, response_mask: Tensor, *, total: Callable[[Tensor], Tensor] = lambda own: own) -> Tensor:
    """Scale around the mean: (v − mean) / √(var + 1e-8) + mean on the selected tokens, 0 elsewhere; (B, T).

    `total` as for `center_and_scale`.

    Raises:
        ValueError: the shapes differ, or no token is selected.
    """
    mean = masked_mean(values, response_mask, total=total)
    return (center_and_scale(values, response_mask, total=total) + mean).masked_fill(~response_mask, 0)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log π(y_t) = z_t[y_t] − log Σ_v exp z_t[v], (B, T), in float32 (or float64 for float64 logits).

    Args:
        logits: z, (B, T, V), in any float type; z_t is already aligned with the token it predicts.
        tokens: y, (B, T), each in [0, V); padding may hold any such id.

    Raises:
        ValueError: `tokens` is not (B, T).
    """
    check_same_shape(**{"logits without V": logits[..., 0], "tokens": tokens})
    # Not z_t[y_t] − logsumexp, whose backward pass takes twice as long.
    return at_least_float32(logits).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def token_entropy(logits: Tensor) -> Tensor:
    """H_t = −Σ_v π(v) log π(v), (B, T), from `logits` (B, T, V); float type as in `token_logprobs`."""
    logprobs = at_least_float32(logits).log_softmax(-1)
    # A forbidden token has log-probability −∞, and 0 · −∞ would be NaN.
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(-1)


def kl_from_uniform(logits: Tensor) -> Tensor:
    """KL(U ‖ π_t) = −log V − (1/V) Σ_v log π_t(v), (B, T), from `logits` (B, T, V): 0 where π_t is uniform.

    Float type as in `token_logprobs`. A forbidden token makes it infinite. Its mean over tokens is the self-certainty
    of arXiv:2505.19590.
    """
    return -at_least_float32(logits).log_softmax(-1).mean(-1) - math.log(logits.shape[-1])


def in_chunks(function: Callable[..., Tensor], chunk_tokens: int, *tensors: Tensor) -> Tensor:
    """`function` of tensors (B, T, …), `chunk_tokens` positions at a time, joined along T.

    Intermediate tensors exist for one chunk only. They are not kept for the backward pass, which computes each chunk
    again. Full-vocabulary float32 is the memory peak of training: 64 × 512 × 128k is 17 GB.
    """
    if tensors[0].shape[1] <= chunk_tokens:
        return function(*tensors)
    # `split`, not slices: its backward joins the chunks' gradients once, where each slice pads its own to (B, T, V).
    chunks = zip(*(tensor.split(chunk_tokens, dim=1) for tensor in tensors), strict=True)
    return torch.cat(
        [checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks], dim=1
    )


def sequence_logprobs(logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """log π(y | x) = Σ_t log π(y_t | x, y_<t) over the selected tokens: (B, T) -> (B,).

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(logprobs=logprobs, response_mask=response_mask)
    return logprobs.masked_fill(~response_mask, 0).sum(dim=1)


def sft_loss(logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's responses, Eq. (3): L = −mean_t log π(y_t | x, y_<t).

    Eq. (3) leaves the reduction open; here it is the mean over all selected tokens of `logprobs` (B, T), a scalar.

    Raises:
        ValueError: the shapes differ, or no token is selected.
    """
    return -masked_mean(logprobs, response_mask)


def classification_loss(rewards: Tensor, is_correct: Tensor) -> Tensor:
    """Binary cross-entropy of σ(R) against 1[ℓ = ℓ*], Eq. (7).

        L_cls = −mean [ 1[ℓ = ℓ*] log σ(R) + 1[ℓ ≠ ℓ*] log(1 − σ(R)) ]

    Args:
        rewards: R(q, a), (B,).
        is_correct: whether ℓ = ℓ*, (B,), boolean.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(rewards=rewards, is_correct=is_correct)
    return F.binary_cross_entropy_with_logits(rewards, is_correct.to(rewards.dtype))


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Preference loss, Eq. (8): L_pref = −mean log σ(R(q, a_i) − R(q, a_j)); rewards (B,), a_i chosen, a_j rejected.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(chosen=chosen, rejected=rejected)
    return -F.logsigmoid(chosen - rejected).mean()


class RewardModelLoss(NamedTuple):
    """The objective of Eq. (9) and its two terms without their weights; each is a scalar."""

    loss: Tensor
    preference_loss: Tensor
    classification_loss: Tensor


def reward_model_loss(
    rewards: Tensor, is_correct: Tensor, *, classification_weight: float, preference_weight: float = 1.0
) -> RewardModelLoss:
    """The reward model's objective, Eq. (9): L = L_pref + λ_cls L_cls.

    Args:
        rewards: R of both responses of each pair in the order chosen, rejected, chosen, …, (2 B,).
        is_correct: whether ℓ = ℓ*, in the same order, (2 B,), boolean; both are True in a T⁺ over S⁺ pair.
        classification_weight: λ_cls, dimensionless; 0.5 in the paper.
        preference_weight: weight of L_pref, dimensionless; 1 in Eq. (9), 0 for an outcome reward model.

    Returns:
        L, L_pref (mean over the B pairs) and L_cls (mean over the 2 B responses).

    Raises:
        ValueError: the shapes differ, or a response has no partner.
    """
    preference = bradley_terry_loss(rewards[0::2], rewards[1::2])
    classification = classification_loss(rewards, is_correct)
    loss = preference_weight * preference + classification_weight * classification
    return RewardModelLoss(loss, preference, classification)


def dpo_loss(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    reference_chosen_logprobs: Tensor,
    reference_rejected_logprobs: Tensor,
    *,
    beta: float,
) -> Tensor:
    """Direct preference optimisation: arXiv:2305.18290, Eq. 7.

        L = −mean log σ( β [log π(y_w)/π_ref(y_w) − log π(y_l)/π_ref(y_l)] ),    y_w chosen, y_l rejected

    Args:
        chosen_logprobs: log π(y_w | x), summed over the response (`sequence_logprobs`), (B,).
        rejected_logprobs: log π(y_l | x), likewise, (B,).
        reference_chosen_logprobs: log π_ref(y_w | x), (B,), no gradient flows here.
        reference_rejected_logprobs: log π_ref(y_l | x), (B,), no gradient flows here.
        beta: β, dimensionless, > 0; the strength of the tie to the reference policy.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(
        chosen_logprobs=chosen_logprobs,
        rejected_logprobs=rejected_logprobs,
        reference_chosen_logprobs=reference_chosen_logprobs,
        reference_rejected_logprobs=reference_rejected_logprobs,
    )
    chosen_rewards = beta * (chosen_logprobs - reference_chosen_logprobs.detach())
    rejected_rewards = beta * (rejected_logprobs - reference_rejected_logprobs.detach())
    return bradley_terry_loss(chosen_rewards, rejected_rewards)


def clipped_surrogate_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    importance: Tensor | None = None,
    reduce: Reduce | None = None,
) -> Tensor:
    """Clipped policy-gradient loss: first term of Eq. (12); PPO, arXiv:1707.06347, Eq. 7.

        L(θ) = −mean_t w_t min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t),    ρ_t = π_θ(y_t) / π_old(y_t)

    Eq. (12) prints the objective, which is maximised, with w_t = 1; the loss is its negative.

    Args:
        logprobs: log π_θ(y_t | x, y_<t), (B, T); gradients flow through this one only.
        old_logprobs: the same under the policy that sampled y, (B, T).
        advantages: (B, T), or (B, 1) where one value holds for a whole response.
        response_mask: True where y_t is a token the policy sampled, (B, T).
        clip_range: ε, dimensionless, 0 < ε < 1.
        clip_range_high: ε of the upper bound where it differs from the lower one, > 0 (DAPO, arXiv:2503.14476).
        importance: w_t, (B, T), of a sampler that is not quite π_old (`truncated_importance`); None is 1.
        reduce: the reduction mean_t; None is the mean over all selected tokens of the batch.

    Returns:
        Scalar.

    Raises:
        ValueError: the shapes above do not hold, or no token is selected.
    """
    if advantages.shape != (logprobs.shape[0], 1):
        check_same_shape(logprobs=logprobs, advantages=advantages)
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, response_mask=response_mask)
    # Masked before exp: an infinite ratio on padding would turn its zero gradient into NaN.
    ratio = torch.exp((logprobs - old_logprobs.detach()).masked_fill(~response_mask, 0))
    clipped = ratio.clamp(1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high))
    advantages = advantages.detach()
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    if importance is not None:
        check_same_shape(logprobs=logprobs, importance=importance)
        objective = importance.detach() * objective
    return -(reduce or masked_mean)(objective, response_mask)


def truncated_importance(old_logprobs: Tensor, sampler_logprobs: Tensor, response_mask: Tensor, cap: float) -> Tensor:
    """Truncated importance weights, (B, T): min(π_old(y_t) / μ(y_t), cap), 1 outside the mask.

    μ is the distribution that y was drawn from. An engine computes it with other kernels and in another precision than
    the trainer computes π_old, so that the two differ although their weights are the same (Yao et al. 2025, "Your
    efficient RL framework secretly brings you off-policy RL training"; the truncation is IMPALA's, arXiv:1802.01561).

    Args:
        old_logprobs: log π_old(y_t | x, y_<t), as the trainer computes it, (B, T).
        sampler_logprobs: log μ(y_t | x, y_<t), as the sampler states it, (B, T).
        response_mask: True where y_t is a token that was drawn, (B, T).
        cap: the largest weight, > 0; it bounds the variance and leaves a bias.

    Raises:
        ValueError: the shapes above do not hold.
    """
    check_same_shape(old_logprobs=old_logprobs, sampler_logprobs=sampler_logprobs, response_mask=response_mask)
    return torch.exp((old_logprobs - sampler_logprobs).masked_fill(~response_mask, 0)).clamp(max=cap)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    *,
    value_clip_range: float | None,
    reduce: Reduce | None = None,
) -> Tensor:
    """Squared error of the value head, clipped around the values of the rollout as in PPO's reference code.

        L = ½ mean_t max( (V_t − R_t)², (clip(V_t, V_old,t − ε_V, V_old,t + ε_V) − R_t)² )

    Args:
        values: V_θ, (B, T), in units of reward; gradients flow through this one only.
        old_values: V when the rollout was made, (B, T).
        returns: R, the regression target, (B, T).
        response_mask: True where a token was sampled, (B, T).
        value_clip_range: ε_V, in units of reward, > 0; None drops the clipped term, and `old_values` with it.
        reduce: as for `clipped_surrogate_loss`.

    Raises:
        ValueError: the shapes differ, or no token is selected.
    """
    check_same_shape(values=values, old_values=old_values, returns=returns, response_mask=response_mask)
    values = values.masked_fill(~response_mask, 0)  # stops the gradient of values on padding, NaN included
    returns, old_values = returns.detach(), old_values.detach()
    error = (values - returns).square()
    if value_clip_range is not None:
        clipped = values.clamp(old_values - value_clip_range, old_values + value_clip_range)
        error = torch.maximum(error, (clipped - returns).square())
    return 0.5 * (reduce or masked_mean)(error, response_mask)


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, *, estimator: KLEstimator) -> Tensor:
    """Per-token estimate of KL(π ‖ π_ref) from tokens sampled by π, (B, T): J. Schulman, "Approximating KL divergence".

        k1 = d,    k2 = d² / 2,    k3 = e^(−d) − 1 + d,    d = log π(y_t) − log π_ref(y_t)

    k1 and k3 are unbiased, k2 and k3 never negative. As a *loss* they differ more: on-policy the gradient of k1 has
    mean zero, that of k2 is the gradient of the KL, that of k3 is the gradient of the reverse, KL(π_ref ‖ π).
    There is no mask here: both arguments must be 0 on padding, where e^(−d) could overflow and spoil the gradient.

    Args:
        logprobs: log π(y_t | x, y_<t), (B, T).
        reference_logprobs: log π_ref(y_t | x, y_<t), (B, T).
        estimator: which of the three; k1 is the one for a penalty inside the reward.

    Raises:
        ValueError: the shapes differ, or the estimator is none of the three.
    """
    check_same_shape(logprobs=logprobs, reference_logprobs=reference_logprobs)
    difference = logprobs - reference_logprobs
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return torch.expm1(-difference) + difference
    raise ValueError(f"estimator={estimator!r} is none of {', '.join(get_args(KLEstimator))}.")


def generalised_jsd(student_logits: Tensor, teacher_logits: Tensor, *, beta: float) -> Tensor:
    """The generalised Jensen–Shannon divergence of each token, in nats: GKD, arXiv:2306.13649.

        JSD(β) = β KL(P ‖ M) + (1 − β) KL(Q ‖ M),    M = β P + (1 − β) Q,    P the teacher, Q the student

    JSD(β) / β tends to the forward KL, KL(P ‖ Q), for β → 0, and JSD(β) / (1 − β) to the reverse KL, KL(Q ‖ P), for
    β → 1. Both limits of JSD itself are 0, so that β = 0 and β = 1 stand for the two KL.

    Args:
        student_logits: (..., V); gradients flow through these only.
        teacher_logits: (..., V or more); embeddings beyond the student's vocabulary are left out.
        beta: β, in [0, 1].

    Returns:
        (...), in the float type of `at_least_float32`.
    """
    # A forbidden token has log-probability −∞, and 0 · −∞ would be NaN.
    student, teacher = (
        (rows := at_least_float32(logits).log_softmax(-1)).clamp(min=torch.finfo(rows.dtype).min)
        for logits in (student_logits, teacher_logits[..., : student_logits.shape[-1]].detach())
    )
    if beta == 0:
        return (teacher.exp() * (teacher - student)).sum(-1)
    if beta == 1:
        return (student.exp() * (student - teacher)).sum(-1)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    of_teacher = (teacher.exp() * (teacher - mixture)).sum(-1)
    of_student = (student.exp() * (student - mixture)).sum(-1)
    return beta * of_teacher + (1 - beta) * of_student


def explained_variance(values: Tensor, returns: Tensor, response_mask: Tensor) -> Tensor:
    """Diagnostic: 1 − Var(returns − values) / Var(returns) over the selected tokens; (B, T) each, a scalar.

    1 for a perfect value head, 0 for a constant one, below 0 for a worse one; not finite where the returns are equal.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(values=values, returns=returns, response_mask=response_mask)
    residual_variance = (returns - values)[response_mask].var(correction=0)
    return 1 - residual_variance / returns[response_mask].var(correction=0)


def at_least_float32(logits: Tensor) -> Tensor:
    """The logits in float32, or in float64 if they are: bfloat16 has 8 bits, and each operation would round to them."""
    return logits if logits.dtype == torch.float64 else logits.float()
