"""Tests of fcnet.report.run_data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from fcnet.config.schema import Config
from fcnet.data.batches import Batches, Preprocessing, normalize
from fcnet.data.transforms.whitening import Whitening
from fcnet.evaluation.predictions import Predictions
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.metrics import Confusion
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.report.run_data import (
    RunData,
    find_uncertain_correct,
    first_layer_weights,
    read_run_data,
)
from fcnet.runtime.errors import UserError
from tests.helpers import random_images, seeded

SHAPE = (3, 2, 2)
PIXELS = random_images(40, SHAPE, seed=0)


def make_predictions(confidence: list[float], correct: list[bool]) -> Predictions:
    """Predictions of two classes; the true class is always 0."""
    first = torch.tensor([0 if each else 1 for each in correct])
    top = torch.tensor(confidence)
    return Predictions(
        torch.zeros(len(correct), dtype=torch.int64),
        torch.stack([first, 1 - first], 1),
        torch.stack([top, 1 - top], 1),
        torch.where(first == 0, top, 1 - top),
        torch.arange(len(correct)),
    )


def make_classifier(model: MLP, whitening: Whitening | None = None) -> ImageClassifier:
    half = torch.full((3,), 0.5)
    classes = tuple(map(str, range(model.num_classes)))
    return ImageClassifier(model, classes=classes, shape=SHAPE, mean=half, std=half, whitening=whitening)


def test_correct_predictions_come_least_confident_first() -> None:
    predictions = make_predictions([0.9, 0.6, 0.8, 0.7, 0.9], [False, True, False, True, True])
    assert find_uncertain_correct(predictions, 2) == [1, 3]
    assert find_uncertain_correct(predictions, 5) == [1, 3, 4]


def test_whitened_weights_are_mapped_back_to_pixels() -> None:
    """The difference of a unit's z between two images is that of their products with its weight image."""
    whitening = Whitening(5, 12)
    whitening.weight.normal_(generator=seeded(1))
    classifier = make_classifier(MLP(5, (4,), 3, generator=seeded(2)), whitening)
    units, weights = first_layer_weights(classifier, None, 4)
    x = normalize(PIXELS[:2], classifier.mean, classifier.std)
    z = classifier.model.dense_layers()[0].preactivation(whitening(x))
    products = torch.einsum("nchw,uchw->nu", x, weights)
    assert_close(products[1] - products[0], z[1, units] - z[0, units], rtol=1e-4, atol=1e-4)


def test_a_unit_with_a_constant_activation_comes_last() -> None:
    classifier = make_classifier(MLP(12, (4,), 3, generator=seeded(2)))
    with torch.no_grad():
        classifier.model.dense_layers()[0].bias[1] = -1e6  # type: ignore[index]
    test = Batches(
        PIXELS, torch.zeros(40, dtype=torch.int64), preprocessing=Preprocessing(classifier.mean, classifier.std)
    )
    units, _ = first_layer_weights(classifier, test, 4)
    assert units[-1] == 1
    assert len(first_layer_weights(classifier, test, 2)[0]) == 2


@pytest.mark.parametrize("num_classes", [2, 5])
def test_without_hidden_layers_the_weights_keep_the_order_of_the_classes(num_classes: int) -> None:
    classifier = make_classifier(LogisticRegression(12, num_classes))
    units, weights = first_layer_weights(classifier, None, 10)
    assert units == list(range(1 if num_classes == 2 else 5))
    assert_close(weights.flatten(1), classifier.model.dense_layers()[0].weight.detach())


def make_run(predictions: Predictions | None, test: Batches | None = None) -> RunData:
    records = [{"images_per_second": speed} for speed in (10.0, 30.0, 20.0)]
    classifier = make_classifier(MLP(12, (), 2))
    return RunData("run", Path("run"), Config(), records, {}, classifier=classifier, predictions=predictions, test=test)


def test_a_probability_that_rounds_above_1_counts_as_1() -> None:
    run = make_run(make_predictions([1.0000001, 1.0], [True, False]))
    (last,) = run.confidence_bins
    assert (last.count, last.num_correct) == (2, 1)
    assert last.confidence == 1.0
    assert run.confusion == Confusion.from_table([[1, 1], [0, 0]])


def test_a_run_without_predictions_has_no_confusion_matrix_and_no_bins() -> None:
    run = make_run(None)
    assert (run.confusion, run.confidence_bins) == (None, [])
    assert run.images_per_second == 20.0


def test_pixels_are_those_of_the_test_rows_and_only_of_uint8_images() -> None:
    labels, rows = torch.zeros(40, dtype=torch.int64), torch.arange(39, -1, -1)
    pixels = make_run(None, Batches(PIXELS, labels, rows=rows)).pixels(0)
    assert pixels is not None
    assert pixels.equal(PIXELS[39])
    assert make_run(None, Batches(PIXELS / 255, labels)).pixels(0) is None
    assert make_run(None).pixels(0) is None


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^RUN must be a run folder, got .*nothing: no such folder$"):
        read_run_data(tmp_path / "nothing")
