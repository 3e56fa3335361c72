"""Locates NaN and inf in a network and its training: the step, the layer and the tensor where they appear first.

B images. "Finite" means neither NaN nor ±inf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fcnet.models.mlp import MLP
from fcnet.runtime import distributed
from fcnet.runtime.errors import NonFiniteError
from fcnet.runtime.hardware import to_float64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fcnet.losses import Loss

_PARAMETERS = {
    "weight": "the weights",
    "bias": "the bias",
    "normalization.weight": "γ of the normalization",
    "normalization.bias": "β of the normalization",
    "normalization.running_mean": "the running mean",
    "normalization.running_var": "the running variance",
}
_IMAGES = "the images"


@dataclass(frozen=True)
class NonFiniteLocation:
    """The tensor that holds NaN or inf.

    Attributes:
        layer: the number of the layer, from 1; the name of the module if the model is not an `MLP`; None for the images
            and the loss.
        description: the name of the tensor.
        order: the position of the tensor on the way from the images to the loss.
        stored: whether the tensor is a parameter or buffer; otherwise the batch was used to compute it.
    """

    layer: int | str | None
    description: str
    order: int = 0
    stored: bool = False


class NonFiniteMonitor:
    """Counts the steps with a finite loss up to the first one with NaN or inf, on the device and without a sync.

    The monitor keeps its own count of steps, on the device, because a replayed CUDA graph does not run Python.

    Args:
        device: the device of the losses.

    Example:
        >>> monitor = NonFiniteMonitor(torch.device("cpu"))
        >>> for loss in (2.0, 1.0, float("nan"), 1.0):
        ...     monitor.update(torch.tensor(loss))
        >>> monitor.read()
        2
    """

    def __init__(self, device: torch.device) -> None:
        self._flag = torch.zeros((), device=device)  # 0 as long as all losses are finite, then NaN
        self._count = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, loss: Tensor) -> None:
        """Adds the loss of one step, without a host sync."""
        self._flag += loss * 0.0  # NaN and inf times 0 are NaN, and NaN plus anything is NaN
        self._count += self._flag == 0.0

    def read(self) -> int | None:
        """Returns the number of steps before the first non-finite loss, or None; synchronizes with the device."""
        flag, count = torch.stack([to_float64(self._flag), to_float64(self._count)]).tolist()
        return None if flag == 0.0 else int(count)


@torch.no_grad()
def first_nonfinite(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> NonFiniteLocation | None:
    """Finds the first tensor with NaN or inf on the way from the images of a batch to its loss.

    Collective: every rank must call it, and all get the first location of any rank.

    Args:
        model: images -> logits; it runs in its current mode.
        images: (B, …).
        target: the second argument of ``loss``.
        loss: (logits, target) -> the loss.

    Returns:
        The location, or None if everything is finite.

    Example:
        >>> model = MLP(4, (3,), 2, bias=False)
        >>> with torch.no_grad():
        ...     for parameter in model.parameters():
        ...         _ = parameter.fill_(1e30)
        >>> first_nonfinite(model, torch.ones(1, 4), torch.tensor([0]), lambda logits, _: logits.sum()).description
        'the logits, z of layer 2'
    """
    tensors = _iter_layer_tensors(model, images) if isinstance(model, MLP) else _iter_module_tensors(model, images)
    found, order = None, 0
    # No early exit: batch norm communicates between ranks, and the other ranks may find nothing.
    for order, (layer, description, tensor, stored) in enumerate(tensors):
        if found is None and not _all_finite(tensor):
            found = NonFiniteLocation(layer, description, order, stored)
        last = tensor
    logits = last.squeeze(1) if isinstance(model, MLP) and model.num_classes == 2 else last
    if found is None and not _all_finite(loss(logits, target)):
        found = NonFiniteLocation(None, "the loss", order + 1)
    locations = [location for location in distributed.all_gather(found) if location is not None]
    return min(locations, key=lambda location: location.order, default=None)


@torch.no_grad()
def nonfinite_state(model: nn.Module) -> list[NonFiniteLocation]:
    """Lists the parameters, and the running statistics of an `MLP`, that hold NaN or inf; synchronizes once.

    Other buffers of other modules are not checked: a mask may well hold −inf.
    """
    if isinstance(model, MLP):
        return _find_nonfinite(model, model.state_dict())
    return _find_nonfinite(model, dict(model.named_parameters()))


def first_nonfinite_tensor(tensors: Mapping[str, Tensor]) -> NonFiniteLocation | None:
    """Returns the first tensor of a training's state, by name, that holds NaN or inf; None if all are finite.

    A moment that overflows need not show in the weights: AdamW divides by it, and learns nothing more.
    """
    found = next((name for name, tensor in tensors.items() if not _all_finite(tensor)), None)
    return None if found is None else NonFiniteLocation(None, f"{found} of the training state", stored=True)


@torch.no_grad()
def last_nonfinite_gradient(model: nn.Module) -> NonFiniteLocation | None:
    """Finds the gradient with NaN or inf that backpropagation reaches first, the one nearest to the loss."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    locations = _find_nonfinite(model, gradients)
    if not locations:
        return None
    last = next(location for location in locations if location.layer == locations[-1].layer)
    return NonFiniteLocation(last.layer, f"the gradient of {last.description}")


