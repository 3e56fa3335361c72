"""Measures a network with one batch or one set of images: idle units, activations, gradients and weights.

B images, n[l] units in layer l, L layers. Any module works unless a function takes an `MLP`; `fcnet.diagnostics.hooks`
finds its layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fcnet.diagnostics.advice import input_advice, layer_advice
from fcnet.diagnostics.hooks import trace_layers
from fcnet.diagnostics.layers import IS_IDLE, Histogram, LayerDiagnosis, diagnose_layer, fraction_true, is_constant
from fcnet.models.batch_norm import eval_mode
from fcnet.models.layers import ACTIVATION_GRADS, ACTIVATIONS
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fcnet.data.batches import Batches
    from fcnet.diagnostics.hooks import LayerRecord
    from fcnet.losses import Loss
    from fcnet.models.mlp import MLP

_NOT_IN_FILE = ("name", "activation", "stable_rank", "max_rank")


@dataclass(frozen=True)
class Diagnosis:
    """The figures of a network, and the warnings that follow from them.

    Attributes:
        images: the number of images that were used.
        dead_inputs: the fraction of the input values that are the same in all images; None for a single image.
        layers: the figures of layers 1 to L.
        warnings: one line per problem, with what to try; see `fcnet.diagnostics.advice`.
    """

    images: int
    dead_inputs: float | None
    layers: tuple[LayerDiagnosis, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON-able content of a line of ``diagnostics.jsonl``: six digits, None for NaN and inf."""
        return {
            "images": self.images,
            "dead_inputs": _jsonable(self.dead_inputs),
            "layers": [
                {key: _jsonable(value) for key, value in vars(layer).items() if key not in _NOT_IN_FILE}
                for layer in self.layers
            ],
            "warnings": list(self.warnings),
        }


