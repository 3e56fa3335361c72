"""Linear models on features: softmax regressions of many penalties, minimised together and certified."""

from fcnet.linear_model.path import LogisticPath, fit_path, logistic_path
from fcnet.linear_model.solver import Progress, SearchStopped

__all__ = ["LogisticPath", "Progress", "SearchStopped", "fit_path", "logistic_path"]
