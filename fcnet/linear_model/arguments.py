"""The arguments of a logistic path, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fcnet.data.arrays import to_tensor
from fcnet.data.features.joined_rows import JoinedRows
from fcnet.linear_model.feature_blocks import to_floating
from fcnet.runtime.distributed import all_gather
from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import has_float64, unavailable_reason

if TYPE_CHECKING:
    from torch import Tensor

_ROWS_AT_ONCE = 1 << 12


def check_penalties(values: Any) -> Tensor:  # noqa: ANN401 - numbers in any array
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
    """Returns features that can be sliced, as a tensor, a memory map or joined rows, and the device to compute on."""
    if isinstance(x, JoinedRows):  # checked when it was opened
        return x, _check_device(device) if device is not None else x.device
    if not isinstance(x, np.memmap):
        x = to_floating(x)
    if x.ndim != 2:
        raise UserError(f"x must have the shape (N, D), got {tuple(x.shape)}")
    if not all(x.shape):
        raise UserError(f"x must hold at least one row and one feature, got the shape {tuple(x.shape)}")
    for start in range(0, len(x), _ROWS_AT_ONCE):
        block = to_floating(x[start : start + _ROWS_AT_ONCE])
        if not bool(block.isfinite().all()):
            row = int((~block.isfinite()).any(1).nonzero()[0])
            found = "NaN" if bool(block[row].isnan().any()) else "infinity"
            raise UserError(f"x must hold finite numbers, got {found} in row {start + row}")
    if device is None:
        device = x.device if isinstance(x, torch.Tensor) else "cpu"
    return x, _check_device(device)


def _check_device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(f"device must be one of torch, such as cpu or cuda, got {name!r}") from None
    if reason := unavailable_reason(device):
        raise UserError(f"device {device} is not available: {reason}")
    if not has_float64(device):
        raise UserError(f"device must compute in float64, as cpu and cuda do, got {device}")
    return device


def check_target(y: Any, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:  # noqa: ANN401
    """Returns the classes of this rank, and labels (N,) or float64 probabilities (N, C).

    Args:
        y: labels (N,), or probabilities (N, C).
        count: N.
    """
    y = _to_array(y)
    if y.ndim not in (1, 2) or len(y) != count:
        raise UserError(f"y must hold {count:,} labels, one for each row of x, got the shape {y.shape}")
    if y.ndim == 2:
        return np.arange(y.shape[1]), _check_probabilities(y)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise UserError("y must hold labels, got NaN or infinity")
    try:
        return np.unique(y), y
    except TypeError:
        kinds = ", ".join(sorted({type(label).__name__ for label in y.tolist()}))
        raise UserError(f"y must hold labels of one kind, which can be sorted, got {kinds}") from None


def check_agreement(**arguments: object) -> None:
    """Checks that arguments are equal on all ranks; each rank raises the same error otherwise."""
    ranks = all_gather(arguments)
    for name, first in ranks[0].items():
        for other in ranks[1:]:
            if other[name] != first:
                raise UserError(f"all ranks must have the same {name.replace('_', ' ')}, got {first} and {other[name]}")


def number_classes(classes: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], Tensor]:
    """Returns the classes of all ranks, and class indices int64 (N,) or probabilities (N, C)."""
    if y.ndim == 2:
        return classes, torch.from_numpy(y)
    classes = np.unique(np.concatenate(all_gather(classes)))
    if len(classes) < 2:
        raise UserError(f"y must hold at least two classes, got only {classes[0]!s}")
    return classes, torch.from_numpy(np.searchsorted(classes, y).astype(np.int64))


def _to_array(y: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu()
        y = (y.float() if y.dtype == torch.bfloat16 else y).numpy()
    try:
        array: np.ndarray[Any, Any] = np.asarray(y)
    except ValueError:
        raise UserError("y must hold one label for each row of x, got rows that differ in length") from None
    return array


def _check_probabilities(y: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns probabilities in float64, scaled so that each row adds up to 1."""
    if y.dtype.kind != "f" or y.shape[1] < 2:
        raise UserError(f"y must hold labels (N,) or probabilities (N, C), got {y.dtype} {y.shape}")
    result = y.astype(np.float64)
    sums = result.sum(1, keepdims=True)
    # Rounding of each probability, in float16 for example, moves the sum by as much at most.
    rounding = max(1e-6, float(np.finfo(y.dtype).eps))
    if not (np.isfinite(result).all() and (result >= 0.0).all() and (np.abs(sums - 1.0) <= rounding).all()):
        raise UserError("y must hold probabilities, rows that are not negative and add up to 1")
    result /= sums
    return result


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
    if not isinstance(class_weight, Mapping):
        if class_weight != "balanced":
            raise UserError(f'class_weight must be "balanced" or a mapping, got {class_weight!r}')
        sums = torch.bincount(target, weight, minlength=len(classes))
        sums = torch.tensor(all_gather(sums.tolist()), dtype=torch.float64).sum(0)
        # A class without weight gets the factor 0, since infinity would make NaN of its weights of 0.
        factors = torch.where(sums > 0.0, sums.sum() / (len(classes) * sums), 0.0)
        return factors[target]
    known = classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise UserError(f"class_weight must have labels of y, got {unknown[0]!r}")
    try:
        factors = torch.tensor([float(class_weight.get(label, 1.0)) for label in known], dtype=torch.float64)
    except (TypeError, ValueError):
        raise UserError(f"class_weight must hold numbers, got {dict(class_weight)!r}") from None
    if not bool(factors.isfinite().all()) or bool((factors < 0).any()):
        raise UserError("class_weight must hold finite numbers, none negative")
    return factors[target]
