"""Rules of fcnet.page: what a page may hold, and that its charts say what they show."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image

from fcnet.report.axes import Scale, format_number, round_values
from fcnet.report.charts import Chart, Series, histogram, line_chart, reliability_diagram
from fcnet.report.images import image_data_uri, weight_data_uri
from fcnet.report.render import PageSection, render

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))


class Read(HTMLParser):
    """The content security policy and the scripts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.policy, self.scripts, self.tags = "", list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


def drawn(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart.svg))


def test_the_one_script_is_the_one_that_the_policy_names() -> None:
    sections = [PageSection(Markup("<p>x</p>"), script="const a = 1 < 2 && '&amp;';"), PageSection(Markup(""))]
    seen = Read(render("base.html.j2", sections=sections))
    (script,) = seen.scripts
    assert "const a = 1 < 2 && '&amp;';" in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert seen.policy == (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )


def test_a_section_brings_its_style_and_stands_in_the_page() -> None:
    page = render("base.html.j2", sections=[PageSection(Markup("<b id='own'>x</b>"), style=".own { color: red; }")])
    assert "<b id='own'>x</b>" in page
    assert ".own { color: red; }" in page.split("</style>")[0]


@pytest.mark.parametrize("bad", ["'</script>'", "'<!--'"])
def test_a_script_that_would_end_early_is_a_bug(bad: str) -> None:
    with pytest.raises(AssertionError):
        render("base.html.j2", sections=[PageSection(Markup(""), script=bad)])


def test_a_value_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("report.html.j2")


def test_the_base_asks_nothing_of_a_network() -> None:
    page = render("base.html.j2")
    assert not re.search(r"""https?:|//[a-z]|@import|url\(|src=|href=["'](?!data:,|#)""", page)


@given(st.lists(st.tuples(NUMBERS, st.none() | NUMBERS), min_size=1, max_size=20, unique_by=lambda point: point[0]))
def test_a_line_goes_through_its_values_and_its_table_holds_them(points: list[tuple[float, float | None]]) -> None:
    points.sort()
    x, y = zip(*points, strict=True)
    chart = line_chart("Title", [Series("a", x, y)], x_label="step")
    svg = drawn(chart)
    told = [value for value in y if value is not None]
    marks = [mark for mark in svg.iter() if mark.tag.endswith("circle")]
    if not told:
        assert not marks
        assert chart.rows == []
        return
    assert [row[0] for row in chart.rows] == [format_number(value) for value in x]
    assert [row[1] for row in chart.rows] == ["–" if value is None else format_number(value) for value in y]
    assert len(json.loads(svg.attrib["data-x"])) == len(json.loads(svg.attrib["data-labels"])) == len(x)
    heights = [float(mark.attrib["cy"]) for mark in marks]
    assert len(heights) == len(told)
    assert all(10 <= height <= 184 for height in heights)
    assert sorted(zip(told, heights, strict=True)) == sorted(
        zip(sorted(told), sorted(heights, reverse=True), strict=True)
    )


def test_what_is_no_number_is_a_gap() -> None:
    chart = line_chart("t", [Series("a", [1, 2, 3, 4], [1.0, math.nan, math.inf, 2.0])], x_label="x")
    (path,) = [each for each in drawn(chart).iter() if each.attrib.get("class", "").startswith("line ")]
    assert path.attrib["d"].count("M") == 2
    assert [row[1] for row in chart.rows] == ["1", "–", "–", "2"]


def test_a_logarithmic_axis_leaves_out_what_it_cannot_hold() -> None:
    chart = line_chart("t", [Series("a", [1, 2, 3], [0.01, 0.0, 1.0])], x_label="x", log=True)
    assert len([mark for mark in drawn(chart).iter() if mark.tag.endswith("circle")]) == 2
    assert [row[1] for row in chart.rows] == ["0.01", "0", "1"]


