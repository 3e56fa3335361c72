"""Tests of fcnet.evaluation.metric_values: scikit-learn's report is the oracle."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, classification_report
from torch import Tensor

from fcnet.data.batches import Batches
from fcnet.evaluation import Evaluation, ScoreCollector, evaluate
from fcnet.evaluation.metric_values import MetricValue, metric_notes, metric_values
from fcnet.evaluation.scores import ScoreMetrics
from fcnet.metrics import Confusion


def evaluate_logits(logits: Tensor, labels: Tensor) -> tuple[Evaluation, ScoreMetrics]:
    collector = ScoreCollector()
    return evaluate(torch.nn.Identity(), Batches(logits, labels), on_batch=collector.update), collector.compute()


def make_case(num_classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.arange(200) % num_classes
    return torch.randn(200, num_classes, generator=generator) + 2 * torch.eye(num_classes)[labels], labels


@pytest.mark.parametrize("num_classes", [2, 3, 8])
def test_averages_are_those_of_scikit_learns_report(num_classes: int) -> None:
    logits, labels = make_case(num_classes)
    found = {each.name: each for each in metric_values(*evaluate_logits(logits, labels))}
    predicted = logits.argmax(1)
    report = classification_report(labels, predicted, output_dict=True)
    for kind in ("macro", "weighted"):
        for name in ("precision", "recall", "f1"):
            expected = report[f"{kind} avg"]["f1-score" if name == "f1" else name]
            assert found[f"{kind}_{name}"].value == pytest.approx(expected, abs=1e-12)
    assert found["mean_class_accuracy"].value == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-12)
    assert ("top_k_accuracy" in found) == (num_classes > 5)
    assert ("weighted_roc_auc" in found) == (num_classes > 2)
    assert found["roc_auc"].label == ("ROC AUC" if num_classes == 2 else "ROC AUC, one vs rest")
    for metric in found.values():
        if metric.name != "weighted_roc_auc":
            assert metric.interval is not None, metric.name
            assert metric.value is not None
            assert 0.0 <= metric.interval[0] < metric.value < metric.interval[1]
    assert metric_notes(*evaluate_logits(logits, labels)) == []


def test_values_are_the_same_every_time_and_depend_on_the_seed_in_the_intervals_alone() -> None:
    case = evaluate_logits(*make_case(3))
    assert metric_values(*case) == metric_values(*case)
    other = metric_values(*case, seed=1)
    assert [each.value for each in other] == [each.value for each in metric_values(*case)]
    assert other != metric_values(*case)


def test_nan_and_infinity_are_none_and_dashes() -> None:
    logits, labels = make_case(3)
    logits[0, 1] = math.nan
    found = {each.name: each for each in metric_values(*evaluate_logits(logits, labels))}
    for name in ("log_loss", "brier_score", "mean_average_precision", "roc_auc"):
        assert (found[name].value, found[name].interval) == (None, None)
        assert (found[name].value_text, found[name].interval_text) == ("–", "")
    assert metric_notes(*evaluate_logits(logits, labels)) == ["no mAP and ROC AUC: a logit is NaN"]
    logits[0, 1], logits[0, 0] = 0.0, -math.inf
    found = {each.name: each for each in metric_values(*evaluate_logits(logits, labels))}
    assert found["log_loss"].to_dict() == {"value": None, "interval": None}
    assert found["brier_score"].value is not None


def test_classes_that_scikit_learn_warns_of_are_counted() -> None:
    result = Evaluation(0.5, Confusion.from_table([[3, 1, 0], [2, 1, 0], [1, 0, 0]]))
    scores = ScoreMetrics(8, 0.5, 0.5, None, (), {})
    assert metric_notes(result, scores) == ["1 class is never predicted: its precision is 0 in the averages"]
    confusion = Confusion.from_labels([0, 1, 2], [0, 0, 0], 5000)
    assert metric_notes(Evaluation(0.5, confusion), scores) == [
        "4,997 classes have no images: left out of mAP, ROC AUC and mean class accuracy, 0 in the other averages",
        "2 classes are never predicted: their precision is 0 in the averages",
    ]


def test_percentages_have_two_digits_and_other_values_four() -> None:
    assert MetricValue("a", "a", 0.12345, (0.1, 0.2)).value_text == "12.35%"
    assert MetricValue("a", "a", 0.12345, (0.1, 0.2), is_percentage=False).interval_text == "0.1000 to 0.2000"
