"""The networks as scikit-learn classifiers, for arrays, sparse matrices, pipelines and searches.

B examples, D features, C classes. The classifiers standardize the features themselves, by the mean and the standard
deviation of the training set.
"""

from fcnet.sklearn.logistic_regression import LogisticRegression
from fcnet.sklearn.logistic_regression_cv import LogisticRegressionCV
from fcnet.sklearn.mlp import MLPClassifier

__all__ = ["LogisticRegression", "LogisticRegressionCV", "MLPClassifier"]
