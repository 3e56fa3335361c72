"""Dense layers, logistic regression and multilayer perceptrons."""

from fcnet.models.graph import Graph
from fcnet.models.mlp import MLP, Dense, LogisticRegression, num_parameters

__all__ = ["MLP", "Dense", "Graph", "LogisticRegression", "num_parameters"]
