"""Where the sigmoid s(x) = 1 / (1 + e^−x) is flat, and what that leaves of its derivative."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.functional.activations import sigmoid

if TYPE_CHECKING:
    from torch import Tensor


def scaled_sigmoid(input: Tensor, scale: float) -> Tensor:
    """s(c x): the larger c, the more it is a step at 0; for c = 0 it is ½, and for c < 0 it falls.

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
    """s′(x) = s(x) · (1 − s(x)), written s(x) · s(−x), so that both tails keep their digits.

    It is largest at 0, where it is ¼, and the same for x and −x.

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
    """What s′(x) is never above: e^−x for x ≥ 0, where s(−x) is less than that, and s(x) for x < 0.

    So a unit's derivative fades exponentially on both sides. At 0 the bound is 1, and ½ from below.

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