def loss_location(state: Sequence[NonFiniteLocation]) -> NonFiniteLocation:
    """Returns the location of a non-finite loss that was found after its step, when its batch is gone.

    Args:
        state: the result of `nonfinite_state`; the layer of its first entry is reported.
    """
    if not state:
        return NonFiniteLocation(None, "the loss")
    return NonFiniteLocation(state[0].layer, f"the loss, and by now in {state[0].description}")


def nonfinite_error(
    location: NonFiniteLocation,
    step: int,
    num_steps: int,
    *,
    lr: float,
    clip_norm: float,
    warmed: bool,
    precision: torch.dtype | Literal["tf32"],
) -> NonFiniteError:
    """Builds the error for NaN or inf in a training, with advice that fits its settings.

    Args:
        location: the location of the first NaN or inf.
        step: the number of the step, from 1; 0 before the first step.
        num_steps: the number of steps of the training.
        lr: the learning rate before the schedule.
        clip_norm: the bound of the gradient norm; 0 for none.
        warmed: whether the learning rate is warmed up.
        precision: the dtype of matrix products, or ``"tf32"``.

    Example:
        >>> location = NonFiniteLocation(2, "z of layer 2")
        >>> error = nonfinite_error(location, 7, 50, lr=3.0, clip_norm=0.0, warmed=True, precision=torch.float32)
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
    if location.description == _IMAGES:
        advice = "check the images: all values must be finite"
    elif step == 0:
        advice = "all parameters must be finite before training"
    elif step == 1 and not location.stored:
        # The initial weights are small, so without a step only large inputs can overflow.
        advice = f"the weights were still the initial ones: check the range of the image values, or {advice}"
    return NonFiniteError(f"NaN or inf {when} in {location.description}; {advice}", step=step, layer=location.layer)


def _all_finite(tensor: Tensor) -> bool:
    """Returns whether a tensor is finite. Its extremes tell, without a temporary of the tensor's size."""
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())


def _iter_layer_tensors(model: MLP, x: Tensor) -> Iterator[tuple[int | None, str, Tensor, bool]]:
    """Yields (layer, description, tensor, stored) from the images to the logits, in order of use."""
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
    """Yields the same for any module, from its leaf modules in the order of their calls."""
    yield None, _IMAGES, x, False
    tensors: list[tuple[str | None, str, Tensor, bool]] = []

    def make_hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401 - a forward hook
            for key, tensor in module.named_parameters():
                tensors.append((name, f"{key} of module {name}", tensor, True))
            if isinstance(output, Tensor) and output.is_floating_point():
                # A copy, since the next module may work in place.
                tensors.append((name, f"the output of module {name}", output.clone(), False))

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(make_hook(name or type(module).__name__)) for name, module in leaves]
    try:
        logits = model(x)
    finally:
        for handle in handles:
            handle.remove()
    yield from tensors
    yield None, "the logits", logits, False


def _find_nonfinite(model: nn.Module, tensors: dict[str, Tensor]) -> list[NonFiniteLocation]:
    """Returns the locations of the tensors, named as in the model, that hold NaN or inf."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if not floating:
        return []
    # One scalar per tensor and one sync for all. In float64 the sum of two finite float32 extremes cannot overflow.
    extremes = [to_float64(torch.stack(torch.aminmax(tensor.detach()))).sum() for tensor in floating.values()]
    finite = torch.stack(extremes).isfinite().tolist()
    return [_location(model, name) for name, is_finite in zip(floating, finite, strict=True) if not is_finite]


def _location(model: nn.Module, name: str) -> NonFiniteLocation:
    """Returns the location of a parameter or buffer."""
    if isinstance(model, MLP) and name.startswith("layers."):
        _, number, rest = name.split(".", 2)
        layer = int(number) + 1
        return NonFiniteLocation(layer, f"{_PARAMETERS.get(rest, rest)} of layer {layer}", stored=True)
    owner, _, rest = name.rpartition(".")
    owner = owner or type(model).__name__
    return NonFiniteLocation(owner, f"{rest} of module {owner}", stored=True)
