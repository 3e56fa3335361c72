"""Checks of tensors from a file against those that a program expects, before they are used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], file: object) -> None:
    """Checks the names, shapes and dtypes of tensors.

    Args:
        tensors: the tensors of a file.
        expected: tensors of the same names, shapes and dtypes, on any device, ``meta`` included.
        file: the file, for errors.

    Raises:
        UserError: a tensor is missing, or unknown, or has another shape or dtype.

    Example:
        >>> import torch
        >>> check_tensors({"bias": torch.ones(2)}, {"bias": torch.ones(3)}, "x.safetensors")
        Traceback (most recent call last):
        fcnet.UserError: x.safetensors: the tensor bias must be float32 (3,), got float32 (2,)
    """
    for name in (*expected, *tensors):
        required, found = (_describe(source.get(name)) for source in (expected, tensors))
        if required != found:
            raise UserError(f"{file}: the tensor {_printable(name)} must be {required}, got {found}")


def check_finite(tensors: Mapping[str, Tensor], file: object) -> None:
    """Checks that the floating-point tensors of a file hold no NaN and no infinity.

    Raises:
        UserError: one of them does.
    """
    for name, tensor in tensors.items():
        # The extremes tell without a copy of the tensor: with a NaN, both are NaN.
        if tensor.is_floating_point() and tensor.numel() and not all(math.isfinite(x) for x in tensor.aminmax()):
            raise UserError(f"{file}: the tensor {_printable(name)} must be finite, got NaN or infinity")


def _describe(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _printable(name: str) -> str:
    return name if name.isprintable() and name else ascii(name)
