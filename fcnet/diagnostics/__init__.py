"""Diagnostics of a network, layer by layer: idle units, activations, gradients, weights, and advice on them."""

from fcnet.diagnostics.diagnosis import (
    Diagnosis,
    IdleUnits,
    activation_grads,
    diagnose,
    gradient_norms,
    idle_units,
    update_ratios,
)
from fcnet.diagnostics.layers import Histogram, LayerDiagnosis

__all__ = [
    "Diagnosis",
    "Histogram",
    "IdleUnits",
    "LayerDiagnosis",
    "activation_grads",
    "diagnose",
    "gradient_norms",
    "idle_units",
    "update_ratios",
]
