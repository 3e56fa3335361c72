"""Backpropagation: the gradient of a loss in every parameter, by hand for a network of dense layers.

The forward pass of L layers is a[0] = x, z[l] = a[l−1] W[l]ᵀ + b[l], a[l] = g(z[l]), plus a[l−1] in a residual layer.
Each matrix has one row per example, B in all. With δ[l] = ∂R/∂z[l], the chain rule from the last layer to the first is

    δ[l] = ∂R/∂a[l] · g′(z[l]),
    ∂R/∂W[l] = δ[l]ᵀ a[l−1],   ∂R/∂b[l] = Σ_B δ[l],   ∂R/∂a[l−1] = δ[l] W[l] (+ ∂R/∂a[l] in a residual layer).

Small networks spend more time in autograd's bookkeeping than in these products.

The logits of thousands of classes can take more memory than all else. For many of them the last layer and its loss are
computed over chunks of rows, forward and backward at once, so that only a chunk's logits exist at a time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal, TypeGuard

import torch
from torch import Tensor, nn

from fcnet.functional.linear_cross_entropy import linear_loss_and_grads, takes_chunks
from fcnet.losses import CrossEntropy
from fcnet.models.layers import ACTIVATION_GRADS, Dense
from fcnet.models.mlp import MLP, LogisticRegression, outputs_to_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fcnet.data.batches import Batch
    from fcnet.losses import Loss

    OnGradient = Callable[[Tensor], None]
    GradientFn = Callable[[Batch, OnGradient | None], tuple[Tensor, Tensor]]


def make_gradient_fn(model: nn.Module, loss: Loss, precision: torch.dtype | Literal["tf32"]) -> GradientFn:
    """Returns a function that computes the gradient of a batch: by hand for plain dense layers, else by autograd.

    Args:
        model: computes logits from images.
        loss: returns the sum of a batch's losses.
        precision: the dtype of matrix products, or ``"tf32"``.

    Returns:
        A function of this rank's slice of a global batch. It sets ``grad`` of every parameter, which must be None, to
        the slice's part of the gradient of the global mean loss. It returns the sum of the losses, and the logits or,
        where they never exist all at once, the predicted classes, int64 (B,). Its second argument, or None, is called
        with each parameter as soon as that has its gradient.
    """
    if precision == "tf32":
        return _in_tf32(make_gradient_fn(model, loss, torch.float32))
    if precision == torch.float32 and isinstance(loss, CrossEntropy) and can_backpropagate(model):
        return lambda batch, on_gradient: backpropagate(
            model, batch.images, batch.target, loss, scale=1.0 / batch.size, on_gradient=on_gradient
        )

    def by_autograd(batch: Batch, on_gradient: OnGradient | None) -> tuple[Tensor, Tensor]:
        scale = 1.0 / batch.size  # the mean over the global batch, not this rank's slice
        if can_chunk_logits(model, loss, batch.images):
            return _chunked_by_autograd(model, batch, loss, precision, scale, on_gradient)
        with autocast(precision, batch.images.device):
            logits: Tensor = model(batch.images)
            total = loss(logits, batch.target)
        with _watched_gradients(model, on_gradient):
            total.backward(total.new_full((), scale))
        return total.detach(), logits.detach()

    return by_autograd


def _in_tf32(compute_gradients: GradientFn) -> GradientFn:
    """Returns a function that computes gradients with products in TF32 on an NVIDIA GPU, and as they are elsewhere."""

    def in_tf32(batch: Batch, on_gradient: OnGradient | None) -> tuple[Tensor, Tensor]:
        if batch.images.device.type != "cuda":
            return compute_gradients(batch, on_gradient)
        # The setting is the process's, not the thread's, so it holds for autograd's threads too.
        matmul = torch.backends.cuda.matmul
        before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
        try:
            return compute_gradients(batch, on_gradient)
        finally:
            matmul.fp32_precision = before

    return in_tf32


def accumulate_gradients(
    compute_gradients: GradientFn,
    micro_batches: Sequence[Batch],
    parameters: Sequence[Tensor],
    on_gradient: OnGradient | None = None,
) -> tuple[Tensor, Tensor]:
    """Sets every parameter's ``grad`` to the sum of the gradients of a batch's micro-batches.

    Args:
        compute_gradients: the result of `make_gradient_fn`.
        micro_batches: the parts of a batch, at least one.
        parameters: the parameters that get a gradient.
        on_gradient: called with each parameter as soon as that has its gradient, if there is a single micro-batch.

    Returns:
        The sum of the losses, and the logits of the only micro-batch or the predicted classes of all in order.
    """
    results = []
    gradients: list[Tensor | None] = [None] * len(parameters)
    for micro_batch in micro_batches:
        for parameter in parameters:
            parameter.grad = None
        if len(micro_batches) == 1:
            return compute_gradients(micro_batch, on_gradient)
        loss, outputs = compute_gradients(micro_batch, None)
        results.append((loss, outputs_to_classes(outputs)))
        gradients = [_add_gradients(total, p.grad) for total, p in zip(gradients, parameters, strict=True)]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    losses, classes = zip(*results, strict=True)
    return torch.stack(losses).sum(), torch.cat(classes)


def _add_gradients(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """Adds a micro-batch's gradient to the total, in place. None counts as 0: the parameter was not used."""
    if total is None or gradient is None:
        return gradient if total is None else total
    return total.add_(gradient)


