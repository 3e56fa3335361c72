"""What the singular values of a matrix of weights say: in how many directions it works."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def singular_values(weight: Tensor) -> Tensor:
    """σ of a matrix, the roots of the eigenvalues of W Wᵀ or of Wᵀ W, whichever is smaller.

    In float64: values below 1e-8 of the largest are rounding.

    Args:
        weight: (n, m), or (n, …), whose further axes are taken as one.

    Returns:
        float64 (min(n, m),), the largest first; all NaN where W holds NaN or inf.

    Example:
        >>> singular_values(torch.tensor([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0]]))
        tensor([4., 3.], dtype=torch.float64)
    """
    matrix = weight.detach().flatten(1).double()
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    gram = matrix @ matrix.T
    if not bool(gram.diagonal().sum().isfinite()):
        return gram.new_full((len(gram),), float("nan"))
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp(min=0.0).sqrt().flip(0)


def effective_rank(values: Tensor) -> float:
    """exp(−Σ p log p), p = σ / Σσ: as many directions as if all counted the same.

    Args:
        values: σ, not negative.

    Returns:
        From 1 to the number of values; 0 where all are 0.

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
    """Σ σ² / max σ², the squared Frobenius norm over the squared spectral norm.

    Args:
        values: σ, the largest first.

    Returns:
        From 1 to the number of values; 0 where all are 0.

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
