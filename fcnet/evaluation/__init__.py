"""Evaluation of a model on a set of images: loss, confusion matrix, and robustness to other data."""

from fcnet.evaluation.classification import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
