"""Distribution functions to use for s instead of the logistic `sigmoid`.

Each maps a score to a probability. It rises from 0 to 1 with s(0) = ½ and s(−u) = 1 − s(u), as the distribution
function of any symmetric density does. Only the logistic one has log(s(u) / s(−u)) = u: its log-odds are linear, and
the derivative of its log loss is p̂ − y.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from fcnet.functional.dtypes import require_floating, to_compute_dtype

if TYPE_CHECKING:
    from torch import Tensor


def normal_cdf(input: Tensor) -> Tensor:
    """Computes Φ(u) = ½ erfc(−u / √2), the s of probit regression.

    The left tail falls like e^(−u²/2). `erfc` keeps its digits down to the smallest number of the dtype, where
    ½ (1 + erf(u / √2)) cancels. The remaining error is the rounding of u / √2, multiplied by u².

    Args:
        input: u, any shape, floating.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> normal_cdf(torch.tensor([-10.0, 0.0, 1.96]))
        tensor([7.6199e-24, 5.0000e-01, 9.7500e-01])

    Source:
        The lecture's remark that s may be another function; Bliss, "The method of probits", 1934.
    """
    require_floating("input", input)
    u = to_compute_dtype(input)
    value = 0.5 * (u * -math.sqrt(0.5)).erfc()
    return value if u is input else value.to(input.dtype)


def cauchy_cdf(input: Tensor) -> Tensor:
    """Computes s(u) = ½ + arctan(u) / π, with the heaviest tails of the three, 1 / (π · abs u).

    Its log loss −log s is not convex: on the wrong side it grows only like log(−u).

    Args:
        input: u, any shape, floating.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> cauchy_cdf(torch.tensor([-1e30, 0.0, 1.0]))
        tensor([3.1831e-31, 5.0000e-01, 7.5000e-01])

    Source:
        The lecture's remark that s may be another function.
    """
    require_floating("input", input)
    u = to_compute_dtype(input)
    # For u < −1, s(u) = arctan(−1 / u) / π, as ½ + arctan(u) / π would cancel; for u > 1, 1 + arctan(−1 / u) / π.
    left, right = u < -1, u > 1
    far = left | right
    angle = torch.where(far, -1.0 / torch.where(far, u, 1.0), u).atan() / math.pi
    return (torch.where(left, 0.0, torch.where(right, 1.0, 0.5)) + angle).to(input.dtype)
