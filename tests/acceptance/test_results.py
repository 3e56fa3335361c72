"""What the shipped configurations reach on real images; the JPEG copy stands in for CIFAR-10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fcnet import cli, train
from fcnet.build import build
from fcnet.config import load_config
from fcnet.metrics import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGS = Path(__file__).parents[2] / "configs"
pytestmark = pytest.mark.data

Trained = tuple[dict[str, Any], list[str]]


@pytest.fixture
def trained(tmp_path: Path, image_archive: Path) -> Callable[[str], Trained]:
    """Trains a shipped configuration on the archive; gives its summary and the settings that were changed."""

    def run(name: str) -> Trained:
        changes = ["data.source=images", f"data.path={image_archive}"]
        flags = [part for change in changes for part in ("--set", change)]
        code = train.main(["--config", str(CONFIGS / f"{name}.toml"), "--out", str(tmp_path / name), *flags])
        assert code == 0
        summary: dict[str, Any] = json.loads((tmp_path / name / "summary.json").read_text())
        cli.say(f"{name}: {summary['test_accuracy']:.4f} in {summary['train_seconds']:.1f} s")
        return summary, changes

    return run


def test_softmax_regression_reaches_41_percent(trained: Callable[[str], Trained]) -> None:
    assert trained("cifar10_softmax")[0]["test_accuracy"] >= 0.41


def test_the_mlp_reaches_61_percent(trained: Callable[[str], Trained]) -> None:
    assert trained("cifar10_mlp")[0]["test_accuracy"] >= 0.61


def test_logistic_regression_is_not_below_scikit_learns(trained: Callable[[str], Trained]) -> None:
    summary, changes = trained("cifar10_logistic")
    config = load_config(CONFIGS / "cifar10_logistic.toml", changes)
    experiment = build(config, torch.device("cpu"))
    training = [(batch.images.flatten(1), batch.labels) for batch in experiment.training.batches]
    test = [(batch.images.flatten(1), batch.labels) for batch in experiment.test]
    images, labels = (torch.cat(parts) for parts in zip(*training, strict=True))
    theirs = LogisticRegression(max_iter=200, C=1e-3).fit(images.numpy(), labels.numpy())
    test_images, test_labels = (torch.cat(parts) for parts in zip(*test, strict=True))
    hits = int((torch.from_numpy(theirs.predict(test_images.numpy())) == test_labels).sum())
    low, high = wilson_interval(hits, len(test_labels))
    accuracy = hits / len(test_labels)
    cli.say(f"scikit-learn: {accuracy:.4f} ({low:.4f} to {high:.4f})")
    assert summary["test_accuracy"] >= accuracy - (high - low) / 2
