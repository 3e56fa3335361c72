"""Tests of fcnet.figures.style."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import matplotlib
import pytest
from matplotlib import font_manager, rcParams

from fcnet.figures import curves, formulas
from fcnet.figures.style import LIGHT, LINE_STYLES, THEMES, Theme, drawing_axes, figure_bytes, new_figure, use_theme


def luminance(colour: str) -> float:
    """WCAG's relative luminance, from 0 to 1."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_text_and_lines_have_enough_contrast_and_lines_differ_without_colour(theme: Theme) -> None:
    assert contrast(theme.foreground, theme.background) > 7.0
    assert min(contrast(colour, theme.background) for colour in (*theme.colors, theme.muted)) > 3.0
    assert min(contrast(*pair) for pair in itertools.combinations(theme.colors, 2)) > 1.25
    assert len(set(LINE_STYLES)) == len(theme.colors) == 4


def test_a_theme_neither_changes_nor_uses_the_users_matplotlib_settings() -> None:
    before = dict(rcParams)
    links = formulas.links()
    with use_theme(LIGHT):
        plain = figure_bytes(curves.links(links))
    assert dict(rcParams) == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rcParams, "font.size", 30.0)
        patch.setitem(rcParams, "svg.fonttype", "none")
        with use_theme(LIGHT):
            assert figure_bytes(curves.links(links)) == plain


def test_bundled_fonts_win_over_system_fonts_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    fonts = font_manager.fontManager
    monkeypatch.setattr(fonts, "ttflist", list(fonts.ttflist))
    fonts.addfont(shutil.copy(bundled, tmp_path))
    fonts.ttflist.insert(0, fonts.ttflist.pop())
    assert Path(font_manager.findfont("DejaVu Sans")).parent == tmp_path
    with use_theme(LIGHT):
        assert Path(font_manager.findfont("DejaVu Sans")) == bundled


def test_equal_figures_give_equal_files_without_a_date() -> None:
    with use_theme(LIGHT):
        first, second = (figure_bytes(new_figure(2.0, 1.0)) for _ in range(2))
    assert first == second
    assert b"<dc:date" not in first["svg"]


def test_drawing_axes_have_equal_units_and_no_frame() -> None:
    axes = drawing_axes(new_figure(4.0, 2.0), 8.0, 3.0)
    assert (axes.get_xlim(), axes.get_ylim()) == ((0.0, 8.0), (0.0, 3.0))
    assert axes.get_aspect() == 1.0
    assert not axes.axison
