"""Where NaN or inf is in a network and its training: the batch, layer and step that it was first in.

B examples; a number is one that is neither NaN nor ±inf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.models.mlp import MLP
from fcnet.runtime import distributed
from fcnet.runtime.errors import NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fcnet.losses import Loss

_PARAMETERS = {
    "weight": "the weights",
    "bias": "the bias",
    "normalization.weight": "γ of the normalisation",
    "normalization.bias": "β of the normalisation",
    "normalization.running_mean": "the running mean",
    "normalization.running_var": "the running variance",
}
_IMAGES = "the images"


@dataclass(frozen=True)
class NonFiniteLocation:
    """Where something was seen.

    Attributes:
        layer: from 1, or the name of a module that is not fcnet's; None: no layer's.
        description: what it is, in words.
        order: its number among all that is looked at on the way from the images to the loss.
        stored: whether it is the network's own, and not made of the batch.
    """

    layer: int | str | None
    description: str
    order: int = 0
    stored: bool = False


class NonFiniteMonitor:
    """Counts the steps whose loss is a number, up to the first whose loss is none; it stays on the device.

    A count of its own, and not the training's, so that it also holds in a captured graph.

    Args:
        device: where the losses are.

    Example:
        >>> monitor = NonFiniteMonitor(torch.device("cpu"))
        >>> for loss in (2.0, 1.0, float("nan"), 1.0):
        ...     monitor.update(torch.tensor(loss))
        >>> monitor.read()
        2
    """

    def __init__(self, device: torch.device) -> None:
        self._mark = torch.zeros((), device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, loss: Tensor) -> None:
        """Takes one step's loss; no host sync."""
        self._mark += loss * 0.0  # 0, and NaN for good once a loss was none
        self._count += self._mark == 0.0

    def read(self) -> int | None:
        """How many steps were sound before the first that was not, None where all were; waits for the device."""
        mark, count = torch.stack([self._mark.double(), self._count.double()]).tolist()
        return None if mark == 0.0 else int(count)


@torch.no_grad()
def first_nonfinite(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> NonFiniteLocation | None:
    """Where, on the way from a batch's images to its loss, NaN or inf appears first.

    Args:
        model: images -> logits, in the mode it is to be looked at.
        images: (B, …).
        target: what the loss is told.
        loss: of logits and target.

    Returns:
        The place, None where all are numbers. With several ranks it is the first of all ranks', who
        must ask together.

    Example:
        >>> model = MLP(4, (3,), 2, bias=False)
        >>> with torch.no_grad():
        ...     for parameter in model.parameters():
        ...         _ = parameter.fill_(1e30)
        >>> first_nonfinite(model, torch.ones(1, 4), torch.tensor([0]), lambda logits, _: logits.sum()).description
        'the logits, z of layer 2'
    """
    way = _iter_layer_tensors(model, images) if isinstance(model, MLP) else _iter_module_tensors(model, images)
    found, order = None, 0
    for order, (layer, description, tensor, stored) in enumerate(way):  # to its end: ranks meet in batch norm
        if found is None and not _all_finite(tensor):
            found = NonFiniteLocation(layer, description, order, stored)
        last = tensor
    logits = last.squeeze(1) if isinstance(model, MLP) and model.num_classes == 2 else last
    if found is None and not _all_finite(loss(logits, target)):
        found = NonFiniteLocation(None, "the loss", order + 1)
    places = [place for place in distributed.all_gather(found) if place is not None]
    return min(places, key=lambda place: place.order, default=None)


@torch.no_grad()
def nonfinite_state(model: nn.Module) -> list[NonFiniteLocation]:
    """The parameters with NaN or inf in them, and an `MLP`'s running statistics, in its order; waits for the device."""
    if isinstance(model, MLP):
        return _find_nonfinite(model, model.state_dict())
    return _find_nonfinite(model, dict(model.named_parameters()))


@torch.no_grad()
def last_nonfinite_gradient(model: nn.Module) -> NonFiniteLocation | None:
    """The gradient nearest to the loss that has NaN or inf in it: the first on the way back."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    places = _find_nonfinite(model, gradients)
    if not places:
        return None
    last = next(place for place in places if place.layer == places[-1].layer)
    return NonFiniteLocation(last.layer, f"the gradient of {last.description}")


def loss_location(spoilt: Sequence[NonFiniteLocation]) -> NonFiniteLocation:
    """The place of a loss that was found too late to search its batch, by what it has spoilt since."""
    if not spoilt:
        return NonFiniteLocation(None, "the loss")
    return NonFiniteLocation(spoilt[0].layer, f"the loss, and by now in {spoilt[0].description}")


def nonfinite_error(
    place: NonFiniteLocation,
    step: int,
    num_steps: int,
    *,
    lr: float,
    clip_norm: float,
    warmed: bool,
    precision: torch.dtype,
) -> NonFiniteError:
    """What to say of NaN or inf, and what to try.

    Args:
        place: where it was first.
        step: in which step, from 1; 0: before them.
        num_steps: of how many.
        lr: the learning rate that the schedule scales.
        clip_norm: the bound on the gradient's norm; 0: none.
        warmed: whether the learning rate rises at the beginning.
        precision: of matrix products.

    Example:
        >>> place = NonFiniteLocation(2, "z of layer 2")
        >>> error = nonfinite_error(place, 7, 50, lr=3.0, clip_norm=0.0, warmed=True, precision=torch.float32)
        >>> error.layer, str(error).split("; ")[0]
        (2, 'NaN or inf in step 7 of 50, first in z of layer 2')
    """
    when = f"in step {step} of {num_steps}, first" if step else "before the first step,"
    tried = [f"optimizer.lr = {lr / 3:.2g} or {lr / 10:.2g} (now {lr:g})"]
    if not 0.0 < clip_norm <= 1.0:
        tried.append("optimizer.clip_norm = 1")
    if not warmed:
        tried.append("optimizer.warmup_epochs = 1")
    if precision != torch.float32:
        tried.append('train.precision = "float32"')
    advice = f"try {', '.join(tried)}"
    if place.description == _IMAGES:
        advice = "look at the images, which must be finite"
    elif step == 0:
        advice = "the network must be finite when its training begins"
    elif step == 1 and not place.stored:
        advice = f"no step had moved the network yet: look at the size of the images' values, or {advice}"
    return NonFiniteError(f"NaN or inf {when} in {place.description}; {advice}", step=step, layer=place.layer)


def _all_finite(tensor: Tensor) -> bool:
    """Whether all are numbers; without memory of the tensor's size."""
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())


