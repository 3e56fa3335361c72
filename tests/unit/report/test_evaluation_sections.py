"""Tests of fcnet.report.evaluation_sections."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from fcnet.config.schema import Config
from fcnet.metrics import wilson_interval
from fcnet.report.evaluation_sections import evaluation_section
from fcnet.report.run_data import RunData
from fcnet.runtime.formatting import format_percent
from tests.unit.report.helpers import make_run

LOGITS = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
LABELS = [0, 0, 0, 2]


def test_the_confusion_matrix_has_counts_and_shares_of_each_true_class() -> None:
    section = evaluation_section(make_run(LOGITS, LABELS))
    assert section is not None
    assert section.matrix == [
        ("class 0", [(2, 2 / 3), (1, 1 / 3), (0, 0.0)]),
        ("class 1", [(0, 0.0), (0, 0.0), (0, 0.0)]),
        ("class 2", [(0, 0.0), (0, 0.0), (1, 1.0)]),
    ]
    assert section.long_names
    assert section.confusions == [("class 0", "class 1", "1", "33.33%")]


def test_per_class_metrics_have_the_interval_of_the_recall_and_dashes_where_undefined() -> None:
    section = evaluation_section(make_run(LOGITS, LABELS))
    assert section is not None
    low, high = map(format_percent, wilson_interval(2, 3))
    assert section.per_class[0] == ("class 0", "3", "100.00%", "66.67%", "80.00%", f"{low} to {high}")
    assert section.per_class[1][:4] == ("class 1", "0", "0.00%", "–")


def test_per_class_metrics_have_the_stored_average_precisions_and_their_mean() -> None:
    stored = {"class 0": 0.5, "class 1": None, "class 2": 0.25}
    run = make_run(LOGITS, LABELS)
    section = evaluation_section(dataclasses.replace(run, summary={"class_average_precision": stored}))
    plain = evaluation_section(run)
    assert section is not None
    assert plain is not None
    column = section.per_class_columns.index("average precision")
    assert [row[column] for row in section.per_class] == ["50.00%", "–", "25.00%"]
    assert [row[column] for row in section.averages] == ["", "37.50%", ""]
    for found, expected in ((section.per_class, plain.per_class), (section.averages, plain.averages)):
        assert [(*row[:column], *row[column + 1 :]) for row in found] == expected
    assert [name for name in section.per_class_columns if name != "average precision"] == plain.per_class_columns


def test_the_calibration_error_is_the_mean_distance_between_confidence_and_accuracy() -> None:
    logit = torch.tensor(3.0).log()  # probability 0.75 of two classes
    logits = torch.stack([logit.expand(4), torch.zeros(4)], 1)
    section = evaluation_section(make_run(logits, [0, 0, 0, 1]))
    assert section is not None
    (calibration,) = section.calibrations
    assert calibration.error == "0.00%"
    assert calibration.chart.rows[0][:2] == ("75.00%", "75.00%")
    section = evaluation_section(make_run(logits, [0, 0, 1, 1]))
    assert section is not None
    assert section.calibrations[0].error == "25.00%"


def test_a_temperature_shows_the_calibration_before_and_after() -> None:
    run = make_run(LOGITS, LABELS)
    before = {"log_loss": 1.0, "calibration_error": 0.25, "bins": [[3, 0.75, 3], [1, 1.0, 1]]}
    change = {"temperature": 1.23456, "reason": None, "test": {"before": before, "after": before}}
    section = evaluation_section(dataclasses.replace(run, summary={"calibration": change}))
    plain = evaluation_section(run)
    assert section is not None
    assert plain is not None
    first, second = section.calibrations
    assert (first.title, first.error) == ("Before temperature scaling", "18.75%")
    assert first.chart.rows[0][:2] == ("75.00%", "100.00%")
    assert second.title == "After it, with T = 1.235"
    assert dataclasses.replace(second, title="") == plain.calibrations[0]
    unchanged = evaluation_section(dataclasses.replace(run, summary={"calibration": change | {"reason": "x"}}))
    assert unchanged is not None
    assert unchanged.calibrations == plain.calibrations


def predictions_of(labels: list[int], num_classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), num_classes).float()


def test_the_averages_are_those_of_scikit_learns_classification_report() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(4, size=60).tolist(), rng.integers(4, size=60).tolist()
    section = evaluation_section(make_run(predictions_of(predicted, 4), truth))
    assert section is not None
    accuracy, *averages = section.averages
    share = np.mean(np.array(truth) == predicted)
    low, high = wilson_interval(round(60 * share), 60)
    assert accuracy == ("accuracy", "60", "", f"{share:.2%}", "", f"{low:.2%} to {high:.2%}")
    for row, kind in zip(averages, ("macro", "weighted"), strict=True):
        expected = precision_recall_fscore_support(truth, predicted, average=kind)[:3]
        assert row == (f"{kind} average", "60", *(f"{value:.2%}" for value in expected), "")


@pytest.mark.parametrize(
    ("num_classes", "table", "heat_map"),
    [(30, True, False), (31, False, True), (300, False, True), (301, False, False)],
)
def test_the_matrix_is_a_table_then_a_drawing_then_absent(num_classes: int, table: bool, heat_map: bool) -> None:
    labels = list(range(num_classes))
    section = evaluation_section(make_run(predictions_of([1, *labels[1:]], num_classes), labels))
    assert section is not None
    assert (bool(section.matrix), section.heat_map is not None) == (table, heat_map)
    assert section.confusions == [("class 0", "class 1", "1", "100.00%")]


def test_of_many_classes_those_with_the_lowest_f1_are_shown() -> None:
    labels = list(range(150)) * 2
    predicted = labels.copy()
    predicted[7], predicted[157], predicted[20] = 8, 8, 21  # class 7 is never right, class 20 once
    section = evaluation_section(make_run(predictions_of(predicted, 150), labels))
    assert section is not None
    assert len(section.per_class) == 40
    assert [row[0] for row in section.per_class[:4]] == ["class 7", "class 8", "class 20", "class 21"]
    assert section.per_class[0][1:5] == ("2", "–", "0.00%", "0.00%")
    assert section.per_class_note == "The 40 of 150 classes with the lowest F1, lowest first."
    assert section.averages[0][3] == "99.00%"  # of all classes


def test_the_most_confused_pairs_are_counted_if_not_all_are_shown() -> None:
    labels = list(range(30))
    section = evaluation_section(make_run(predictions_of([*labels[1:], 0], 30), labels))
    assert section is not None
    assert len(section.confusions) == 20
    assert section.confusions_note == "The 20 most frequent of 30."


def test_a_run_without_predictions_has_no_section() -> None:
    assert evaluation_section(RunData("run", Path("run"), Config(), [], {})) is None


def test_stored_metrics_have_a_row_each_and_averages_and_unknown_ones_none() -> None:
    run = make_run(LOGITS, LABELS)
    entries = {
        "macro_f1": {"value": 0.5, "interval": [0.25, 0.75]},
        "macro_recall": {"value": 0.5, "interval": None},
        "roc_auc": {"value": None, "interval": None},
        "of_the_future": {"value": 1.0, "interval": None},
    }
    section = evaluation_section(dataclasses.replace(run, summary={"test_metrics": entries}))
    assert section is not None
    assert section.metrics == [("macro F1", "50.00%", "25.00% to 75.00%"), ("ROC AUC, one vs rest", "–", "")]
    section = evaluation_section(run)
    assert section is not None
    assert section.metrics == []
