"""Tests of fcnet.experiment.verification: stored results are changed, and the difference must be found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fcnet
from fcnet import train
from fcnet.evaluation.prediction_files import read_predictions, write_predictions
from fcnet.experiment.build import own_test_data
from fcnet.experiment.run_folder import Run
from fcnet.experiment.verification import Check, verify_results
from tests.helpers import command_output, read_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.evaluation.predictions import Predictions


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verification") / "run"
    command_output(train.main, "--config", "digits", "--out", str(folder), "--set", "train.epochs=2")
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def verify(folder: Path) -> list[Check]:
    run, classifier = Run(folder), fcnet.load(folder)
    test = own_test_data(run.load_config().data, run.data_fingerprint(), classifier, torch.device("cpu"))
    return verify_results(run, classifier, test)


def change_predictions(folder: Path, change: Callable[[Predictions], dict[str, Any]]) -> None:
    predictions = read_predictions(folder)
    assert predictions is not None
    predictions = dataclasses.replace(predictions, **change(predictions))
    write_predictions(folder, predictions, fcnet.load(folder).classes, Run(folder).data_fingerprint())


def change_summary(folder: Path, **changes: Any) -> None:
    Run(folder).finish(read_summary(str(folder)) | changes)


def test_an_unchanged_run_is_equal(run: Path) -> None:
    assert verify(run) == [Check("predictions: equal, 360 images", True), Check("summary: equal, 15 scores", True)]


def test_a_changed_probability_is_found(run: Path) -> None:
    def add(amount: float) -> Callable[[Predictions], dict[str, Any]]:
        def change(predictions: Predictions) -> dict[str, Any]:
            values = predictions.true_probabilities.clone()
            values[7] += amount if values[7] < 0.5 else -amount
            return {"true_probabilities": values}

        return change

    change_predictions(run, add(2e-5))
    assert verify(run)[0] == Check(
        "predictions: equal up to rounding, 0 of 360 images with another class, probabilities by up to 2.0e-05", True
    )
    change_predictions(run, add(1e-3))
    line, is_equal = verify(run)[0]
    assert line.startswith("predictions: different, 0 of 360 images with another class, probabilities by up to ")
    assert not is_equal


def test_another_class_is_found_and_equal_probabilities_may_swap(run: Path) -> None:
    def swap(predictions: Predictions) -> dict[str, Any]:
        classes = predictions.classes.clone()
        surest = int((predictions.probabilities[:, 0] - predictions.probabilities[:, 1]).argmax())
        classes[surest, :2] = classes[surest, :2].flip(0)
        return {"classes": classes}

    change_predictions(run, swap)
    assert verify(run)[0] == Check(
        "predictions: different, 1 of 360 images with another class, probabilities by up to 0.0e+00", False
    )


def test_other_labels_and_another_number_of_images_are_found(run: Path) -> None:
    change_predictions(run, lambda found: {"labels": (found.labels + (torch.arange(360) < 3)) % 10})
    assert verify(run)[0] == Check("predictions: labels of 3 images differ", False)
    names = ("labels", "classes", "probabilities", "true_probabilities", "rows")
    change_predictions(run, lambda found: {name: getattr(found, name)[:100] for name in names})
    assert verify(run)[0] == Check("predictions: 100 are stored for 360 test images", False)


def test_a_changed_score_is_found(run: Path) -> None:
    summary = read_summary(str(run))
    accuracy = summary["test_accuracy"]
    change_summary(run, test_accuracy=accuracy - 1 / 360)
    assert verify(run)[1] == Check(
        f"summary: different, 15 scores, by up to 2.8e-03: test_accuracy {accuracy - 1 / 360:.6g} is stored, "
        f"{accuracy:.6g} is the model's",
        False,
    )
    change_summary(run, test_accuracy=accuracy, test_loss=summary["test_loss"] * (1 + 1e-7))
    line, is_equal = verify(run)[1]
    assert line.startswith("summary: equal up to rounding, 15 scores, by up to ")
    assert is_equal
    metrics = json.loads(json.dumps(summary["test_metrics"]))
    metrics["mean_average_precision"]["value"] = 0.5
    change_summary(run, test_loss=summary["test_loss"], test_metrics=metrics)
    line, is_equal = verify(run)[1]
    assert "mean_average_precision 0.5 is stored" in line
    assert not is_equal


def test_what_an_earlier_run_does_not_have_is_said(run: Path) -> None:
    summary = read_summary(str(run))
    Run(run).finish({name: value for name, value in summary.items() if name != "test_metrics"})
    for name in ("predictions.json", "predictions.safetensors"):
        (run / name).unlink()
    assert verify(run) == [
        Check(f"predictions: not compared: {run}/predictions.json: no such file", True),
        Check("summary: equal, 2 scores; test_metrics are not stored", True),
    ]


def test_damaged_predictions_and_those_of_another_model_are_not_equal(run: Path) -> None:
    (run / "predictions.safetensors").write_bytes(b"x")
    line, is_equal = verify(run)[0]
    assert line.startswith(f"predictions: not compared: {run}/predictions.safetensors")
    assert not is_equal
