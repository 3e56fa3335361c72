"""Tests of fcnet.figures.images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from fcnet.figures import images
from fcnet.figures.style import DARK, LIGHT, use_theme
from tests.helpers import random_tensor

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

CLASSES = ["a", "b", "c"]


def shown_images(figure: Figure) -> list[npt.NDArray[np.float64]]:
    """The arrays that a figure shows as images, in the order of its axes."""
    axes = [inner for outer in figure.axes for inner in (outer, *outer.child_axes)]
    return [np.ma.filled(np.ma.asarray(image.get_array()), np.nan) for each in axes for image in each.images]


def test_weights_share_a_symmetric_scale_of_increasing_luminance() -> None:
    weights = random_tensor(10, 4, 4)
    with use_theme(DARK):
        figure = images.weights(weights, [str(label) for label in range(10)])
    first, *others = [image for axes in figure.axes[:10] for image in axes.images]
    assert len(others) == 9
    low, high = first.get_clim()
    assert low == -high
    assert high == pytest.approx(float(weights.abs().max()))
    assert all(image.get_clim() == (low, high) for image in others)
    colours = first.get_cmap()(torch.linspace(0, 1, 64).numpy())
    greys = torch.from_numpy(colours[:, :3]).double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert bool((greys.diff() > 0).all())
    np.testing.assert_array_equal(np.stack(shown_images(figure)[:10]), weights.numpy())


def test_samples_have_a_column_for_each_class_and_a_gap_between_images() -> None:
    pixels = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    with use_theme(LIGHT):
        (mosaic,) = shown_images(images.samples(pixels, CLASSES))
    assert mosaic.shape == (2 * 4 + 1, 3 * 5 + 2)
    for label in range(3):
        for number in range(2):
            cell = mosaic[5 * number : 5 * number + 4, 6 * label : 6 * label + 5]
            np.testing.assert_array_equal(cell, pixels[label, number].numpy())
    assert np.isnan(mosaic[4]).all()
    assert np.isnan(mosaic[:, 5]).all()


def test_the_forward_pass_shows_the_image_the_hidden_activations_and_the_probabilities() -> None:
    image, hidden = torch.rand(4, 5), torch.rand(8)
    probabilities = torch.tensor([0.1, 0.8, 0.1])
    with use_theme(LIGHT):
        figure = images.forward_pass(image, [hidden, probabilities], CLASSES, label=1)
    first, second = shown_images(figure)
    np.testing.assert_array_equal(first, image.numpy())
    np.testing.assert_array_equal(second, hidden.view(4, 2).numpy())
    assert figure.axes[0].images[0].get_clim() == (0.0, 1.0)
    assert figure.axes[1].images[0].get_clim() == pytest.approx((0.0, float(hidden.max())))
    bars = figure.axes[2].patches
    assert [bar.get_width() for bar in bars] == pytest.approx(probabilities.tolist())  # type: ignore[attr-defined]
    assert [bar.get_hatch() for bar in bars] == [None, "////", None]
    assert [text.get_text() for text in figure.axes[2].texts] == ["true class"]


def test_the_interpolation_plots_score_and_probability_over_images_of_the_line() -> None:
    positions, scores = torch.linspace(-1.0, 2.0, 31), torch.linspace(-3.0, 6.0, 31)
    line_images = torch.rand(7, 4, 4)
    with use_theme(LIGHT):
        figure = images.interpolation(line_images, positions, scores, scores.sigmoid(), ("3", "8"))
    top, middle, bottom = figure.axes[:3]
    np.testing.assert_array_equal(top.lines[0].get_ydata(), scores.numpy())
    np.testing.assert_array_equal(middle.lines[0].get_ydata(), scores.sigmoid().numpy())
    assert [text.get_text() for text in top.texts] == ["$x_0$, class 3", "$x_1$, class 8"]
    assert middle.get_ylabel() == "probability of 8"
    np.testing.assert_array_equal(np.stack(shown_images(figure)), line_images.numpy())
    assert bottom.get_xlim() == (-1.25, 2.25)
