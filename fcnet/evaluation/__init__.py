"""Evaluation of a model on a set of images: loss, confusion matrix, mistakes, and robustness to other data."""

from fcnet.evaluation.classification import Evaluation, evaluate
from fcnet.evaluation.predictions import Mistake, PredictionCollector, Predictions

__all__ = ["Evaluation", "Mistake", "PredictionCollector", "Predictions", "evaluate"]
