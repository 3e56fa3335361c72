"""Tests of fcnet.sklearn.MLPClassifier: it learns, in one call or in parts, with weights, and stops when told to."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.datasets import load_digits, load_iris

import fcnet
from fcnet.optim.optimizers import parameter_groups
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import generator
from fcnet.sklearn import MLPClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

X, Y = load_iris(return_X_y=True)


def make_classifier(**changes: Any) -> MLPClassifier:
    arguments: dict[str, Any] = {"hidden": (8,), "epochs": 5, "random_state": 0}
    return MLPClassifier(**arguments | changes)


def test_the_network_learns_digits() -> None:
    x, y = load_digits(return_X_y=True)
    fitted = MLPClassifier((64,), epochs=20, random_state=0).fit(x[:1200], y[:1200])
    assert fitted.score(x[1200:], y[1200:]) > 0.9
    assert (fitted.n_iter_, len(fitted.loss_curve_), fitted.t_) == (20, 20, 20 * 1200)
    assert fitted.loss_curve_[-1] < 0.5 * fitted.loss_curve_[0]
    assert (fitted.loss_, fitted.best_loss_) == (fitted.loss_curve_[-1], min(fitted.loss_curve_))


def test_a_number_is_one_hidden_layer() -> None:
    np.testing.assert_array_equal(
        make_classifier(hidden=8).fit(X, Y).predict_proba(X), make_classifier(hidden=(8,)).fit(X, Y).predict_proba(X)
    )


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_in_one_batch_a_weight_equals_repeating_the_example(classes: int, label_smoothing: float) -> None:
    x, y = X[classes > Y], Y[classes > Y]
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    arguments = {"batch_size": 1000, "label_smoothing": label_smoothing, "epochs": 30}
    weighted = make_classifier(**arguments).fit(x, y, weight)
    repeated = make_classifier(**arguments).fit(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    plain = make_classifier(**arguments).fit(x, y)
    np.testing.assert_allclose(weighted.predict_proba(x), repeated.predict_proba(x), atol=1e-4)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-4)
    assert np.abs(weighted.predict_proba(x) - plain.predict_proba(x)).max() > 1e-3


def test_class_weights_multiply_sample_weights() -> None:
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(Y))
    by_class = make_classifier(class_weight={0: 4.0, 2: 0.5}).fit(X, Y, weight)
    by_sample = make_classifier().fit(X, Y, weight * np.array([4.0, 1.0, 0.5])[Y])
    np.testing.assert_array_equal(by_class.predict_proba(X), by_sample.predict_proba(X))
    balanced = make_classifier(class_weight="balanced").fit(X[40:], Y[40:])
    by_sample = make_classifier().fit(X[40:], Y[40:], np.array([11 / 3, 11 / 15, 11 / 15])[Y[40:]])
    np.testing.assert_allclose(balanced.predict_proba(X), by_sample.predict_proba(X), atol=1e-5)


def test_early_stopping_keeps_the_best_epoch() -> None:
    x, y = load_digits(return_X_y=True)
    fitted = make_classifier(hidden=32, epochs=200, early_stopping=True, n_iter_no_change=3).fit(x, y)
    scores = fitted.validation_scores_
    assert scores is not None
    assert len(scores) == fitted.n_iter_ < 200
    assert scores.index(max(scores)) == len(scores) - 4  # three epochs without a better one
    assert (fitted.best_validation_score_, fitted.best_loss_) == (max(scores), None)
    held_out = round(max(scores) * 180)
    assert abs(max(scores) * 180 - held_out) < 1e-9  # a tenth of 1797 examples, rounded up
    plain = make_classifier().fit(X, Y)
    assert (plain.validation_scores_, plain.best_validation_score_) == (None, None)


def test_early_stopping_holds_out_the_same_share_of_every_class() -> None:
    with pytest.raises(ValueError, match="The least populated class"):
        make_classifier(early_stopping=True).fit(X[40:51], Y[40:51])
    fitted = make_classifier(early_stopping=True, validation_fraction=0.5, n_iter_no_change=np.inf).fit(X, Y)
    assert fitted.n_iter_ == 5
    assert fitted.t_ == 5 * 75


def test_parts_learn_what_the_whole_does() -> None:
    x, y = load_digits(return_X_y=True)
    classifier = make_classifier(hidden=32, lr=1e-2)
    for _ in range(15):
        for start in range(0, 1200, 200):
            classifier.partial_fit(x[start : start + 200], y[start : start + 200], classes=range(10))
    assert classifier.score(x[1200:], y[1200:]) > 0.88
    assert classifier.t_ == 15 * 1200
    assert classifier.n_iter_ == 1
    assert len(classifier.loss_curve_) == 15 * 6
    np.testing.assert_allclose(classifier.mean_, x[:1200].mean(0), atol=1e-9)
    np.testing.assert_allclose(classifier.std_, np.where(np.ptp(x[:1200], 0) > 0, x[:1200].std(0), 1.0), rtol=1e-6)


def test_the_state_of_the_optimizer_goes_on_through_a_pickle() -> None:
    straight, interrupted = make_classifier(), make_classifier()
    for _ in range(4):
        straight.partial_fit(X, Y, classes=[0, 1, 2])
        interrupted = pickle.loads(pickle.dumps(interrupted.partial_fit(X, Y, classes=[0, 1, 2])))  # noqa: S301
    np.testing.assert_array_equal(straight.predict_proba(X), interrupted.predict_proba(X))
    again = make_classifier()
    for _ in range(4):
        again.partial_fit(X, Y, classes=[0, 1, 2])
        again._optimizer_state = None
    assert np.abs(again.predict_proba(X) - straight.predict_proba(X)).max() > 1e-4


def test_one_part_is_one_epoch_of_adamw() -> None:
    found = make_classifier(batch_size=150).partial_fit(X, Y, classes=[0, 1, 2])
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    model = fcnet.MLP(4, (8,), 3, generator=generator(seed, "initialisation"))
    x = torch.from_numpy((X - X.mean(0)) / X.std(0)).float()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=5e-3)
    torch.nn.functional.cross_entropy(model(x), torch.from_numpy(Y)).backward()
    optimizer.step()
    np.testing.assert_allclose(found.decision_function(X), model(x).detach().numpy(), atol=1e-5)


def test_a_part_may_lack_classes_and_the_first_may_be_one_example() -> None:
    classifier = make_classifier().partial_fit(X[:1], Y[:1], classes=[0, 1, 2])
    for start in range(0, 150, 10):
        classifier.partial_fit(X[start : start + 10], Y[start : start + 10])
    assert classifier.predict_proba(X).shape == (150, 3)
    np.testing.assert_allclose(classifier.mean_, np.vstack([X[:1], X]).mean(0), rtol=1e-9)


def test_a_part_after_fit_goes_on_from_its_network() -> None:
    classifier = make_classifier(epochs=40).fit(X, Y)
    before, score = classifier.predict_proba(X), classifier.score(X, Y)
    classifier.partial_fit(X[:20], Y[:20])
    assert 0.0 < np.abs(classifier.predict_proba(X) - before).max() < 0.3
    assert classifier.score(X, Y) > score - 0.05
    assert len(classifier.loss_curve_) == 41


@pytest.mark.parametrize("normalization", ["none", "layer"])
def test_a_part_of_other_units_keeps_what_was_learned(normalization: str) -> None:
    classifier = make_classifier(normalization=normalization, lr=1e-6)
    for _ in range(3):
        classifier.partial_fit(X, Y, classes=[0, 1, 2])
    before = classifier.predict_proba(X)
    classifier.partial_fit(X[:2] + [100.0, 0.0, -50.0, 3.0], Y[:2])  # noqa: RUF005 - a sum of arrays
    np.testing.assert_allclose(classifier.predict_proba(X), before, atol=1e-3)


def test_a_part_takes_weights_and_sparse_features() -> None:
    weight = np.where(Y == 2, 0.0, 1.0)
    dense, sparse = make_classifier(batch_size=150, lr=0.05), make_classifier(batch_size=150, lr=0.05)
    for _ in range(50):
        dense.partial_fit(X, Y, classes=[0, 1, 2], sample_weight=weight)
        sparse.partial_fit(scipy.sparse.csr_matrix(X), Y, classes=[0, 1, 2], sample_weight=weight)
    assert set(dense.predict(X)) == {0, 1}
    np.testing.assert_allclose(sparse.predict_proba(X), dense.predict_proba(X), atol=1e-3)


def test_parts_that_do_not_fit_are_refused() -> None:
    fitted = make_classifier().partial_fit(X, Y, classes=[0, 1, 2])
    calls: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: make_classifier().partial_fit(X, Y), "classes must be passed on the first call to partial_fit"),
        (lambda: fitted.partial_fit(X, Y, classes=[0, 1]), "is not the same as on last call to partial_fit"),
        (lambda: fitted.partial_fit(X, Y + 1), r"`y` has classes not in `self.classes_`.*'y' has \[3\]"),
        (lambda: fitted.partial_fit(X[:, :2], Y), "X has 2 features, but MLPClassifier is expecting 4"),
        (lambda: make_classifier().partial_fit(X, Y, classes=[0]), "classes must hold at least two labels"),
        (
            lambda: make_classifier(early_stopping=True).partial_fit(X, Y, classes=[0, 1, 2]),
            "partial_fit does not support early_stopping=True",
        ),
        (
            lambda: make_classifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1, 2]),
            "class_weight must be a dict or None for partial_fit, got 'balanced'",
        ),
    )
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
    fitted.hidden = (9,)
    with pytest.raises(UserError, match=r"the network must be that of the previous call, with hidden=\[8\], to go on"):
        fitted.partial_fit(X, Y)


def test_a_warm_start_goes_on_from_the_previous_network() -> None:
    cold = make_classifier(epochs=20).fit(X, Y)
    warm = make_classifier(epochs=20, warm_start=True).fit(X, Y)
    np.testing.assert_array_equal(warm.predict_proba(X), cold.predict_proba(X))
    first = warm.loss_curve_[0]
    warm.fit(X[:140], Y[:140])  # another standardization, of which the network computes what it did
    assert warm.loss_curve_[20] < 0.5 * first
    warm.fit(X, Y)
    assert (warm.n_iter_, len(warm.loss_curve_), warm.t_) == (20, 60, 20 * (150 + 140 + 150))
    with pytest.raises(UserError, match="warm_start can only be used where `y` has the same classes"):
        warm.fit(X[:100], Y[:100])
    with pytest.raises(UserError, match=r"the network must be that of the previous call, with in_features=4, to go on"):
        warm.fit(X[:, :3], Y)


def test_a_training_that_diverges_names_the_argument() -> None:
    with pytest.raises(fcnet.NonFiniteError, match=r"training met NaN or inf in step \d+; lower lr, got 1e\+20$"):
        make_classifier(lr=1e20).fit(X, Y)


def test_verbose_prints_a_line_for_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    fitted = make_classifier(epochs=3, verbose=True, early_stopping=True).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert fitted.validation_scores_ is not None
    score = f"validation score = {fitted.validation_scores_[0]:.6f}"
    assert lines[0] == f"Iteration 1, loss = {fitted.loss_curve_[0]:.8f}, {score}"
    assert len(lines) == 3
    make_classifier(epochs=3).fit(X, Y)
    assert capsys.readouterr().out == ""
