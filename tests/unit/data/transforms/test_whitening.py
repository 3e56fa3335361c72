"""Rules of fcnet.data.transforms.whitening, and of batches and networks that whiten."""

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


def correlated(size: int = 500, features: int = 8) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    mixing = torch.randn(features, features, generator=draws) + 2.0
    return torch.randn(size, features, generator=draws) @ mixing + torch.arange(features)


def pixels(size: int = 60) -> Tensor:
    return torch.randint(0, 256, (size, 2, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_components_are_scikit_learns_with_a_floor_under_their_variance() -> None:
    x = correlated()
    theirs = PCA(5, svd_solver="full").fit(x.double().numpy())
    variances = torch.from_numpy(theirs.explained_variance_) * (len(x) - 1) / len(x)
    expected = torch.from_numpy(theirs.transform(x.double().numpy())) / (variances + VARIANCE_FLOOR).sqrt()
    ours = fit_whitening([x], 5)(x).double()
    signs = (ours * expected).sum(0).sign()
    assert_close(ours, expected * signs, rtol=1e-3, atol=1e-3)  # the directions are found in float32


def test_the_parts_that_images_come_in_change_nothing_but_rounding() -> None:
    x = correlated()
    whole, parts = fit_whitening([x], 4), fit_whitening(x.split(7), 4)
    assert_close(parts(x), whole(x), rtol=1e-3, atol=1e-3)


def test_whitened_components_are_uncorrelated_and_of_unit_variance_at_most() -> None:
    z = fit_whitening([correlated()], 8)(correlated())
    covariance = z.T @ z / len(z)
    assert_close(covariance - covariance.diag().diag(), torch.zeros(8, 8), rtol=0, atol=1e-2)
    assert (covariance.diag() <= 1.0).all()
    assert covariance[0, 0] > 0.99
    assert_close(z.mean(0), torch.zeros(8), rtol=0, atol=1e-3)


def test_an_eigenvectors_largest_entry_is_positive() -> None:
    weight = fit_whitening([correlated()], 8).weight
    assert (weight.gather(1, weight.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("components", [0, 9])
def test_more_components_than_values_are_refused(components: int) -> None:
    with pytest.raises(UserError, match=f"data.whiten must be at most the 8 values of an image, got {components}"):
        fit_whitening([correlated()], components)
    with pytest.raises(UserError, match="whitening must be of at least one image, got none"):
        fit_whitening([], 1)


def test_batches_are_whitened_after_they_are_normalised() -> None:
    whitening = fit_whitening([normalize(pixels(), *STATISTICS)], 4)
    batches = Batches(
        pixels(), torch.arange(60), batch_size=7, preprocessing=Preprocessing(*STATISTICS, whitening=whitening)
    )
    for batch in batches.epoch(0, 0, reuse_buffer=True):
        assert_close(batch.images, whitening(normalize(pixels()[batch.labels], *STATISTICS)))
    with pytest.raises(UserError, match="images must be uint8 to be augmented or whitened"):
        Batches(pixels().float(), torch.arange(60), preprocessing=Preprocessing(whitening=whitening))


def test_a_network_whitens_as_its_training_did_also_when_it_is_read_back(tmp_path: Path) -> None:
    mean, std = STATISTICS
    whitening = fit_whitening([normalize(pixels(), mean, std)], 4)
    model = LogisticRegression(4, 3, generator=torch.Generator().manual_seed(2))
    network = ImageClassifier(model, classes="abc", shape=(2, 2, 3), mean=mean, std=std, whitening=whitening)
    logits = network(pixels())
    assert_close(logits, model(whitening(normalize(pixels(), mean, std))), rtol=0, atol=0)
    network.save(tmp_path / "model", {})
    again = ImageClassifier.load(tmp_path / "model")
    assert isinstance(again.whitening, Whitening)
    assert_close(again(pixels()), logits, rtol=0, atol=0)
