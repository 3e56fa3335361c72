"""The networks as scikit-learn classifiers, for arrays, pipelines and grid searches.

B examples, D features, C classes. The classifiers standardize the features themselves, by the mean and the standard
deviation of the training set.
"""

from __future__ import annotations

import numbers
import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import fcnet.functional as F
from fcnet import models
from fcnet.data.batches import Batches
from fcnet.losses import CrossEntropy
from fcnet.optim.optimizers import parameter_groups
from fcnet.optim.schedules import cosine
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import generator
from fcnet.training.algorithm import GradientDescent
from fcnet.training.backpropagation import backpropagate
from fcnet.training.fit import fit
from fcnet.training.fit_checks import check_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from fcnet.models.layers import ActivationName, NormalizationName

    Floats = npt.NDArray[np.float64]

_EPSILON = float(np.finfo(np.float64).eps)


class _BaseClassifier(ClassifierMixin, BaseEstimator):
    """Base of both classifiers: checks arrays, standardizes features and predicts probabilities."""

    def predict_proba(self, X: npt.ArrayLike) -> Floats:
        """Computes class probabilities, (B, D) -> float64 (B, C), in the order of ``classes_``."""
        x = torch.from_numpy(self._scale(self._check_features(X)))
        probabilities: Floats = self.model_.predict_proba(x).numpy()
        return probabilities

    def predict_log_proba(self, X: npt.ArrayLike) -> Floats:
        """Computes logarithms of class probabilities, (B, D) -> float64 (B, C), finite where a probability is 0."""
        x = torch.from_numpy(self._scale(self._check_features(X)))
        logits: Tensor = self.model_(x)
        if logits.ndim == 1:
            logits = torch.stack([torch.zeros_like(logits), logits], 1)
        log_probabilities: Floats = F.log_softmax(logits, 1).numpy()
        return log_probabilities

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """Predicts the most probable class, (B, D) -> (B,)."""
        best = self.predict_proba(X).argmax(1)  # first, because it checks that the classifier is fitted
        labels: npt.NDArray[Any] = self.classes_[best]
        return labels

    def _check_features(self, X: npt.ArrayLike) -> Floats:
        check_is_fitted(self)
        x: Floats = validate_data(self, X, reset=False, dtype=np.float64)
        return x

    def _check_training_data(self, X: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Tensor]:
        """Checks the training set and returns x (B, D) and labels int64 (B,), which are indices into ``classes_``."""
        x, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError(f"y must hold at least two classes, got 1 class: {self.classes_.tolist()[0]!r}")
        return x, torch.from_numpy(labels.astype(np.int64))

    def _fit_scaler(self, x: Floats, weight: Floats | None = None) -> Floats:
        """Computes mean and standard deviation and returns the standardized x. A constant feature becomes 0."""
        # The computed mean of a constant feature may differ from its value in the last digit, and dividing by a
        # variance of nearly 0 would turn that into a feature of ±1.
        constant = np.ptp(x, axis=0) == 0.0
        self.mean_ = np.where(constant, x[0], np.average(x, axis=0, weights=weight))
        variance = np.average((x - self.mean_) ** 2, axis=0, weights=weight)
        self.std_ = np.where(constant, 1.0, np.sqrt(variance))
        return self._scale(x)

    def _finalize(self, model: models.MLP) -> Self:
        """Stores the trained model for inference."""
        model.zero_grad()
        self.model_ = model.double().eval().requires_grad_(requires_grad=False)
        return self

    def _scale(self, x: Floats) -> Floats:
        scaled: Floats = (x - self.mean_) / self.std_
        return scaled


