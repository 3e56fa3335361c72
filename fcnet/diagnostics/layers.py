"""One layer of a network in figures: its units, activations, weights and gradient.

B examples, n[l] units in layer l.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fcnet.diagnostics.matrix_rank import effective_rank, singular_values, stable_rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fcnet.diagnostics.hooks import LayerRecord

_SATURATED = 0.01
_BINS = 32


@dataclass(frozen=True)
class Histogram:
    """How often values lie where.

    Attributes:
        low: the least value.
        high: the largest.
        counts: of as many intervals of one width as there are counts, from ``low`` to ``high``.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LayerDiagnosis:
    """One layer in figures; None where there is none to tell.

    Attributes:
        layer: its number, from 1; the last is the output layer.
        name: the module's, in the model.
        activation: g by name, None where it is not known and in the output layer.
        units: n[l].
        dead: the share of the units that are 0 for every image, of ReLU; where g is not known, of those that are the
            same for every image.
        saturated: the share of the units that are within 1 % of g's range from its ends for every image, of sigmoid
            and tanh.
        activation_mean: of a[l], over images and units; of the output layer the logits.
        activation_std: likewise, the standard deviation.
        histogram: likewise.
        weight_norm: ‖W[l]‖, the root of the sum of squares.
        gradient_norm: ‖∂R/∂W[l]‖, R the mean loss of the images.
        effective_rank: of W[l]; see `fcnet.diagnostics.matrix_rank`.
        stable_rank: of W[l].
        max_rank: the most that both could be.
    """

    layer: int
    name: str
    activation: str | None
    units: int
    dead: float | None
    saturated: float | None
    activation_mean: float
    activation_std: float
    histogram: Histogram | None
    weight_norm: float
    gradient_norm: float | None
    effective_rank: float
    stable_rank: float
    max_rank: int


@torch.no_grad()
def diagnose_layer(number: int, layer: LayerRecord, gradient: Tensor | None, *, last: bool) -> LayerDiagnosis:
    """Counts one layer.

    Args:
        number: of the layer, from 1.
        layer: as `fcnet.diagnostics.hooks.trace_layers` gives it.
        gradient: ∂R/∂W[l], or None.
        last: whether it is the output layer.
    """
    values = layer.rows(layer.output) if last else layer.activations()
    std, mean = torch.std_mean(values.float(), correction=0)
    spectrum = singular_values(layer.weight)
    dead, saturated = (None, None) if last else _idle_fractions(layer, values)
    return LayerDiagnosis(
        layer=number,
        name=layer.name,
        activation=None if last else layer.activation,
        units=layer.units,
        dead=dead,
        saturated=saturated,
        activation_mean=mean.item(),
        activation_std=std.item(),
        histogram=_histogram(values),
        weight_norm=layer.weight.norm().item(),
        gradient_norm=None if gradient is None else gradient.norm().item(),
        effective_rank=effective_rank(spectrum),
        stable_rank=stable_rank(spectrum),
        max_rank=len(spectrum),
    )


def is_constant(values: Tensor) -> Tensor:
    """Which columns of (B, n) hold one value alone, bool (n,)."""
    low, high = torch.aminmax(values, dim=0)
    return low == high


def fraction_true(flags: Tensor) -> float:
    """The share of those that are true; waits for the device."""
    return int(flags.sum()) / max(flags.numel(), 1)


def _idle_fractions(layer: LayerRecord, values: Tensor) -> tuple[float | None, float | None]:
    """The shares of dead and of saturated units, None for what the layer's g has none of."""
    if layer.activation is None:
        return (fraction_true(is_constant(values)) if len(values) > 1 else None), None
    if layer.activation_output is None or layer.activation not in IS_IDLE:
        return None, None
    idle = fraction_true(IS_IDLE[layer.activation](layer.rows(layer.activation_output)).all(0))
    return (idle, None) if layer.activation == "relu" else (None, idle)


IS_IDLE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda a: a <= 0.0,
    "sigmoid": lambda a: (a < _SATURATED) | (a > 1.0 - _SATURATED),
    "tanh": lambda a: a.abs() > 1.0 - 2.0 * _SATURATED,
}
"""g(z) -> whether the unit says nothing of this image, by the name of g."""


def _histogram(values: Tensor) -> Histogram | None:
    """Of all values; None where one is NaN or inf, or there is none."""
    if not values.numel():
        return None
    low, high = (value.item() for value in torch.aminmax(values.float()))
    if not math.isfinite(high - low):
        return None
    if low == high:
        low, high = low - 0.5, high + 0.5
    places = ((values.float() - low) * (_BINS / (high - low))).long().clamp_(0, _BINS - 1)
    return Histogram(low, high, tuple(places.flatten().bincount(minlength=_BINS).tolist()))
