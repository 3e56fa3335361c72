"""Second derivatives of the cross-entropy of a linear model, as matrices and as products.

The second derivative of ℓ_i in the logits is diag(p) − p pᵀ, or p (1 − p) for one node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import fcnet.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from fcnet.linear_model.feature_blocks import Features


def second_derivative_sums(features: Features, weight: Tensor, parameters: Tensor) -> Tensor:
    """Computes Σ_i s_i ∂²ℓ_i at some points, in the order of flattened parameters, in float64.

    Args:
        features: N rows of D features.
        weight: s, float64 (N,).
        parameters: float64 (A, O, D + 1), the intercept last.

    Returns:
        float64 (A, P, P) with P = O (D + 1).
    """
    count, nodes, width = parameters.shape
    result = parameters.new_zeros(count, nodes * width, nodes * width)
    for rows, block in features.blocks(torch.float64, num_columns=nodes * width):
        x = block.to_dense()
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        for k, point in enumerate(parameters):
            result[k] += _sum_rows(x, weight[rows], x @ point.T)
    return result


def product_sums(features: Features, weight: Tensor, parameters: Tensor, directions: Tensor) -> Tensor:
    """Multiplies Σ_i s_i ∂²ℓ_i at some points by a direction each, (A, O, D + 1) -> (A, O, D + 1), in float64."""
    count, nodes, width = parameters.shape
    points = torch.cat([parameters, directions]).view(-1, width)
    sums = torch.zeros_like(points[: count * nodes])
    for rows, block in features.blocks(torch.float64, num_columns=2 * count * nodes):
        logits, changes = block.forward(points[:, :-1], points[:, -1]).view(2, count, nodes, -1)
        if nodes == 1:
            changes = changes * F.sigmoid(logits) * F.sigmoid(-logits)
        else:
            p = F.softmax(logits, 1)
            changes = p * (changes - (p * changes).sum(1, keepdim=True))
        changes = changes.reshape(count * nodes, -1) * weight[rows]
        sums[:, :-1] += block.adjoint(changes)
        sums[:, -1] += changes.sum(1)
    return sums.view(count, nodes, width)


def _sum_rows(x: Tensor, s: Tensor, logits: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        # p (1 − p) from both tails, because 1 − p loses the digits of a confident example.
        return x.T @ (x * (F.sigmoid(logits) * F.sigmoid(-logits) * s[:, None]))
    p = F.softmax(logits, 1)
    nodes, width = p.shape[1], x.shape[1]
    products = ((p * s.sqrt()[:, None])[:, :, None] * x[:, None]).view(len(x), -1)
    result = -(products.T @ products)
    by_node = result.view(nodes, width, nodes, width)
    for node, bend in enumerate((p * _one_minus(p) * s[:, None]).T):
        by_node[node, :, node] = x.T @ (x * bend[:, None])
    return result


def _one_minus(p: Tensor) -> Tensor:
    """Returns 1 − p, (n, C), as the sum of the others where p is the largest, so that it keeps its digits."""
    best = p.argmax(1, keepdim=True)
    others = p.scatter(1, best, 0.0).sum(1, keepdim=True)
    return (1.0 - p).scatter_(1, best, others)