def diagnose(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Diagnosis:
    """Measures every layer of a network with one batch, by one forward and one backward pass.

    The model runs in evaluation mode. Its mode, its ``grad`` fields and all random generators are left unchanged.

    Args:
        model: images -> logits; any module with layers.
        images: (B, …), as the model takes them.
        target: the second argument of ``loss``.
        loss: (logits, target) -> the sum of the losses of the batch.

    Returns:
        The figures of all layers, and warnings.

    Raises:
        UserError: there are no images, or the model has no layers.

    Example:
        >>> from fcnet.losses import CrossEntropy
        >>> model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
        >>> with torch.no_grad():
        ...     _ = model[0].bias.copy_(torch.tensor([-9.0] * 8 + [9.0] * 2))
        >>> diagnosis = diagnose(model, torch.rand(20, 4), torch.arange(20) % 3, CrossEntropy())
        >>> diagnosis.layers[0].dead, diagnosis.layers[1].dead
        (0.8, None)
        >>> print(diagnosis.warnings[0])
        layer 1: 80% of the units are dead; try leaky_relu or a smaller learning rate
    """
    records, gradients = _trace_with_gradients(model, images, target, loss)
    layers = tuple(
        diagnose_layer(number, record, gradient, last=number == len(records))
        for number, (record, gradient) in enumerate(zip(records, gradients, strict=True), 1)
    )
    dead_inputs = fraction_true(is_constant(images.flatten(1))) if len(images) > 1 else None
    warnings = input_advice(dead_inputs) + layer_advice([vars(layer) for layer in layers])
    return Diagnosis(len(images), dead_inputs, layers, tuple(warnings))


def gradient_norms(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> list[float]:
    """Computes ‖∂R/∂W[l]‖ of layers 1 to L, where R is the mean loss of a batch.

    Small norms in the first layers mean that these layers no longer learn. The model runs in evaluation mode; its mode
    and its ``grad`` fields are left unchanged.

    Args:
        model: images -> logits; any module with layers.
        images: (B, …), as the model takes them.
        target: the second argument of ``loss``.
        loss: (logits, target) -> the sum of the losses of the batch.

    Returns:
        One norm per layer; 0 for weights that are not trained.

    Raises:
        UserError: there are no images, or the model has no layers.

    Source:
        The lecture's vanishing gradients.

    Example:
        >>> from fcnet.losses import CrossEntropy
        >>> from fcnet import MLP
        >>> model = MLP(4, (3,), 2)
        >>> len(gradient_norms(model, torch.ones(5, 4), torch.zeros(5, dtype=torch.int64), CrossEntropy()))
        2
    """
    _, gradients = _trace_with_gradients(model, images, target, loss)
    return [0.0 if gradient is None else gradient.norm().item() for gradient in gradients]


class IdleUnits(NamedTuple):
    """The number of idle units of a hidden layer.

    Attributes:
        layer: the number of the layer, from 1.
        units: n[l].
        num_idle: the number of units that are 0 (ReLU), or within 0.01 of 0 or 1 (sigmoid), for every image.
    """

    layer: int
    units: int
    num_idle: int


@torch.no_grad()
def idle_units(model: MLP, batches: Batches) -> list[IdleUnits]:
    """Counts the dead units of ReLU layers, or the saturated units of sigmoid layers, over a set of images.

    The model runs in evaluation mode; its mode is left unchanged. Collective: every rank must call it.

    Args:
        model: the network.
        batches: the images, without augmentation.

    Returns:
        One entry per hidden layer. Empty for the other activations, which have no constant range.

    Source:
        The lecture's dead nodes of ReLU.

    Example:
        >>> from fcnet.data.batches import Batches
        >>> from fcnet import MLP
        >>> model = MLP(2, (4,), 2)
        >>> with torch.no_grad():
        ...     model.layers[0].bias[:3] -= 1e6
        >>> idle_units(model, Batches(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64)))[0].num_idle >= 3
        True
    """
    hidden = model.dense_layers()[:-1]
    name = model.arguments["activation"]
    if name not in IS_IDLE or not hidden:
        return []
    device = next(model.parameters()).device
    active = [torch.zeros(layer.out_features, device=device) for layer in hidden]  # images for which a unit is not idle
    with eval_mode(model):
        for batch in batches:
            for count, record in zip(active, model.trace(batch.images)[:-1], strict=True):
                count += (~IS_IDLE[name](ACTIVATIONS[name](record.z))).sum(0)
    counts = distributed.all_reduce(torch.cat(active)).split([layer.out_features for layer in hidden])
    return [IdleUnits(number, len(count), int((count == 0).sum())) for number, count in enumerate(counts, 1)]


@torch.no_grad()
def activation_grads(model: MLP, images: Tensor) -> list[Tensor]:
    """Computes g′(z[l]) of each hidden layer, the factor by which backpropagation scales the gradient there.

    The model runs in evaluation mode; its mode is left unchanged.

    Args:
        model: the network.
        images: (B, …).

    Returns:
        A tensor (B, n[l]) per hidden layer.

    Source:
        The lecture's saturation of the sigmoid and dead nodes of ReLU.

    Example:
        >>> from fcnet import MLP
        >>> model = MLP(1, (1,), 2, activation="sigmoid", bias=False)
        >>> activation_grads(model, torch.zeros(2, 1))
        [tensor([[0.2500],
                [0.2500]])]
    """
    grad = ACTIVATION_GRADS[model.arguments["activation"]]
    with eval_mode(model):
        return [grad(torch.ones_like(record.z), record.z) for record in model.trace(images)[:-1]]


def update_ratios(model: nn.Module, before: Mapping[str, Tensor]) -> dict[str, float]:
    """Computes ‖W − W′‖ / ‖W′‖ of every weight matrix, where W′ are its earlier values.

    One step of a healthy training changes the weights by roughly 1e-3.

    Args:
        model: the network now.
        before: copies of the earlier parameters, by name; parameters that are missing are left out.

    Returns:
        The ratios by parameter name. If W′ is 0, the ratio is inf, or NaN if W is 0 as well.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        >>> with torch.no_grad():
        ...     _ = model.weight.mul_(1.5)
        >>> {name: round(ratio, 6) for name, ratio in update_ratios(model, before).items()}
        {'weight': 0.5}
    """
    return {
        name: ((parameter.detach() - before[name]).norm() / before[name].norm()).item()
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and name in before
    }


def _trace_with_gradients(
    model: nn.Module, images: Tensor, target: Tensor, loss: Loss
) -> tuple[list[LayerRecord], list[Tensor | None]]:
    """Returns a record and ∂R/∂W of each layer; None for weights that are not trained."""
    if not len(images):
        raise UserError("images must hold at least one image, got 0")
    with eval_mode(model), torch.enable_grad():
        records, logits = trace_layers(model, images)
        risk = loss(logits, target) / len(images)
    # autograd.grad, not backward, so that the grad fields of the parameters stay as they are.
    weights = [record.weight for record in records if record.weight.requires_grad]
    gradients = torch.autograd.grad(risk, weights, allow_unused=True) if weights else ()
    by_weight = dict(zip(map(id, weights), gradients, strict=True))
    return records, [by_weight.get(id(record.weight)) for record in records]


def _jsonable(value: Any) -> Any:  # noqa: ANN401 - any field of a record
    if isinstance(value, Histogram):
        return {"low": _jsonable(value.low), "high": _jsonable(value.high), "counts": list(value.counts)}
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
