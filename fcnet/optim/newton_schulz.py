"""The nearest matrix with orthogonal rows or columns, by a few matrix products.

X (n, m) with n ≤ m and the singular value decomposition U Σ Vᵀ; an odd polynomial p of the singular values is a
polynomial q of A = X Xᵀ times X, as U p(Σ) Vᵀ = q(A) X.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUINTIC_COEFFICIENTS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))
"""a, b, c of p(σ) = a σ + b σ³ + c σ⁵: each the polynomial nearest to 1 where the one before leaves [0.01, 1]."""


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    """About U Vᵀ of each matrix U Σ Vᵀ: three Newton–Schulz steps, each with the best coefficients of its own.

    Singular values of more than a hundredth of a bound on the largest, (Σ σᵢ⁸)^⅛, end between 0.73 and 1.27, smaller
    ones nearer to 0. The products are those of A = X Xᵀ, on the short side, and two with X; matrices of
    one short side go through them together. On a GPU X itself is iterated, in bfloat16.

    Args:
        matrices: floating, each of two axes, on one device.

    Returns:
        Tensors of the same shapes and dtypes; 0 for a matrix of zeros.

    Source:
        Bernstein and Newhouse, "Old optimizer, new norm", 2024; coefficients that change from step to step: Amsel et
        al., "The Polar Express", 2025.

    Example:
        >>> rotated, flat = orthogonalize([torch.tensor([[0.0, 2.0], [-2.0, 0.0]]), torch.ones(1, 4)])
        >>> bool(((rotated @ rotated.T - torch.eye(2)).abs() < 0.6).all()), flat.shape
        (True, torch.Size([1, 4]))
    """
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.T for matrix in matrices]
    found: dict[int, Tensor] = {}
    for together in _group_by_size(wide):
        found |= zip(together, _orthogonalize_group([wide[index] for index in together]), strict=True)
    return [
        (found[index] if len(matrix) <= matrix.shape[1] else found[index].T).to(matrix.dtype)
        for index, matrix in enumerate(matrices)
    ]


def _group_by_size(wide: list[Tensor]) -> list[list[int]]:
    """The places of those that go through the products together: of one short side, on a GPU of one shape."""
    together: dict[object, list[int]] = {}
    for index, x in enumerate(wide):
        together.setdefault((x.dtype, x.shape if x.is_cuda else len(x)), []).append(index)
    return list(together.values())


def _orthogonalize_group(wide: list[Tensor]) -> list[Tensor]:
    scaled = [x / x.norm().clamp(min=torch.finfo(x.dtype).tiny) for x in wide]
    if wide[0].is_cuda:
        return list(_newton_schulz(torch.stack(scaled)))
    factors = _polynomial_factors(torch.stack([x @ x.T for x in scaled]))
    return [factor @ x for factor, x in zip(factors, scaled, strict=True)]


def _polynomial_factors(gram: Tensor) -> Tensor:
    """q(A) of each A of (k, n, n); all of these matrices commute."""
    square = gram @ gram
    bound = _spectral_bound(square)
    gram, square = gram / bound, square / bound.square()
    product: Tensor | None = None
    for a, b, c in _QUINTIC_COEFFICIENTS:
        if product is not None:
            square = gram @ gram
        factor = torch.add(square.mul_(c), gram, alpha=b)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if c != _QUINTIC_COEFFICIENTS[-1][-1]:
            gram = factor @ gram @ factor
    assert product is not None
    return product / bound.sqrt()


def _newton_schulz(x: Tensor) -> Tensor:
    """q(A) X of each X of (k, n, m), in bfloat16, whose products are worth more there than they lose."""
    gram = x @ x.mT
    x = (x / _spectral_bound(gram @ gram).sqrt()).bfloat16()
    for a, b, c in _QUINTIC_COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _spectral_bound(square: Tensor) -> Tensor:
    """(Σ λᵢ⁴)^¼ ≥ the largest eigenvalue of A of trace 1, from A² (k, n, n); above 0 also for A = 0."""
    norms: Tensor = torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True)
    return norms.sqrt().clamp(min=torch.finfo(square.dtype).eps)  # n^−¾ at least
