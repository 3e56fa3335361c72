"""Tests of fcnet.figures.lecture: the names of the figures, and that every figure is legible."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from fcnet.figures import lecture, trained
from fcnet.figures.style import LIGHT, THEMES, Theme, figure_bytes, use_theme

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

NAMES = [
    "sigmoid", "saturation", "activations", "losses", "links", "neuron", "network", "forward-pass", "samples",
    "weights", "between", "generalisation", "descent",
]  # fmt: skip
UNTRAINED = NAMES[:7]
PICTURES = Path(__file__).parents[3] / "docs" / "pictures"


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Figure]]:
    """The drawing functions; computing them leaves the random state and the number of threads as they were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        digits = trained.Digits.load()
        patch.setattr(trained.Digits, "load", lambda: digits)
        before = torch.get_rng_state(), torch.get_num_threads()
        figures = lecture.lecture_figures()
        assert torch.equal(torch.get_rng_state(), before[0])
        assert torch.get_num_threads() == before[1]
    return figures


def test_every_figure_has_a_name(figures: dict[str, Callable[[], Figure]]) -> None:
    assert list(figures) == NAMES


def test_the_weights_are_one_image_for_each_class(figures: dict[str, Callable[[], Figure]]) -> None:
    _, draw = figures["weights"].args  # type: ignore[attr-defined]
    weights, classes = draw.args
    assert weights.shape == (10, 8, 8)
    assert float(weights.abs().max()) > 0.0
    assert classes == tuple("0123456789")


def drawn_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn, with its box; a tick label off the axis exists but is not drawn."""
    boxes = {}
    draw = Text.draw

    def record_and_draw(self: Text, renderer: RendererBase, *args: Any, **kwargs: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            boxes[self] = Text.get_window_extent(self, renderer)
        draw(self, renderer, *args, **kwargs)

    figure.draw_without_rendering()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record_and_draw)
        FigureCanvasAgg(figure).draw()
    return [(text.get_text(), box) for text, box in boxes.items()]


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("name", NAMES)
def test_no_text_leaves_the_figure_or_overlaps_another(
    name: str, theme: Theme, figures: dict[str, Callable[[], Figure]]
) -> None:
    with use_theme(theme):
        figure = figures[name]()
        texts = drawn_texts(figure)
    assert len(texts) > 3
    assert lecture.TITLES[name] in [text for text, _ in texts]
    page = figure.bbox
    for text, box in texts:
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
    for (text, box), (other, other_box) in itertools.combinations(texts, 2):
        assert not box.overlaps(other_box), f"{text!r} overlaps {other!r}"


def split_numbers(svg: str) -> tuple[list[str], list[float]]:
    """The text between the numbers of an SVG file, and the numbers. Identifiers are hashes and left out."""
    drawing = re.sub(r'"#?[a-z]{1,2}[0-9a-f]{10}"|url\([^)]*\)', "", svg)
    pattern = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    return re.split(pattern, drawing), [float(number) for number in re.findall(pattern, drawing)]


@pytest.mark.parametrize("name", UNTRAINED)
def test_the_documentation_shows_the_figure_that_is_drawn(name: str, figures: dict[str, Callable[[], Figure]]) -> None:
    shown = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    if f"Matplotlib v{matplotlib.__version__}," not in shown:
        pytest.skip("another version of matplotlib drew the picture")
    with use_theme(LIGHT):
        drawn = figure_bytes(figures[name]())["svg"].decode()
    (shown_text, shown_numbers), (drawn_text, drawn_numbers) = split_numbers(shown), split_numbers(drawn)
    assert drawn_text == shown_text
    assert drawn_numbers == pytest.approx(shown_numbers, abs=0.01)  # points; processors differ in the last digit


def test_no_two_lines_of_a_figure_have_the_same_dash_pattern(figures: dict[str, Callable[[], Figure]]) -> None:
    for name in ("sigmoid", "saturation", "activations", "losses", "links", "generalisation", "descent"):
        with use_theme(LIGHT):
            figure = figures[name]()
            for axes in figure.axes:
                lines = [line for line in axes.lines if line.get_linewidth() > 1 and line.get_linestyle() != "None"]
                patterns = [line.get_linestyle() for line in lines]
                assert len(patterns) == len(set(patterns)) >= 2
