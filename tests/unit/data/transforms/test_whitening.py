"""Tests of whitening, alone, in batches and in classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.testing import assert_close

from fcnet.data.batches import Batches, Preprocessing, normalize
from fcnet.data.transforms.whitening import VARIANCE_FLOOR, Whitening, fit_whitening
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import LogisticRegression
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

STATISTICS = torch.tensor([0.5, 0.4]), torch.tensor([0.2, 0.3])


def correlated_rows(size: int = 500, features: int = 8) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    mixing = torch.randn(features, features, generator=draws) + 2.0
    return torch.randn(size, features, generator=draws) @ mixing + torch.arange(features)


def random_pixels(size: int = 60) -> Tensor:
    return torch.randint(0, 256, (size, 2, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_components_are_scikit_learns_with_a_variance_floor() -> None:
    x = correlated_rows()
    theirs = PCA(5, svd_solver="full").fit(x.double().numpy())
    variances = torch.from_numpy(theirs.explained_variance_) * (len(x) - 1) / len(x)
    expected = torch.from_numpy(theirs.transform(x.double().numpy())) / (variances + VARIANCE_FLOOR).sqrt()
    ours = fit_whitening([x], 5)(x).double()
    signs = (ours * expected).sum(0).sign()
    assert_close(ours, expected * signs, rtol=1e-3, atol=1e-3)  # the eigenvectors are float32


def test_the_batch_size_changes_only_rounding() -> None:
    x = correlated_rows()
    whole, parts = fit_whitening([x], 4), fit_whitening(x.split(7), 4)
    assert_close(parts(x), whole(x), rtol=1e-3, atol=1e-3)


def test_whitened_components_are_uncorrelated_and_of_unit_variance_at_most() -> None:
    z = fit_whitening([correlated_rows()], 8)(correlated_rows())
    covariance = z.T @ z / len(z)
    assert_close(covariance - covariance.diag().diag(), torch.zeros(8, 8), rtol=0, atol=1e-2)
    assert (covariance.diag() <= 1.0).all()
    assert covariance[0, 0] > 0.99
    assert_close(z.mean(0), torch.zeros(8), rtol=0, atol=1e-3)


def test_an_eigenvectors_largest_entry_is_positive() -> None:
    weight = fit_whitening([correlated_rows()], 8).weight
    assert (weight.gather(1, weight.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("components", [0, 9])
def test_more_components_than_values_are_an_error(components: int) -> None:
    with pytest.raises(UserError, match=f"data.whiten must be at most the 8 values of an image, got {components}"):
        fit_whitening([correlated_rows()], components)
    with pytest.raises(UserError, match="whitening needs at least one training image, got none"):
        fit_whitening([], 1)


def test_batches_are_whitened_after_normalization() -> None:
    whitening = fit_whitening([normalize(random_pixels(), *STATISTICS)], 4)
    batches = Batches(
        random_pixels(), torch.arange(60), batch_size=7, preprocessing=Preprocessing(*STATISTICS, whitening=whitening)
    )
    for batch in batches.epoch(0, 0, reuse_buffer=True):
        assert_close(batch.images, whitening(normalize(random_pixels()[batch.labels], *STATISTICS)))
    with pytest.raises(UserError, match="images must be uint8 to be augmented or whitened"):
        Batches(random_pixels().float(), torch.arange(60), preprocessing=Preprocessing(whitening=whitening))


def test_a_classifier_whitens_its_input_also_after_loading(tmp_path: Path) -> None:
    mean, std = STATISTICS
    whitening = fit_whitening([normalize(random_pixels(), mean, std)], 4)
    model = LogisticRegression(4, 3, generator=torch.Generator().manual_seed(2))
    classifier = ImageClassifier(model, classes="abc", shape=(2, 2, 3), mean=mean, std=std, whitening=whitening)
    logits = classifier(random_pixels())
    assert_close(logits, model(whitening(normalize(random_pixels(), mean, std))), rtol=0, atol=0)
    classifier.save(tmp_path / "model", {})
    again = ImageClassifier.load(tmp_path / "model")
    assert isinstance(again.whitening, Whitening)
    assert_close(again(random_pixels()), logits, rtol=0, atol=0)