def test_a_line_without_a_number_is_left_out() -> None:
    lines = [Series("validation", [1, 2], [None, None]), Series("training", [1, 2], [0.5, 0.25])]
    assert line_chart("Loss", lines, x_label="epoch").names == ["training"]
    assert line_chart("Loss", [], x_label="epoch").rows == []


def test_names_cannot_break_out_of_a_chart() -> None:
    name = "</svg><script>alert(1)</script>\"'&"
    chart = line_chart(name, [Series(name, [1], [1.0])], x_label=name)
    svg = drawn(chart)
    assert name in svg.attrib["aria-label"]
    assert "<script>" not in chart.svg


def test_every_chart_says_in_words_what_it_shows() -> None:
    for chart in (
        line_chart("Loss", [Series("training", [1, 2], [0.5, 0.25])], x_label="epoch"),
        histogram("Layer 1", [0.0, 1.0, 2.0], [1, 3], x_label="activation", before=[2, 2]),
        reliability_diagram("Reliability", [(0.75, 0.5, 4, 0.15, 0.85)]),
    ):
        svg = drawn(chart)
        assert svg.attrib["role"] == "img"
        assert chart.title in svg.attrib["aria-label"]
        assert len(chart.rows[0]) == len(chart.header)
        assert all(json.loads(svg.attrib["data-labels"]))


def test_bars_are_as_high_as_their_shares() -> None:
    bars = [
        each for each in drawn(histogram("h", [0.0, 1.0, 3.0], [1, 3], x_label="a")).iter() if "height" in each.attrib
    ]
    low, high = (float(bar.attrib["height"]) for bar in bars)
    assert high == pytest.approx(3 * low, rel=0.01)
    narrow, wide = (float(bar.attrib["width"]) for bar in bars)
    assert wide == pytest.approx(2 * narrow, rel=0.02)


@given(NUMBERS, st.floats(0.001, 1e5), st.integers(2, 8))
def test_ticks_are_round_even_and_within(low: float, length: float, count: int) -> None:
    high = low + length
    ticks = round_values(low, high, count)
    assert len(ticks) <= count + 1
    assert all(low - 1e-6 * length <= tick <= high + 1e-6 * length for tick in ticks)
    if len(ticks) > 2:
        steps = np.diff(ticks)
        assert np.allclose(steps, steps[0], rtol=1e-3)
        assert round(steps[0] / 10 ** math.floor(math.log10(steps[0] * 1.0001)), 6) in {1.0, 2.0, 5.0}


def test_a_scale_takes_its_ends_to_its_ends() -> None:
    scale = Scale(2.0, 4.0, 100.0, 0.0)
    assert (scale(2.0), scale(3.0), scale(4.0)) == (100.0, 50.0, 0.0)


def opened(uri: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_the_image(channels: int) -> None:
    pixels = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shown = opened(image_data_uri(pixels))
    assert torch.from_numpy(shown.copy()).equal(
        pixels.permute(1, 2, 0).squeeze(2) if channels == 1 else pixels.permute(1, 2, 0)
    )


def test_a_large_picture_is_made_smaller_and_other_channels_grey() -> None:
    assert opened(image_data_uri(torch.zeros(3, 400, 200, dtype=torch.uint8))).shape == (96, 48, 3)
    assert opened(image_data_uri(torch.full((4, 5, 5), 9, dtype=torch.uint8))).tolist() == [[9] * 5] * 5


def test_weights_are_white_at_0_and_of_two_colours() -> None:
    above, zero, below = opened(weight_data_uri(torch.tensor([[[2.0, 0.0, -2.0]]])))[0].tolist()
    assert zero == [255, 255, 255]
    assert above[0] > above[2]
    assert below[0] < below[2]
    assert opened(weight_data_uri(torch.zeros(1, 1, 1))).tolist() == [[[255, 255, 255]]]


def test_weights_of_colours_are_grey_at_0_and_use_the_whole_range() -> None:
    shown = opened(weight_data_uri(torch.tensor([[[0.0, 3.0]], [[0.0, 0.0]], [[0.0, -3.0]]])))
    assert shown.tolist() == [[[128, 128, 128], [255, 128, 0]]]
