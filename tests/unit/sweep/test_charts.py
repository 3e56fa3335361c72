"""Tests of fcnet.sweep.charts."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

from fcnet.config.selection import CRITERIA
from fcnet.sweep.charts import coordinates_chart, describe_trials, importance_chart, ranking_chart, short_names
from fcnet.sweep.ranking import RankedTrial, RunResult


def make_trial(number: int, settings: dict[str, Any], *values: float, **changes: Any) -> RankedTrial:
    runs = tuple(RunResult(seed, value, 2, 1.0) for seed, value in enumerate(values))
    return RankedTrial(number, settings, "finished", runs, **changes)


def test_names_of_settings_stay_different() -> None:
    assert short_names(["a.size", "b.size", "b.lr"]) == {"a.size": "a.size", "b.size": "b.size", "b.lr": "lr"}


def test_a_trial_is_named_by_what_differs() -> None:
    first = make_trial(1, {"optimizer.lr": 0.1, "model.hidden": [16]}, 0.5)
    second = make_trial(2, {"optimizer.lr": 0.2, "model.hidden": [16]}, 0.5)
    assert describe_trials([first, second]) == {1: "trial 1: lr = 0.1", 2: "trial 2: lr = 0.2"}
    assert describe_trials([first]) == {1: "trial 1: lr = 0.1, hidden = [16]"}


def test_a_loss_is_ranked_without_percent_signs() -> None:
    trials = [
        make_trial(number, {"seed": number}, number / 10, criterion=CRITERIA["validation_loss"]) for number in (1, 2)
    ]
    chart = ranking_chart(trials, describe_trials(trials))
    assert chart.title == "Validation loss by rank"
    assert [row[1] for row in chart.rows] == ["0.1", "0.2"]


def test_coordinates_have_the_scales_of_the_search() -> None:
    trials = [make_trial(number, {"optimizer.lr": 10.0**-number, "model.dropout": 0.1}, 0.5) for number in (1, 2, 3)]
    plan = {"--search": ["optimizer.lr=0.001..0.1:log", "model.dropout=0.0..0.5:linear"]}
    chart = coordinates_chart(trials, describe_trials(trials), plan)
    assert chart is not None
    heights = sorted(
        float(path.attrib["d"].split()[1].partition("L")[0])
        for path in ET.fromstring(chart.svg).iter("path")
        if path.attrib["class"].startswith("trial")
    )
    assert abs((heights[2] - heights[1]) - (heights[1] - heights[0])) < 0.3  # powers of ten are evenly spaced
    assert json.loads(ET.fromstring(chart.svg).attrib["data-labels"])[0].startswith("lr: 0.001 to 0.1; trial 1")
    assert coordinates_chart(trials[:1], describe_trials(trials), plan) is None


def test_the_most_important_setting_is_on_top() -> None:
    chart = importance_chart({"a": 0.25, "b": 0.75})
    assert chart.rows == [("b", "75.0%"), ("a", "25.0%")]
