"""Tests of fcnet.report.row_charts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from fcnet.report.row_charts import bar_chart, error_bar_chart

if TYPE_CHECKING:
    from fcnet.report.charts import Chart


def elements(chart: Chart, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(chart.svg).iter(tag))


def test_an_error_bar_extends_one_standard_deviation_from_the_mean_and_needs_two_values() -> None:
    groups = [("a", [0.4, 0.6]), ("b", [0.5])]
    chart = error_bar_chart("t", groups, value_label="accuracy", group_name="trial", as_percent=True)
    bars = [element for element in elements(chart, "path") if element.attrib["class"] == "line s0"]
    assert len(bars) == 1
    start, _, end = bars[0].attrib["d"][1:].replace("H", " H ").partition(" H ")
    (x, y), right = map(float, start.split()), float(end)
    large = [dot for dot in elements(chart, "circle") if dot.attrib["class"] == "dot s0"]
    small = [dot for dot in elements(chart, "circle") if dot.attrib["class"] == "dot s1"]
    assert float(large[0].attrib["cx"]) == pytest.approx((x + right) / 2, abs=0.1)
    assert float(large[0].attrib["cy"]) == y < float(large[1].attrib["cy"])  # the first row is above the second
    assert len(small) == 3
    values = [float(dot.attrib["cx"]) for dot in small]
    assert x < values[0] < values[2] < values[1] < right
    assert chart.rows == [("a", "50.00%", "14.14%", "2"), ("b", "50.00%", "–", "1")]
    svg = ET.fromstring(chart.svg)
    assert json.loads(svg.attrib["data-y"]) == [float(dot.attrib["cy"]) for dot in large]
    assert json.loads(svg.attrib["data-labels"]) == ["a: 50.00% ± 14.14 (n = 2)", "b: 50.00% (n = 1)"]


def test_a_bar_is_as_long_as_its_fraction_and_its_name_is_escaped() -> None:
    chart = bar_chart("Importance", [("<lr>", 0.8), ("b", 0.2), ("c", 0.0)], value_label="share", group_name="setting")
    widths = [float(bar.attrib["width"]) for bar in elements(chart, "rect")]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)
    assert widths[2] == 0.0
    assert "<lr>: 80.0%" in [element.text for element in elements(chart, "text")]
    assert chart.rows == [("<lr>", "80.0%"), ("b", "20.0%"), ("c", "0.0%")]