def can_chunk_logits(model: nn.Module, loss: Loss, x: Tensor) -> bool:
    """Returns whether the last layer and its loss can, and should, be computed over chunks of rows.

    They should if the logits are many. A hook rules chunks out, because neither the model nor its last layer is called.

    Args:
        model: any model.
        loss: any loss.
        x: the inputs of a batch (B, …).

    Example:
        >>> x, loss = torch.zeros(1024, 4), CrossEntropy()
        >>> can_chunk_logits(MLP(4, (3,), 10), loss, x), can_chunk_logits(MLP(4, (3,), 20_000), loss, x)
        (False, True)
    """
    if not (isinstance(model, MLP) and model.num_classes > 2 and takes_chunks(len(x), model.num_classes)):
        return False
    head = model.dense_layers()[-1]
    return (
        type(head) is Dense
        and type(loss) is CrossEntropy
        and x.dtype == head.weight.dtype
        and _computes_by_layers_alone(model)
    )


def _chunked_by_autograd(
    model: nn.Module,
    batch: Batch,
    loss: Loss,
    precision: torch.dtype,
    scale: float,
    on_gradient: OnGradient | None,
) -> tuple[Tensor, Tensor]:
    """Backpropagates the last layer over chunks of rows, and the layers below by autograd."""
    assert isinstance(model, MLP)
    assert isinstance(loss, CrossEntropy)
    *hidden, head = model.dense_layers()
    with autocast(precision, batch.images.device):
        a = model.flatten_inputs(batch.images)
        for layer in hidden:
            a = layer(a)
    dtype = precision if head.weight.dtype == torch.float32 else head.weight.dtype  # as autocast has it
    with torch.no_grad():
        total, classes, grad_a = _backpropagate_head(
            head, a, batch.target, loss, scale=scale, dtype=dtype, needs_grad=a.requires_grad
        )
    _report_gradients(head, on_gradient)
    if grad_a is not None:
        with _watched_gradients(model, on_gradient):
            a.backward(grad_a)
    return total, classes


