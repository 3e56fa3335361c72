"""An upper bound of how far objectives are above their minima, by duality.

For any probabilities p_i with Σ_i s_i p_i = Σ_i s_i t_i (which the intercept demands), the dual value

    D(p) = 1/S Σ_i s_i H(p_i) − Σ_d ‖g_d(p)‖² / (2 ρ_d),    g(p) = 1/S Σ_i s_i (p_i − t_i) x_iᵀ,

is at most the minimum. The probabilities of the point itself meet the condition only where the gradient in b is 0. So p
is mixed with a little of one distribution q for all examples that makes up for the difference: (1 − θ) p_i + θ q. The
entropy is concave, so its mean is at least (1 − θ) H(p_i) + θ H(q), and g is linear: no further pass is needed.

Source:
    Boyd and Vandenberghe, "Convex optimization", section 5.5.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from fcnet.linear_model.problem import ObjectiveValues, Problem

_EPSILON = torch.finfo(torch.float64).eps


def objective_gaps(problem: Problem, parameters: Tensor, found: ObjectiveValues) -> Tensor:
    """Returns upper bounds of F − min F, float64 (K,).

    Args:
        problem: the objectives.
        parameters: the points, (K, O, D + 1).
        found: the objectives there, evaluated in float64.
    """
    weights, penalty = parameters[..., :-1], problem.penalty[:, None]
    slopes = found.grad[..., :-1] - penalty * weights  # g(p), of the losses alone
    bias_slopes = found.grad[..., -1]
    # Σ_i s_i H(p_i) / S = the mean loss − Σ_i s_i (p_i − t_i) · z_i / S, since z = W x + b.
    entropy = found.mean_loss - (slopes * weights).sum((1, 2)) - (bias_slopes * parameters[..., -1]).sum(1)
    if problem.intercept:
        theta, mixed, class_slopes = _mixture(problem, bias_slopes)
        entropy = (1.0 - theta) * entropy + theta * torch.special.entr(mixed).sum(1)
        slopes = slopes + theta[:, None, None] * (class_slopes - slopes)
    dual = entropy - (slopes.square() / penalty).sum((1, 2)) / 2.0
    # Each term is a sum whose rounding is far below that of one addition per block of rows.
    size = found.value + found.mean_loss + (slopes * weights).abs().sum((1, 2)) + entropy.abs()
    gap = (found.value - dual).clamp_min(0.0) + 16.0 * _EPSILON * size
    return gap.nan_to_num(nan=torch.inf)


def _mixture(problem: Problem, bias_slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns θ (K,), q (K, C), and the gradient of the losses in W where every p_i is q, (K, O, D)."""
    if problem.num_nodes == 1:
        bias_slopes = torch.cat([-bias_slopes, bias_slopes], 1)
    frequencies = problem.frequencies  # Σ_i s_i t_i / S
    mean = frequencies + bias_slopes  # Σ_i s_i p_i / S
    # q = p̄ + (t̄ − p̄) / θ must not be negative: the smallest such θ.
    theta = (bias_slopes / mean).amax(1).clamp(0.0, 1.0)
    # Rounding must not make q negative; a larger θ is as valid.
    theta = (theta * (1.0 + 1e-12) + 1e-300).clamp_max(1.0)
    mixed = (mean - bias_slopes / theta[:, None]).clamp_min(0.0)
    mixed = mixed / mixed.sum(1, keepdim=True)
    means = mixed[..., None] * problem.feature_means - problem.class_means
    return theta, mixed, means[:, 1:] if problem.num_nodes == 1 else means
