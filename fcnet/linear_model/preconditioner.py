"""A preconditioner in the eigenbasis of the features' covariance.

The second derivative of the mean cross-entropy is near a_kc Σ for the parameters of penalty k and node c: Σ is the
covariance of the features, and a_kc the mean of p (1 − p). In the eigenbasis of Σ, a_kc Σ + λ_k is diagonal for every
k and c at once, so one decomposition serves all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.runtime.distributed import all_reduce

if TYPE_CHECKING:
    from torch import Tensor

    from fcnet.linear_model.feature_blocks import Features

_MOST_FEATURES = 2048
"""Features whose covariance is decomposed as a whole."""
_RANK = 512
"""Principal directions of wider features; the others share their mean variance."""
_MOST_ROWS = 1 << 15
"""Rows from which the covariance is estimated, or 4 D if that is more."""

_SMALLEST_VARIANCE = 1e-7
"""Of the largest; smaller ones are rounding in float32."""
_SMALLEST_REST = 1e-5


class Preconditioner:
    """Approximate inverses of the second derivatives of all objectives.

    Args:
        features: the features.
        weight: float64 (N,), the weights of the examples.
        scale: float64 (D,), the square roots of the penalties of the columns, relative to each other.
    """

    def __init__(self, features: Features, weight: Tensor, scale: Tensor) -> None:
        self._scale = scale
        width = features.num_features
        rows = max(_MOST_ROWS, 4 * width)
        if width <= _MOST_FEATURES:
            covariance = _covariance(features, weight, rows) / scale[:, None] / scale
            variances, basis = torch.linalg.eigh(covariance)
            rest = variances.new_zeros(())
        else:
            variances, basis, rest = _principal_directions(features, weight, scale, rows)
        # A variance that rounding hides is not trusted, least of all without a penalty.
        least = _SMALLEST_VARIANCE * variances[-1].clamp_min(torch.finfo(torch.float64).tiny)
        self._variances, self._basis = variances.clamp_min(least), basis.float()
        # What the basis leaves over is a difference of numbers of the size of the largest variance.
        self._rest = rest.clamp_min(_SMALLEST_REST / _SMALLEST_VARIANCE * least)
        self._is_whole = width <= _MOST_FEATURES

    def multiply(self, grad: Tensor, curvature: Tensor, strength: Tensor) -> Tensor:
        """Multiplies gradients by the approximate inverses.

        Args:
            grad: (A, O, D + 1).
            curvature: a, the mean of p (1 − p), (A, O).
            strength: λ, the penalty of a column of scale 1, (A,).
        """
        a, strength = curvature[..., None], strength[:, None, None]
        scaled = (grad[..., :-1] / self._scale).to(self._basis.dtype)
        parts = scaled @ self._basis
        inverse = 1.0 / (a * self._variances + strength)
        if self._is_whole:
            result = (parts * inverse).to(self._basis.dtype) @ self._basis.T
        else:
            others = 1.0 / (a * self._rest + strength)
            result = scaled * others + (parts * (inverse - others)).to(self._basis.dtype) @ self._basis.T
        return torch.cat([result / self._scale, grad[..., -1:] / a], 2).to(grad.dtype)


def _covariance(features: Features, weight: Tensor, num_rows: int) -> Tensor:
    """Computes Σ_i s_i x_i x_iᵀ / Σ_i s_i over about ``num_rows`` rows, evenly spread."""
    result = weight.new_zeros(features.num_features, features.num_features)
    total = weight.new_zeros(())
    step = _stride(features, num_rows)
    for rows, block in features.blocks(torch.float32, step=step):
        s = weight[rows][::step]
        x = block.to_dense()
        result += (x.T * s.float()) @ x
        total += s.sum()
    return all_reduce(result) / all_reduce(total).clamp_min(torch.finfo(torch.float64).tiny)


def _principal_directions(
    features: Features, weight: Tensor, scale: Tensor, num_rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the largest variances and their directions by a randomised range, and the mean of the other variances."""
    width, step = features.num_features, _stride(features, num_rows)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(width, _RANK + 32, generator=generator).to(weight.device)
    columns = scale.float()[:, None]
    for _ in range(3):
        basis = torch.linalg.qr(basis).Q
        image, total = torch.zeros_like(basis), weight.new_zeros(())
        variance = weight.new_zeros(width)
        for rows, block in features.blocks(torch.float32, num_columns=_RANK, step=step):
            s = weight[rows][::step]
            image += block.adjoint(block.forward(basis / columns) * s.float()[:, None]) / columns
            variance += block.square_sums(s.float())
            total += s.sum()
        total = all_reduce(total)
        image, variance = all_reduce(image) / total.float(), all_reduce(variance) / total / scale.square()
        last, basis = basis, image
    variances, rotation = torch.linalg.eigh((last.T @ image).double())
    variances, rotation = variances[-_RANK:], rotation[:, -_RANK:]
    rest = ((variance.sum() - variances.sum()) / (width - _RANK)).clamp_min(0.0)
    return variances, last @ rotation.float(), rest


def _stride(features: Features, num_rows: int) -> int:
    """Returns the distance between rows, of all ranks, so that about ``num_rows`` are left."""
    count = int(all_reduce(torch.tensor(features.num_rows)))
    return max(count // num_rows, 1)
