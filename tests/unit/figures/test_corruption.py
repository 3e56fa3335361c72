"""Tests of fcnet.figures.corruption."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fcnet.figures.corruption import Panel, plot_corruptions
from fcnet.figures.style import DARK, LIGHT, Theme, figure_bytes, use_theme

LINE = [0.9, 0.8, 0.7, 0.5, 0.4, 0.3]


def make_panel(title: str = "noise", shape: tuple[int, int, int] = (1, 4, 6)) -> Panel:
    images = torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Panel(title, images, LINE, [(value - 0.1, value + 0.05) for value in LINE])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 6, 4), (2, 5, 5)], ids=str)
def test_each_panel_shows_its_accuracies_and_its_image_at_each_severity(
    theme: Theme, shape: tuple[int, int, int]
) -> None:
    panels = [make_panel(f"kind {number}", shape) for number in range(4)]
    with use_theme(theme):
        figure = plot_corruptions(panels, 0.25)
    strips = [axes for axes in figure.axes if axes.images]
    curves = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title() for axes in strips] == [each.title for each in panels]
    for strip, curve, each in zip(strips, curves, panels, strict=True):
        assert [(image.get_extent()[0] + image.get_extent()[1]) / 2 for image in strip.images] == [*range(6)]
        for image, pixels in zip(strip.images, each.images, strict=True):
            drawn = np.asarray(image.get_array())
            expected = pixels.permute(1, 2, 0) if shape[0] == 3 else pixels.float().mean(0)
            np.testing.assert_array_equal(drawn, expected.numpy())
            low, high, bottom, top = image.get_extent()
            assert max(high - low, top - bottom) == pytest.approx(0.92)  # just short of the next image
            assert (high - low) / (top - bottom) == pytest.approx(shape[2] / shape[1])
        chance, line = curve.lines
        np.testing.assert_array_equal(line.get_xydata(), list(enumerate(LINE)))
        np.testing.assert_array_equal(chance.get_ydata(), [0.25, 0.25])
        assert curve.get_ylim() == (0.0, 1.0)


def test_equal_panels_give_equal_files() -> None:
    with use_theme(LIGHT):
        first, second = (figure_bytes(plot_corruptions([make_panel()], 0.5)) for _ in range(2))
    assert first == second
