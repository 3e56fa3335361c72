"""Tests of fcnet.report.charts."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.report.axes import BOTTOM, LEFT, RIGHT, Scale
from fcnet.report.charts import Chart, Series, histogram, line_chart, reliability_diagram
from fcnet.report.row_charts import bar_chart, error_bar_chart
from fcnet.runtime.formatting import format_number

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))


def parse_svg(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart.svg))


def elements(chart: Chart, tag: str) -> list[ElementTree.Element]:
    return [element for element in parse_svg(chart).iter() if element.tag.endswith(tag)]


@given(st.lists(st.tuples(NUMBERS, st.none() | NUMBERS), min_size=1, max_size=20, unique_by=lambda point: point[0]))
def test_a_line_passes_through_its_values_and_its_table_lists_them(points: list[tuple[float, float | None]]) -> None:
    points.sort()
    x, y = zip(*points, strict=True)
    chart = line_chart("Title", [Series("a", x, y)], x_label="step")
    svg = parse_svg(chart)
    values = [value for value in y if value is not None]
    marks = [mark for mark in svg.iter() if mark.tag.endswith("circle")]
    if not values:
        assert not marks
        assert chart.rows == []
        return
    assert [row[0] for row in chart.rows] == [format_number(value) for value in x]
    assert [row[1] for row in chart.rows] == ["–" if value is None else format_number(value) for value in y]
    assert len(json.loads(svg.attrib["data-x"])) == len(json.loads(svg.attrib["data-labels"])) == len(x)
    heights = [float(mark.attrib["cy"]) for mark in marks]
    assert len(heights) == len(values)
    assert all(10 <= height <= 184 for height in heights)
    assert sorted(zip(values, heights, strict=True)) == sorted(
        zip(sorted(values), sorted(heights, reverse=True), strict=True)
    )


def test_a_value_that_is_not_finite_makes_a_gap() -> None:
    chart = line_chart("t", [Series("a", [1, 2, 3, 4], [1.0, math.nan, math.inf, 2.0])], x_label="x")
    (path,) = [each for each in parse_svg(chart).iter() if each.attrib.get("class", "").startswith("line ")]
    assert path.attrib["d"].count("M") == 2
    assert [row[1] for row in chart.rows] == ["1", "–", "–", "2"]


def test_a_logarithmic_axis_omits_values_of_0_or_less() -> None:
    chart = line_chart("t", [Series("a", [1, 2, 3], [0.01, 0.0, 1.0])], x_label="x", log=True)
    assert len([mark for mark in parse_svg(chart).iter() if mark.tag.endswith("circle")]) == 2
    assert [row[1] for row in chart.rows] == ["0.01", "0", "1"]


def test_a_line_without_a_finite_value_is_omitted() -> None:
    lines = [Series("validation", [1, 2], [None, None]), Series("training", [1, 2], [0.5, 0.25])]
    assert line_chart("Loss", lines, x_label="epoch").names == ["training"]
    assert line_chart("Loss", [], x_label="epoch").rows == []


def test_names_are_escaped_in_a_chart() -> None:
    name = "</svg><script>alert(1)</script>\"'&"
    chart = line_chart(name, [Series(name, [1], [1.0])], x_label=name)
    svg = parse_svg(chart)
    assert name in svg.attrib["aria-label"]
    assert "<script>" not in chart.svg


def test_every_chart_has_a_text_description_and_a_table() -> None:
    for chart in (
        line_chart("Loss", [Series("training", [1, 2], [0.5, 0.25])], x_label="epoch"),
        histogram("Layer 1", [0.0, 1.0, 2.0], [1, 3], x_label="activation", before=[2, 2]),
        reliability_diagram("Reliability", [(0.75, 0.5, 4, 0.15, 0.85)]),
        error_bar_chart("Ranking", [("a", [0.5, 0.7])], value_label="accuracy", group_name="trial", as_percent=True),
        bar_chart("Importance", [("a", 0.7)], value_label="share", group_name="setting"),
    ):
        svg = parse_svg(chart)
        assert svg.attrib["role"] == "img"
        assert chart.title in svg.attrib["aria-label"]
        assert len(chart.rows[0]) == len(chart.header)
        assert all(json.loads(svg.attrib["data-labels"]))


def test_the_height_of_a_bar_is_proportional_to_its_fraction() -> None:
    bars = [
        each
        for each in parse_svg(histogram("h", [0.0, 1.0, 3.0], [1, 3], x_label="a")).iter()
        if "height" in each.attrib
    ]
    low, high = (float(bar.attrib["height"]) for bar in bars)
    assert high == pytest.approx(3 * low, rel=0.01)
    narrow, wide = (float(bar.attrib["width"]) for bar in bars)
    assert wide == pytest.approx(2 * narrow, rel=0.02)


def test_percentages_have_two_digits_in_tables_and_as_few_as_possible_on_the_axis() -> None:
    chart = line_chart("Accuracy", [Series("a", [1, 2], [0.5, 0.98765])], x_label="epoch", as_percent=True)
    assert chart.rows == [("1", "50.00%"), ("2", "98.77%")]
    texts = [element.text for element in elements(chart, "text")]
    assert "60%" in texts
    assert json.loads(parse_svg(chart).attrib["data-labels"])[1] == "epoch 2: a 98.77%"


def test_a_long_line_has_no_markers() -> None:
    values = [float(value) for value in range(26)]
    assert len(elements(line_chart("t", [Series("a", values[:25], values[:25])], x_label="x"), "circle")) == 25
    assert elements(line_chart("t", [Series("a", values, values)], x_label="x"), "circle") == []


def test_the_outline_of_a_histogram_shows_the_earlier_counts() -> None:
    chart = histogram("h", [0.0, 1.0, 2.0], [1, 3], x_label="a", before=[4, 0], before_edges=[-1.0, 0.0, 1.0])
    (outline,) = [element for element in elements(chart, "path") if element.attrib["class"] == "outline"]
    assert outline.attrib["d"].startswith("M48.0 184V")
    assert outline.attrib["d"].count("V") == 3
    assert chart.rows == [("0 to 1", "25.00%"), ("1 to 2", "75.00%")]


def test_a_reliability_diagram_places_accuracy_over_confidence_with_its_interval() -> None:
    chart = reliability_diagram("Reliability", [(0.5, 0.25, 8, 0.0, 1.0)])
    (dot,) = elements(chart, "circle")
    assert (float(dot.attrib["cx"]), float(dot.attrib["cy"])) == (205.0, 140.5)
    assert chart.always_show_legend
    assert json.loads(parse_svg(chart).attrib["data-labels"]) == [
        "confidence 50.00%: accuracy 25.00%, interval 0.00% to 100.00%, 8 images"
    ]


def test_a_reliability_diagram_has_a_bar_of_the_images_of_each_bin() -> None:
    bins = [(0.31, 0.25, 2, 0.0, 1.0), (0.55, 0.5, 8, 0.0, 1.0), (1.0, 1.0, 4, 0.5, 1.0)]
    chart = reliability_diagram("Reliability", bins, num_bins=10)
    bars = [bar.attrib for bar in elements(chart, "rect")]
    x = Scale(0.0, 1.0, LEFT, RIGHT)
    assert [float(bar["x"]) for bar in bars] == [x(0.3), x(0.5), x(0.9)]
    heights = [float(bar["height"]) for bar in bars]
    assert heights == pytest.approx([max(heights) / 4, max(heights), max(heights) / 2], abs=0.11)
    assert all(float(bar["y"]) > BOTTOM for bar in bars)  # below the accuracies
    assert len({round(float(bar["y"]) + float(bar["height"]), 6) for bar in bars}) == 1
    texts = [element.text for element in elements(chart, "text")]
    assert texts.count("8") == 1  # the count at the top of the panel
    assert "images" in texts
    height = float(parse_svg(chart).attrib["viewBox"].split()[3])
    assert all(float(element.attrib["y"]) < height for element in elements(chart, "text"))
