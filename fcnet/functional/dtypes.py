"""In which dtype the functions compute: float16 and bfloat16 accumulate in float32."""

from __future__ import annotations

import torch
from torch import Tensor

_HALF_DTYPES = frozenset({torch.float16, torch.bfloat16})


def require_floating(name: str, tensor: Tensor) -> None:
    """Refuses integers, booleans and complex numbers, by the error of torch's kernels."""
    if not tensor.is_floating_point():
        raise NotImplementedError(f"{name} must be of a floating dtype, got {tensor.dtype}")


def require_real(name: str, tensor: Tensor) -> None:
    """Refuses booleans and complex numbers, by the error of torch's kernels."""
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise NotImplementedError(f"{name} must be of a real dtype, got {tensor.dtype}")


def to_compute_dtype(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is narrower, else as it is."""
    return tensor.float() if tensor.dtype in _HALF_DTYPES else tensor


def cast_loss(loss: Tensor, dtype: torch.dtype) -> Tensor:
    """A loss in the dtype of its arguments; autocast leaves losses in float32."""
    if loss.dtype == dtype or (dtype in _HALF_DTYPES and torch.is_autocast_enabled(loss.device.type)):
        return loss
    return loss.to(dtype)