@contextlib.contextmanager
def _watched_gradients(model: nn.Module, on_gradient: OnGradient | None) -> Iterator[None]:
    """Calls a function with each parameter that gets its gradient in the block."""
    parameters = [] if on_gradient is None else [p for p in model.parameters() if p.requires_grad]
    handles = [p.register_post_accumulate_grad_hook(on_gradient) for p in parameters]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _backpropagate_head(
    head: Dense,
    a: Tensor,
    target: Tensor,
    loss: CrossEntropy,
    *,
    scale: float,
    dtype: torch.dtype,
    needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sets the gradients of the last layer, over chunks of rows.

    Returns:
        The sum of the losses, the predicted classes, and ``scale`` times the gradient in a, None if it is not needed.
    """
    parameters = [head.weight] if head.bias is None else [head.weight, head.bias]
    wanted = needs_grad, head.weight.requires_grad, head.bias is not None and head.bias.requires_grad
    classes = torch.empty(len(a), dtype=torch.int64, device=a.device)
    total, (grad_a, *grads) = linear_loss_and_grads(
        a,
        head.weight,
        head.bias,
        loss.chunkable_target(target, torch.promote_types(dtype, torch.float32)),
        wanted,
        1.0 / scale,
        dtype=dtype,
        classes=classes,
    )
    for parameter, grad in zip(parameters, grads, strict=False):
        parameter.grad = grad
    return total, classes, grad_a


def can_backpropagate(model: nn.Module) -> TypeGuard[MLP]:
    """Returns whether `backpropagate` covers the model: dense layers without normalization or dropout.

    All parameters must be trainable. A hook rules the model out, because `backpropagate` calls neither layers nor
    autograd.
    """
    return (
        isinstance(model, MLP)
        and _computes_by_layers_alone(model)
        and all(layer.normalization is None and layer.dropout is None for layer in model.dense_layers())
        and all(parameter.requires_grad for parameter in model.parameters())
    )


def _computes_by_layers_alone(model: MLP) -> bool:
    """Returns whether a model computes what its layers do and nothing else; a subclass or a hook may do more."""
    return type(model) in (MLP, LogisticRegression) and not has_hooks(model)


def has_hooks(model: nn.Module) -> bool:
    """Returns whether a module or a parameter of a model has a hook.

    Example:
        >>> model = MLP(4, (3,), 2)
        >>> has_hooks(model)
        False
        >>> handle = next(model.parameters()).register_post_accumulate_grad_hook(lambda parameter: None)
        >>> has_hooks(model)
        True
    """
    of_modules = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    of_parameters = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(getattr(module, name) for module in model.modules() for name in of_modules) or any(
        getattr(parameter, name) for parameter in model.parameters() for name in of_parameters
    )


@torch.no_grad()
def backpropagate(
    model: MLP,
    x: Tensor,
    target: Tensor,
    loss: CrossEntropy,
    *,
    scale: float = 1.0,
    on_gradient: OnGradient | None = None,
) -> tuple[Tensor, Tensor]:
    """Sets every parameter's ``grad`` to the gradient of ``scale`` times the loss, by the chain rule.

    Args:
        model: a model that `can_backpropagate` accepts.
        x: inputs (B, …).
        target: class indices int64 (B,), or the probability of each class, floating (B, C).
        loss: computes the sum of the batch's losses and its gradient in the logits.
        scale: the factor on the gradient, 1 / B for the mean loss.
        on_gradient: called with each parameter as soon as that has its gradient.

    Returns:
        The loss without the factor, a scalar; and the logits, (B,) or (B, C), or the predicted classes, int64 (B,), if
        there are too many logits to hold all at once.

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
    chunked = can_chunk_logits(model, loss, x)
    whole = layers[:-1] if chunked else layers

    # Forward, keeping a[l−1] and z[l] of each layer.
    inputs, preactivations = [], []
    a = model.flatten_inputs(x)
    for layer in whole:
        z = layer.preactivation(a)
        inputs.append(a)
        preactivations.append(z)
        a = layer.output(z, a)

    # Backward, from ∂R/∂a of the last layer, whose activation is the identity.
    if chunked:
        total, outputs, grad_a = _backpropagate_head(
            layers[-1], a, target, loss, scale=scale, dtype=a.dtype, needs_grad=len(layers) > 1
        )
        _report_gradients(layers[-1], on_gradient)
    else:
        outputs = a.squeeze(1) if model.num_classes == 2 else a
        total, grad = loss.loss_and_grad(outputs, target)
        grad_a = grad.mul_(scale).view(a.shape)
    for layer, a_before, z in zip(reversed(whole), reversed(inputs), reversed(preactivations), strict=True):
        assert grad_a is not None
        delta = ACTIVATION_GRADS[layer.activation](grad_a, z)  # δ[l] = ∂R/∂a[l] · g′(z[l])
        layer.weight.grad = delta.T @ a_before
        if layer.bias is not None:
            layer.bias.grad = delta.sum(0)
        _report_gradients(layer, on_gradient)
        if layer is not layers[0]:
            grad_before = delta @ layer.weight
            grad_a = grad_before.add_(grad_a) if layer.residual else grad_before
    return total, outputs


def _report_gradients(layer: Dense, on_gradient: OnGradient | None) -> None:
    if on_gradient is not None:
        for parameter in layer.parameters():
            on_gradient(parameter)


def autocast(
    precision: torch.dtype | Literal["tf32"], device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """Returns a context that computes matrix products in a dtype. float32 and TF32 need none."""
    if precision == "tf32" or precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision)