def _iter_layer_tensors(model: MLP, x: Tensor) -> Iterator[tuple[int | None, str, Tensor, bool]]:
    """All that is between the images and the logits, in the order in which it is used."""
    yield None, _IMAGES, x, False
    a = model.flatten_inputs(x)
    layers = model.dense_layers()
    for number, layer in enumerate(layers, 1):
        for name, tensor in layer.named_parameters():
            yield number, f"{_PARAMETERS.get(name, name)} of layer {number}", tensor, True
        z = layer.preactivation(a)
        last = layer is layers[-1]
        yield number, f"the logits, z of layer {number}" if last else f"z of layer {number}", z, False
        a = layer.output(z, a)
        yield number, f"a of layer {number}", a, False


def _iter_module_tensors(model: nn.Module, x: Tensor) -> Iterator[tuple[str | None, str, Tensor, bool]]:
    """The same of any module: its leaves, in the order in which they are called."""
    yield None, _IMAGES, x, False
    seen: list[tuple[str | None, str, Tensor, bool]] = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401 - whatever a module takes
            for key, tensor in module.named_parameters():
                seen.append((name, f"{key} of module {name}", tensor, True))
            if isinstance(output, Tensor) and output.is_floating_point():
                seen.append((name, f"the output of module {name}", output.clone(), False))

        return note

    leaves = [(name, module) for name, module in model.named_modules() if not any(True for _ in module.children())]
    hooks = [module.register_forward_hook(hook(name or type(module).__name__)) for name, module in leaves]
    try:
        logits = model(x)
    finally:
        for handle in hooks:
            handle.remove()
    yield from seen
    yield None, "the logits", logits, False


def _find_nonfinite(model: nn.Module, tensors: dict[str, Tensor]) -> list[NonFiniteLocation]:
    """Those of some tensors, named as the model's, that hold NaN or inf."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if not floating:
        return []
    extremes = [torch.stack(torch.aminmax(tensor.detach())).double().sum() for tensor in floating.values()]
    whole = torch.stack(extremes).isfinite().tolist()
    return [_location(model, name) for name, finite in zip(floating, whole, strict=True) if not finite]


def _location(model: nn.Module, name: str) -> NonFiniteLocation:
    """Where a parameter or buffer belongs."""
    if isinstance(model, MLP) and name.startswith("layers."):
        _, number, rest = name.split(".", 2)
        layer = int(number) + 1
        return NonFiniteLocation(layer, f"{_PARAMETERS.get(rest, rest)} of layer {layer}", stored=True)
    owner, _, rest = name.rpartition(".")
    owner = owner or type(model).__name__
    return NonFiniteLocation(owner, f"{rest} of module {owner}", stored=True)
