"""Backpropagation: the gradient of a loss in every parameter, by hand for a network of dense layers.

L layers, a[0] = x, z[l] = a[l−1] W[l]ᵀ + b[l], a[l] = g(z[l]) (+ a[l−1] where the layer is residual), each with
a row for each of B examples. With δ[l] = ∂R/∂z[l], the chain rule read from the last layer to the first is

    δ[l] = ∂R/∂a[l] · g′(z[l]),
    ∂R/∂W[l] = δ[l]ᵀ a[l−1],   ∂R/∂b[l] = Σ_B δ[l],   ∂R/∂a[l−1] = δ[l] W[l] (+ ∂R/∂a[l]).

Small networks spend more time in autograd's bookkeeping than in these products.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from fcnet.losses import CrossEntropy
from fcnet.models.mlp import ACTIVATION_GRADS, MLP, LogisticRegression

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fcnet.data.batches import Batch
    from fcnet.losses import Loss

    GradientFn = Callable[[Batch], tuple[Tensor, Tensor]]


def make_gradient_fn(model: nn.Module, loss: Loss, precision: torch.dtype) -> GradientFn:
    """How gradients are found: by hand for a network of plain dense layers, else by autograd.

    Args:
        model: images -> logits.
        loss: the sum of the losses of a batch.
        precision: the dtype of matrix products.

    Returns:
        A function of a batch that sets ``grad`` of every parameter, which must be None, to the derivative
        of this rank's part of the global batch's mean loss, and gives the sum of the losses and the logits.
    """
    if precision == torch.float32 and isinstance(loss, CrossEntropy) and can_backpropagate(model):
        return lambda batch: backpropagate(model, batch.images, batch.target, loss, scale=1.0 / batch.size)

    def by_autograd(batch: Batch) -> tuple[Tensor, Tensor]:
        with autocast(precision, batch.images.device):
            logits: Tensor = model(batch.images)
            total = loss(logits, batch.target)
        total.backward(total.new_full((), 1.0 / batch.size))
        return total.detach(), logits.detach()

    return by_autograd


def accumulate_gradients(
    compute_gradients: GradientFn, micro_batches: Sequence[Batch], parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Sets every parameter's ``grad`` to the sum of those of a batch's parts, one after another.

    Args:
        compute_gradients: as `make_gradient_fn` gives it.
        micro_batches: of a batch, one at least.
        parameters: whose ``grad`` is set.

    Returns:
        The sum of the losses, and the logits of the parts in their order.
    """
    done = []
    gradients: list[Tensor | None] = [None] * len(parameters)
    for micro_batch in micro_batches:
        for parameter in parameters:
            parameter.grad = None
        done.append(compute_gradients(micro_batch))
        if len(micro_batches) == 1:
            return done[0]
        gradients = [_add_gradients(before, p.grad) for before, p in zip(gradients, parameters, strict=True)]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    losses, logits = zip(*done, strict=True)
    return torch.stack(losses).sum(), torch.cat(logits)


def _add_gradients(before: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """The sum of what a part and the parts before it gave."""
    return gradient if before is None else before.add_(gradient) if gradient is not None else before


def can_backpropagate(model: nn.Module) -> TypeGuard[MLP]:
    """Whether the model is made of what is derived here: dense layers without normalisation or dropout.

    Every parameter must be trained, and nobody may have hooked on to a layer, which is not called.
    """
    return (
        isinstance(model, MLP)
        and type(model) in (MLP, LogisticRegression)
        and all(layer.normalization is None and layer.dropout is None for layer in model.dense_layers())
        and all(parameter.requires_grad for parameter in model.parameters())
        and not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    )


@torch.no_grad()
def backpropagate(
    model: MLP, x: Tensor, target: Tensor, loss: CrossEntropy, *, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Sets every parameter's ``grad`` to the derivative of ``scale`` · loss.

    Args:
        model: one that `can_backpropagate` accepts.
        x: inputs (B, …).
        target: class indices int64 (B,), or their shares, floating (B, C).
        loss: the sum of the batch's losses, and its derivative in the logits.
        scale: a factor, 1 / B for the mean.

    Returns:
        The loss, without the factor, a scalar, and the logits, (B,) or (B, C).

    Source:
        Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", 1986.

    Example:
        >>> from fcnet.losses import CrossEntropy
        >>> model, x, y = MLP(4, (3,), 2), torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1])
        >>> loss, _ = backpropagate(model, x, y, CrossEntropy())
        >>> by_hand = [parameter.grad for parameter in model.parameters()]
        >>> by_autograd = torch.autograd.grad(CrossEntropy()(model(x), y), list(model.parameters()))
        >>> torch.testing.assert_close(by_hand, list(by_autograd))
    """
    layers = model.dense_layers()
    inputs, preactivations = [], []
    a = model.flatten_inputs(x)
    for layer in layers:
        z = layer.preactivation(a)
        inputs.append(a)
        preactivations.append(z)
        a = layer.output(z, a)
    logits = a.squeeze(1) if model.num_classes == 2 else a
    total, grad = loss.loss_and_grad(logits, target)
    upstream = grad.mul_(scale).view(a.shape)
    for layer, below, z in zip(reversed(layers), reversed(inputs), reversed(preactivations), strict=True):
        delta = ACTIVATION_GRADS[layer.activation](upstream, z)
        layer.weight.grad = delta.T @ below
        if layer.bias is not None:
            layer.bias.grad = delta.sum(0)
        if layer is not layers[0]:
            down = delta @ layer.weight
            upstream = down.add_(upstream) if layer.residual else down
    return total, logits


def autocast(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Where matrix products are of a dtype; nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
