"""When a gradient written by hand applies, and its replacement elsewhere.

A function with its own gradient has two forms: an `autograd.Function`, which is faster, and a plain form of
differentiable operations with the same value and gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import FunctionCtx
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

if TYPE_CHECKING:
    from collections.abc import Callable


class Context(FunctionCtx):
    """The attributes that a forward pass saves for its backward pass, with their types."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    plain: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    dim: int
    reduction: str


def can_use_custom_backward(input: Tensor) -> bool:
    """True if an `autograd.Function` of this package may run on ``input``.

    These functions implement reverse mode alone. The compiler, the tracer, `torch.func` and forward mode need the plain
    form, since they differentiate or record the operations themselves.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or (forward_ad._current_level >= 0 and forward_ad.unpack_dual(input).tangent is not None)
    )


def can_read_without_sync(tensor: Tensor) -> bool:
    """True if `.item()` needs no device sync and no dispatch mode, such as fake tensors, is active."""
    return tensor.is_cpu and not is_in_torch_dispatch_mode()


def differentiable_grad(plain: Callable[[Tensor], Tensor], input: Tensor, grad: Tensor) -> Tensor:
    """Returns the gradient of ``plain`` with a graph of its own, for a second derivative."""
    with torch.enable_grad():
        return torch.autograd.grad(plain(input), input, grad, create_graph=True)[0]
