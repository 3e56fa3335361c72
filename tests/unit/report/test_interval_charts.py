"""Tests of fcnet.report.interval_charts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from fcnet.report.axes import BOTTOM, LEFT, RIGHT, TOP
from fcnet.report.interval_charts import Estimate, interval_chart

if TYPE_CHECKING:
    from fcnet.report.charts import Chart

POINTS = [Estimate(0.01, 0.5, (0.4, 0.6)), Estimate(1.0, 0.75, (0.7, 0.8)), Estimate(100.0, 0.7, None)]


def draw(points: list[Estimate], *, chosen: float | None = None, log: bool = False) -> Chart:
    return interval_chart("t", points, x_label="C", value_label="accuracy", as_percent=not log, chosen=chosen, log=log)


def elements(chart: Chart, tag: str, name: str) -> list[ET.Element]:
    return [each for each in ET.fromstring(chart.svg).iter(tag) if each.attrib.get("class") == name]


def test_equal_factors_are_equally_far_apart_and_the_band_covers_the_intervals() -> None:
    chart = draw(POINTS, chosen=1.0)
    dots = elements(chart, "circle", "dot s0")
    assert [float(dot.attrib["cx"]) for dot in dots] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    (band,) = elements(chart, "path", "band")
    corners = [tuple(map(float, pair.split())) for pair in band.attrib["d"][1:-1].split("L")]
    assert [x for x, _ in corners] == [LEFT, (LEFT + RIGHT) / 2, (LEFT + RIGHT) / 2, LEFT]
    low, high = corners[0][1], corners[3][1]
    assert high < float(dots[0].attrib["cy"]) < low  # upwards is smaller
    assert float(dots[0].attrib["cy"]) == pytest.approx((low + high) / 2, abs=0.1)
    assert all(TOP <= y <= BOTTOM for _, y in corners)


def test_the_chosen_value_is_marked_and_told() -> None:
    chart = draw(POINTS, chosen=1.0)
    (line,) = elements(chart, "path", "chosen")
    (dot,) = elements(chart, "circle", "dot s1")
    assert line.attrib["d"].startswith(f"M{dot.attrib['cx']} ")
    svg = ET.fromstring(chart.svg)
    assert svg.attrib["aria-label"] == "t by C; C 1, chosen: accuracy 75.00%, interval 70.00% to 80.00%"
    assert json.loads(svg.attrib["data-labels"])[2] == "C 100: accuracy 70.00%"
    assert chart.rows[2] == ("100", "70.00%", "–")
    assert not elements(draw(POINTS), "path", "chosen")


def test_one_value_and_a_logarithmic_axis_can_be_drawn() -> None:
    assert len(elements(draw(POINTS[:1]), "circle", "dot s0")) == 1
    chart = draw([Estimate(1.0, 0.01, (0.0, 0.02)), Estimate(10.0, 1.0, (0.5, 2.0))], log=True)
    assert chart.rows[0] == ("1", "0.01", "0 to 0.02")
