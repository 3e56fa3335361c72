"""Distributions over classes, and how far one is from another, in nats.

A distribution is C numbers of the last axis, none negative, that add up to 1. As everywhere 0 · log 0 = 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.functional.dtypes import require_floating, to_compute_dtype

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy_between(p: Tensor, q: Tensor) -> Tensor:
    """H(p, q) = −Σ_k p_k log q_k: the mean surprise at what p draws by who believes q.

    For a one-hot p, 1 at the true class alone, it is −log q of that class.

    Args:
        p: the truth, (…, C), floating.
        q: what is believed, a shape that broadcasts with ``p``.

    Returns:
        (…), in the dtype of both together; inf where q is 0 and p is not.

    Raises:
        NotImplementedError: one of them is not floating.

    Example:
        >>> cross_entropy_between(torch.tensor([0.0, 1.0]), torch.tensor([0.2, 0.8]))
        tensor(0.2231)

    Source:
        The lecture's cross-entropy between distributions. Its one-hot label is e_k, 1 at the place k of
        the true class.
    """
    return -(to_compute_dtype(p) * _safe_log(q, p)).sum(-1).to(_result_dtype(p, q))


def entropy(p: Tensor) -> Tensor:
    """H(p) = −Σ_k p_k log p_k = H(p, p), from 0 where one class is sure to log C where all are alike.

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
    """KL(p ‖ q) = Σ_k p_k log(p_k / q_k) = H(p, q) − H(p), the part of the cross-entropy that q can help.

    It is never negative, and 0 for q = p alone: so the q of least cross-entropy is p.

    Args:
        p: (…, C), floating.
        q: a shape that broadcasts with ``p``.

    Returns:
        (…), in the dtype of both together; inf where q is 0 and p is not.

    Raises:
        NotImplementedError: one of them is not floating.

    Example:
        >>> kl_divergence(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5])).item()
        0.0

    Source:
        Kullback and Leibler, "On information and sufficiency", 1951.
    """
    return (to_compute_dtype(p) * (_safe_log(p, p) - _safe_log(q, p))).sum(-1).to(_result_dtype(p, q))


def _safe_log(q: Tensor, p: Tensor) -> Tensor:
    """log q_k, 0 where p_k is 0 as well."""
    require_floating("p", p)
    require_floating("q", q)
    return to_compute_dtype(q).masked_fill((q == 0) & (p == 0), 1.0).log()


def _result_dtype(p: Tensor, q: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, q.dtype)
