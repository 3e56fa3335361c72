"""Tests of fcnet.experiment.calibration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from torch.testing import assert_close

import fcnet
from fcnet.config.schema import Config
from fcnet.config.toml import dump_config
from fcnet.evaluation.prediction_files import read_predictions
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.models.mlp import logits_to_probabilities
from tests.helpers import advance_run, run_result

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from fcnet.data.batches import Batches
    from fcnet.experiment.build import Experiment

pytestmark = pytest.mark.usefixtures("isolated_cache")
CPU = torch.device("cpu")


def make_config(*, calibrate: bool = True, num_classes: int = 4, **train: Any) -> Config:
    data = {"source": "synthetic", "shape": (1, 4, 5), "train_size": 200, "test_size": 80, "validation": 0.4}
    settings = {"epochs": 3, "batch_size": 20, "diagnostics_every": 0, "threads": 1, "calibrate": calibrate} | train
    return Config.model_validate(
        {
            "data": data | {"num_classes": num_classes},
            "model": {"hidden": (16,)},
            "optimizer": {"lr": 0.1},
            "train": settings,
        }
    )


def train_run(path: Path, config: Config) -> tuple[Experiment, Run]:
    experiment, run = build(config, CPU), Run.create(path, "run", dump_config(config))
    advance_run(experiment, run)
    return experiment, run


def compute_logits(run: Run, batches: Batches) -> tuple[Tensor, Tensor]:
    """The logits of a saved model in float64, (N, C), and the labels, by torch alone."""
    model = fcnet.load(run.path).model
    with torch.no_grad():
        logits = torch.cat([model(batch.images) for batch in batches]).double()
    two = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
    return two, torch.cat([batch.labels for batch in batches])


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    return torch.nn.functional.cross_entropy(logits, labels).item()


def expected_calibration_error(logits: Tensor, labels: Tensor) -> float:
    """The error over 15 bins of equal width, from its definition."""
    confidence, classes = logits.float().softmax(1).max(1)
    total = 0.0
    for low in range(15):
        members = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if members.any():
            gap = (classes[members] == labels[members]).double().mean() - confidence[members].double().mean()
            total += float(members.double().mean() * gap.abs())
    return total


@pytest.mark.parametrize(
    ("num_classes", "train"),
    [
        (4, {}),
        (2, {}),
        (4, {"ema_decay": 0.5, "patience": 2, "select": "validation_loss"}),
        (2, {"loss": "logistic", "label_smoothing": 0.2}),
    ],
)
def test_the_saved_model_is_that_of_the_training_divided_by_the_temperature_of_the_validation_images(
    num_classes: int, train: dict[str, Any], tmp_path: Path
) -> None:
    experiment, plain = train_run(tmp_path / "plain", make_config(num_classes=num_classes, calibrate=False, **train))
    _, run = train_run(tmp_path / "run", make_config(num_classes=num_classes, **train))
    calibration, classifier = run.summary()["calibration"], fcnet.load(run.path)
    temperature = calibration["temperature"]
    assert temperature == classifier.temperature != 1.0
    assert (calibration["reason"], fcnet.load(plain.path).temperature) == (None, None)
    assert calibration["gap"] < 1e-15
    before, after = (load_file(each.path / "model.safetensors") for each in (plain, run))
    last = f"model.layers.{len(classifier.model.layers) - 1}."
    for name, tensor in before.items():
        expected = (tensor.double() / temperature).float() if name.startswith(last) else tensor
        assert torch.equal(after[name], expected), name

    assert experiment.training.validation is not None
    sets = {"validation": experiment.training.validation, "test": experiment.test}
    logits, labels = compute_logits(plain, sets["validation"])
    found = minimize_scalar(
        lambda t: cross_entropy(logits / math.exp(t), labels), bounds=(-4, 4), options={"xatol": 1e-10}
    )
    assert temperature == pytest.approx(math.exp(found.x), rel=1e-5)
    for name, batches in sets.items():
        for moment, trained in (("before", plain), ("after", run)):
            figures, (logits, labels) = calibration[name][moment], compute_logits(trained, batches)
            assert figures["log_loss"] == pytest.approx(cross_entropy(logits, labels), rel=1e-5)
            assert figures["calibration_error"] == pytest.approx(expected_calibration_error(logits, labels), abs=1e-6)
            assert sum(count for count, _, _ in figures["bins"]) == batches.num_images
    assert calibration["validation"]["after"]["log_loss"] < calibration["validation"]["before"]["log_loss"]


def test_the_other_results_are_those_of_the_saved_model_and_the_learning_curve_is_that_of_the_training(
    tmp_path: Path,
) -> None:
    _, plain = train_run(tmp_path / "plain", make_config(calibrate=False, select="brier_score", patience=3))
    _, run = train_run(tmp_path / "run", make_config(select="brier_score", patience=3))
    ours, theirs = run.summary(), plain.summary()
    calibration = ours["calibration"]
    assert ours["test_loss"] == calibration["test"]["after"]["log_loss"] != theirs["test_loss"]
    assert ours["validation_loss"] == calibration["validation"]["after"]["log_loss"] != theirs["validation_loss"]
    assert theirs["test_loss"] == calibration["test"]["before"]["log_loss"]
    assert theirs["validation_loss"] == calibration["validation"]["before"]["log_loss"]
    assert ours["validation_score"] != theirs["validation_score"]
    assert ours["test_accuracy"] == theirs["test_accuracy"]
    curves = [[{**line, "seconds": 0, "images_per_second": 0} for line in each.records()] for each in (run, plain)]
    assert curves[0] == curves[1]
    predictions, others = (read_predictions(each.path) for each in (run, plain))
    assert predictions is not None
    assert others is not None
    assert torch.equal(predictions.classes, others.classes)
    classifier = fcnet.load(run.path)
    batches = build(make_config(), CPU).test
    with torch.no_grad():
        probabilities = torch.cat([logits_to_probabilities(classifier.model(batch.images)) for batch in batches])
    assert_close(predictions.true_probabilities, probabilities.gather(1, predictions.labels[:, None])[:, 0])


def test_without_calibration_no_file_has_a_word_of_it(tmp_path: Path) -> None:
    _, run = train_run(tmp_path / "run", make_config(calibrate=False))
    assert "calibration" not in run.summary()
    assert "temperature" not in (run.path / "model.json").read_text()


def test_where_no_temperature_is_best_the_model_stays_and_a_warning_says_why(tmp_path: Path) -> None:
    pixels = np.repeat(np.array([0, 255], np.uint8), 40)[:, None, None] * np.ones((4, 4), np.uint8)
    labels = np.repeat(np.arange(2), 40)
    arrays = {f"{name}_{split}": x for split in ("train", "test") for name, x in (("x", pixels), ("y", labels))}
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    data = {"source": "arrays", "path": str(tmp_path / "x.npz"), "validation": 0.25}
    config = Config.model_validate({"data": data, "optimizer": {"lr": 0.05}, "train": {"epochs": 9, "calibrate": True}})
    _, run = train_run(tmp_path / "run", config)
    _, plain = train_run(
        tmp_path / "plain", config.model_copy(update={"train": config.train.model_copy(update={"calibrate": False})})
    )
    summary = run.summary()
    reason = "every image is classified correctly, and the loss falls as T → 0"
    calibration = summary["calibration"]
    assert (calibration["temperature"], calibration["reason"], calibration["gap"]) == (1.0, reason, None)
    assert calibration["test"]["before"] == calibration["test"]["after"]
    assert f"the temperature of train.calibrate stays 1: {reason}" in summary["warnings"]
    for name in ("model.json", "model.safetensors"):
        assert (run.path / name).read_bytes() == (plain.path / name).read_bytes()


@pytest.mark.parametrize("place", ["write_predictions", "_training_warnings", "calibrate"])
def test_a_run_killed_around_the_fit_resumes_to_the_same_result(place: str, tmp_path: Path) -> None:
    config = make_config(ema_decay=0.5, diagnostics_every=2)
    _, whole = train_run(tmp_path / "whole", config)
    run = Run.create(tmp_path / "run", "run", dump_config(config))
    with (
        mock.patch(f"fcnet.experiment.runner.{place}", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        advance_run(build(config, CPU), run)
    assert not run.finished
    advance_run(build(config, CPU), run)
    assert run_result(run.path) == run_result(whole.path)
