"""Learning-rate schedules, and which parameters decay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    Schedule = Callable[[int], float]


def constant() -> Schedule:
    """The factor 1 at every step."""
    return lambda step: 1.0


def cosine(num_steps: int) -> Schedule:
    """½ (1 + cos(π t / T)): from 1 at step 0 towards 0 after the last of T steps.

    Args:
        num_steps: T, the number of steps of the training.

    Returns:
        step -> factor of the learning rate.

    Source:
        Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.

    Example:
        >>> schedule = cosine(100)
        >>> schedule(0), schedule(50)
        (1.0, 0.5)
    """
    return lambda step: 0.5 * (1.0 + math.cos(math.pi * min(step / num_steps, 1.0)))


def linear(num_steps: int) -> Schedule:
    """1 − t / T: from 1 at step 0 evenly to 0 after the last of T steps.

    Args:
        num_steps: T, the number of steps of the training.

    Returns:
        step -> factor of the learning rate.

    Example:
        >>> [linear(4)(step) for step in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return lambda step: max(1.0 - step / num_steps, 0.0)


def warmed_up(schedule: Schedule, num_steps: int) -> Schedule:
    """``schedule`` under a ramp that reaches 1 at step ``num_steps``: (t + 1) / (n + 1) before.

    Example:
        >>> [warmed_up(constant(), 3)(step) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return lambda step: schedule(step) * min((step + 1) / (num_steps + 1), 1.0)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices, which decay, and vectors, which do not; one if nothing decays.

    A bias, and a normalisation's scale and shift, set where a unit works, not how complex the
    function is; pulling them to 0 only biases the model.

    Args:
        model: any module.
        weight_decay: the matrices' decay.

    Returns:
        Groups in the form of torch's optimizers; an empty one is left out.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if weight_decay == 0.0:
        return [{"params": parameters, "weight_decay": 0.0}]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
