"""Tests of fcnet.sklearn.examples: sparse rows make the same batches as dense ones, and weights are in the targets."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch

from fcnet.losses import CrossEntropy
from fcnet.sklearn.examples import Examples

RNG = np.random.default_rng(0)
X = RNG.normal(size=(25, 4)) * (RNG.random((25, 4)) < 0.5)
LABELS = RNG.integers(3, size=25)
MEAN, STD = X.mean(0), X.std(0)


def make_examples(x: object = X, weight: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None) -> Examples:
    return Examples(x, LABELS, MEAN, STD, num_classes=3, weight=weight, batch_size=8)


def test_rows_are_standardized() -> None:
    images = torch.cat([batch.images for batch in make_examples()])
    torch.testing.assert_close(images, torch.from_numpy((X - MEAN) / STD).float())


def test_sparse_rows_make_the_same_batches() -> None:
    dense, sparse = make_examples(), make_examples(scipy.sparse.csr_matrix(X))
    for ours, theirs in zip(sparse.epoch(3, 1), dense.epoch(3, 1), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.target, theirs.target)
    assert torch.equal(sparse.example(), dense.example())
    assert torch.equal(
        torch.cat([batch.images for batch in sparse.select(torch.tensor([4, 2]))]),
        torch.cat([batch.images for batch in dense.select(torch.tensor([4, 2]))]),
    )


def test_a_sparse_matrix_is_not_made_dense() -> None:
    huge = scipy.sparse.csr_matrix(([1.0], ([0], [0])), shape=(25, 2**40))
    examples = Examples(huge, LABELS, np.zeros(1), np.ones(1), num_classes=3, batch_size=8)
    assert examples.images.untyped_storage().nbytes() < 100


def test_the_weighted_loss_is_the_weighted_mean() -> None:
    weight = RNG.uniform(0.1, 5.0, 25)
    logits = torch.randn(25, 3, generator=torch.Generator().manual_seed(0))
    batches = list(make_examples(weight=weight))
    total = sum(CrossEntropy()(part, batch.target) for part, batch in zip(logits.split(8), batches, strict=True))
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS), reduction="none").numpy()
    np.testing.assert_allclose(float(total) / 25, (weight * losses).sum() / weight.sum(), rtol=1e-6)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), torch.from_numpy(LABELS))


def test_equal_weights_are_no_weights() -> None:
    batch = next(iter(make_examples(weight=np.full(25, 3.0))))
    assert batch.target is batch.labels
