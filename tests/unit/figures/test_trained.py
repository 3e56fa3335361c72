"""Tests of fcnet.figures.trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch.testing import assert_close

from fcnet.figures import trained

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trained.Digits]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield trained.Digits.load()


def test_the_forward_pass_shows_a_correctly_classified_test_image(digits: trained.Digits) -> None:
    image, (first, second, probabilities), label = trained.forward_pass(digits)
    assert [len(first), len(second), len(probabilities)] == [32, 16, 10]
    assert float(torch.cat([first, second]).min()) >= 0.0
    assert float(probabilities.sum()) == pytest.approx(1.0)
    assert int(probabilities.argmax()) == label
    test = digits.store.test
    matches = ((test.pixels[:, 0] / 255 == image).flatten(1).all(1)).nonzero()
    assert label in test.labels[matches]


def test_samples_are_training_images_of_their_class(digits: trained.Digits) -> None:
    samples, train = trained.samples(digits), digits.store.train
    assert samples.shape == (10, 5, 8, 8)
    for label, images in enumerate(samples):
        own = train.pixels[train.labels == label][:, 0] / 255
        assert_close(images, own[:5])


def test_along_a_line_the_score_is_linear_and_the_probability_is_its_sigmoid(
    digits: trained.Digits,
) -> None:
    line = trained.interpolation(digits, ("3", "8"))
    positions, scores, probabilities = line["positions"], line["scores"], line["probabilities"]
    assert (float(positions[0]), float(positions[-1])) == (-1.0, 2.0)
    assert_close(torch.lerp(scores[0], scores[-1], (positions + 1) / 3), scores, rtol=1e-4, atol=1e-4)
    assert_close(probabilities, torch.sigmoid(scores))
    assert probabilities[100] < 0.5 < probabilities[200]  # t = 0 and t = 1
    test = digits.store.test
    assert_close(line["images"][2], test.pixels[test.labels == 3][0, 0] / 255)
    assert_close(line["images"][4], test.pixels[test.labels == 8][0, 0] / 255)


def test_with_more_samples_the_test_risk_falls_the_training_risk_rises_and_the_gap_closes(
    digits: trained.Digits,
) -> None:
    _, training, test, _ = trained.generalisation(digits)
    assert test[0] > test[-1]
    assert training[0] < training[-1]
    gaps = [t - r for r, t in zip(training, test, strict=True)]
    assert min(gaps) > 0.0
    assert gaps[-1] < 0.1 * gaps[0]


def test_every_descent_starts_at_log_10_and_smaller_batches_reach_a_lower_risk(digits: trained.Digits) -> None:
    curves = trained.descent(digits, 0.05)
    for curve in curves:
        assert float(curve.y[0]) == pytest.approx(math.log(10.0), abs=1e-5)
        assert (float(curve.x[0]), float(curve.x[-1])) == (0.0, 8.0)
    full, mini, stochastic = (float(curve.y[-1]) for curve in curves)
    assert full > mini > stochastic
    assert len(curves[0].x) == 9  # one step per epoch
