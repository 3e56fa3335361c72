"""Accuracies of the presets on real images; the JPEG copy stands in for CIFAR-10."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fcnet import cli, train
from fcnet.config.toml import load_config
from fcnet.experiment.build import build
from fcnet.metrics import wilson_interval
from tests.helpers import read_summary, set_flags

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from fcnet.data.batches import Batches

CONFIGS = Path(__file__).parents[2] / "configs"
pytestmark = pytest.mark.data

TrainedPreset = tuple[dict[str, Any], list[str]]


@pytest.fixture
def train_preset(tmp_path: Path, image_archive: Path) -> Callable[[str], TrainedPreset]:
    """Trains a preset on the archive; returns its summary and the changed settings."""

    def run(name: str) -> TrainedPreset:
        changes = ["data.source=images", f"data.path={image_archive}"]
        config = str(CONFIGS / f"{name}.toml")
        assert train.main(["--config", config, "--out", str(tmp_path / name), *set_flags(*changes)]) == 0
        summary = read_summary(tmp_path / name)
        cli.print_status(f"{name}: {summary['test_accuracy']:.4f} in {summary['train_seconds']:.1f} s")
        return summary, changes

    return run


def test_softmax_regression_reaches_41_percent(train_preset: Callable[[str], TrainedPreset]) -> None:
    assert train_preset("cifar10_softmax")[0]["test_accuracy"] >= 0.41


def test_the_mlp_reaches_66_percent(train_preset: Callable[[str], TrainedPreset]) -> None:
    assert train_preset("cifar10_mlp")[0]["test_accuracy"] >= 0.66


def test_logistic_regression_is_not_worse_than_scikit_learns(train_preset: Callable[[str], TrainedPreset]) -> None:
    """Compares with scikit-learn's default, and with its best penalty on the same validation images."""
    summary, changes = train_preset("cifar10_logistic")
    experiment = build(load_config(CONFIGS / "cifar10_logistic.toml", changes), torch.device("cpu"))
    assert experiment.training.validation is not None
    sets = experiment.training.batches, experiment.training.validation, experiment.test
    (train, train_labels), (validation, validation_labels), (test, test_labels) = map(to_arrays, sets)
    fitted = [LogisticRegression(C=c, max_iter=2000).fit(train, train_labels) for c in (1.0, 1e-2, 1e-3, 1e-4)]
    best = max(fitted, key=lambda theirs: theirs.score(validation, validation_labels))
    for theirs in (fitted[0], best):
        accuracy = theirs.score(test, test_labels)
        low, high = wilson_interval(round(accuracy * len(test)), len(test))
        cli.print_status(f"scikit-learn with C = {theirs.C}: {accuracy:.4f} ({low:.4f} to {high:.4f})")
        assert summary["test_accuracy"] >= accuracy - (high - low) / 2


def to_arrays(batches: Batches) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Returns a whole dataset in order: the model's inputs (N, D) and labels (N,)."""
    parts = list(batches)
    images, labels = (
        torch.cat([part.images.flatten(1) for part in parts]),
        torch.cat([part.labels for part in parts]),
    )
    return images.numpy(), labels.numpy()
