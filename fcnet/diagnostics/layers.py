"""Measures one layer of a network: its idle units, activations, weights and gradient.

B images, n[l] units in layer l.
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

_SATURATED = 0.01  # distance from the ends of g's range, as a fraction of it
_BINS = 32

IS_IDLE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda a: a <= 0.0,
    "sigmoid": lambda a: (a < _SATURATED) | (a > 1.0 - _SATURATED),
    "tanh": lambda a: a.abs() > 1.0 - 2.0 * _SATURATED,
}
"""By the name of g: g(z) -> whether the unit is dead or saturated for an image, bool of the same shape."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values in intervals of equal width.

    Attributes:
        low: the lower end of the first interval, the smallest value.
        high: the upper end of the last interval, the largest value.
        counts: the number of values in each interval.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LayerDiagnosis:
    """The figures of one layer; None where a figure is not defined.

    Attributes:
        layer: the number of the layer, from 1; the last is the output layer.
        name: the name of the module in the model.
        activation: the name of g; None if it is unknown, and for the output layer.
        units: n[l].
        dead: for ReLU, the fraction of units that are 0 for every image. If g is unknown, the fraction of units that
            are constant over the images.
        saturated: for sigmoid and tanh, the fraction of units that are within 1% of an end of g's range for every
            image.
        activation_mean: the mean of a[l] over images and units; of the logits for the output layer.
        activation_std: the standard deviation of the same values.
        histogram: the histogram of the same values; None if one of them is NaN or inf.
        weight_norm: ‖W[l]‖, the root of the sum of squares.
        gradient_norm: ‖∂R/∂W[l]‖, where R is the mean loss of the images; None for weights that are not trained.
        effective_rank: the effective rank of W[l]; see `fcnet.diagnostics.matrix_rank`.
        stable_rank: the stable rank of W[l].
        max_rank: the upper bound of both ranks, min(n[l], m[l]).
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
    """Computes the figures of one layer.

    Args:
        number: the number of the layer, from 1.
        layer: the record of the layer from `fcnet.diagnostics.hooks.trace_layers`.
        gradient: ∂R/∂W[l], or None.
        last: whether the layer is the output layer.
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
    """Returns which columns of a tensor (B, n) hold a single value, bool (n,)."""
    low, high = torch.aminmax(values, dim=0)
    return low == high


def fraction_true(flags: Tensor) -> float:
    """Returns the fraction of true values; synchronizes with the device."""
    return int(flags.sum()) / max(flags.numel(), 1)


def _idle_fractions(layer: LayerRecord, values: Tensor) -> tuple[float | None, float | None]:
    """Returns the fractions of dead and of saturated units; None where the activation cannot have any."""
    if layer.activation is None:
        return (fraction_true(is_constant(values)) if len(values) > 1 else None), None
    if layer.activation_output is None or layer.activation not in IS_IDLE:
        return None, None
    idle = fraction_true(IS_IDLE[layer.activation](layer.rows(layer.activation_output)).all(0))
    return (idle, None) if layer.activation == "relu" else (None, idle)


def _histogram(values: Tensor) -> Histogram | None:
    """Returns the histogram of all values; None if there are none, or one of them is NaN or inf."""
    if not values.numel():
        return None
    low, high = (value.item() for value in torch.aminmax(values.float()))
    if not math.isfinite(high - low):
        return None
    if low == high:
        low, high = low - 0.5, high + 0.5
    # bincount of integers is deterministic on every device; torch.histc is not on CUDA.
    places = ((values.float() - low) * (_BINS / (high - low))).long().clamp_(0, _BINS - 1)
    return Histogram(low, high, tuple(places.flatten().bincount(minlength=_BINS).tolist()))
