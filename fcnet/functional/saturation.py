"""Where the sigmoid saturates: its derivative, a bound on it, and the sigmoid made steeper or flatter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.functional.activations import sigmoid
from fcnet.functional.precision import require_floating, widened

if TYPE_CHECKING:
    from torch import Tensor


def sigmoid_derivative(input: Tensor) -> Tensor:
    """s′(u) = s(u) (1 − s(u)) = s(u) s(−u), ¼ at 0 and less on both sides.

    The second form keeps its digits where s(u) rounds to 1 and 1 − s(u) to 0.

    Args:
        input: u, any shape, floating.

    Returns:
        The same shape and dtype; values in [0, ¼].

    Raises:
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> sigmoid_derivative(torch.tensor([-20.0, 0.0, 20.0]))
        tensor([2.0612e-09, 2.5000e-01, 2.0612e-09])

    Source:
        The lecture's derivative of the logistic function.
    """
    require_floating("input", input)
    u = widened(input)
    return (sigmoid(u) * sigmoid(-u)).to(input.dtype)


def saturation_bound(input: Tensor) -> Tensor:
    """e^−x for x ≥ 0 and s(x) for x < 0, which s′(x) never exceeds.

    One of the two factors of s(x) s(−x) is below 1, the other is the bound, or below it. So s′(x) ≤ e^−|x|:
    a unit far from 0 passes on next to no gradient.

    Args:
        input: x, any shape, floating.

    Returns:
        The same shape and dtype; values in [0, 1].

    Raises:
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> saturation_bound(torch.tensor([-20.0, 0.0, 20.0]))
        tensor([2.0612e-09, 1.0000e+00, 2.0612e-09])

    Source:
        The lecture's saturation of the sigmoid.
    """
    require_floating("input", input)
    x = widened(input)
    left = x < 0
    return torch.where(left, sigmoid(x), (-x.masked_fill(left, 0.0)).exp()).to(input.dtype)


def scaled_sigmoid(input: Tensor, scale: float) -> Tensor:
    """s(c u): the larger c > 0, the nearer to a step from 0 to 1; c = 0 gives ½, and c < 0 turns it round.

    Args:
        input: u, any shape, floating.
        scale: c, finite. 0 · ∞ is 0 here, so that c = 0 forgets an infinite u too.

    Returns:
        The same shape and dtype; values in [0, 1].

    Raises:
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> scaled_sigmoid(torch.tensor([-1.0, 0.0, 1.0]), 100.0)
        tensor([3.7835e-44, 5.0000e-01, 1.0000e+00])

    Source:
        The lecture's scalings of the logistic function.
    """
    require_floating("input", input)
    u = widened(input)
    finite = u if scale else u.masked_fill(u.isinf(), 0.0)
    return sigmoid(scale * finite).to(input.dtype)
