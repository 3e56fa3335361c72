"""What goes through each layer of any module, seen by hooks while images go through it.

A layer is what owns a matrix of weights, (n[l], …): fcnet's `Dense`, torch's linear layers and convolutions, or
anybody's module with a ``weight`` like theirs. Layers are numbered in the order in which they are called.
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
"""Activations by the name of their class, in torch's and fcnet's modules alike."""


@dataclass
class LayerRecord:
    """One layer, while images went through it.

    Attributes:
        name: of the module in the model; ``""`` for the model itself.
        weight: its matrix, (n[l], …).
        output: what the layer itself gave, its units along the last axis, or along the second of a convolution.
        activation_output: g(z), where the activation is a module that follows, or part of the layer.
        activation: the name of g, where it is known.
        next_input: what the next layer took; None for the last.
    """

    name: str
    weight: nn.Parameter
    output: Tensor
    activation_output: Tensor | None = None
    activation: str | None = None
    next_input: Tensor | None = None

    @property
    def units(self) -> int:
        """n[l], or a convolution's number of channels."""
        return len(self.weight)

    def rows(self, tensor: Tensor) -> Tensor:
        """A tensor of the layer as (B, n[l]), or (B · H · W, n[l]) after a convolution."""
        return tensor.movedim(_axis(self.weight), -1).reshape(-1, self.units)

    def activations(self) -> Tensor:
        """a[l] as rows: what the next layer took where it fits, else g(z) where it was seen, else the output."""
        for tensor in (self.next_input, self.activation_output):
            if _fits(tensor, self.weight):
                return self.rows(tensor)
        return self.rows(self.output)


def trace_layers(model: nn.Module, images: Tensor) -> tuple[list[LayerRecord], Tensor]:
    """Sends images through a model and looks at its layers.

    Args:
        model: images -> logits, in the mode that it is in.
        images: (B, …), as the model takes them.

    Returns:
        The layers in the order in which they were first called, each as of its last call, and the logits.

    Raises:
        UserError: the model has no layer.

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
    if not recorder.seen:
        raise UserError(f"model must have a layer with a matrix of weights, got {type(model).__name__}")
    return list(recorder.seen.values()), logits


class _LayerRecorder:
    """Notes what is called, in its order."""

    def __init__(self) -> None:
        self.seen: dict[str, LayerRecord] = {}
        self.latest: LayerRecord | None = None

    def hooks(self, model: nn.Module) -> Iterator[tuple[nn.Module, Hook]]:
        """What is to be called after which module."""
        for name, module in model.named_modules():
            weight = module._parameters.get("weight")
            if weight is not None and weight.ndim > 1:
                yield module, partial(self.after_layer, name)
            elif activation := _NAMES.get(type(module).__name__):
                yield module, partial(self.after_activation, activation)

    def after_layer(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """A layer was called; what it took, the one before has passed on."""
        weight = module._parameters["weight"]
        if not isinstance(weight, nn.Parameter) or not _fits(output, weight):
            return
        if self.latest is not None and inputs and isinstance(inputs[0], Tensor):
            self.latest.next_input = inputs[0]
        self.latest = self.seen[name] = LayerRecord(name, weight, output)
        if isinstance(module, Dense):
            self.latest.activation, self.latest.activation_output = (
                module.activation,
                _activation_output(module, inputs[0], output),
            )

    def after_activation(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """An activation was called: that of the layer before, if that has none yet."""
        if self.latest is not None and self.latest.activation is None and _fits(output, self.latest.weight):
            self.latest.activation_output, self.latest.activation = output, name


def _activation_output(layer: Dense, a: Tensor, output: Tensor) -> Tensor:
    """g(z): what the layer gave, unless something was added to it."""
    return ACTIVATIONS[layer.activation](layer.preactivation(a)) if layer.residual else output


def _axis(weight: Tensor) -> int:
    """Along which axis of its output a layer has its units."""
    return -1 if weight.ndim == 2 else 1


def _fits(tensor: object, weight: Tensor) -> TypeGuard[Tensor]:
    """Whether something is a tensor with as many units as the layer."""
    return (
        isinstance(tensor, Tensor)
        and tensor.is_floating_point()
        and tensor.ndim > 1
        and tensor.shape[_axis(weight)] == len(weight)
    )
