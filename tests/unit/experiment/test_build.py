"""Tests of fcnet.experiment.build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fcnet.data import batches as batches_module
from fcnet.data.batches import Augmentation
from tests.unit.experiment.helpers import build_experiment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("isolated_cache")


CPU = torch.device("cpu")


def test_the_normalization_depends_on_the_training_images_alone() -> None:
    experiment = build_experiment({"validation": 0.5, "shape": (3, 6, 5)})
    batches = experiment.training.batches
    pixels = batches.images[batches.rows].double() / 255
    assert_close(experiment.classifier.mean, pixels.mean((0, 2, 3)).float())
    assert_close(experiment.classifier.std, pixels.std((0, 2, 3), correction=0).float())
    images = torch.cat([batch.images for batch in batches]).double()
    assert_close(images.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-6)  # rounding of float32
    assert_close(images.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=0, atol=1e-6)


def test_validation_and_test_images_are_normalized_like_training_images() -> None:
    experiment = build_experiment({"augment": {"flip": True, "shift": 1}})
    validation = experiment.training.validation
    assert validation is not None
    mean, std = experiment.classifier.mean, experiment.classifier.std
    for batches in (validation, experiment.test):
        pixels = batches.images[batches.rows]
        assert_close(torch.cat([batch.images for batch in batches]), (pixels / 255 - mean) / std)
        assert batches.augmentation == Augmentation()


def test_two_classes_by_name_make_a_binary_problem() -> None:
    experiment = build_experiment({"classes": ("3", "1"), "validation": 0.2})
    batches, test = experiment.training.batches, experiment.test
    assert (batches.num_images, test.num_images) == (2 * 20, 7 + 8)
    assert experiment.training.validation is not None
    rows = [*batches.rows.tolist(), *experiment.training.validation.rows.tolist()]
    assert sorted(rows) == [row for row in range(100) if row % 4 in (1, 3)]
    all_labels = torch.arange(100) % 4
    for split, names in ((batches, all_labels[batches.rows]), (test, (torch.arange(30) % 4)[test.rows])):
        assert split.labels[split.rows].tolist() == [{3: 0, 1: 1}[int(name)] for name in names]
    assert experiment.classifier.classes == ("3", "1")
    assert experiment.classifier(torch.zeros(2, 1, 6, 5, dtype=torch.uint8)).shape == (2,)


def test_without_class_names_all_classes_are_used() -> None:
    experiment = build_experiment()
    assert experiment.classifier.classes == ("0", "1", "2", "3")
    assert experiment.test.labels.tolist() == [place % 4 for place in range(30)]


@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
def test_only_the_training_set_is_mixed_and_balanced(balance: str) -> None:
    experiment = build_experiment({"augment": {"mixup": 1.0}, "balance": balance})
    training, validation = experiment.training, experiment.training.validation
    assert validation is not None
    assert training.batches.balance == balance
    for batches in (validation, experiment.test):
        assert (batches.balance, batches.augmentation.mixing) == ("none", None)


def test_an_experiment_is_described_in_one_line() -> None:
    said = build_experiment(
        {"classes": ("0", "1"), "validation": 0.2}, model={"hidden": (7,)}, train={"threads": 2}
    ).describe()
    assert said == (
        "40 training, 10 validation and 16 test images in 2 classes; layers 30-7-1, 225 parameters; cpu, 2 threads"
    )


@pytest.mark.parametrize("every", [0, 7])
def test_the_interval_of_the_snapshots_is_the_configured_one(every: int) -> None:
    assert build_experiment(train={"diagnostics_every": every}).diagnostics_every == every


def test_whitening_is_fitted_on_the_training_images_and_shared() -> None:
    experiment = build_experiment({"whiten": 7, "validation": 0.2})
    x = torch.cat([batch.images for batch in experiment.training.batches]).double()
    covariance = torch.cov(x.T, correction=0)
    assert_close(covariance, covariance.diagonal().diag(), rtol=0, atol=1e-4)  # float32 weights of 30 pixels
    assert experiment.training.validation is not None
    assert experiment.training.validation.preprocessing.whitening is experiment.classifier.whitening
    assert experiment.test.preprocessing.whitening is experiment.classifier.whitening


@pytest.mark.parametrize("whiten", [0, 7])
@pytest.mark.parametrize("own_validation", [False, True])
def test_each_split_moves_to_the_device_once(
    whiten: int, own_validation: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    sizes = {"train": 40, "test": 6} | ({"validation": 8} if own_validation else {})
    arrays: dict[str, Any] = {}
    for name, size in sizes.items():
        arrays |= {f"x_{name}": rng.integers(256, size=(size, 5, 4), dtype=np.uint8), f"y_{name}": np.arange(size) % 2}
    np.savez(tmp_path / "x.npz", **arrays)
    uploads: list[int] = []
    on_device: list[Tensor] = []

    def move(images: Tensor, device: torch.device) -> Tensor:
        if not any(images is tensor for tensor in on_device):
            uploads.append(len(images))
            on_device.append(images.clone())
        return on_device[-1]

    monkeypatch.setattr(batches_module, "_move_if_fits", move)
    data = {"source": "arrays", "path": str(tmp_path / "x.npz"), "validation": 0.25, "whiten": whiten}
    experiment = build_experiment(data)
    assert experiment.training.validation is not None
    assert sorted(uploads) == sorted(sizes.values())
    parts = (experiment.training.batches, experiment.training.validation, experiment.test)
    assert len({batches.labels.data_ptr() for batches in parts}) == len(sizes)
