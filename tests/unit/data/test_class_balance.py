"""Tests of class weights, of balanced sampling, and of batches with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.testing import assert_close

from fcnet.data.batches import Augmentation, Batches
from fcnet.data.class_balance import class_weights, sample_balanced
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.runtime.errors import UserError

LABELS = torch.tensor([0] * 60 + [1] * 25 + [2] * 15)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
IMAGES = torch.arange(100.0)[:, None]


def batches(balance: str = "none", batch_size: int = 9, rows: torch.Tensor | None = None) -> Batches:
    return Batches(IMAGES, LABELS, batch_size=batch_size, balance=balance, rows=rows)


def test_weights_are_scikit_learns_and_their_mean_over_the_images_is_1() -> None:
    weights = class_weights(LABELS, 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    assert_close(weights.double(), torch.from_numpy(expected), rtol=1e-6, atol=0)
    assert_close(weights[LABELS].mean(), torch.tensor(1.0))


def test_a_class_without_images_has_weight_0_and_does_not_affect_the_others() -> None:
    assert_close(class_weights(torch.tensor([0, 0, 3, 0]), 5), torch.tensor([2 / 3, 0, 0, 2, 0]))


def test_classes_and_the_images_of_a_class_are_equally_likely() -> None:
    labels = LABELS.repeat(200)
    rows = sample_balanced(labels, torch.Generator().manual_seed(0))
    counts = labels[rows].bincount().double()
    assert_close(counts, torch.full((3,), 20_000 / 3).double(), rtol=0, atol=4 * math.sqrt(20_000 * 2 / 9))
    of_rarest = (rows[labels[rows] == 2] % 100).bincount(minlength=100)
    (indices,) = (LABELS == 2).nonzero(as_tuple=True)
    assert set(of_rarest.nonzero().flatten().tolist()) == set(indices.tolist())
    counts = of_rarest[indices].double()
    assert_close(counts, counts.mean().expand_as(counts), rtol=0, atol=5 * math.sqrt(float(counts.mean())))


def test_an_absent_class_is_never_drawn() -> None:
    labels = torch.tensor([1, 4, 4, 4])
    seen = {
        int(labels[row]) for seed in range(20) for row in sample_balanced(labels, torch.Generator().manual_seed(seed))
    }
    assert seen == {1, 4}


def test_a_sampled_epoch_has_the_same_size_and_depends_on_seed_and_epoch_alone() -> None:
    rows = torch.arange(0, 100, 2)

    def epoch(seed: int, number: int, batch_size: int = 9, start: int = 0) -> list[float]:
        parts = batches("sampling", batch_size, rows).epoch(seed, number, start=start)
        return [value for part in parts for value in part.images.flatten().tolist()]

    first = epoch(0, 0)
    assert len(first) == 50
    assert set(first) <= set(rows.tolist())
    assert len(set(first)) < 50
    assert first == epoch(0, 0, batch_size=4)
    assert first[18:] == epoch(0, 0, start=2)
    assert first != epoch(0, 1)
    assert first != epoch(1, 0)


def test_sampled_images_keep_their_labels() -> None:
    for batch in batches("sampling").epoch(0, 0):
        assert torch.equal(batch.labels, LABELS[batch.images.flatten().long()])
        assert batch.target is batch.labels


def test_weights_are_computed_from_the_selected_rows() -> None:
    rows = (LABELS != 1).nonzero().squeeze(1)
    for batch in batches("weights", rows=rows).epoch(0, 0):
        assert batch.target.shape == (len(batch.labels), 3)
        expected = torch.where(batch.labels == 0, 75 / (2 * 60), 75 / (2 * 15))
        assert_close(batch.target[torch.arange(len(batch.labels)), batch.labels], expected)
        assert_close(batch.target.sum(1), expected)


def test_iteration_neither_weights_nor_samples() -> None:
    for balance in ("weights", "sampling"):
        parts = list(batches(balance))
        assert torch.equal(torch.cat([part.images for part in parts]), IMAGES)
        assert all(part.target is part.labels for part in parts)
    unshuffled = batches("sampling").epoch(0, 0, shuffle=False)
    assert torch.equal(torch.cat([part.images for part in unshuffled]), IMAGES)


def test_weights_and_mixing_multiply() -> None:
    pixels = torch.randint(0, 256, (100, 1, 4, 4), dtype=torch.uint8)
    mixing = MixupCutmix(mixup=1.0)
    weighted = Batches(pixels, LABELS, augmentation=Augmentation(mixing=mixing), balance="weights")
    (ours,), (plain,) = (
        weighted.epoch(0, 0),
        Batches(pixels, LABELS, augmentation=Augmentation(mixing=mixing)).epoch(0, 0),
    )
    assert_close(ours.target, plain.target * class_weights(LABELS, 3))
    assert torch.equal(ours.labels, plain.labels)


def test_an_unknown_balance_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^balance must be one of none, weights, sampling, got 'even'$"):
        batches("even")
