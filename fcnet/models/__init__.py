"""Logistic regression, multilayer perceptrons, and the layers that they consist of."""

from fcnet.models.batch_norm import BatchNorm, update_bn
from fcnet.models.graph import Graph
from fcnet.models.layer_table import ModelSummary, summary
from fcnet.models.layers import Dense, Dropout
from fcnet.models.mlp import MLP, LogisticRegression, logits_to_classes, logits_to_probabilities, num_parameters

__all__ = [
    "MLP",
    "BatchNorm",
    "Dense",
    "Dropout",
    "Graph",
    "LogisticRegression",
    "ModelSummary",
    "logits_to_classes",
    "logits_to_probabilities",
    "num_parameters",
    "summary",
    "update_bn",
]
