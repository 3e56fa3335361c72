"""The feedforward network as a scikit-learn classifier."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import _check_partial_fit_first_call

from fcnet import models
from fcnet.losses import CrossEntropy
from fcnet.optim.optimizers import parameter_groups
from fcnet.optim.schedules import constant, cosine
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.runtime.seeds import derive_seed, generator
from fcnet.sklearn import parameters
from fcnet.sklearn.base import BaseClassifier
from fcnet.sklearn.examples import Examples, standardize
from fcnet.sklearn.first_layer import restandardize
from fcnet.sklearn.layer_attributes import LayerAttributes
from fcnet.sklearn.scaler import compute_statistics
from fcnet.training.algorithm import GradientDescent
from fcnet.training.fit import iter_fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from fcnet.models.layers import ActivationName, NormalizationName
    from fcnet.sklearn.base import Array, Floats
    from fcnet.sklearn.scaler import Statistics
    from fcnet.training.records import EpochRecord

_PREDICTED_VALUES = 1 << 24


class MLPClassifier(LayerAttributes, BaseClassifier):
    """A dense feedforward network, trained on the cross-entropy by AdamW with a cosine schedule.

    ``fit`` makes all ``epochs``, unless ``early_stopping`` ends it. It trains in float32. Rows of a sparse matrix
    become dense in their batch alone.

    Args:
        hidden: the widths of the hidden layers; a number for one layer.
        activation: g of the hidden layers: identity, sigmoid, relu, leaky_relu, elu or gelu.
        normalization: the normalization of the hidden layers: none, batch or layer.
        dropout: the probability of dropping a hidden unit's output during training, in [0, 1).
        lr: the initial learning rate of the schedule; ``partial_fit`` uses it without a schedule.
        weight_decay: the decay of the weight matrices.
        epochs: passes over the training set.
        batch_size: examples per step.
        label_smoothing: ε. The target is (1 − ε) · one-hot + ε / C.
        class_weight: the weights of the classes by label, 1 for those left out; ``"balanced"`` for the same weight of
            all classes together; None for 1. They multiply the sample weights.
        early_stopping: whether to hold out a validation set, stop when its accuracy stops improving, and keep the
            weights of the best epoch.
        validation_fraction: the share of the examples to hold out for ``early_stopping``, the same of every class.
        n_iter_no_change: the epochs without a better validation accuracy before ``early_stopping`` stops.
        warm_start: whether ``fit`` starts at the network of the previous fit, on the same features and classes.
        random_state: the seed of the initial weights, the order of the examples, the held-out examples and dropout: an
            integer, a NumPy ``RandomState``, or None for a different seed at each fit.
        verbose: whether to print the figures of each epoch.

    Attributes:
        classes_: the C labels, sorted.
        model_: the trained `fcnet.MLP` on standardized features, in evaluation mode; float32 for float32 features,
            else float64.
        mean_: the mean of each feature, (D,).
        std_: the standard deviation of each feature, (D,); 1 for a constant feature.
        n_iter_: the number of epochs of the last call of ``fit`` or ``partial_fit``.
        t_: the number of examples seen in training, the same example once an epoch.
        loss_: the mean training loss of the last epoch.
        loss_curve_: the mean training loss of each epoch, of all calls since the network was new.
        best_loss_: the least of ``loss_curve_``; None with ``early_stopping``.
        validation_scores_: the validation accuracy of each epoch; None without ``early_stopping``.
        best_validation_score_: the greatest of ``validation_scores_``; None without ``early_stopping``.
        n_features_in_: D.
        feature_names_in_: the names of the features, if they have names.

    Raises:
        UserError: a ValueError, from ``fit``; an argument is out of its range, or y has a single class.
        NonFiniteError: a UserError, from ``fit``; training met NaN or infinity.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> classifier = MLPClassifier(hidden=(64,), random_state=0).fit(x, y)
        >>> classifier.score(x, y) > 0.9, classifier.predict_proba(x[:2]).shape
        (True, (2, 3))
    """

    loss_curve_: list[float]
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    _statistics: Statistics
    _optimizer_state: dict[str, Any] | None

    def __init__(
        self,
        hidden: int | Sequence[int] = (128,),
        *,
        activation: ActivationName = "relu",
        normalization: NormalizationName = "none",
        dropout: float = 0.0,
        lr: float = 5e-3,
        weight_decay: float = 0.01,
        epochs: int = 100,
        batch_size: int = 64,
        label_smoothing: float = 0.0,
        class_weight: Mapping[Any, float] | str | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 10,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
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
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Trains on features X (B, D), labels y (B,) of any type, and sample weights (B,).

        The loss is the weighted mean. An example of weight 0 changes nothing but ``classes_``. X may be a sparse
        matrix.
        """
        self._check_parameters()
        resumes = bool(self.warm_start) and hasattr(self, "model_")
        x, y = self._check_training_data(X, y)
        labels = self._set_classes(y, keep=resumes)
        x, labels, weight = self._weighted(x, labels, sample_weight)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        held_out = None
        if self.early_stopping:
            x, x_held_out, labels, labels_held_out, weight, _ = train_test_split(
                x, labels, weight, test_size=self.validation_fraction, random_state=seed, stratify=labels
            )
            held_out = (x_held_out, labels_held_out)
        statistics = compute_statistics(x, weight)
        model = self._start(statistics, seed, resumes=resumes)
        batches = self._examples(x, labels, weight)
        steps = int(self.epochs) * len(batches)
        algorithm = GradientDescent(
            torch.optim.AdamW(parameter_groups(model, float(self.weight_decay)), lr=float(self.lr)),
            epochs=int(self.epochs),
            schedule=cosine(steps),
            loss=CrossEntropy(float(self.label_smoothing)),
            patience=int(min(self.n_iter_no_change, self.epochs)) if held_out else 0,
        )
        validation = held_out and self._examples(*held_out, None)
        self._train(model, batches, algorithm, seed, validation)
        self._seed, self._optimizer_state = seed, None
        return self._finish(model, x.dtype)

    def partial_fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        classes: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Makes one epoch on a part of the data, with the learning rate ``lr``.

        The mean and the standard deviation of the features are those of all parts so far. When they change, the first
        layer changes with them, so that the network computes what it did before; with ``normalization="layer"``, which
        cannot, they stay those of the first part.

        Args:
            X: features (B, D), an array or a sparse matrix.
            y: labels (B,).
            classes: all labels that will ever occur; needed in the first call alone.
            sample_weight: the weights of the examples, (B,).

        Raises:
            UserError: a ValueError; an argument is out of its range, y has a label that is not in ``classes_``,
                ``early_stopping`` is on, or ``class_weight`` is ``"balanced"``, which needs all data at once.
        """
        self._check_parameters()
        if self.early_stopping:
            raise UserError("partial_fit does not support early_stopping=True")
        if isinstance(self.class_weight, str):
            raise UserError(
                "class_weight must be a dict or None for partial_fit, got 'balanced', which needs all data at once; "
                "pass sklearn.utils.class_weight.compute_class_weight's result as a dict"
            )
        is_first = _check_partial_fit_first_call(self, classes)  # sets `classes_`
        if len(self.classes_) < 2:
            raise UserError(f"classes must hold at least two labels, got {self.classes_.tolist()}")
        is_new = not hasattr(self, "model_")
        x, y = self._check_training_data(X, y, reset=is_first and is_new)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise UserError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {unknown}."
            )
        labels = np.searchsorted(self.classes_, y).astype(np.int64)
        x, labels, weight = self._weighted(x, labels, sample_weight)
        statistics = compute_statistics(x, weight)
        if is_new:
            self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        else:
            statistics = self._statistics.merge(statistics)
        model = self._start(statistics, self._seed, resumes=not is_new)
        optimizer = torch.optim.AdamW(parameter_groups(model, float(self.weight_decay)), lr=float(self.lr))
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
            for group, fresh in zip(
                optimizer.param_groups, parameter_groups(model, float(self.weight_decay)), strict=True
            ):
                group["lr"], group["weight_decay"] = float(self.lr), fresh["weight_decay"]
        algorithm = GradientDescent(
            optimizer, epochs=1, schedule=constant(), loss=CrossEntropy(float(self.label_smoothing))
        )
        self._train(model, self._examples(x, labels, weight), algorithm, derive_seed(self._seed, "part", self.t_), None)
        self._optimizer_state = optimizer.state_dict()
        return self._finish(model, x.dtype)

    def _logits(self, x: Any) -> Array:
        dtype = next(self.model_.parameters()).dtype
        rows = max(1, _PREDICTED_VALUES // max(x.shape[1], 1))
        parts = []
        for start in range(0, x.shape[0], rows):
            logits = self.model_(standardize(x[start : start + rows], self.mean_, self.std_, dtype))
            parts.append(logits.numpy().reshape(len(logits), -1))
        result: Array = np.concatenate(parts).astype(np.result_type(x.dtype, parts[0].dtype))
        return result

    def _check_parameters(self) -> None:
        no_change = self.n_iter_no_change
        rules = {
            "dropout": parameters.share(self.dropout, least=0.0),
            "lr": parameters.number(self.lr, above=0.0),
            "weight_decay": parameters.number(self.weight_decay, least=0.0),
            "epochs": parameters.count(self.epochs, 1),
            "batch_size": parameters.count(self.batch_size, 1),
            "label_smoothing": parameters.between(self.label_smoothing, 0.0, 1.0),
            "class_weight": parameters.class_weight(self.class_weight),
            "early_stopping": parameters.flag(self.early_stopping),
            "validation_fraction": parameters.share(self.validation_fraction),
            "n_iter_no_change": parameters.count(1 if no_change == math.inf else no_change, 1),
            "warm_start": parameters.flag(self.warm_start),
            "verbose": parameters.verbosity(self.verbose),
        }
        parameters.check_parameters(rules, self)
        self._new_model(1, 2, None)  # checks the arguments of the network

    def _new_model(self, in_features: int, num_classes: int, seed: int | None) -> models.MLP:
        return models.MLP(
            in_features,
            self.hidden,
            num_classes,
            activation=self.activation,
            normalization=self.normalization,
            dropout=float(self.dropout),
            generator=generator(seed or 0, "initialisation"),
        )

    def _weighted(
        self,
        x: Any,
        labels: Array,
        sample_weight: npt.ArrayLike | None,
    ) -> tuple[Any, Array, Floats]:
        """Returns the examples of a weight greater than 0, and their weights."""
        weight = self._weights(sample_weight, self.class_weight, x, labels)
        counted = weight > 0.0
        return (x, labels, weight) if counted.all() else (x[counted], labels[counted], weight[counted])

    def _start(self, statistics: Statistics, seed: int, *, resumes: bool) -> models.MLP:
        """Returns a new network, or that of the previous call, for the features' new mean and standard deviation."""
        fresh = self._new_model(len(statistics.mean), len(self.classes_), seed)
        if resumes:
            model: models.MLP = self.model_
            if model.arguments != fresh.arguments:
                changed = [f"{name}={old}" for name, old in model.arguments.items() if old != fresh.arguments[name]]
                raise UserError(
                    f"the network must be that of the previous call, with {', '.join(changed)}, to go on with it"
                )
            fresh.load_state_dict(model.state_dict())
            if self.normalization == "layer" and len(fresh.dense_layers()) > 1:
                statistics = self._statistics
            else:
                restandardize(fresh, self._statistics, statistics)
        else:
            self.loss_curve_, self.t_, self._optimizer_state = [], 0, None
            self.validation_scores_ = None
        self._statistics = statistics
        self.mean_, self.std_ = statistics.mean, statistics.std
        return fresh

    def _examples(self, x: Any, labels: Array, weight: Floats | None) -> Examples:
        return Examples(
            x,
            labels,
            self.mean_,
            self.std_,
            num_classes=len(self.classes_),
            weight=weight,
            batch_size=int(self.batch_size),
        )

    def _train(
        self, model: models.MLP, batches: Examples, algorithm: GradientDescent, seed: int, validation: Examples | None
    ) -> None:
        """Trains and records the figures of the epochs."""
        self.n_iter_ = 0
        scores: list[Any] | None = None if validation is None else list(self.validation_scores_ or [])
        try:
            for record in iter_fit(model, batches, algorithm, validation=validation, seed=seed):
                self.n_iter_ += 1
                self.t_ += batches.num_images
                self.loss_curve_.append(record.train_loss)
                if scores is not None:
                    scores.append(record.validation_accuracy)
                if self.verbose:
                    _print_epoch(record)
        except NonFiniteError as error:
            # in the words of this class's arguments
            raise NonFiniteError(
                f"training met NaN or inf in step {error.step}; lower lr, got {self.lr!r}",
                step=error.step,
                layer=error.layer,
            ) from None
        self.loss_ = self.loss_curve_[-1]
        self.validation_scores_ = scores
        self.best_validation_score_ = None if scores is None else max(scores)
        self.best_loss_ = min(self.loss_curve_) if scores is None else None

    def _finish(self, model: models.MLP, dtype: npt.DTypeLike) -> Self:
        """Stores the trained model for inference."""
        model.zero_grad()
        is_single = np.dtype(dtype) == np.float32
        self.model_ = (model if is_single else model.double()).eval().requires_grad_(requires_grad=False)
        return self


def _print_epoch(record: EpochRecord) -> None:
    accuracy = record.validation_accuracy
    score = "" if accuracy is None else f", validation score = {accuracy:.6f}"
    print(f"Iteration {record.epoch}, loss = {record.train_loss:.8f}{score}")
