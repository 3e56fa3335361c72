"""Entropy, cross-entropy and divergence of distributions over classes, in nats.

A distribution is C numbers along the last axis, none negative, with sum 1. 0 · log 0 = 0 throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.functional.dtypes import require_floating, to_compute_dtype

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy_between(p: Tensor, q: Tensor) -> Tensor:
    """Computes H(p, q) = −Σ_k p_k log q_k, the expected surprise under q of a class drawn from p.

    For a one-hot p it is −log q_k of the true class k. From logits, use `cross_entropy` with class probabilities, which
    never rounds q.

    Args:
        p: the true distribution, (…, C), floating.
        q: the predicted distribution, in a shape that broadcasts with ``p``.

    Returns:
        (…), in the dtype to which both promote; inf where q is 0 and p is not.

    Raises:
        NotImplementedError: ``p`` or ``q`` is not floating.

    Example:
        >>> cross_entropy_between(torch.tensor([0.0, 1.0]), torch.tensor([0.2, 0.8]))
        tensor(0.2231)

    Source:
        The lecture's cross-entropy between distributions; its one-hot label e_k is 1 at the true class k.
    """
    return -(to_compute_dtype(p) * _safe_log(q, p)).sum(-1).to(_result_dtype(p, q))


def entropy(p: Tensor) -> Tensor:
    """Computes H(p) = −Σ_k p_k log p_k = H(p, p).

    It is 0 if one class is certain, and log C, its maximum, if all classes are equally likely.

    Args:
        p: (…, C), floating.

    Returns:
        (…), in the same dtype.

    Raises:
        NotImplementedError: ``p`` is not floating.

    Example:
        >>> entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        tensor([-0.0000, 0.6931])
    """
    return cross_entropy_between(p, p)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Computes KL(p ‖ q) = Σ_k p_k log(p_k / q_k) = H(p, q) − H(p).

    It is never negative, and 0 only for q = p. So q = p minimizes the cross-entropy.

    Args:
        p: the true distribution, (…, C), floating.
        q: the predicted distribution, in a shape that broadcasts with ``p``.

    Returns:
        (…), in the dtype to which both promote; inf where q is 0 and p is not.

    Raises:
        NotImplementedError: ``p`` or ``q`` is not floating.

    Example:
        >>> kl_divergence(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5])).item()
        0.0

    Source:
        Kullback and Leibler, "On information and sufficiency", 1951.
    """
    # Logarithms are subtracted, as the quotient p / q would overflow for small q.
    return (to_compute_dtype(p) * (_safe_log(p, p) - _safe_log(q, p))).sum(-1).to(_result_dtype(p, q))


def _safe_log(q: Tensor, p: Tensor) -> Tensor:
    """Returns log q_k, with 0 where q_k and p_k are both 0."""
    require_floating("p", p)
    require_floating("q", q)
    return to_compute_dtype(q).masked_fill((q == 0) & (p == 0), 1.0).log()


def _result_dtype(p: Tensor, q: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, q.dtype)
