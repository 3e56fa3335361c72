"""Records what passes through each layer of any module, with forward hooks.

A layer is a module that owns a weight matrix (n[l], …): fcnet's `Dense`, torch's linear layers and convolutions, or any
other module with such a ``weight``. Layers are numbered in the order in which they are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import Tensor, nn

from fcnet.models.layers import ACTIVATIONS, Dense
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]

_NAMES = {
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "GELU": "gelu",
    "SiLU": "silu",
}
"""Activation names by class name, which torch's and fcnet's modules share."""


@dataclass
class LayerRecord:
    """One layer during a forward pass.

    Attributes:
        name: the name of the module in the model; ``""`` for the model itself.
        weight: the weight matrix, (n[l], …).
        output: the output of the module, units along the last axis, or along the second axis for a convolution.
        activation_output: g(z), if the activation is a module that follows or part of the layer; else None.
        activation: the name of g; None if it is unknown.
        next_input: the input of the next layer; None for the last layer.
    """

    name: str
    weight: nn.Parameter
    output: Tensor
    activation_output: Tensor | None = None
    activation: str | None = None
    next_input: Tensor | None = None

    @property
    def units(self) -> int:
        """Returns n[l], the number of output channels for a convolution."""
        return len(self.weight)

    def rows(self, tensor: Tensor) -> Tensor:
        """Reshapes a tensor of the layer to (B, n[l]), or to (B · H · W, n[l]) after a convolution."""
        return tensor.movedim(_axis(self.weight), -1).reshape(-1, self.units)

    def activations(self) -> Tensor:
        """Returns a[l] as rows: the next layer's input if its shape fits, else g(z) if recorded, else the output."""
        for tensor in (self.next_input, self.activation_output):
            if _fits(tensor, self.weight):
                return self.rows(tensor)
        return self.rows(self.output)


def trace_layers(model: nn.Module, images: Tensor) -> tuple[list[LayerRecord], Tensor]:
    """Runs a model and records its layers.

    Args:
        model: images -> logits; it runs in its current mode.
        images: (B, …), as the model takes them.

    Returns:
        The layers in the order of their first call, each with the tensors of its last call, and the logits.

    Raises:
        UserError: the model has no layers.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> layers, logits = trace_layers(model, torch.ones(5, 4))
        >>> [(layer.name, layer.units, layer.activation) for layer in layers]
        [('0', 3, 'relu'), ('2', 2, None)]
    """
    recorder = _LayerRecorder()
    handles = [module.register_forward_hook(hook) for module, hook in recorder.hooks(model)]
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not recorder.records:
        raise UserError(f"model must have a layer with a weight matrix, got {type(model).__name__}")
    return list(recorder.records.values()), logits


class _LayerRecorder:
    """Collects the records of the layers as they are called."""

    def __init__(self) -> None:
        self.records: dict[str, LayerRecord] = {}
        self.latest: LayerRecord | None = None

    def hooks(self, model: nn.Module) -> Iterator[tuple[nn.Module, Hook]]:
        """Yields the modules to hook, each with its hook."""
        for name, module in model.named_modules():
            weight = module._parameters.get("weight")
            if weight is not None and weight.ndim > 1:
                yield module, partial(self.after_layer, name)
            elif activation := _NAMES.get(type(module).__name__):
                yield module, partial(self.after_activation, activation)

    def after_layer(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Records a layer, and its input as the previous layer's output after activation, dropout and so on."""
        weight = module._parameters["weight"]
        if not isinstance(weight, nn.Parameter) or not _fits(output, weight):
            return
        if self.latest is not None and inputs and isinstance(inputs[0], Tensor):
            self.latest.next_input = inputs[0]
        self.latest = self.records[name] = LayerRecord(name, weight, output)
        if isinstance(module, Dense):
            # A residual layer adds its input to g(z), so its output alone does not tell which units are idle.
            g = ACTIVATIONS[module.activation]
            self.latest.activation_output = g(module.preactivation(inputs[0])) if module.residual else output
            self.latest.activation = module.activation

    def after_activation(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Records the output of an activation module for the layer before it, if that has none yet."""
        if self.latest is not None and self.latest.activation is None and _fits(output, self.latest.weight):
            self.latest.activation_output, self.latest.activation = output, name


def _axis(weight: Tensor) -> int:
    """Returns the axis of a layer's output that holds its units."""
    return -1 if weight.ndim == 2 else 1


def _fits(tensor: object, weight: Tensor) -> TypeGuard[Tensor]:
    """Returns whether an object is a floating-point tensor with as many units as the layer."""
    return (
        isinstance(tensor, Tensor)
        and tensor.is_floating_point()
        and tensor.ndim > 1
        and tensor.shape[_axis(weight)] == len(weight)
    )
