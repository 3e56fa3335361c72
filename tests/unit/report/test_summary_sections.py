"""Tests of fcnet.report.summary_sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fcnet.config.schema import Config, Train
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.report.run_data import RunData
from fcnet.report.summary_sections import key_figures, parameters_section, run_details
from tests.helpers import make_summary, random_classifier

COMMAND = {
    "time": "2026-11-30T02:14:09+01:00",
    "command": "fcnet train digits",
    "fcnet": "0.1.0",
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "modified": True},
    "sources": {},
}


def make_run(**changes: Any) -> RunData:
    classifier = random_classifier((1, 2, 2), 3)
    return RunData("run", Path("run"), Config(), [], make_summary(), classifier=classifier, **changes)


def test_the_figures_of_a_finished_run_have_one_number_format() -> None:
    run = RunData("run", Path("run"), Config(), [], make_summary(parameters=1_234_567, train_seconds=75.2, steps=9_000))
    figures = {label: (figure, note) for label, figure, note in key_figures(run)}
    assert figures == {
        "test accuracy": ("50.00%", "95% interval 25.00% to 75.00%"),
        "test loss": ("1.5000", "30 images"),
        "validation accuracy": ("75.00%", "10 images"),
        "training time": ("1 min 15 s", "1 epoch, 9,000 steps"),
        "parameters": ("1,234,567", ""),
    }


def test_an_unfinished_run_has_its_epochs() -> None:
    run = RunData("run", Path("run"), Config(train=Train(epochs=2000)), [], {})
    assert key_figures(run) == [("epochs", "0 of 2,000", "the run is not finished")]


@pytest.mark.parametrize(("batch_size", "text"), [(2048, "2,048"), ("all", "all")])
def test_the_batch_size_is_a_number_or_all_images(batch_size: Any, text: str) -> None:
    classifier = random_classifier((1, 2, 2), 3)
    config = Config(train=Train(batch_size=batch_size))
    details = dict(run_details(RunData("run", Path("run"), config, [], make_summary(), classifier=classifier)))
    assert f"batch size {text}, " in details["training"]


def test_the_origin_of_a_run_is_its_folder_and_its_commands() -> None:
    details = dict(run_details(make_run(commands=[COMMAND])))
    assert details["run"] == str(Path("run").absolute())
    assert details["started"] == "2026-11-30 02:14 UTC+01:00"
    assert details["command"] == "fcnet train digits"
    assert details["git commit"] == "0123456789ab, with uncommitted changes"
    assert "resumed" not in details


def test_a_resumed_run_says_when_and_by_which_command() -> None:
    again = COMMAND | {"time": "2026-12-01T10:00:00+01:00", "command": "fcnet train --resume run"}
    details = dict(run_details(make_run(commands=[COMMAND | {"git": None}, again])))
    assert "git commit" not in details
    assert details["resumed"] == "2026-12-01 10:00 UTC+01:00, last with fcnet train --resume run"


def test_a_run_of_an_older_version_has_no_command() -> None:
    assert {"started", "command", "git commit", "resumed"}.isdisjoint(dict(run_details(make_run())))


def test_each_layer_has_its_parameters() -> None:
    run = make_run()
    section = parameters_section(run)
    assert section is not None
    assert isinstance(run.classifier, ImageClassifier)
    counts = [
        sum(parameter.numel() for parameter in layer.parameters()) for layer in run.classifier.model.dense_layers()
    ]
    assert [row[3] for row in section.rows] == [f"{count:,}" for count in counts]
    assert section.total == f"{sum(counts):,}"
    assert [row[0] for row in section.rows] == [str(number) for number in range(1, len(counts) + 1)]
    assert parameters_section(RunData("run", Path("run"), Config(), [], {})) is None
