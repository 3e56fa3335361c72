"""Tests of fcnet.evaluation.selection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
import sklearn.metrics as sk
import torch

from fcnet import MLP, LogisticRegression
from fcnet.config.selection import CRITERIA, Selection
from fcnet.data.batches import Batches
from fcnet.evaluation import evaluate
from fcnet.evaluation.selection import evaluate_by, undefined_reasons
from fcnet.runtime.errors import UserError
from tests.helpers import seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Figure = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64]], float]

# Labels and probabilities of 7 classes -> what scikit-learn says.
SKLEARN: dict[Selection, Figure] = {
    "validation_accuracy": lambda y, p: sk.accuracy_score(y, p.argmax(1)),
    "validation_loss": lambda y, p: sk.log_loss(y, p, labels=range(7)),
    "mean_class_accuracy": lambda y, p: sk.balanced_accuracy_score(y, p.argmax(1)),
    "macro_f1": lambda y, p: sk.f1_score(y, p.argmax(1), average="macro"),
    "mean_average_precision": lambda y, p: sk.average_precision_score(np.eye(7)[y], p, average="macro"),
    "roc_auc": lambda y, p: sk.roc_auc_score(y, p, multi_class="ovr"),
    "brier_score": lambda y, p: float(((p - np.eye(7)[y]) ** 2).sum(1).mean()),
    "top_5_accuracy": lambda y, p: sk.top_k_accuracy_score(y, p, k=5, labels=range(7)),
}


def test_every_choice_has_a_criterion_and_words() -> None:
    assert list(CRITERIA) == list(get_args(Selection)) == list(SKLEARN)
    assert [name for name, each in CRITERIA.items() if each.lower_is_better] == ["validation_loss", "brier_score"]
    assert [each.label for each in CRITERIA.values()][:2] == ["validation accuracy", "validation loss"]


@pytest.mark.parametrize("select", get_args(Selection))
def test_each_figure_is_that_of_scikit_learn(select: Selection) -> None:
    x = torch.randn(150, 5, generator=seeded(0))
    y = torch.randint(7, (150,), generator=seeded(1))
    model = MLP(5, (9,), 7, generator=seeded(2))
    batches = Batches(x, y, batch_size=40)
    evaluation, value = evaluate_by(model, batches, select)
    with torch.no_grad():
        probabilities = model(x).double().softmax(1).numpy()
    assert value == pytest.approx(SKLEARN[select](y.numpy(), probabilities), abs=1e-6)  # float32 products
    assert evaluation == evaluate(model, batches)


def test_figures_that_a_set_does_not_have_are_refused_with_the_reason() -> None:
    x = torch.randn(8, 5, generator=seeded(0))
    with pytest.raises(UserError) as error:
        evaluate_by(MLP(5, (), 3), (x, [0, 1, 2, 0, 1, 2, 0, 1]), "top_5_accuracy")
    assert str(error.value) == (
        "select must be a figure of the validation set, got top_5_accuracy: "
        "it needs more than 5 classes, and there are 3"
    )
    with pytest.raises(UserError, match=r"got roc_auc: it needs images of two classes, and all are of one$"):
        evaluate_by(LogisticRegression(5), (x, [1] * 8), "roc_auc")


def test_too_many_scores_are_refused_before_they_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.evaluation.selection.MAX_SCORES", 20)
    assert list(undefined_reasons("roc_auc", [3, 4])) == []
    expected = ["10 images × 3 classes are more than 20 scores"]
    assert list(undefined_reasons("mean_average_precision", [3, 3, 4])) == expected
    assert list(undefined_reasons("macro_f1", [3, 3, 4])) == []


@pytest.mark.parametrize("select", ["mean_average_precision", "brier_score"])
def test_a_figure_of_nan_logits_is_nan(select: Selection) -> None:
    model = LogisticRegression(1, 3)
    model.dense_layers()[0].weight.data.fill_(math.nan)
    _, value = evaluate_by(model, (torch.ones(4, 1), [0, 1, 2, 0]), select)
    assert math.isnan(value)
