"""Tests of fcnet.report.training_sections."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fcnet.config.schema import Config
from fcnet.report.run_data import RunData
from fcnet.report.training_sections import (
    DIAGNOSTICS_HEADER,
    comparison_curves,
    diagnostics_section,
    learning_curves,
    speed_chart,
)

LAYER: dict[str, Any] = {
    "layer": 1,
    "units": 1600,
    "dead": 0.41,
    "saturated": None,
    "activation_mean": -0.1,
    "activation_std": 0.9,
    "histogram": {"low": -1.0, "high": 1.0, "counts": [3, 1]},
    "weight_norm": 12.34,
    "gradient_norm": 0.02,
    "effective_rank": 13.7,
}


def make_record(epoch: int, validation: float | None = 0.5) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "lr": 0.1 / epoch,
        "train_loss": 1.0 / epoch,
        "train_accuracy": 0.5,
        "validation_loss": validation,
        "validation_accuracy": validation,
        "images_per_second": 1000.0 * epoch,
    }


def make_run(records: list[dict[str, Any]], snapshots: list[dict[str, Any]] | None = None) -> RunData:
    return RunData("run", Path("run"), Config(), records, {}, snapshots or ())


def test_learning_curves_show_training_and_validation_by_epoch() -> None:
    loss, accuracy, lr = learning_curves(make_run([make_record(1), make_record(2)]))
    assert (loss.header, loss.rows) == (["epoch", "training", "validation"], [("1", "1", "0.5"), ("2", "0.5", "0.5")])
    assert accuracy.rows[0] == ("1", "50.00%", "50.00%")
    assert lr.rows == [("1", "0.1"), ("2", "0.05")]
    assert learning_curves(make_run([])) == []


def test_learning_curves_have_the_figure_that_selects() -> None:
    records = [make_record(epoch) | {"validation_score": 0.25 * epoch} for epoch in (1, 2)]
    config = Config.model_validate({"train": {"select": "mean_average_precision"}})
    _, _, score, _ = learning_curves(dataclasses.replace(make_run(records), config=config))
    assert (score.title, score.rows) == ("Validation mAP", [("1", "25.00%"), ("2", "50.00%")])
    config = Config.model_validate({"train": {"select": "brier_score"}})
    _, _, score, _ = learning_curves(dataclasses.replace(make_run(records), config=config))
    assert (score.title, score.rows) == ("Validation Brier score", [("1", "0.25"), ("2", "0.5")])


def test_learning_curves_omit_a_missing_validation_split() -> None:
    loss, *_ = learning_curves(make_run([make_record(1, None)]))
    assert loss.names == ["training"]


def test_several_runs_are_compared_on_validation_only_if_all_have_it() -> None:
    with_split, without = make_run([make_record(1)]), make_run([make_record(1, None)])
    charts = comparison_curves([with_split, with_split], ["a", "b"])
    assert [chart.title for chart in charts] == ["Validation loss", "Validation accuracy"]
    assert charts[1].rows == [("1", "50.00%", "50.00%")]
    charts = comparison_curves([with_split, without], ["a", "b"])
    assert [chart.title for chart in charts] == ["Training loss", "Training accuracy"]


def test_speed_is_images_per_second_by_epoch() -> None:
    chart = speed_chart(make_run([make_record(1), make_record(2)]))
    assert chart is not None
    assert (chart.title, chart.rows) == ("Images per second", [("1", "1,000"), ("2", "2,000")])
    assert speed_chart(make_run([])) is None


def make_snapshot(epoch: int, **changes: Any) -> dict[str, Any]:
    return {"epoch": epoch, "layers": [LAYER | changes], "warnings": [f"advice of epoch {epoch}"]}


def test_the_layer_table_and_the_advice_are_those_of_the_last_snapshot() -> None:
    section = diagnostics_section(make_run([], [make_snapshot(0, dead=0.0), make_snapshot(3)]))
    assert section is not None
    assert section.table == [("1", "1,600", "41.00%", "–", "−0.1 ± 0.9", "12.3", "0.02", "13.7")]
    assert len(section.table[0]) == len(DIAGNOSTICS_HEADER)
    assert section.advice == ["advice of epoch 3"]
    assert diagnostics_section(make_run([])) is None


def test_each_statistic_that_a_layer_has_is_a_chart_by_epoch() -> None:
    section = diagnostics_section(make_run([], [make_snapshot(0, dead=0.0), make_snapshot(3)]))
    assert section is not None
    titles = [chart.title for chart in section.over_time]
    assert titles == [
        "Dead units (output 0 for every image)", "Weight norm", "Gradient norm", "Effective rank of the weights"
    ]  # fmt: skip
    assert section.over_time[0].rows == [("0", "0.00%"), ("3", "41.00%")]


def test_a_statistic_has_a_line_for_each_layer() -> None:
    snapshot = {"epoch": 3, "layers": [LAYER, LAYER | {"layer": 2, "weight_norm": 5.0}], "warnings": []}
    section = diagnostics_section(make_run([], [snapshot]))
    assert section is not None
    weight_norm = next(chart for chart in section.over_time if chart.title == "Weight norm")
    assert (weight_norm.header, weight_norm.rows) == (["epoch", "layer 1", "layer 2"], [("3", "12.34", "5")])


def test_the_outline_of_a_histogram_is_the_snapshot_before_training() -> None:
    def outlines(*snapshots: dict[str, Any]) -> int:
        section = diagnostics_section(make_run([], list(snapshots)))
        assert section is not None
        (chart,) = section.histograms
        assert chart.rows == [("−1 to 0", "75.00%"), ("0 to 1", "25.00%")]
        svg = ElementTree.fromstring(str(chart.svg))
        assert len(json.loads(svg.attrib["data-labels"])) == 2
        return sum(element.attrib.get("class") == "outline" for element in svg.iter())

    assert outlines(make_snapshot(0), make_snapshot(3)) == 1
    assert outlines(make_snapshot(1), make_snapshot(3)) == 0
    assert outlines(make_snapshot(0)) == 0
    assert outlines(make_snapshot(0, histogram=None), make_snapshot(3)) == 0
