"""Arguments that are not tensors: what torch takes for an axis, an integer or a number, and its error classes.

torch parses its arguments in C++. There, a bool is a number but not an integer, NumPy's scalars and tensors of one
element stand for their value, and a float is never rounded to an integer.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def require_tensor(name: str, value: object) -> None:
    """Checks that an argument is a tensor.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}")


def require_dtype(value: object) -> None:
    """Checks that a ``dtype`` argument is one, or a Python type that stands for one.

    Raises:
        TypeError: it is not.
    """
    is_python_type = isinstance(value, type) and value in (float, int, bool, complex)
    if not isinstance(value, torch.dtype) and not is_python_type:
        raise TypeError(f"dtype must be a torch.dtype, got {value!r}")


def to_axis(dim: Any, num_axes: int) -> int:  # noqa: ANN401 - a user's argument
    """Returns an axis as an int.

    Args:
        dim: an int, NumPy's too, or an integer tensor without axes; no bool.
        num_axes: the number of axes of the tensor; one without axes has an axis 0.

    Raises:
        TypeError: ``dim`` is no int.
        IndexError: the tensor has no such axis.
    """
    is_scalar = isinstance(dim, int | torch.SymInt | np.integer) or (isinstance(dim, Tensor) and not dim.ndim)
    if not is_scalar or _is_bool(dim):
        raise TypeError(f"dim must be an int, got {dim!r}")
    axis, last = to_int("dim", dim), max(num_axes, 1) - 1
    if not -last - 1 <= axis <= last:
        raise IndexError(f"dim must be in [{-last - 1}, {last}], got {axis}")
    return axis


def to_int(name: str, value: Any) -> int:  # noqa: ANN401 - a user's argument
    """Returns an integer argument as an int.

    Args:
        name: the argument's name.
        value: anything with an index, as an int, NumPy's too, or an integer tensor of one element; no bool.

    Raises:
        TypeError: it has none.
        ValueError: it needs more than 64 bits.
    """
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]  # stands for an int in the compiler
    try:
        number = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} must fit into 64 bits, got {number}")
    return number


def to_real(name: str, value: Any) -> float:  # noqa: ANN401 - a user's argument
    """Returns a real argument as a Python number.

    Args:
        name: the argument's name.
        value: a real number or bool, NumPy's too, or a real tensor without axes and without gradient.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, float | int | torch.SymFloat | torch.SymInt):
        return value  # type: ignore[return-value]  # symbolic numbers stand for numbers in the compiler
    is_scalar = isinstance(value, np.number | np.bool_) or (
        isinstance(value, Tensor) and not value.ndim and not value.requires_grad
    )
    if is_scalar and not isinstance(number := value.item(), complex):
        return number  # type: ignore[no-any-return]
    raise TypeError(f"{name} must be a real number, got {value!r}")


def _is_bool(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)
