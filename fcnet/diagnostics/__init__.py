"""What happens inside a network, layer by layer: idle units, activations, gradients, weights, and what is wrong.

B examples, n[l] units in layer l. The layers of any module are found; see `fcnet.diagnostics.hooks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fcnet.diagnostics.hooks import trace_layers
from fcnet.diagnostics.layers import IS_IDLE, Histogram, LayerDiagnosis, diagnose_layer, fraction_true, is_constant
from fcnet.diagnostics.symptoms import input_advice, layer_advice
from fcnet.models.batch_norm import eval_mode
from fcnet.models.layers import ACTIVATION_GRADS, ACTIVATIONS
from fcnet.models.mlp import MLP
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fcnet.data.batches import Batches
    from fcnet.diagnostics.hooks import LayerRecord
    from fcnet.losses import Loss

_NOT_IN_RECORD = ("name", "activation", "stable_rank", "max_rank")


@dataclass(frozen=True)
class Diagnosis:
    """A network in figures, and what they say.

    Attributes:
        images: how many it was looked at with.
        dead_inputs: the share of the input values that are the same in all of them; None for a single image.
        layers: from 1 to L.
        warnings: what is wrong and what to try, a line each.
    """

    images: int
    dead_inputs: float | None
    layers: tuple[LayerDiagnosis, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What a line of ``diagnostics.jsonl`` holds, for JSON: six digits, null for what is no number."""
        layers = [
            {key: _jsonable(value) for key, value in vars(layer).items() if key not in _NOT_IN_RECORD}
            for layer in self.layers
        ]
        return {
            "images": self.images,
            "dead_inputs": _jsonable(self.dead_inputs),
            "layers": layers,
            "warnings": list(self.warnings),
        }


