"""Backpropagation by hand: the gradient of a loss in every parameter of a network of dense layers.

L layers, a[0] = x, z[l] = W[l] a[l−1] + b[l], a[l] = g(z[l]) (+ a[l−1] where the layer is residual).
With δ[l] = ∂R/∂z[l], the chain rule read from the last layer to the first is

    ∂R/∂W[l] = δ[l]ᵀ a[l−1],   ∂R/∂b[l] = Σ_B δ[l],   ∂R/∂a[l−1] = δ[l] W[l] (+ ∂R/∂a[l]).

Small networks spend more time in autograd's bookkeeping than in these products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from fcnet.models import MLP, SLOPES, LogisticRegression

if TYPE_CHECKING:
    from fcnet.losses import CrossEntropy
    from fcnet.models import Dense


def applies_to(model: nn.Module) -> TypeGuard[MLP]:
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
        model: one that `applies_to` accepts.
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
    a = model.flat(x)
    for layer in layers:
        z = layer.preactivation(a)
        inputs.append(a)
        preactivations.append(z)
        a = layer.output(z, a)
    logits = a.squeeze(1) if model.num_classes == 2 else a
    total, slope = loss.with_slope(logits, target)
    upstream = slope.mul_(scale).view(a.shape)
    for layer, below, z in zip(reversed(layers), reversed(inputs), reversed(preactivations), strict=True):
        upstream = _through(layer, below, z, upstream, first=layer is layers[0])
    return total, logits


def _through(layer: Dense, below: Tensor, z: Tensor, upstream: Tensor, *, first: bool) -> Tensor:
    """Sets a layer's gradients; ∂R/∂a[l] -> ∂R/∂a[l−1], which the first layer has no use for."""
    delta = SLOPES[layer.activation](upstream, z)
    layer.weight.grad = delta.T @ below
    if layer.bias is not None:
        layer.bias.grad = delta.sum(0)
    if first:
        return upstream
    down = delta @ layer.weight
    return down.add_(upstream) if layer.residual else down
