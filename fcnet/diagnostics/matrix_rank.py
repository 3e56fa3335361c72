"""Effective and stable rank of a weight matrix, from its singular values σ."""

from __future__ import annotations

import torch
from torch import Tensor

from fcnet.runtime.hardware import to_float64


@torch.no_grad()
def singular_values(weight: Tensor) -> Tensor:
    """Computes the singular values of a matrix, the roots of the eigenvalues of W Wᵀ or Wᵀ W, whichever is smaller.

    The computation is in float64; values below 1e-8 of the largest are rounding errors.

    Args:
        weight: (n, m), or (n, …), flattened to a matrix.

    Returns:
        float64 (min(n, m),), in descending order; all NaN if W holds NaN or inf.

    Example:
        >>> singular_values(torch.tensor([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0]]))
        tensor([4., 3.], dtype=torch.float64)
    """
    matrix = to_float64(weight.detach().flatten(1))
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    gram = matrix @ matrix.T  # its eigenvalues take a fraction of the time of an SVD of W
    # eigvalsh needs finite input. The trace is the sum of the squares of W, so it is finite only if W is.
    if not bool(gram.diagonal().sum().isfinite()):
        return gram.new_full((len(gram),), float("nan"))
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp(min=0.0).sqrt().flip(0)


def effective_rank(values: Tensor) -> float:
    """Computes exp(−Σ p log p) with p = σ / Σσ, the number of directions if all had the same weight.

    Args:
        values: σ, nonnegative.

    Returns:
        A number from 1 to the number of values; 0 if all values are 0.

    Source:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", 2007.

    Example:
        >>> round(effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])), 6)
        3.0
    """
    total = values.sum()
    if total == 0.0:
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())


def stable_rank(values: Tensor) -> float:
    """Computes Σ σ² / max σ², the squared Frobenius norm over the squared spectral norm.

    Args:
        values: σ, in descending order.

    Returns:
        A number from 1 to the number of values; 0 if all values are 0.

    Source:
        Rudelson and Vershynin, "Sampling from large matrices", 2007.

    Example:
        >>> stable_rank(torch.tensor([2.0, 1.0, 1.0]))
        1.5
    """
    largest = values[0]
    if largest == 0.0:
        return 0.0
    return float((values / largest).square().sum())
