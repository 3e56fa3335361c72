"""Arrays of any library as tensors: inputs x (N, …) and class indices y (N,), checked before training begins.

Errors name the array as the caller does, such as ``data: x``, and the first row that breaks a rule.
"""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


def to_inputs(x: object, dtype: torch.dtype, name: str = "x") -> Tensor:
    """Converts the inputs of a model.

    Args:
        x: a tensor, a NumPy array, or anything that `numpy.asarray` takes, (N, …). uint8 values are pixels, from 0 to
            255; all other values, integers too, are used as they are.
        dtype: the floating dtype of the model, or uint8 for a model that takes pixels.
        name: the name of ``x`` in errors.

    Returns:
        uint8 (N, C, H, W), if the values are pixels of images; grey images (N, H, W) get a channel. Otherwise (N, …) of
        the model's dtype, with pixels divided by 255.

    Raises:
        UserError: ``x`` does not hold rows of numbers.

    Example:
        >>> to_inputs([[1, 2], [3, 4]], torch.float32)
        tensor([[1., 2.],
                [3., 4.]])
        >>> to_inputs(np.zeros((5, 28, 28), np.uint8), torch.float32).shape
        torch.Size([5, 1, 28, 28])
    """
    values = to_tensor(x, name)
    if values.ndim < 2:
        hint = "; reshape(-1, 1) makes a column of one feature" if values.ndim == 1 else ""
        raise UserError(f"{name} must have a row for each example, (N, …), got the shape {tuple(values.shape)}{hint}")
    if not values.numel():
        raise UserError(f"{name} must hold at least one example and one feature, got the shape {tuple(values.shape)}")
    if values.dtype == torch.uint8:
        if values.ndim == 3:
            values = values[:, None]
        if values.ndim == 4 and dtype in (torch.float32, torch.uint8):
            return values
        if dtype.is_floating_point:
            return values.to(dtype).div_(255)
    if not dtype.is_floating_point:
        is_only_dtype = values.ndim in (3, 4) and values.dtype != torch.uint8
        advice = advise_pixels(x if hasattr(x, "dtype") else values) if is_only_dtype else ""
        found = f"{_dtype_name(values)} {tuple(values.shape)}{advice}"
        raise UserError(f"{name} must be uint8 images (N, C, H, W) for this model, got {found}")
    return values.to(dtype)


def to_labels(y: object, name: str = "y", rows: Sequence[int] | Tensor | None = None) -> Tensor:
    """Converts class indices to int64 (N,).

    Args:
        y: whole numbers of any dtype, (N,) or (N, 1).
        name: the name of ``y`` in errors.
        rows: the row of each label in errors; None for 0, 1, 2, ….

    Raises:
        UserError: ``y`` does not hold one class index for each example.

    Example:
        >>> to_labels(np.array([[0.0], [2.0], [1.0]]))
        tensor([0, 2, 1])
    """
    if isinstance(y, str):
        raise UserError(f"{name} must hold class indices (N,), got the text {y!r}")
    labels = to_tensor(y, name, advice="np.unique(y, return_inverse=True)[1] makes class indices")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.ndim == 2:
        raise UserError(
            f"{name} must hold one class index for each example, (N,), got the shape {tuple(labels.shape)}; "
            "for one-hot rows pass y.argmax(1)"
        )
    if labels.ndim != 1:
        raise UserError(f"{name} must hold class indices (N,), got the shape {tuple(labels.shape)}")
    if labels.is_floating_point():
        broken = (labels != labels.floor()) | ~labels.isfinite()
        if broken.any():
            position = int(broken.nonzero()[0])
            row = position if rows is None else int(rows[position])
            found = f"{labels[position]:g} in row {row}"
            raise UserError(f"{name} must hold class indices, which are whole numbers, got {found}")
    return labels.to(torch.int64)


def check_classes(
    labels: Tensor, num_classes: int, name: str = "y", rows: Sequence[int] | Tensor | None = None
) -> None:
    """Checks that labels are classes of a model.

    Args:
        labels: int64 (N,).
        num_classes: C. Classes are 0 to C − 1.
        name: the name of the labels in errors.
        rows: the row of each label in errors; None for 0, 1, 2, ….

    Raises:
        UserError: a label is not a class.

    Example:
        >>> check_classes(torch.tensor([1, 2, 3]), 3)
        Traceback (most recent call last):
        fcnet.UserError: y must hold classes from 0 to 2, got 3 in row 2; for labels that begin at 1 pass y - 1
    """
    outside = (labels < 0) | (labels >= num_classes)
    if not outside.any():
        return
    position = int(outside.nonzero()[0])
    row = position if rows is None else int(rows[position])
    low, high = int(labels.min()), int(labels.max())
    if (low, high) == (1, num_classes):
        advice = "for labels that begin at 1 pass y - 1"
    elif (low, high, num_classes) == (-1, 1, 2) and not (labels == 0).any():
        advice = "for the classes -1 and 1 pass (y + 1) // 2"
    elif low < 0:
        advice = "np.unique(y, return_inverse=True)[1] makes class indices"
    else:
        advice = f"this model has {num_classes} classes"
    raise UserError(
        f"{name} must hold classes from 0 to {num_classes - 1}, got {int(labels[position])} in row {row}; {advice}"
    )


