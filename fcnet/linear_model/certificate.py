"""An upper bound of how far objectives are above their minima, by duality.

For any probabilities q_i with Σ_i s_i q_i = Σ_i s_i t_i (which the intercept demands), the dual value

    D(q) = 1/S Σ_i s_i H(q_i) − Σ_d ‖g_d(q)‖² / (2 ρ_d),    g(q) = 1/S Σ_i s_i (q_i − t_i) x_iᵀ,

is at most the minimum. At the minimum q = p and g(p) = −ρ W. At a point near it, the residual r = g(p) + ρ W costs
‖r‖² / 2ρ, which is much if ρ is small. So q_i = p_i − r Σ⁻¹ x_i is tried, which has the residual 0 as far as no
probability must be held back from 0: it costs 1/S Σ_i s_i Σ_c (q_ic − p_ic)² / 2 p_ic, whatever ρ is.

What is left of the intercept's condition is made up for by a little of one distribution for all examples: with
(1 − θ) q_i + θ u, the entropy's mean is at least (1 − θ) H(q_i) + θ H(u), since H is concave, and g is linear.

Source:
    Boyd and Vandenberghe, "Convex optimization", section 5.5.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from fcnet.linear_model.preconditioner import Preconditioner
    from fcnet.linear_model.problem import ObjectiveValues, Problem

_EPSILON = torch.finfo(torch.float64).eps
_MOST_CORRECTIONS = 4


def objective_gaps(
    problem: Problem,
    preconditioner: Preconditioner | None,
    parameters: Tensor,
    found: ObjectiveValues,
    *,
    tight: float,
) -> Tensor:
    """Returns upper bounds of F − min F, float64 (K,).

    Args:
        problem: the objectives.
        preconditioner: the features' covariance; None to try the probabilities p alone.
        parameters: the points, (K, O, D + 1).
        found: the objectives there, evaluated in float64.
        tight: the gap relative to the objective that need not be made smaller.
    """
    loss_grad = found.grad.clone()
    loss_grad[..., :-1] -= problem.penalty[:, None] * parameters[..., :-1]
    # Σ_i s_i H(p_i) / S = the mean loss − Σ_i s_i (p_i − t_i) · z_i / S, since z = W x + b.
    entropy = found.mean_loss - (loss_grad * parameters).sum((1, 2))
    gap = _gaps(problem, parameters, found, entropy, loss_grad)
    has_empty_classes = problem.intercept and bool((problem.frequencies == 0.0).any())
    if has_empty_classes:  # p gives them some probability, which the condition forbids; q does not
        gap = torch.full_like(gap, torch.inf)
    shifts, left = torch.zeros_like(parameters), gap
    active = torch.arange(len(gap), device=gap.device)
    for _ in range(_MOST_CORRECTIONS if preconditioner is not None else int(has_empty_classes)):
        loose = left > tight * found.value[active]
        active, left, loss_grad = active[loose], left[loose], loss_grad[loose]
        if not len(active):
            break
        part, points = problem.select(active), parameters[active]
        residual = loss_grad[..., :-1] + part.penalty[:, None] * points[..., :-1]
        if preconditioner is not None:
            shifts[active, :, :-1] += preconditioner.solve_covariance(residual)
            shifts[active, :, -1] += loss_grad[..., -1] * problem.intercept
        entropy, loss_grad = part.evaluate_dual(points, shifts[active])
        corrected = _gaps(part, points, found.select(active), entropy, loss_grad)
        gap = gap.index_put((active,), torch.minimum(gap[active], corrected))
        useful = corrected < 0.5 * left
        active, left, loss_grad = active[useful], corrected[useful], loss_grad[useful]
    return gap


def _gaps(problem: Problem, parameters: Tensor, found: ObjectiveValues, entropy: Tensor, loss_grad: Tensor) -> Tensor:
    """Returns F − D(q) and the most that rounding adds, (K,), from the mean entropy and the losses' gradient at q."""
    bias_grad, loss_grad = loss_grad[..., -1], loss_grad[..., :-1]
    if problem.intercept:
        theta, mixed, class_grad = _mixture(problem, bias_grad)
        entropy = (1.0 - theta) * entropy + theta * torch.special.entr(mixed).sum(1)
        loss_grad = loss_grad + theta[:, None, None] * (class_grad - loss_grad)
    dual = entropy - (loss_grad.square() / problem.penalty[:, None]).sum((1, 2)) / 2.0
    # Each term is a sum whose rounding is far below that of one addition per block of rows.
    size = found.value + found.mean_loss + (loss_grad * parameters[..., :-1]).abs().sum((1, 2)) + entropy.abs()
    gap = (found.value - dual).clamp_min(0.0) + 16.0 * _EPSILON * size
    return gap.nan_to_num(nan=torch.inf)


def _mixture(problem: Problem, bias_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns θ (K,), u (K, C), and the gradient of the losses in W where every q_i is u, (K, O, D)."""
    if problem.num_nodes == 1:
        bias_grad = torch.cat([-bias_grad, bias_grad], 1)
    frequencies = problem.frequencies  # Σ_i s_i t_i / S
    mean = frequencies + bias_grad  # Σ_i s_i q_i / S
    # u = q̄ + (t̄ − q̄) / θ must not be negative: the smallest such θ.
    theta = (bias_grad / mean).masked_fill(mean == 0.0, 0.0).amax(1).clamp(0.0, 1.0)
    # Rounding must not make u negative; a larger θ is as valid.
    theta = (theta * (1.0 + 1e-12) + 1e-300).clamp_max(1.0)
    mixed = (mean - bias_grad / theta[:, None]).clamp_min(0.0)
    mixed = mixed / mixed.sum(1, keepdim=True)
    means = mixed[..., None] * problem.feature_means - problem.class_means
    return theta, mixed, means[:, 1:] if problem.num_nodes == 1 else means
