"""Loss, accuracy and per-class figures of a model on a set of images."""

from fcnet.evaluation.classification import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