def check_lengths(x: Tensor, y: Tensor, name: str) -> None:
    """Checks that inputs and labels have the same number of rows.

    Raises:
        UserError: they do not.
    """
    if len(x) != len(y):
        raise UserError(f"{name}: x and y must have the same number of rows, got {len(x):,} and {len(y):,}")


def check_finite(x: Tensor, name: str = "x") -> None:
    """Checks that floating inputs (N, …) hold no NaN and no infinity.

    Raises:
        UserError: one of the rows does.
    """
    # The extremes tell without a copy of the tensor: with a NaN, both are NaN.
    if not x.is_floating_point() or all(bound.isfinite() for bound in x.aminmax()):
        return
    row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
    found = "NaN" if x[row].isnan().any() else "infinity"
    raise UserError(f"{name} must hold finite numbers, got {found} in row {row}")


def advise_pixels(values: Any) -> str:  # noqa: ANN401 - an array or a tensor
    """Returns what makes uint8 pixels of an image's values, as the end of an error; nothing where that is not plain.

    Args:
        values: a tensor, or a NumPy array.

    Example:
        >>> advise_pixels(np.array([0.0, 0.5]))
        '; for values from 0 to 1 pass (x * 255).round().astype("uint8")'
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values, np.float64))
    if not tensor.numel() or tensor.is_meta:
        return ""
    low, high = float(tensor.min()), float(tensor.max())
    convert = "to(torch.uint8)" if isinstance(values, Tensor) else 'astype("uint8")'
    dtype = str(values.dtype)
    if "bool" in dtype:
        return f"; for a mask pass x.{convert} * 255"
    if "float" in dtype and low >= 0.0 and high <= 1.0:
        return f"; for values from 0 to 1 pass (x * 255).round().{convert}"
    if low >= 0.0 and high <= 255.0:
        return f"; for values from 0 to 255 pass x.{'round().' if 'float' in dtype else ''}{convert}"
    return f"; its values are from {low:g} to {high:g}, pixels from 0 to 255"


def to_tensor(values: Any, name: str, advice: str = "") -> Tensor:  # noqa: ANN401 - whatever NumPy takes
    """Converts an array of real numbers, without a copy where that is possible.

    Args:
        values: a tensor, a list of tensors of one shape, or anything that `numpy.asarray` takes.
        name: the name of the array in errors.
        advice: what to do with text, for errors.

    Raises:
        UserError: it is not an array of real numbers.
    """
    if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
        shapes = {tuple(value.shape): None for value in values}
        if len(shapes) > 1:
            first, second, *_ = shapes
            raise UserError(f"{name} must have rows of one shape, got {first} and {second}")
        values = torch.stack(list(values))
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise UserError(f"{name} must be a dense tensor, got a sparse one; pass its to_dense()")
        if values.is_complex():
            raise UserError(f"{name} must hold real numbers, got {_dtype_name(values)}")
        return values.detach()
    if hasattr(values, "toarray"):
        raise UserError(f"{name} must be a dense array, got {type(values).__name__}; pass its toarray()")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise UserError(f"{name} must hold no masked values; fill them, for example by filled(0)")
    return torch.from_numpy(_to_array(values, name, advice))


def _to_array(values: Any, name: str, advice: str) -> npt.NDArray[Any]:  # noqa: ANN401 - see `to_tensor`
    """Returns an array of real numbers that torch can share: native byte order, C order, writable."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        raise UserError(f"{name} must have rows of one shape, got rows that differ") from None
    if array.dtype == object and array.ndim and all(isinstance(value, numbers.Real) for value in array.flat):
        array = array.astype(np.float64)
    if array.dtype.kind in "OUSTV" and array.ndim:
        first = next(iter(array.flat), None)
        found = (
            f"the text {str(first)!r}" if isinstance(first, str | bytes) else f"an object of the type {_type(first)}"
        )
        raise UserError(f"{name} must hold numbers, got {found}" + (f"; {advice}" if advice else ""))
    if array.dtype.kind not in "biuf":
        found = _type(values) if not array.ndim else str(array.dtype)
        raise UserError(f"{name} must be an array of real numbers, got {found}")
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])


def _dtype_name(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _type(value: object) -> str:
    return type(value).__name__
