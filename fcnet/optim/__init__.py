"""Optimizers that torch lacks, learning-rate schedules, and an optimizer's state as tensors."""

from fcnet.optim.optimizers import LBFGS, Muon, parameter_groups

__all__ = ["LBFGS", "Muon", "parameter_groups"]
