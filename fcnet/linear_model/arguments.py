"""The arguments of a logistic path, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fcnet.data.arrays import to_tensor
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_ROWS_AT_ONCE = 1 << 12


def check_penalties(values: Sequence[float]) -> Tensor:
    """Returns the inverse strengths of the penalties, float64 (K,)."""
    try:
        result = torch.as_tensor(np.asarray(values, dtype=np.float64).copy())
    except (TypeError, ValueError):
        raise UserError(f"Cs must be numbers, got {values!r}") from None
    if result.ndim != 1 or not len(result):
        raise UserError(f"Cs must be a list of numbers, got {values!r}")
    for value in result.tolist():
        if not (value > 0.0 and math.isfinite(value)):
            raise UserError(f"Cs must be finite and greater than 0, got {value:g}")
    return result


def check_features(x: Any, device: str | torch.device | None) -> tuple[Any, torch.device]:  # noqa: ANN401
    """Returns features that can be sliced, and the device to compute on."""
    if not isinstance(x, np.memmap):
        x = to_tensor(x, "x")
        if not x.is_floating_point():
            x = x.float()
    if x.ndim != 2 or not all(x.shape):
        raise UserError(f"x must have the shape (N, D), got {tuple(x.shape)}")
    for start in range(0, len(x), _ROWS_AT_ONCE):
        block = x[start : start + _ROWS_AT_ONCE]
        if not isinstance(block, torch.Tensor):
            block = torch.from_numpy(np.array(block))
        if not bool(block.isfinite().all()):
            row = int((~block.isfinite()).any(1).nonzero()[0])
            found = "NaN" if bool(block[row].isnan().any()) else "infinity"
            raise UserError(f"x must hold finite numbers, got {found} in row {start + row}")
    return x, torch.device(device) if device is not None else getattr(x, "device", torch.device("cpu"))


def check_target(y: Any, count: int) -> tuple[np.ndarray[Any, Any], Tensor]:  # noqa: ANN401
    """Returns the classes, and class indices or probabilities."""
    y = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
    if y.ndim not in (1, 2) or len(y) != count:
        raise UserError(f"y must hold {count:,} labels, one for each row of x, got the shape {y.shape}")
    if y.ndim == 2:
        if y.dtype.kind != "f" or y.shape[1] < 2:
            raise UserError(f"y must hold labels (N,) or probabilities (N, C), got {y.dtype} {y.shape}")
        if not (np.isfinite(y).all() and (y >= 0.0).all() and (np.abs(y.sum(1) - 1.0) < 1e-6).all()):
            raise UserError("y must hold probabilities, rows that are not negative and add up to 1")
        return np.arange(y.shape[1]), torch.from_numpy(y.astype(np.float64))
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise UserError("y must hold labels, got NaN or infinity")
    classes, indices = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"y must hold at least two classes, got only {classes[0]!s}")
    return classes, torch.from_numpy(indices.astype(np.int64))


def check_weight(weight: Any, count: int) -> Tensor:  # noqa: ANN401
    """Returns the weights of the examples, float64 (N,)."""
    if weight is None:
        return torch.ones(count, dtype=torch.float64)
    result = to_tensor(weight, "sample_weight").double().cpu()
    if result.shape != (count,):
        raise UserError(f"sample_weight must have the shape ({count},), got {tuple(result.shape)}")
    if not bool(result.isfinite().all()) or bool((result < 0).any()):
        raise UserError("sample_weight must hold finite numbers, none negative")
    return result


def class_factors(
    class_weight: Mapping[Any, float] | str | None, classes: np.ndarray[Any, Any], target: Tensor, weight: Tensor
) -> Tensor:
    """Returns the factor of each example's weight, (N,)."""
    if class_weight is None:
        return torch.ones_like(weight)
    if target.ndim == 2:
        raise UserError("class_weight needs labels, and y holds probabilities")
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise UserError(f'class_weight must be "balanced" or a mapping, got {class_weight!r}')
        sums = torch.bincount(target, weight, minlength=len(classes))
        factors = weight.sum() / (len(classes) * sums.clamp_min(torch.finfo(torch.float64).tiny))
    else:
        known = classes.tolist()
        unknown = [label for label in class_weight if label not in known]
        if unknown:
            raise UserError(f"class_weight must have labels of y, got {unknown[0]!r}")
        factors = torch.tensor([float(class_weight.get(label, 1.0)) for label in known], dtype=torch.float64)
        if not bool(factors.isfinite().all()) or bool((factors < 0).any()):
            raise UserError("class_weight must hold finite numbers, none negative")
    return factors[target]
