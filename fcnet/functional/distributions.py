"""Distributions over classes and the distance between two of them, in nats.

p and q are (…, C), not negative, and add up to 1 along the last axis; nobody checks that they do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fcnet.functional.precision import narrowed_loss, require_floating, widened


def entropy(p: Tensor) -> Tensor:
    """H(p) = −Σ_j p_j log p_j: 0 where one class is certain, log C where all are alike.

    Args:
        p: (…, C), floating. 0 · log 0 = 0, and its derivative, which is infinite, is taken as 0.

    Returns:
        (…); the dtype of ``p``, float32 under autocast.

    Raises:
        NotImplementedError: ``p`` is not floating.
        ValueError: there is no axis of classes.

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])

    Source:
        The lecture's entropy.
    """
    return cross_entropy_between(p, p)


def cross_entropy_between(p: Tensor, q: Tensor) -> Tensor:
    """H(p, q) = −Σ_j p_j log q_j, of the truth p and what is said of it, q.

    Of a one-hot p = e_k it is −log q_k. Logits are for `cross_entropy`, which keeps digits that
    probabilities near 1 have lost.

    Args:
        p: (…, C), floating.
        q: the same shape, floating. 0 · log 0 = 0; where q_j is 0 and p_j is not, it is +∞.

    Returns:
        (…); the dtype of ``p`` and ``q`` together, float32 under autocast.

    Raises:
        NotImplementedError: one of them is not floating.
        ValueError: the shapes differ, or there is no axis of classes.

    Example:
        >>> cross_entropy_between(torch.tensor([0.0, 1.0]), torch.tensor([0.75, 0.25]))
        tensor(1.3863)

    Source:
        The lecture's cross-entropy; it writes the one-hot label of class k as e_i, which is e_k.
    """
    wide_p, wide_q = _checked(p, q)
    return _of_all(-wide_p * _log(wide_q, wide_p), p, q)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """D(p‖q) = Σ_j p_j log(p_j / q_j) = H(p, q) − H(p): not negative, and 0 for p = q alone.

    The difference is taken class by class, so that for p = q it is 0 without rounding.

    Args:
        p: (…, C), floating.
        q: the same shape, floating; zeros as in `cross_entropy_between`.

    Returns:
        As `cross_entropy_between`.

    Raises:
        NotImplementedError: one of them is not floating.
        ValueError: the shapes differ, or there is no axis of classes.

    Example:
        >>> kl_divergence(torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25]))
        tensor(0.1438)

    Source:
        The lecture's Kullback–Leibler divergence.
    """
    wide_p, wide_q = _checked(p, q)
    return _of_all(wide_p * (_log(wide_p, wide_p) - _log(wide_q, wide_p)), p, q)


def _log(q: Tensor, p: Tensor) -> Tensor:
    """log q, and 0 where p and q are both 0: there the product with p is 0, and so are the derivatives."""
    return q.masked_fill((p == 0) & (q == 0), 1.0).log()


def _checked(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The two in the dtype that is computed in."""
    require_floating("p", p)
    require_floating("q", q)
    if p.shape != q.shape or not p.ndim:
        raise ValueError(f"expected p (…, C) and q (…, C), got {tuple(p.shape)} and {tuple(q.shape)}")
    return widened(p), widened(q)


def _of_all(terms: Tensor, p: Tensor, q: Tensor) -> Tensor:
    return narrowed_loss(terms.sum(-1), torch.promote_types(p.dtype, q.dtype))
