"""A preconditioner in the eigenbases of the features' covariance and of the nodes' curvature.

The second derivative of the mean cross-entropy is the mean of M_i ⊗ x_i x_iᵀ, with M_i = diag p_i − p_i p_iᵀ, which is
near M_k ⊗ Σ: Σ is the covariance of the features, and M_k the mean of M_i for penalty k. At W = 0 they are equal. In
the eigenbases of M_k and Σ, M_k ⊗ Σ + λ_k is diagonal. So one decomposition of Σ serves all penalties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from fcnet.runtime.distributed import all_reduce

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fcnet.linear_model.feature_blocks import Features

_MOST_FEATURES = 2048
"""Features whose covariance is decomposed as a whole."""
_RANK = 512
"""Principal directions of wider features; the others share their mean variance."""
_MOST_ROWS = 1 << 15
"""Rows from which the covariance is estimated, or 4 D if that is more."""
_SMALLEST_CURVATURE = 1e-6
_SMALLEST_VARIANCE = 1e-7
"""Of the largest; smaller ones are rounding in float32."""
_SMALLEST_REST = 1e-5


class Curvature(NamedTuple):
    """M = U diag(μ) Uᵀ of each objective, or its diagonal.

    Attributes:
        values: μ, at least a small number, float64 (A, O).
        basis: U, float32 (A, O, O); (A, O, 0) for a diagonal.
    """

    values: Tensor
    basis: Tensor

    @classmethod
    def of(cls, matrices: Tensor) -> Curvature:
        """Decomposes matrices, (A, O, O), or takes diagonals, (A, O, 1)."""
        if matrices.shape[2] == 1:
            values, basis = matrices[..., 0], matrices[..., :0]
        else:
            values, basis = torch.linalg.eigh(matrices)
        return cls(values.clamp_min(_SMALLEST_CURVATURE), basis.float())

    def rotate(self, grad: Tensor) -> Tensor:
        """Computes Uᵀ G, (A, O, D + 1) -> float32."""
        return self.basis.mT @ grad.float() if self.basis.shape[2] else grad.float()

    def rotate_back(self, parts: Tensor) -> Tensor:
        """Computes U G, float32 (A, O, D + 1)."""
        return self.basis @ parts if self.basis.shape[2] else parts


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
        self._variances, self._basis = variances.clamp_min(least), basis
        # What the basis leaves over is a difference of numbers of the size of the largest variance.
        self._rest = rest.clamp_min(_SMALLEST_REST / _SMALLEST_VARIANCE * least)
        self._single_basis = basis.float()
        self._is_whole = width <= _MOST_FEATURES

    def multiply(self, grad: Tensor, curvature: Curvature, strength: Tensor) -> Tensor:
        """Multiplies gradients by the approximate inverses.

        Args:
            grad: (A, O, D + 1).
            curvature: the decomposition of M for each, A of them.
            strength: λ, the penalty of a column of scale 1, (A,).

        Returns:
            float32 (A, O, D + 1).
        """
        mu, strength = curvature.values[..., None].float(), strength[:, None, None].float()
        nodes = curvature.rotate(grad)
        weights = self._multiply(
            nodes[..., :-1], self._single_basis, lambda variances: 1.0 / (mu * variances.float() + strength)
        )
        return curvature.rotate_back(torch.cat([weights, nodes[..., -1:] / mu], 2))

    def solve_covariance(self, grad: Tensor) -> Tensor:
        """Computes G Σ⁻¹, (A, O, D) -> (A, O, D), in float64."""
        return self._multiply(grad, self._basis, torch.reciprocal)

    def _multiply(self, grad: Tensor, basis: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Multiplies by a function of Σ, given for its eigenvalues, in the dtype of the basis."""
        scale = self._scale.to(basis.dtype)
        scaled = grad / scale
        parts, factors = scaled @ basis, function(self._variances)
        if self._is_whole:
            result = parts.mul_(factors) @ basis.T
        else:
            others = function(self._rest)
            result = scaled * others + parts.mul_(factors - others) @ basis.T
        return result.div_(scale)


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
    columns = scale.float()
    for _ in range(3):
        basis = torch.linalg.qr(basis).Q
        image, total = torch.zeros_like(basis), weight.new_zeros(())
        variance = weight.new_zeros(width)
        for rows, block in features.blocks(torch.float32, num_columns=_RANK, step=step):
            s = weight[rows][::step]
            image += (block.adjoint(block.forward(basis.T / columns) * s.float()) / columns).T
            variance += block.square_sums(s.float())
            total += s.sum()
        total = all_reduce(total)
        image, variance = all_reduce(image) / total.float(), all_reduce(variance) / total / scale.square()
        last, basis = basis, image
    variances, rotation = torch.linalg.eigh((last.T @ image).double())
    variances, rotation = variances[-_RANK:], rotation[:, -_RANK:]
    rest = ((variance.sum() - variances.sum()) / (width - _RANK)).clamp_min(0.0)
    return variances, last.double() @ rotation, rest


def _stride(features: Features, num_rows: int) -> int:
    """Returns the distance between rows, of all ranks, so that about ``num_rows`` are left."""
    count = int(all_reduce(torch.tensor(features.num_rows)))
    return max(count // num_rows, 1)
