"""Rules of fcnet.figures.sheets."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from PIL import Image
from torch import Tensor

from fcnet.figures.sheets import image_grid
from fcnet.figures.style import LIGHT, use_theme


def sheet(columns: list[Tensor], names: list[str] | None = None) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The picture as pixels (H, W, 3)."""
    rows = names or [f"row {number}" for number in range(len(columns[0]))]
    png = image_grid(columns, title="$t_$", row_names=rows, column_names=[f"${n}_$" for n in range(len(columns))])
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def area(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour)).all(2).sum())


def test_every_image_is_shown_in_its_colours_and_as_large_as_the_others() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255), (0, 255, 255), (255, 255, 0)]
    images = torch.tensor(colours).view(2, 3, 3, 1, 1).expand(2, 3, 3, 4, 4) / 255
    picture = sheet(list(images))
    areas = [area(picture, colour) for colour in colours]
    assert min(areas) > 50 * 50
    assert max(areas) <= 1.05 * min(areas)  # to a row or column of pixels


def test_rows_run_down_and_columns_across() -> None:
    images = torch.zeros(2, 2, 3, 4, 4)
    images[1, 0, 0] = 1.0  # the second column's first row is red
    places = np.argwhere((sheet(list(images)) == [255, 0, 0]).all(2))
    height, width = sheet(list(images)).shape[:2]
    assert places[:, 0].max() < 0.6 * height
    assert places[:, 1].min() > 0.5 * width


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_than_three_channels_are_grey_and_black_is_black(channels: int) -> None:
    images = torch.full((2, channels, 4, 4), 102 / 255)
    picture = sheet([images, torch.zeros_like(images), 1.2 * torch.ones_like(images)])
    assert area(picture, (102, 102, 102)) > 2 * 50 * 50
    assert area(picture, (0, 0, 0)) > 2 * 50 * 50


def test_names_are_shown_as_they_are_whatever_their_script() -> None:
    images = torch.zeros(3, 1, 4, 4)
    assert sheet([images], ["$x_$", "日本", "a\nb"]).shape != ()


def test_the_same_images_make_the_same_bytes() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    first, again = (image_grid([images], title="", row_names="ab", column_names="c") for _ in range(2))
    assert first == again


def test_letters_are_matplotlibs_own_where_the_machine_has_a_font_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    fonts = font_manager.fontManager
    monkeypatch.setattr(fonts, "ttflist", list(fonts.ttflist))
    fonts.addfont(shutil.copy(own, tmp_path))
    fonts.ttflist.insert(0, fonts.ttflist.pop())
    assert Path(font_manager.findfont("DejaVu Sans")).parent == tmp_path
    with use_theme(LIGHT):
        assert Path(font_manager.findfont("DejaVu Sans")) == own
