"""Tests of fcnet.sweep.parallel_coordinates."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from fcnet.sweep.parallel_coordinates import Coordinate, parallel_coordinates

if TYPE_CHECKING:
    from fcnet.report.charts import Chart

NAMES = ["trial 3", "trial 1", "trial 2"]
COORDINATES = [
    Coordinate("lr", [0.01, 1.0, 0.1], "log"),
    Coordinate("hidden", [[64], [16], [64]], "categories"),
    Coordinate("accuracy", [0.9, 0.5, None], as_percent=True),
]


def lines(chart: Chart) -> dict[str, list[tuple[float, float]]]:
    """The points of each line by its last class."""
    found = {}
    for path in ET.fromstring(chart.svg).iter("path"):
        kind = path.attrib["class"].split()
        if kind[0] == "trial":
            points = re.findall(r"([\d.]+) ([\d.]+)", path.attrib["d"])
            found[kind[-1]] = [(float(x), float(y)) for x, y in points]
    return found


def test_a_line_goes_through_the_values_of_its_trial() -> None:
    chart = parallel_coordinates("Trials", COORDINATES, NAMES, best=0)
    drawn = lines(chart)
    best, other = drawn["best"], drawn["shade-2"]
    at = json.loads(ET.fromstring(chart.svg).attrib["data-x"])
    assert [x for x, _ in best] == [x for x, _ in other] == at
    assert best[0][1] > other[0][1]  # a smaller learning rate is lower
    middle = drawn["dropped"][0][1]
    assert abs(middle - (best[0][1] + other[0][1]) / 2) < 0.2  # 0.1 is halfway on a logarithmic axis
    assert best[1][1] < other[1][1]  # [64] is above [16]
    assert best[2][1] < other[2][1]  # the better result is above


def test_a_trial_without_a_result_ends_before_it() -> None:
    drawn = lines(parallel_coordinates("Trials", COORDINATES, NAMES, best=0))
    assert len(drawn["dropped"]) == 2
    assert drawn["dropped"][1][1] == drawn["best"][1][1]


def test_of_a_loss_the_smallest_is_on_top() -> None:
    coordinates = [COORDINATES[0], Coordinate("loss", [0.1, 0.5, 0.4], low_is_up=True)]
    drawn = lines(parallel_coordinates("Trials", coordinates, NAMES, best=0))
    assert drawn["best"][1][1] < drawn["shade-2"][1][1] < drawn["shade-1"][1][1]


def test_each_axis_tells_its_values_and_those_of_the_best_trial() -> None:
    chart = parallel_coordinates("Trials", COORDINATES, NAMES, best=0)
    assert json.loads(ET.fromstring(chart.svg).attrib["data-labels"]) == [
        "lr: 0.01 to 1; trial 3: 0.01",
        "hidden: [64], [16]; trial 3: [64]",
        "accuracy: 50% to 90%; trial 3: 90%",
    ]


def test_values_of_one_kind_equal_values_and_missing_ones_have_a_place() -> None:
    coordinates = [
        Coordinate("batch", [32, 32, 32], "categories"),
        Coordinate("flip", [True, None, "auto"], "categories"),
        Coordinate("accuracy", [0.5, 0.5, float("nan")]),
    ]
    chart = parallel_coordinates("Trials", coordinates, NAMES, best=None)
    assert "nan" not in chart.svg
    assert json.loads(ET.fromstring(chart.svg).attrib["data-labels"])[1] == "flip: true, auto"
    nothing = parallel_coordinates("Trials", [COORDINATES[0], Coordinate("accuracy", [None] * 3)], NAMES, best=None)
    assert json.loads(ET.fromstring(nothing.svg).attrib["data-labels"])[1] == "accuracy: none yet"