def diagnose(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Diagnosis:
    """Looks into a network with one batch, once forward and once backward.

    Args:
        model: images -> logits, any module with layers; looked at in evaluation mode. Its mode, and that of each of
            its parts, every ``grad`` and every random generator are left as they were.
        images: (B, …), as the model takes them.
        target: what the loss is told.
        loss: of logits and target, the sum over the batch.

    Returns:
        Its figures, with one entry a layer.

    Raises:
        UserError: there is no image, or no layer.

    Example:
        >>> from fcnet.losses import CrossEntropy
        >>> model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
        >>> with torch.no_grad():
        ...     _ = model[0].bias.copy_(torch.tensor([-9.0] * 8 + [9.0] * 2))
        >>> seen = diagnose(model, torch.rand(20, 4), torch.arange(20) % 3, CrossEntropy())
        >>> seen.layers[0].dead, seen.layers[1].dead
        (0.8, None)
        >>> print(seen.warnings[0])
        layer 1: 80 % of the units are dead; try leaky_relu or a smaller learning rate
    """
    passes, gradients = _gradients(model, images, target, loss)
    figures = tuple(
        diagnose_layer(number, layer, gradient, last=number == len(passes))
        for number, (layer, gradient) in enumerate(zip(passes, gradients, strict=True), 1)
    )
    still = fraction_true(is_constant(images.flatten(1))) if len(images) > 1 else None
    said = input_advice(still) + layer_advice([vars(layer) for layer in figures])
    return Diagnosis(len(images), still, figures, tuple(said))


def gradient_norms(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> list[float]:
    """‖∂R/∂W[l]‖ of every layer from 1 to L, R the mean loss of a batch: whether the first layers still learn.

    Args:
        model: looked at in evaluation mode; its mode, and every ``grad``, is left as it was.
        images: (B, …).
        target: what the loss is told.
        loss: of logits and target, the sum over the batch.

    Returns:
        A norm for each layer; 0 where no gradient comes, as to weights that are not trained.

    Source:
        The lecture's vanishing gradients.

    Example:
        >>> from fcnet.losses import CrossEntropy
        >>> model = MLP(4, (3,), 2)
        >>> len(gradient_norms(model, torch.ones(5, 4), torch.zeros(5, dtype=torch.int64), CrossEntropy()))
        2
    """
    _, gradients = _gradients(model, images, target, loss)
    return [0.0 if gradient is None else gradient.norm().item() for gradient in gradients]


class IdleUnits(NamedTuple):
    """The hidden units of a layer that say the same of every image.

    Attributes:
        layer: its number, from 1.
        units: n[l].
        num_idle: how many of them are 0 (ReLU) or within 0.01 of 0 or 1 (sigmoid) for every image.
    """

    layer: int
    units: int
    num_idle: int


@torch.no_grad()
def idle_units(model: MLP, batches: Batches) -> list[IdleUnits]:
    """Counts dead units of ReLU layers and saturated units of sigmoid layers over a set of images.

    Args:
        model: whose mode, and that of each of its parts, is left as it was; it is looked at in evaluation mode.
        batches: the images, unchanged. All ranks must ask together.

    Returns:
        One entry a hidden layer; none for the other activations, whose units are never quite idle.

    Source:
        The lecture's dead nodes of ReLU.

    Example:
        >>> from fcnet.data.batches import Batches
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
    busy = [torch.zeros(layer.out_features, device=device) for layer in hidden]
    with eval_mode(model):
        for batch in batches:
            for count, record in zip(busy, model.trace(batch.images)[:-1], strict=True):
                count += (~IS_IDLE[name](ACTIVATIONS[name](record.z))).sum(0)
    whole = distributed.all_reduce(torch.cat(busy)).split([layer.out_features for layer in hidden])
    return [IdleUnits(number, len(count), int((count == 0).sum())) for number, count in enumerate(whole, 1)]


@torch.no_grad()
def activation_grads(model: MLP, images: Tensor) -> list[Tensor]:
    """g′(z[l]) of each hidden layer, by which a gradient is multiplied on its way back through it.

    Args:
        model: looked at in evaluation mode; its mode, and that of each of its parts, is left as it was.
        images: (B, …).

    Returns:
        A tensor (B, n[l]) for each hidden layer.

    Source:
        The lecture's saturation of the sigmoid and dead nodes of ReLU.

    Example:
        >>> model = MLP(1, (1,), 2, activation="sigmoid", bias=False)
        >>> activation_grads(model, torch.zeros(2, 1))
        [tensor([[0.2500],
                [0.2500]])]
    """
    grad = ACTIVATION_GRADS[model.arguments["activation"]]
    with eval_mode(model):
        return [grad(torch.ones_like(record.z), record.z) for record in model.trace(images)[:-1]]


def update_ratios(model: nn.Module, before: Mapping[str, Tensor]) -> dict[str, float]:
    """‖W − W′‖ / ‖W′‖ of every matrix of weights: how far it has moved from what it was, W′.

    After one step of a training that goes well it is some 1e-3.

    Args:
        model: as it is.
        before: its parameters as they were, copied, by name; those that are not there are left out.

    Returns:
        The ratios by the parameters' names; NaN where W′ was 0 and W is.

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


def _gradients(
    model: nn.Module, images: Tensor, target: Tensor, loss: Loss
) -> tuple[list[LayerRecord], list[Tensor | None]]:
    """The layers of a model with images on their way through it, and ∂R/∂W of each, None where none comes."""
    if not len(images):
        raise UserError("a network can be looked into with at least one image, got 0")
    with eval_mode(model), torch.enable_grad():
        passes, logits = trace_layers(model, images)
        risk = loss(logits, target) / len(images)
    trained = [layer.weight for layer in passes if layer.weight.requires_grad]
    found = torch.autograd.grad(risk, trained, allow_unused=True) if trained else ()
    gradients = dict(zip(map(id, trained), found, strict=True))
    return passes, [gradients.get(id(layer.weight)) for layer in passes]


def _jsonable(value: Any) -> Any:  # noqa: ANN401 - whatever a record holds
    """Floats with six digits, and None for what is no number, which JSON cannot hold."""
    if isinstance(value, Histogram):
        return {"low": _jsonable(value.low), "high": _jsonable(value.high), "counts": list(value.counts)}
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
