"""Scaling and saturation of the sigmoid s(x) = 1 / (1 + e^−x)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.functional.activations import sigmoid

if TYPE_CHECKING:
    from torch import Tensor


def scaled_sigmoid(input: Tensor, scale: float) -> Tensor:
    """Computes s(c x), which tends to a step at 0 as c grows; it is ½ for c = 0, and falls for c < 0.

    Args:
        input: x, any shape, floating.
        scale: c.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is complex.

    Example:
        >>> scaled_sigmoid(torch.tensor([-1.0, 0.0, 1.0]), 10.0)
        tensor([4.5398e-05, 5.0000e-01, 9.9995e-01])

    Source:
        The lecture's sigmoid with a scaling.
    """
    return sigmoid(scale * input)


def sigmoid_derivative(input: Tensor) -> Tensor:
    """Computes s′(x) = s(x) (1 − s(x)), as s(x) s(−x), which keeps the digits of both tails.

    It is even, with its maximum ¼ at 0.

    Args:
        input: x, any shape, floating.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is complex.

    Example:
        >>> sigmoid_derivative(torch.tensor([-20.0, 0.0, 20.0]))
        tensor([2.0612e-09, 2.5000e-01, 2.0612e-09])

    Source:
        The lecture's derivative of the sigmoid.
    """
    return sigmoid(input) * sigmoid(-input)


def saturation_bound(input: Tensor) -> Tensor:
    """Computes an upper bound of s′(x): e^−x for x ≥ 0, as s(−x) ≤ e^−x, and s(x) for x < 0.

    So the derivative of a unit decays exponentially on both sides. The bound is 1 at 0, and tends to ½ from below.

    Args:
        input: x, any shape, floating.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is complex.

    Example:
        >>> saturation_bound(torch.tensor([-20.0, 0.0, 20.0]))
        tensor([2.0612e-09, 1.0000e+00, 2.0612e-09])

    Source:
        The lecture's saturation of the sigmoid.
    """
    return torch.where(input < 0, sigmoid(input), torch.exp(-input))
