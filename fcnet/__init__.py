"""Logistic regression and dense feedforward networks on images, with the mathematics written by hand."""

from fcnet.errors import UserError
from fcnet.gradient_descent import GradientDescent
from fcnet.models import MLP, LogisticRegression
from fcnet.network import load
from fcnet.training import fit

__all__ = ["MLP", "GradientDescent", "LogisticRegression", "UserError", "fit", "load"]
