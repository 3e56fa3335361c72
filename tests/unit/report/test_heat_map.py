"""Tests of fcnet.report.heat_map."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import numpy as np

from fcnet.metrics import Confusion
from fcnet.report.heat_map import confusion_heat_map


def test_each_cell_with_images_is_one_square_in_its_colour() -> None:
    table = np.random.default_rng(0).integers(3, size=(40, 40))
    chart = confusion_heat_map(Confusion.from_table(table.tolist()), [f"<{number}>" for number in range(40)])
    seen = np.zeros((40, 40), dtype=int)
    darkness = np.zeros((40, 40))
    for element in ET.fromstring(chart.svg).iter("path"):
        is_correct = "s0" in element.attrib["class"]
        opacity = float(element.attrib["style"].partition(":")[2])
        for column, row in re.findall(r"M(\d+) (\d+)h1v1h-1z", element.attrib["d"]):
            assert (row == column) == is_correct
            seen[int(row), int(column)] += 1
            darkness[int(row), int(column)] = opacity
    assert (seen == (table > 0)).all()
    for shares, shades in zip(table / table.sum(1, keepdims=True), darkness, strict=True):
        order = shares.argsort(kind="stable")
        assert (np.diff(shades[order]) >= 0.0).all()  # a larger share is never lighter


def test_a_column_tells_its_predictions_and_the_most_frequent_mistake() -> None:
    confusion = Confusion.from_table([[8, 2, 0], [3, 5, 0], [1, 0, 0]])
    chart = confusion_heat_map(confusion, ["ant", "bee", "cat"])
    svg = ET.fromstring(chart.svg)
    assert json.loads(svg.attrib["data-labels"]) == [
        "predicted ant: 12 images, 66.7% of them correct, most often wrong for bee (3)",
        "predicted bee: 7 images, 71.4% of them correct, most often wrong for ant (2)",
        "predicted cat: 0 images",
    ]
    assert len(json.loads(svg.attrib["data-x"])) == 3


def test_at_most_twenty_names_are_written_at_each_side() -> None:
    names = [f"name of class {number:03d}" for number in range(100)]
    chart = confusion_heat_map(Confusion.from_labels(range(100), range(100), 100), names)
    texts = [element.text for element in ET.fromstring(chart.svg).iter("text")]
    assert len(texts) == 2 * 20 + 2
    assert texts.count("name o…ss 005") == 2
