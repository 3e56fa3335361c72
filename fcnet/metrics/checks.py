"""Checks of the arguments of metrics: counts, fractions, labels and scores."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy.typing as npt


def to_list(values: Any, name: str) -> list[Any]:  # noqa: ANN401 - a sequence, an array or a tensor
    """Returns Python's own numbers: those of NumPy overflow, and those of torch stay tensors.

    Raises:
        UserError: it is a single number, or nothing that can be iterated over.
    """
    found = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise UserError(f"{name} must be a sequence, got {found!r}")
    return list(found)


def to_integers(values: Any, name: str) -> list[int]:  # noqa: ANN401 - see `to_list`
    """Checks that values are whole numbers of at least 0, and returns them as Python's integers."""
    counts = []
    for value in to_list(values, name):
        try:
            counts.append(operator.index(value))
        except TypeError:
            raise UserError(f"{name} must be a count, which is a whole number, got {value!r}") from None
        if counts[-1] < 0:
            raise UserError(f"{name} must be at least 0, got {value}")
    return counts


def to_counts(confusion: Any) -> list[list[int]]:  # noqa: ANN401 - see `to_list`
    """Checks that ``confusion`` is a square table of counts, and returns its rows."""
    table = to_list(confusion, "confusion")
    is_table = all(isinstance(row, Iterable) or hasattr(row, "tolist") for row in table)
    rows = [to_integers(row, "each entry of confusion") for row in table] if is_table else [[]]
    if any(len(row) != len(rows) for row in rows):
        found = f"a {type(confusion).__name__}" + (f" {tuple(confusion.shape)}" if hasattr(confusion, "shape") else "")
        raise UserError(f"confusion must be a square table of counts such as [[8, 2], [1, 9]], got {found}")
    return rows


def to_fractions(values: Any, name: str) -> list[float]:  # noqa: ANN401 - see `to_list`
    """Checks that values are numbers from 0 to 1, and returns them as Python's floats."""
    for value in (fractions := to_list(values, name)):
        if isinstance(value, list | tuple):
            raise UserError(f"{name} must be numbers from 0 to 1, got a row of {len(value)}")
        if not isinstance(value, numbers.Real) or not 0.0 <= float(value) <= 1.0:
            found = f"{float(value):g}" if isinstance(value, numbers.Real) else repr(value)
            raise UserError(f"{name} must be numbers from 0 to 1, got {found}")
    return [float(value) for value in fractions]


def to_flags(values: Any, name: str) -> list[bool]:  # noqa: ANN401 - see `to_list`
    """Checks that values are true or false, or 1 or 0, and returns them as Python's booleans."""
    flags = to_list(values, name)
    for flag in flags:
        if isinstance(flag, list | tuple) or flag not in (0, 1):
            raise UserError(f"{name} must be true or false, got {flag!r}")
    return [bool(flag) for flag in flags]


def check_quantile(z: float) -> None:
    """Checks a quantile of the normal distribution."""
    if not 0.0 < z < math.inf:
        raise UserError(f"z must be a positive number, such as 1.96 for 95%, got {z:g}")


def check_successes(num_correct: int, count: int, prefix: str = "", *, least: int = 1) -> tuple[int, int]:
    """Checks that successes are among the trials, and returns both as Python's integers."""
    names = f"{prefix}num_correct", f"{prefix}count"
    (num_correct,), (count,) = to_integers([num_correct], names[0]), to_integers([count], names[1])
    if count < least:
        raise UserError(f"{names[1]} must be at least {least}, got {count}")
    if num_correct > count:
        raise UserError(f"{names[0]} must be at most {names[1]}={count}, got {num_correct}")
    return num_correct, count


def to_labels(values: Any, num_classes: int | None, name: str) -> npt.NDArray[np.int64]:  # noqa: ANN401 - array-likes
    """Checks class labels, and returns them as int64 (N,).

    Args:
        values: a sequence, an array or a tensor of whole numbers or booleans, (N,).
        num_classes: labels are from 0 to one less; None for any from 0.
        name: what errors call them.

    Raises:
        UserError: they are no labels of these classes.
    """
    labels = _to_array(values, name)
    if labels.ndim != 1:
        raise UserError(f"{name} must be one class an example, (N,), got the shape {labels.shape}")
    if labels.dtype.kind not in "biuf" and len(labels):
        raise UserError(f"{name} must be class indices, which are whole numbers, got the dtype {labels.dtype}")
    if labels.dtype.kind == "f" and len(found := labels[labels != np.floor(labels)]):  # NaN too
        raise UserError(f"{name} must be class indices, which are whole numbers, got {found[0]:g}")
    labels = labels.astype(np.int64)
    least, most = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if least < 0 or (num_classes is not None and most >= max(num_classes, 1)):
        rule = "at least 0" if num_classes is None else f"from 0 to {num_classes - 1}"
        raise UserError(f"{name} must be {rule}, got {least if least < 0 else most}")
    return labels


def _to_array(values: Any, name: str) -> npt.NDArray[Any]:  # noqa: ANN401 - array-likes
    """Returns a sequence, an array or a tensor on any device as an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    try:
        return np.asarray(values)
    except ValueError:
        raise UserError(f"{name} must have rows of one length") from None


def to_scores(values: Any, name: str, ndim: int | None = 2) -> npt.NDArray[np.floating[Any]]:  # noqa: ANN401 - array-likes
    """Checks scores, and returns them as float32 or float64, (N, C) or (N,).

    Args:
        values: a sequence, an array or a tensor of numbers; infinite ones are scores too.
        name: what errors call them.
        ndim: 2 for one row an example, (N, C); 1 for one score an example, (N,); None for either.

    Raises:
        UserError: they have another shape, or one is NaN or no number.
    """
    scores = _to_array(values, name)
    if scores.ndim not in ((1, 2) if ndim is None else (ndim,)):
        rule = "one score an example, (N,)" if ndim == 1 else "one row of C scores an example, (N, C)"
        hint = "; a single example is [scores]" if (ndim, scores.ndim) == (2, 1) else ""
        raise UserError(f"{name} must be {rule}, got the shape {scores.shape}{hint}")
    if scores.dtype.kind not in "biuf":
        raise UserError(f"{name} must be numbers, got the dtype {scores.dtype}")
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    if np.isnan(scores).any():
        raise UserError(f"{name} must not be NaN, got {np.isnan(scores).sum():,} of {scores.size:,} NaN")
    return scores
