"""Dtypes: float16 and bfloat16 are computed in float32."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from fcnet.functional.arguments import require_tensor

HALF_DTYPES = frozenset({torch.float16, torch.bfloat16})


def require_floating(name: str, tensor: Tensor) -> None:
    """Checks that an argument is a floating tensor.

    Raises:
        TypeError: it is no tensor.
        NotImplementedError: it is an integer, boolean or complex tensor; torch's kernels raise the same class.
    """
    require_tensor(name, tensor)
    if not tensor.is_floating_point():
        raise NotImplementedError(f"{name} must be of a floating dtype, got {tensor.dtype}")


def require_real(name: str, tensor: Tensor) -> None:
    """Checks that an argument is a tensor of integers or floating-point numbers.

    Raises:
        TypeError: it is no tensor.
        NotImplementedError: it is a boolean or complex tensor; torch's kernels raise the same class.
    """
    require_tensor(name, tensor)
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise NotImplementedError(f"{name} must be of a real dtype, got {tensor.dtype}")


def to_compute_dtype(tensor: Tensor) -> Tensor:
    """Returns float16 and bfloat16 tensors in float32, others unchanged."""
    return tensor.float() if tensor.dtype in HALF_DTYPES else tensor


def cast_loss(loss: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a loss in the dtype of its arguments; under autocast it stays in float32."""
    if loss.dtype == dtype or (dtype in HALF_DTYPES and torch.is_autocast_enabled(loss.device.type)):
        return loss
    return loss.to(dtype)


def without_autocast(device_type: str) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which operations keep the dtypes of their arguments."""
    # Some devices have no autocast, which could not be turned off there.
    is_on = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if is_on else contextlib.nullcontext()
