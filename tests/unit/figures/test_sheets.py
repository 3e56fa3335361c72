"""Tests of fcnet.figures.sheets."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fcnet.figures.sheets import image_grid, lr_curve
from fcnet.figures.style import DARK, LIGHT, THEMES, Theme, png_bytes, use_theme

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def decode(png: bytes) -> Pixels:
    """The pixels (H, W, 3) of a PNG file."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def draw_grid(
    columns: list[Tensor],
    names: list[str] | None = None,
    captions: list[list[str]] | None = None,
    theme: Theme = LIGHT,
) -> Pixels:
    rows = names or [f"row {number}" for number in range(len(columns[0]))]
    column_names = [f"${n}_$" for n in range(len(columns))]
    with use_theme(theme):
        grid = image_grid(columns, title="$t_$", row_names=rows, column_names=column_names, captions=captions or [])
        return decode(png_bytes(grid))


def draw_curve(lrs: list[float], losses: list[float], smoothed: list[float], suggestion: float) -> Pixels:
    with use_theme(LIGHT):
        return decode(png_bytes(lr_curve(lrs, losses, smoothed, suggestion=suggestion)))


def area(pixels: Pixels, colour: tuple[int, int, int]) -> int:
    """The number of pixels of a colour."""
    return int((pixels == np.array(colour)).all(2).sum())


def test_every_image_keeps_its_colours_and_has_the_same_size() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255), (0, 255, 255), (255, 255, 0)]
    images = torch.tensor(colours).view(2, 3, 3, 1, 1).expand(2, 3, 3, 4, 4) / 255
    pixels = draw_grid(list(images))
    areas = [area(pixels, colour) for colour in colours]
    assert min(areas) > 50 * 50
    assert max(areas) <= 1.05 * min(areas)  # equal up to one row or column of pixels


def test_rows_run_down_and_columns_across() -> None:
    images = torch.zeros(2, 2, 3, 4, 4)
    images[1, 0, 0] = 1.0  # the second column's first row is red
    places = np.argwhere((draw_grid(list(images)) == [255, 0, 0]).all(2))
    height, width = draw_grid(list(images)).shape[:2]
    assert places[:, 0].max() < 0.6 * height
    assert places[:, 1].min() > 0.5 * width


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_numbers_of_channels_than_three_are_grey(channels: int) -> None:
    images = torch.full((2, channels, 4, 4), 102 / 255)
    pixels = draw_grid([images, torch.zeros_like(images), 1.2 * torch.ones_like(images)])
    assert area(pixels, (102, 102, 102)) > 2 * 50 * 50
    assert area(pixels, (0, 0, 0)) > 2 * 50 * 50


def test_names_are_literal_text_in_any_script() -> None:
    images = torch.zeros(3, 1, 4, 4)
    assert draw_grid([images], ["$x_$", "日本", "a\nb"]).shape != ()


def test_equal_images_give_equal_files() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with use_theme(LIGHT):
        grids = [image_grid([images], title="", row_names="ab", column_names="c") for _ in range(2)]
        assert png_bytes(grids[0]) == png_bytes(grids[1])


@pytest.mark.parametrize("theme", THEMES)
def test_a_grid_has_the_colours_of_the_theme_around_its_images(theme: Theme) -> None:
    pixels = draw_grid([torch.full((2, 3, 4, 4), 102 / 255)], theme=theme)
    background = tuple(int(theme.background[place : place + 2], 16) for place in (1, 3, 5))
    assert tuple(pixels[0, 0]) == background
    assert area(pixels, (102, 102, 102)) > 2 * 50 * 50


def test_captions_make_room_below_the_images_and_cover_none() -> None:
    images = torch.ones(2, 3, 4, 4) * torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    plain = draw_grid([images], theme=DARK)
    with_captions = draw_grid([images], captions=[["70% $cat_$\n30% dog", "100% 日本"]], theme=DARK)
    assert with_captions.shape[0] > plain.shape[0]
    assert area(with_captions, (255, 0, 0)) > 0.9 * area(plain, (255, 0, 0))


def test_the_learning_rate_curve_marks_the_suggestion_and_ignores_a_diverged_end() -> None:
    lrs, losses = [0.01, 0.1, 1.0], [2.0, 1.0, 1.5]
    plain = draw_curve(lrs, losses, losses, 0.01)
    assert not np.array_equal(plain, draw_curve(lrs, losses, losses, 0.1))
    # The y axis ends at 1.5 times the first smoothed loss, so a huge last loss does not flatten the curve.
    first, second = (draw_curve(lrs, [2.0, 1.0, last], losses, 0.01) for last in (1e6, 1e9))
    assert np.array_equal(first, second)
