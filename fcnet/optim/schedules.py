"""Learning-rate schedules: functions from the step, counted from 0, to a factor on the learning rate."""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Schedule = Callable[[int], float]

_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = _ONE_CYCLE_START * 1e-4


def constant() -> Schedule:
    """Returns a schedule with the factor 1 at every step."""
    return lambda step: 1.0


def cosine(num_steps: int) -> Schedule:
    """Returns the schedule ½ (1 + cos(π t / T)), which falls from 1 at step 0 to 0 after the last of T steps.

    Args:
        num_steps: T, the number of steps of the training, at least 1.

    Raises:
        UserError: ``num_steps`` is not a positive integer.

    Source:
        Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.

    Example:
        >>> schedule = cosine(100)
        >>> schedule(0), schedule(50)
        (1.0, 0.5)
    """
    _require_steps(num_steps, 1)
    return lambda step: 0.5 * (1.0 + math.cos(math.pi * min(step / num_steps, 1.0)))


def linear(num_steps: int) -> Schedule:
    """Returns the schedule 1 − t / T, which falls linearly from 1 at step 0 to 0 after the last of T steps.

    Args:
        num_steps: T, the number of steps of the training, at least 1.

    Raises:
        UserError: ``num_steps`` is not a positive integer.

    Example:
        >>> [linear(4)(step) for step in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    _require_steps(num_steps, 1)
    return lambda step: max(1.0 - step / num_steps, 0.0)


def one_cycle(num_steps: int) -> Schedule:
    """Returns a schedule that rises from 1/25 to 1 in the first 30% of T steps, then falls to 1/250,000.

    It follows half a cosine both ways, with the numbers of torch's ``OneCycleLR``. A training of one to three steps is
    past the peak from its first step on, and a single step has the last factor.

    Args:
        num_steps: T, the number of steps of the training, at least 1.

    Raises:
        UserError: ``num_steps`` is not a positive integer.

    Source:
        Smith and Topin, "Super-convergence", 2018.

    Example:
        >>> [round(one_cycle(11)(step), 3) for step in (0, 2, 10)]
        [0.04, 0.96, 0.0]
    """
    _require_steps(num_steps, 1)
    peak = _ONE_CYCLE_RISE * num_steps - 1.0  # below 0 for one to three steps

    def factor(step: int) -> float:
        if step <= peak:
            return _cosine_interpolate(_ONE_CYCLE_START, 1.0, step / peak)
        return _cosine_interpolate(1.0, _ONE_CYCLE_END, min((step - peak) / (num_steps - 1.0 - peak), 1.0))

    return factor


def multi_step(milestones: Sequence[int], gamma: float) -> Schedule:
    """Returns a schedule with the factor gammaᵐ after m of the milestones.

    Args:
        milestones: the steps, in any order, that each multiply the learning rate by ``gamma``.
        gamma: the factor.

    Example:
        >>> [multi_step([2, 4], 0.5)(step) for step in range(6)]
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    ordered = sorted(milestones)
    return lambda step: gamma ** bisect.bisect_right(ordered, step)


def add_warmup(schedule: Schedule, num_steps: int) -> Schedule:
    """Multiplies a schedule by a linear ramp, (t + 1) / (n + 1) at each step t before n = ``num_steps``, then 1.

    Args:
        schedule: the schedule.
        num_steps: n, at least 0.

    Raises:
        UserError: ``num_steps`` is not an integer of at least 0.

    Example:
        >>> [add_warmup(constant(), 3)(step) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    _require_steps(num_steps, 0)
    return lambda step: schedule(step) * min((step + 1) / (num_steps + 1), 1.0)


def _require_steps(num_steps: int, least: int) -> None:
    if isinstance(num_steps, bool) or not hasattr(num_steps, "__index__") or num_steps < least:
        raise UserError(f"num_steps must be an integer of at least {least}, got {num_steps!r}")


def _cosine_interpolate(start: float, end: float, fraction: float) -> float:
    """Interpolates along half a cosine, from ``start`` at fraction 0 to ``end`` at fraction 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * fraction))
