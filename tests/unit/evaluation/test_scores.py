"""Tests of fcnet.evaluation.scores: scikit-learn on float64 probabilities is the oracle."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score, top_k_accuracy_score
from sklearn.preprocessing import label_binarize
from torch import Tensor

from fcnet.data.batches import Batches
from fcnet.evaluation import scores as module
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.scores import ScoreCollector, ScoreMetrics
from fcnet.metrics import roc_auc
from fcnet.models.mlp import MLP


def make_case(count: int, num_classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.arange(count) % num_classes
    logits = torch.randn(count, num_classes, generator=generator) + torch.eye(num_classes)[labels]
    return logits, labels


def collect(logits: Tensor, labels: Tensor, batch_size: int = 7) -> ScoreMetrics:
    collector = ScoreCollector()
    for part in zip(logits.split(batch_size), labels.split(batch_size), strict=True):
        collector.update(*part)
    return collector.compute()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_classes", [3, 6, 30])
def test_figures_of_many_classes_are_scikit_learns(num_classes: int, dtype: torch.dtype) -> None:
    logits, labels = make_case(300, num_classes)
    logits = logits.to(dtype)
    result, p, y = collect(logits, labels), softmax(logits.double().numpy(), axis=1), labels.numpy()
    one_hot = label_binarize(y, classes=range(num_classes))
    assert result.count == 300
    assert result.log_loss == pytest.approx(log_loss(y, p), abs=1e-12)
    assert result.brier_score == pytest.approx(np.square(p - one_hot).sum(1).mean(), abs=1e-12)
    assert result.mean_average_precision == pytest.approx(average_precision_score(y, p), abs=1e-12)
    assert result.roc_auc == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=1e-12)
    assert result.rankings is not None
    assert [row.roc_auc for row in result.rankings] == pytest.approx(roc_auc_score(one_hot, p, average=None), abs=1e-12)
    expected = top_k_accuracy_score(y, logits.numpy(), k=5) if num_classes > 5 else None
    assert result.top_k_accuracy == (None if expected is None else pytest.approx(expected, abs=1e-12))


@pytest.mark.parametrize("nodes", [1, 2])
def test_figures_of_two_classes_are_scikit_learns(nodes: int) -> None:
    logits, labels = make_case(200, 2)
    p, y = softmax(logits.double().numpy(), axis=1), labels.numpy()
    result = collect(logits if nodes == 2 else (logits.double()[:, 1] - logits.double()[:, 0]), labels)
    assert result.log_loss == pytest.approx(log_loss(y, p), abs=1e-12)
    assert result.brier_score == pytest.approx(brier_score_loss(y, p[:, 1]), abs=1e-12)
    assert result.roc_auc == pytest.approx(roc_auc_score(y, p[:, 1]), abs=1e-12)
    both = [average_precision_score(y == label, p[:, label]) for label in (0, 1)]
    assert result.mean_average_precision == pytest.approx(sum(both) / 2, abs=1e-12)
    assert result.top_k_accuracy is None


def test_confident_images_keep_their_order_and_their_digits() -> None:
    """Float32 probabilities of these logits are all 1, and float64 ones are from the 7th image on."""
    top = torch.arange(16.0, 56.0, 4.0)
    logits = torch.stack([top, torch.zeros(10), torch.zeros(10)], 1)
    labels = torch.tensor([1, 2, 1, 1, 2, 0, 0, 0, 0, 0])
    result = collect(logits, labels)
    assert result.rankings is not None
    assert result.rankings[0].roc_auc == roc_auc(labels == 0, top) == 1.0
    result = collect(torch.tensor([[60.0, 0.0, 0.0]]), torch.tensor([0]))
    with mpmath.workdps(50):
        p = 1 / (1 + 2 * mpmath.exp(-60))
        assert result.log_loss == pytest.approx(float(-mpmath.log(p)), rel=1e-12)
        assert result.brier_score == pytest.approx(float(2 * ((1 - p) / 2) ** 2 + (1 - p) ** 2), rel=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3, 8])
def test_figures_do_not_depend_on_how_the_images_are_divided(num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(60, num_classes)
    result = collect(*case)
    assert collect(*case, batch_size=60) == result
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", 20)
    assert collect(*case, batch_size=60) == result


def test_too_many_scores_have_no_rankings_but_all_other_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(60, 8)
    expected = collect(*case)
    monkeypatch.setattr(module, "MAX_SCORES", 60 * 8)
    assert collect(*case) == expected
    monkeypatch.setattr(module, "MAX_SCORES", 60 * 8 - 1)
    result = collect(*case)
    assert (result.rankings, result.mean_average_precision, result.roc_auc) == (None, None, None)
    assert result.no_rankings == "60 images × 8 classes are more than 479 scores"
    assert (result.log_loss, result.brier_score, result.top_k_accuracy) == (
        expected.log_loss,
        expected.brier_score,
        expected.top_k_accuracy,
    )


def test_nan_logits_have_no_figures_and_count_as_wrong() -> None:
    logits, labels = make_case(12, 6)
    logits[3, 2] = math.nan
    result = collect(logits, labels)
    assert (result.rankings, result.no_rankings) == (None, "a logit is NaN")
    assert math.isnan(result.log_loss)
    assert math.isnan(result.brier_score)
    kept = [row for row in range(12) if row != 3]
    hits = collect(logits[kept], labels[kept]).top_k_accuracy
    assert hits is not None
    assert result.top_k_accuracy == pytest.approx(hits * 11 / 12)
    assert collect(torch.tensor([0.0, math.nan]), torch.tensor([0, 1])).no_rankings == "a logit is NaN"


def test_infinite_logits_are_sure() -> None:
    logits = torch.tensor([[math.inf, 0.0, 0.0], [0.0, -math.inf, 0.0], [0.0, math.inf, -math.inf]])
    result = collect(logits, torch.tensor([0, 2, 1]))
    assert result.log_loss == pytest.approx(math.log(2) / 3)
    assert result.brier_score == pytest.approx(0.5 / 3)
    assert result.mean_average_precision == 1.0
    assert math.isinf(collect(logits, torch.tensor([1, 2, 1])).log_loss)


def test_an_evaluation_collects_scores_batch_by_batch() -> None:
    model, images = MLP(6, (5,), 7, generator=torch.Generator().manual_seed(1)), torch.rand(23, 6)
    labels, collector = torch.arange(23) % 7, ScoreCollector()
    evaluation = evaluate(model, Batches(images, labels, batch_size=5), on_batch=collector.update)
    result = collector.compute()
    assert result.log_loss == pytest.approx(evaluation.loss, rel=1e-6)
    assert result.count == evaluation.count
    expected = collect(model(images).detach(), labels)
    assert result.mean_average_precision == pytest.approx(expected.mean_average_precision, abs=1e-12)
