"""Tests of fcnet.report.comparison."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fcnet.config.schema import Config
from fcnet.evaluation.predictions import Predictions
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.metrics import mcnemar_test
from fcnet.models.mlp import MLP
from fcnet.report.comparison import paired_tests
from fcnet.report.run_data import RunData


def make_predictions(correct: list[bool], labels: list[int] | None = None) -> Predictions:
    """Predictions of two classes, each with probability 0.9."""
    labels = labels or [0] * len(correct)
    predicted = [label if each else 1 - label for label, each in zip(labels, correct, strict=True)]
    classes = torch.tensor([[first, 1 - first] for first in predicted])
    probabilities = torch.tensor([[0.9, 0.1]] * len(correct))
    return Predictions(torch.tensor(labels), classes, probabilities, probabilities[:, 0], torch.arange(len(labels)))


def make_classifier(num_classes: int) -> ImageClassifier:
    half = torch.full((3,), 0.5)
    classes = tuple(map(str, range(num_classes)))
    return ImageClassifier(MLP(12, (), num_classes), classes=classes, shape=(3, 2, 2), mean=half, std=half)


def make_run(predictions: Predictions | None = None, data: str = "data", config: Config | None = None) -> RunData:
    return RunData("run", Path("run"), config or Config(), [], {"data": data}, (), make_classifier(2), predictions)


def test_a_pair_is_tested_on_the_images_that_only_one_classifies_correctly() -> None:
    first = make_run(make_predictions([True, True, True, True, False, True]))
    second = make_run(make_predictions([True, False, False, False, True, True]))
    third = make_run(make_predictions([True] * 6))
    tests = paired_tests([first, second, third])
    counts = [(pair.first, pair.second, pair.only_first, pair.only_second) for pair in tests]
    assert counts == [(0, 1, 3, 1), (0, 2, 0, 1), (1, 2, 0, 3)]
    assert [pair.p for pair in tests] == [mcnemar_test(3, 1), mcnemar_test(0, 1), mcnemar_test(0, 3)]
    assert tests[2].adjusted_p == pytest.approx(3 * mcnemar_test(0, 3))
    (single,) = paired_tests([first, second])
    assert single.adjusted_p == single.p


def test_runs_on_different_images_or_classes_are_not_paired() -> None:
    predictions = make_predictions([True, True])
    run = make_run(predictions)
    assert len(paired_tests([run, make_run(predictions)])) == 1
    assert not paired_tests([run, make_run(predictions, data="other")])
    assert not paired_tests([run, make_run(None)])
    assert not paired_tests([run, make_run(make_predictions([True, True], labels=[0, 1]))])
    assert not paired_tests([run, dataclasses.replace(run, classifier=make_classifier(3))])
