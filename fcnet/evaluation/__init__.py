"""Evaluation of a model on a set of images: loss, confusion matrix, mistakes, and robustness to other data."""

from fcnet.evaluation.classification import Evaluation, evaluate
from fcnet.evaluation.predictions import Mistake, PredictionCollector, Predictions
from fcnet.evaluation.scores import ScoreCollector, ScoreMetrics
from fcnet.evaluation.temperature import TemperatureFit, divide_logits, find_temperature, fit_temperature
from fcnet.metrics import Confusion

__all__ = [
    "Confusion",
    "Evaluation",
    "Mistake",
    "PredictionCollector",
    "Predictions",
    "ScoreCollector",
    "ScoreMetrics",
    "TemperatureFit",
    "divide_logits",
    "evaluate",
    "find_temperature",
    "fit_temperature",
]