class MLPClassifier(_BaseClassifier):
    """A dense feedforward network, trained on the cross-entropy by AdamW with a cosine schedule.

    Args:
        hidden: the widths of the hidden layers.
        activation: g of the hidden layers: identity, sigmoid, relu, leaky_relu, elu or gelu.
        normalization: the normalization of the hidden layers: none, batch or layer.
        dropout: the probability of dropping a hidden unit's output during training, in [0, 1).
        lr: the initial learning rate of the schedule.
        weight_decay: the decay of the weight matrices.
        epochs: passes over the training set.
        batch_size: examples per step.
        label_smoothing: ε. The target is (1 − ε) · one-hot + ε / C.
        random_state: the seed of the initial weights, the order of the examples and dropout: an integer, a NumPy
            ``RandomState``, or None for a different seed at each fit.

    Attributes:
        classes_: the C labels, sorted.
        model_: the trained `fcnet.MLP` on standardized features, in float64 and in evaluation mode.
        mean_: the mean of each feature, (D,).
        std_: the standard deviation of each feature, (D,); 1 for a constant feature.
        loss_curve_: the mean training loss of each epoch.
        n_features_in_: D.

    Raises:
        UserError: a ValueError, from ``fit``; an argument is out of its range, or y has a single class.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> classifier = MLPClassifier(hidden=(64,), random_state=0).fit(x, y)
        >>> classifier.score(x, y) > 0.9, classifier.predict_proba(x[:2]).shape
        (True, (2, 3))
    """

    def __init__(
        self,
        hidden: Sequence[int] = (128,),
        *,
        activation: ActivationName = "relu",
        normalization: NormalizationName = "none",
        dropout: float = 0.0,
        lr: float = 5e-3,
        weight_decay: float = 0.01,
        epochs: int = 100,
        batch_size: int = 64,
        label_smoothing: float = 0.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.normalization = normalization
        self.dropout = dropout
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.label_smoothing = label_smoothing
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Trains on features X (B, D) and labels y (B,) of any type."""
        check_settings(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, seed=0)
        _require_number("weight_decay", self.weight_decay)
        x, labels = self._check_training_data(X, y)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        model = models.MLP(
            x.shape[1],
            self.hidden,
            len(self.classes_),
            activation=self.activation,
            normalization=self.normalization,
            dropout=self.dropout,
            generator=generator(seed, "initialisation"),
        )
        images = torch.from_numpy(self._fit_scaler(x)).float()
        batches = Batches(images, labels, batch_size=self.batch_size)
        algorithm = GradientDescent(
            torch.optim.AdamW(parameter_groups(model, self.weight_decay), lr=self.lr),
            epochs=self.epochs,
            schedule=cosine(self.epochs * len(batches)),
            loss=CrossEntropy(self.label_smoothing),
        )
        self.loss_curve_ = [record.train_loss for record in fit(model, batches, algorithm, seed=seed)]
        return self._finalize(model)


class LogisticRegression(_BaseClassifier):
    """Logistic regression, or softmax regression for more than two classes, trained to its optimum.

    It minimizes C Σ_i s_i ℓ_i + ½ ‖W‖² by L-BFGS on all examples at once, in float64. ℓ is the cross-entropy of
    standardized features x, s the sample weights, and the intercept is not penalized. scikit-learn's estimator of this
    name has the same objective after its ``StandardScaler``, and on raw features without ``standardize``.

    Args:
        C: the inverse of the penalty's strength. Infinity turns the penalty off.
        standardize: whether to standardize the features, so that the penalty does not depend on their units.
        tol: the largest entry of the gradient of the mean objective at which the search ends.
        max_iter: the largest number of iterations.

    Attributes:
        classes_: the C labels, sorted.
        coef_: the weights of the raw features, (1, D) for two classes, else (C, D).
        intercept_: the intercepts for the raw features, (1,) or (C,).
        n_iter_: the number of iterations, as an array with one entry.
        model_: the trained `fcnet.LogisticRegression` on standardized features, in float64.
        mean_: the mean of each feature, (D,); 0 without ``standardize``.
        std_: the standard deviation of each feature, (D,); 1 for a constant feature, or without ``standardize``.
        n_features_in_: D.

    Raises:
        UserError: a ValueError, from ``fit``; an argument is out of its range, or y has a single class.

    Warns:
        ConvergenceWarning: the search reached ``max_iter``.

    Source:
        The lecture's logistic regression, from maximum likelihood.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> classifier = LogisticRegression().fit(x, y)
        >>> classifier.score(x, y) > 0.9, classifier.coef_.shape
        (True, (3, 4))
    """

    def __init__(self, C: float = 1.0, *, standardize: bool = True, tol: float = 1e-8, max_iter: int = 1000) -> None:
        self.C = C
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Trains on features X (B, D), labels y (B,) of any type, and sample weights (B,)."""
        _require_number("C", self.C, above=True)
        _require_number("tol", self.tol)
        x, labels = self._check_training_data(X, y)
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        counted = weight > 0.0
        if not counted.any():
            raise UserError("sample_weight must be greater than 0 for at least one example, got none")
        x, labels, weight = x[counted], labels[torch.from_numpy(counted)], weight[counted]
        if self.standardize:
            x = self._fit_scaler(x, weight)
        else:
            self.mean_, self.std_ = np.zeros(x.shape[1]), np.ones(x.shape[1])
        unused = generator(0, "initialisation")  # keeps torch's global generator untouched; the search starts at 0
        model = models.LogisticRegression(x.shape[1], len(self.classes_), generator=unused).double()
        torch.nn.init.zeros_(model.dense_layers()[0].weight)
        target = torch.nn.functional.one_hot(labels, len(self.classes_)).double()
        target *= torch.from_numpy(weight / weight.mean())[:, None]
        self._minimize(model, torch.from_numpy(x), target, decay=1.0 / (self.C * weight.sum()))
        layer = model.dense_layers()[0]
        self.coef_ = layer.weight.detach().numpy() / self.std_
        self.intercept_ = layer.bias.detach().numpy() - self.coef_ @ self.mean_  # type: ignore[union-attr]
        return self._finalize(model)

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Computes logits, (B, D) -> (B,), those of the second of two classes, or (B, C)."""
        scores: Floats = self._check_features(X) @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def _minimize(self, model: models.LogisticRegression, x: Tensor, target: Tensor, decay: float) -> None:
        """Minimizes Σ_i s_i ℓ_i / Σ_i s_i + ½ λ ‖W‖² over the parameters by SciPy's L-BFGS."""
        weight, bias = parameters = list(model.parameters())

        def objective(point: Floats) -> tuple[float, Floats]:
            vector_to_parameters(torch.from_numpy(point.copy()), parameters)
            loss, _ = backpropagate(model, x, target, CrossEntropy(), scale=1.0 / len(x))
            assert weight.grad is not None
            assert bias.grad is not None
            penalty = 0.5 * decay * weight.detach().square().sum()
            grad = torch.cat([(weight.grad + decay * weight.detach()).flatten(), bias.grad])
            return (loss / len(x) + penalty).item(), grad.numpy()

        result = minimize(
            objective,
            parameters_to_vector(parameters).detach().numpy(),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": self.max_iter, "gtol": self.tol, "ftol": _EPSILON, "maxls": 50},
        )
        vector_to_parameters(torch.from_numpy(result.x), parameters)
        self.n_iter_ = np.array([result.nit], np.int32)
        if result.nit >= self.max_iter:
            largest = np.abs(result.jac).max()
            warnings.warn(
                f"no convergence after max_iter={self.max_iter} iterations: the gradient is {largest:.1e}, tol is "
                f"{self.tol:g}; raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )


def _require_number(name: str, value: object, *, above: bool = False) -> None:
    """Checks that a setting is a number of at least 0, or greater than 0."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not (value > 0.0 if above else value >= 0.0):  # type: ignore[operator]
        raise UserError(f"{name} must be {'greater than' if above else 'at least'} 0, got {value!r}")
