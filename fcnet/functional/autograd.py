"""When a derivative written by hand is used, and what stands in for it elsewhere.

A function with a derivative of its own has two forms: an `autograd.Function`, which is faster, and
a plain one of differentiable operations with the same value and gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.autograd.function import FunctionCtx
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

if TYPE_CHECKING:
    from collections.abc import Callable


class Context(FunctionCtx):
    """What a forward pass keeps for its backward pass."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    plain: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    dim: int
    reduction: str


def can_use_custom_backward(input: Tensor) -> bool:
    """Whether the `autograd.Function` may run.

    It knows reverse mode alone. The compiler, `torch.func` and forward mode take the plain form,
    which they can see through.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or unpack_dual(input).tangent is not None
    )


def can_read_without_sync(tensor: Tensor) -> bool:
    """Whether looking at one of its numbers waits for no device, and nobody looks through what is done."""
    return tensor.device.type == "cpu" and not is_in_torch_dispatch_mode()


def differentiable_grad(plain: Callable[[Tensor], Tensor], input: Tensor, grad: Tensor) -> Tensor:
    """The gradient as a function that can be differentiated again, for a second derivative."""
    with torch.enable_grad():
        return torch.autograd.grad(plain(input), input, grad, create_graph=True)[0]
