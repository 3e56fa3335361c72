"""Checks of the arguments of `fcnet.fit`, before training begins."""

from __future__ import annotations

import math
import numbers
import operator
from typing import TYPE_CHECKING, SupportsIndex, TypeGuard

import torch
from torch import Tensor

from fcnet.runtime.errors import UserError
from fcnet.training.algorithm import GradientDescent

if TYPE_CHECKING:
    from torch import nn


def check_settings(*, epochs: object, lr: object, batch_size: object, seed: object) -> None:
    """Checks the numbers among the arguments; None for one that was not given.

    Raises:
        UserError: one of them is not such a number.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value is not None and not (_is_whole(value) and operator.index(value) >= 1):
            raise UserError(f"{name} must be a whole number of at least 1, got {value!r}")
    if not _is_whole(seed):
        raise UserError(f"seed must be a whole number, got {seed!r}")
    is_number = isinstance(lr, numbers.Real) and not isinstance(lr, bool)
    if lr is not None and not (is_number and 0.0 < float(lr) < math.inf):  # type: ignore[arg-type]
        raise UserError(f"lr must be a number greater than 0, got {lr!r}")


def check_algorithm(algorithm: object, model: nn.Module, *, epochs: int | None, lr: float | None) -> None:
    """Checks that the algorithm trains this model, and that nothing else sets its epochs and its learning rate.

    Raises:
        UserError: it is not an algorithm, trains nothing of the model, or is not the only one to set a value.
    """
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if not trainable:
        raise UserError("model must have a parameter with requires_grad=True to train, got none")
    if algorithm is None:
        return
    if not isinstance(algorithm, GradientDescent):
        raise UserError(f"algorithm must be an fcnet.GradientDescent, got {_describe(algorithm)}")
    for name, value in (("epochs", epochs), ("lr", lr)):
        if value is not None:
            raise UserError(f"{name}={value} must be left out, because the algorithm has its own")
    groups = algorithm.optimizer.param_groups
    if not any(id(parameter) in trainable for group in groups for parameter in group["params"]):
        raise UserError(
            "algorithm must train the parameters of model, got an optimizer of others; make it with model.parameters()"
        )


def _is_whole(value: object) -> TypeGuard[SupportsIndex]:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _describe(algorithm: object) -> str:
    """Describes what is no algorithm, with what to pass instead."""
    kind = type(algorithm).__name__
    if isinstance(algorithm, torch.optim.Optimizer):
        return f"the optimizer {kind}; pass fcnet.GradientDescent(optimizer, epochs=10)"
    if isinstance(algorithm, Tensor | list | tuple) or hasattr(algorithm, "__array__"):
        return f"a {kind}; x and y are one argument: fcnet.fit(model, (x, y))"
    if _is_whole(algorithm):
        return f"{algorithm}; pass epochs={algorithm}"
    return f"the class {algorithm.__name__}" if isinstance(algorithm, type) else repr(algorithm)
