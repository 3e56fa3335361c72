"""The variance of the initial weights of a layer with n inputs, m outputs and activation g."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

InitializationName = Literal["auto", "he", "glorot", "lecun"]

GAINS = {
    "identity": 1.0,
    "sigmoid": 1.0,
    "relu": math.sqrt(2.0),
    "leaky_relu": math.sqrt(2.0 / (1.0 + 0.01**2)),
    "elu": 1.2452,
    "gelu": 1.5335,
}
"""The gain 1 / √(E g(z)²) of each activation for a standard normal z; 1 for the sigmoid.

Weights of variance gain² / n keep the mean square of a signal from layer to layer.
"""

VARIANCES: dict[str, Callable[[int, int, str], float]] = {
    "auto": lambda inputs, outputs, activation: GAINS[activation] ** 2 / inputs,
    "he": lambda inputs, outputs, activation: 2.0 / inputs,
    "glorot": lambda inputs, outputs, activation: 2.0 / (inputs + outputs),
    "lecun": lambda inputs, outputs, activation: 1.0 / inputs,
}
"""The variance as a function (n, m, g), by name: auto gain² / n, he 2 / n, glorot 2 / (n + m), lecun 1 / n.

Sources: He et al., "Delving deep into rectifiers", 2015; Glorot and Bengio, "Understanding the difficulty of
training deep feedforward neural networks", 2010; LeCun et al., "Efficient BackProp", 1998.
"""
