"""Losses of a score: the lecture's first attempts, before probabilities.

h is the score and y ∈ {−1, +1} the class. The margin y · h is positive if the sign of the score is correct.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.functional.activations import logsigmoid, relu
from fcnet.functional.dtypes import cast_loss, require_floating, require_real, to_compute_dtype
from fcnet.functional.reductions import reduce_losses, require_reduction

if TYPE_CHECKING:
    from torch import Tensor


def sgn(score: Tensor) -> Tensor:
    """Computes the predicted class, −1 for h < 0 and +1 for h > 0; 0 for h = 0, which is neither.

    A model has to choose at 0 too: `fcnet.models.mlp.logits_to_classes` chooses the first class. The derivative is 0
    wherever it exists, so gradient descent cannot minimize the 0–1 loss. The losses below depend on the score itself.

    Args:
        score: h, any shape, any real dtype but bool.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``score`` is boolean or complex.

    Example:
        >>> sgn(torch.tensor([-3.0, 0.0, 0.5]))
        tensor([-1.,  0.,  1.])

    Source:
        The lecture's classifier f(x) = sgn(xᵀw).
    """
    require_real("score", score)
    return score.sign()


def logistic_loss(score: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Computes log(1 + e^(−y h)) = −log s(y h), the cross-entropy of the sigmoid for classes −1 and +1.

    Args:
        score: h, any shape, floating.
        target: y, −1 or +1, the same shape, of any real dtype.
        reduction: ``"none"`` returns the losses; ``"sum"`` adds them; ``"mean"`` divides the sum by their number.

    Returns:
        A scalar, or with ``"none"`` the shape of ``score``; float32 under autocast, else the dtype to which those of
        ``score`` and ``target`` promote.

    Raises:
        ValueError: ``reduction`` is unknown, or the shapes differ.
        NotImplementedError: ``score`` is not floating, or ``target`` is boolean or complex.

    Example:
        >>> logistic_loss(torch.tensor([20.0]), torch.tensor([1]))
        tensor(2.0612e-09)

    Source:
        The lecture's log loss.
    """
    h, y = _check_arguments("score", score, target, reduction)
    return _reduce_and_cast(-logsigmoid(y * h), score, target, reduction)


def hinge_loss(score: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Computes max(0, 1 − y h): 0 for a margin of at least 1, otherwise its distance to 1.

    The derivative at a margin of 1 is −y.

    Args:
        score: h, any shape, floating.
        target: y, −1 or +1, the same shape, of any real dtype.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``, as for `logistic_loss`.

    Returns:
        A scalar, or with ``"none"`` the shape of ``score``, in the dtype of `logistic_loss`.

    Raises:
        ValueError: ``reduction`` is unknown, or the shapes differ.
        NotImplementedError: ``score`` is not floating, or ``target`` is boolean or complex.

    Example:
        >>> hinge_loss(torch.tensor([2.0, 0.5, -1.0]), torch.tensor([1, 1, 1]), reduction="none")
        tensor([0.0000, 0.5000, 2.0000])

    Source:
        The lecture's hinge loss.
    """
    h, y = _check_arguments("score", score, target, reduction)
    return _reduce_and_cast(relu(1.0 - y * h), score, target, reduction)


def quadratic_loss(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Computes ‖y − h‖² = Σ_k (y_k − h_k)², one loss per example.

    Args:
        prediction: h, (…, K), floating.
        target: y, the same shape, of any real dtype.
        reduction: ``"none"`` returns the losses; ``"sum"`` adds them; ``"mean"`` divides the sum by the number of
            examples.

    Returns:
        A scalar, or with ``"none"`` (…); float32 under autocast, else the dtype to which those of ``prediction`` and
        ``target`` promote.

    Raises:
        ValueError: ``reduction`` is unknown, the shapes differ, or there is no axis to sum over.
        NotImplementedError: ``prediction`` is not floating, or ``target`` is boolean or complex.

    Example:
        >>> quadratic_loss(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
        tensor(2.5000)

    Source:
        The lecture's quadratic loss.
    """
    h, y = _check_arguments("prediction", prediction, target, reduction)
    if not h.ndim:
        raise ValueError("expected prediction (…, K) and target (…, K), got () and ()")
    return _reduce_and_cast((y - h).square().sum(-1), prediction, target, reduction)


def _check_arguments(name: str, score: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    """Checks reduction, dtypes and shapes; returns score and target in the dtype to compute in."""
    require_reduction(reduction)
    require_floating(name, score)
    require_real("target", target)
    if score.shape != target.shape:
        raise ValueError(f"expected {name} and target of one shape, got {tuple(score.shape)} and {tuple(target.shape)}")
    return to_compute_dtype(score), to_compute_dtype(target)


def _reduce_and_cast(losses: Tensor, score: Tensor, target: Tensor, reduction: str) -> Tensor:
    return cast_loss(reduce_losses(losses, reduction, losses.numel()), torch.promote_types(score.dtype, target.dtype))
