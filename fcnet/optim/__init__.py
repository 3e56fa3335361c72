"""Optimizers that torch lacks, parameter groups for weight decay, and learning-rate schedules."""

from fcnet.optim import schedules
from fcnet.optim.newton_schulz import orthogonalize
from fcnet.optim.optimizers import LBFGS, Muon, parameter_groups

__all__ = ["LBFGS", "Muon", "orthogonalize", "parameter_groups", "schedules"]
