"""The nearest matrix with orthogonal rows or columns, by a few matrix products.

X (n, m) with n ≤ m has the singular value decomposition U Σ Vᵀ. An odd polynomial p of the singular values is a
polynomial q of A = X Xᵀ, times X: U p(Σ) Vᵀ = q(A) X.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.functional.dtypes import to_compute_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUINTIC_COEFFICIENTS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))
"""a, b, c of p(σ) = a σ + b σ³ + c σ⁵, one triple per step.

The first is the polynomial nearest to 1 on [0.01, 1]. Each other is the nearest to 1 on the range of the one before.
"""

_BFLOAT16_COEFFICIENTS = tuple((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in _QUINTIC_COEFFICIENTS)
"""The same for steps in bfloat16, each of which shrinks the singular values by 1% first.

The quintics grow fast above their range: a singular value that rounding lifts from 1 to 1.004 would end at 15. Rounding
each entry of A by up to 2⁻⁸ changes the bound, the Schatten-4 norm of A, by at most 2⁻⁸ ‖A‖. Where ‖A‖ is far above the
bound, the bound is above the largest eigenvalue. So this eigenvalue exceeds the rounded bound by less than 2%, and its
root by less than 1%, for any n up to 65,536.
"""


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Approximates U Vᵀ of each matrix U Σ Vᵀ by three Newton–Schulz steps with optimal coefficients.

    (Σ σᵢ⁸)^⅛ bounds the largest singular value. Singular values above a hundredth of the bound end between 0.729 and
    1.270, smaller ones between 0 and 0.731, in their order. Rounding adds up to 0.0005 in float32. A single row or
    column is divided by its length, which is exact. On a CPU most products are between n × n matrices, with n the short
    side, and only two involve X. Matrices with the same short side share batched products. On a GPU the steps iterate X
    itself and all products are in bfloat16, whose rounding widens the range to about 0.5 to 1.3.

    Args:
        matrices: floating-point tensors with two axes each, on one device. float16 and bfloat16 are computed in float32
            on a CPU. The scale does not matter, down to the smallest normal number.

    Returns:
        Tensors of the same shapes and dtypes. A matrix of zeros gives zeros.

    Source:
        Bernstein and Newhouse, "Old optimizer, new norm", 2024; coefficients that change from step to step: Amsel et
        al., "The Polar Express", 2025.

    Example:
        >>> rotated, flat = orthogonalize([torch.tensor([[0.0, 2.0], [-2.0, 0.0]]), torch.ones(1, 4)])
        >>> bool(((rotated @ rotated.T - torch.eye(2)).abs() < 0.6).all()), flat.shape
        (True, torch.Size([1, 4]))
    """
    # The products are cheapest on the short side, so every matrix is turned to have no more rows than columns.
    wide = [to_compute_dtype(matrix if len(matrix) <= matrix.shape[1] else matrix.T) for matrix in matrices]
    results: dict[int, Tensor] = {}
    for group in _group_by_size(wide):
        results |= zip(group, _orthogonalize_group([wide[index] for index in group]), strict=True)
    return [
        (results[index] if len(matrix) <= matrix.shape[1] else results[index].T).to(matrix.dtype)
        for index, matrix in enumerate(matrices)
    ]


def _group_by_size(wide: list[Tensor]) -> list[list[int]]:
    """Groups the indices of matrices that share batched products: by short side, or by shape on a GPU."""
    groups: dict[object, list[int]] = {}
    for index, x in enumerate(wide):
        groups.setdefault((x.dtype, x.shape if x.is_cuda else len(x)), []).append(index)
    return list(groups.values())


def _orthogonalize_group(wide: list[Tensor]) -> list[Tensor]:
    scaled = [_scale_to_norm_1(x) for x in wide]
    if len(wide[0]) <= 1:  # one singular value, which is now 1; or none
        return scaled
    if wide[0].is_cuda:
        return list(_newton_schulz(torch.stack(scaled)))
    factors = _polynomial_factors(torch.stack([x @ x.T for x in scaled]))
    return [factor @ x for factor, x in zip(factors, scaled, strict=True)]


def _scale_to_norm_1(x: Tensor) -> Tensor:
    """Returns X / ‖X‖, or zeros."""
    if not x.numel():
        return x
    # The largest entry first: squares of entries below 1e-19 or above 1e19 leave the range of float32.
    tiny = torch.finfo(x.dtype).tiny
    x = x / torch.linalg.vector_norm(x, torch.inf).clamp(min=tiny)
    unit: Tensor = x / torch.linalg.vector_norm(x).clamp(min=tiny)
    return unit


def _polynomial_factors(gram: Tensor) -> Tensor:
    """Computes q(A) of each A in (k, n, n)."""
    # Each step's q is a polynomial of the same A, so all factors commute and their product can be built from the left.
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
    """Computes q(A) X of each X in (k, n, m), in bfloat16, where a GPU's products are fastest."""
    x = x.bfloat16()
    # The bound comes from A and A² of the first step, so it costs no product of its own.
    gram = x @ x.mT
    square = gram @ gram
    bound = _spectral_bound(square.float())
    (a, b, c), *rest = _BFLOAT16_COEFFICIENTS
    factor = (gram * (b / bound) + square * (c / bound.square())).bfloat16()
    x = (torch.baddbmm(x, factor, x, beta=a) / bound.sqrt()).bfloat16()
    for a, b, c in rest:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _spectral_bound(square: Tensor) -> Tensor:
    """Computes (Σ λᵢ⁴)^¼, a positive bound on the largest eigenvalue λ of A, from A² (k, n, n)."""
    norms: Tensor = torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True)
    # For A of trace 1 the bound is at least n^−¾, so the clamp affects A = 0 alone.
    return norms.sqrt().clamp(min=torch.finfo(square.dtype).eps)
