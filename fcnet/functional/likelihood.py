"""Likelihoods: the probability of the observed labels under a model's predicted probabilities.

The n examples are independent, so the likelihood is a product over them. Its logarithm has the same maximizer, and
−1 / n times the logarithm is the cross-entropy. From logits, use the cross-entropy: once p̂ has rounded to 1, 1 − p̂
is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.functional.dtypes import require_floating, require_real, to_compute_dtype

if TYPE_CHECKING:
    from torch import Tensor


def bernoulli_likelihood(probability: Tensor, label: Tensor) -> Tensor:
    """Computes ∏ p̂^y (1 − p̂)^(1 − y), with p̂ the probability of the second of two classes.

    Args:
        probability: p̂ in [0, 1], any shape, floating.
        label: y, 0 or 1, the same shape, of any real dtype.

    Returns:
        A scalar. It underflows to 0 for many examples; `bernoulli_log_likelihood` does not.

    Raises:
        ValueError: the shapes differ.
        NotImplementedError: ``probability`` is not floating, or ``label`` is boolean or complex.

    Example:
        >>> bernoulli_likelihood(torch.tensor([0.5, 0.8, 0.9]), torch.tensor([0, 1, 1]))
        tensor(0.3600)

    Source:
        The lecture's likelihood of logistic regression.
    """
    p, y = _check_arguments(probability, label)
    # The unused factor's base becomes 1, so that its derivative is 0 and not 0 · ∞.
    return (torch.where(y == 0, 1.0, p) ** y * torch.where(y == 1, 1.0, 1.0 - p) ** (1.0 - y)).prod()


def bernoulli_log_likelihood(probability: Tensor, label: Tensor) -> Tensor:
    """Computes Σ y log p̂ + (1 − y) log(1 − p̂), with 0 · log 0 = 0.

    Args:
        probability: p̂ in [0, 1], any shape, floating.
        label: y, 0 or 1, the same shape, of any real dtype; a value in between is a probability of the second class.

    Returns:
        A scalar, at most 0; −∞ if an observed label has probability 0.

    Raises:
        ValueError: the shapes differ.
        NotImplementedError: ``probability`` is not floating, or ``label`` is boolean or complex.

    Example:
        >>> -bernoulli_log_likelihood(torch.tensor([0.2]), torch.tensor([1]))
        tensor(1.6094)

    Source:
        The lecture's log-likelihood of logistic regression.
    """
    p, y = _check_arguments(probability, label)
    return (y * torch.where(y == 0, 1.0, p).log() + (1.0 - y) * torch.where(y == 1, 0.0, -p).log1p()).sum()


def categorical_likelihood(probabilities: Tensor, label: Tensor) -> Tensor:
    """Computes ∏_b p̂_b(y_b) for C classes.

    Args:
        probabilities: p̂ (B, C), floating, rows with sum 1.
        label: y (B,), int64, in [0, C).

    Returns:
        A scalar. It underflows to 0 for many examples; `categorical_log_likelihood` does not.

    Raises:
        ValueError: the numbers of examples differ.
        IndexError: a label is outside [0, C), on CPU.
        NotImplementedError: ``probabilities`` are not floating.

    Example:
        >>> categorical_likelihood(torch.tensor([[0.2, 0.3, 0.5], [0.8, 0.1, 0.1]]), torch.tensor([2, 0]))
        tensor(0.4000)

    Source:
        The lecture's likelihood of several classes.
    """
    return _label_probabilities(probabilities, label).prod()


def categorical_log_likelihood(probabilities: Tensor, label: Tensor) -> Tensor:
    """Computes Σ_b log p̂_b(y_b) for C classes.

    Args:
        probabilities: p̂ (B, C), floating, rows with sum 1.
        label: y (B,), int64, in [0, C).

    Returns:
        A scalar, at most 0; −∞ if an observed label has probability 0.

    Raises:
        ValueError: the numbers of examples differ.
        IndexError: a label is outside [0, C), on CPU.
        NotImplementedError: ``probabilities`` are not floating.

    Example:
        >>> categorical_log_likelihood(torch.tensor([[0.2, 0.3, 0.5], [0.8, 0.1, 0.1]]), torch.tensor([2, 0]))
        tensor(-0.9163)

    Source:
        The lecture's log-likelihood of several classes.
    """
    return _label_probabilities(probabilities, label).log().sum()


def _check_arguments(probability: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Checks dtypes and shapes; returns probabilities and labels in the dtype to compute in."""
    require_floating("probability", probability)
    require_real("label", label)
    if probability.shape != label.shape:
        raise ValueError(
            f"expected probability and label of one shape, got {tuple(probability.shape)} and {tuple(label.shape)}"
        )
    p = to_compute_dtype(probability)
    return p, label.to(p.dtype)


def _label_probabilities(probabilities: Tensor, label: Tensor) -> Tensor:
    """Checks the arguments; returns p̂_b(y_b), (B,)."""
    require_floating("probabilities", probabilities)
    if probabilities.ndim != 2 or label.shape != probabilities.shape[:1]:
        raise ValueError(
            f"expected probabilities (B, C) and label (B,), got {tuple(probabilities.shape)} and {tuple(label.shape)}"
        )
    try:
        return to_compute_dtype(probabilities).gather(1, label[:, None]).squeeze(1)
    except RuntimeError as error:
        raise IndexError(f"label must be in [0, {probabilities.shape[1]}): {error}") from error
