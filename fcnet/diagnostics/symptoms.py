"""What the figures of a network's layers say of it, in words: what is wrong, and what to try.

Pure functions of figures; a figure that is not known says nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Layers = Sequence[Mapping[str, Any]]

_IDLE_FRACTION = 0.3
_CONSTANT_FRACTION = 0.5
_SMALL_GRADIENT, _LARGE_GRADIENT = 1e-3, 1e3
_LOW_RANK, _MIN_WIDTH = 0.05, 32


def layer_advice(layers: Layers) -> list[str]:
    """What is wrong with which layer.

    Args:
        layers: as a line of ``diagnostics.jsonl`` has them, from 1 to L.

    Returns:
        A line each, in the order of the layers; then what concerns all of them.

    Example:
        >>> print(*layer_advice([{"layer": 1, "dead": 0.02}, {"layer": 2, "dead": 0.41}, {"layer": 3, "dead": None}]))
        layer 2: 41 % of the units are dead; try leaky_relu or a smaller learning rate
    """
    said = [line for layer in layers for line in _layer_advice(layer)]
    return said + gradient_advice([layer.get("gradient_norm") for layer in layers])


def _layer_advice(figures: Mapping[str, Any]) -> Iterator[str]:
    name = f"layer {figures['layer']}"
    mean, dead, saturated = (figures.get(key) for key in ("activation_mean", "dead", "saturated"))
    if mean is not None and not math.isfinite(mean):
        yield f"{name}: NaN or inf among its activations; try a smaller learning rate"
        return
    if dead is not None and dead > _IDLE_FRACTION:
        yield f"{name}: {_percent(dead)} of the units are dead; try leaky_relu or a smaller learning rate"
    if saturated is not None and saturated > _IDLE_FRACTION:
        yield f"{name}: {_percent(saturated)} of the units are saturated; try relu, gelu or a smaller learning rate"
    rank, most = figures.get("effective_rank"), figures.get("max_rank")
    if rank is not None and most is not None and most >= _MIN_WIDTH and rank < _LOW_RANK * most:
        yield (
            f"{name}: its weights have an effective rank of {rank:.3g}, and could have {most}; "
            "try less weight decay, a smaller learning rate or fewer units"
        )


def gradient_advice(norms: Sequence[float | None]) -> list[str]:
    """Whether the gradient reaches every layer, and none too much of it.

    Args:
        norms: ‖∂R/∂W[l]‖, from layer 1 to L.

    Returns:
        At most one line for layers that get too little and one for layers that get too much.

    Source:
        The lecture's vanishing and exploding gradients.

    Example:
        >>> print(*gradient_advice([2e-6, 1e-3, 1.0]))
        layer 1: its gradient is 2e-06 of that of layer 3; try relu or gelu, normalisation or residual connections
        >>> gradient_advice([0.3, 1.0])
        []
    """
    last = norms[-1] if norms else None
    if last is None or not math.isfinite(last) or last == 0.0:
        return []
    shares = [(norm / last, number) for number, norm in enumerate(norms[:-1], 1) if norm is not None]
    shares = [pair for pair in shares if math.isfinite(pair[0])]
    said = []
    if shares and (least := min(shares))[0] < _SMALL_GRADIENT:
        said.append(
            f"layer {least[1]}: its gradient is {least[0]:.2g} of that of layer {len(norms)}; "
            "try relu or gelu, normalisation or residual connections"
        )
    if shares and (most := max(shares))[0] > _LARGE_GRADIENT:
        said.append(
            f"layer {most[1]}: its gradient is {most[0]:.2g} times that of layer {len(norms)}; "
            "try normalisation, smaller first weights or a bound on the gradient's norm"
        )
    return said


def input_advice(dead: float | None) -> list[str]:
    """Whether most of what the network sees never changes.

    Args:
        dead: the share of the input values that are the same in every image.

    Example:
        >>> print(*input_advice(0.62))
        62 % of the inputs are the same in every image; see whether the images are what they should be, or crop them
    """
    if dead is None or dead <= _CONSTANT_FRACTION:
        return []
    what = f"{_percent(dead)} of the inputs are the same in every image"
    return [f"{what}; see whether the images are what they should be, or crop them"]


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f} %"
