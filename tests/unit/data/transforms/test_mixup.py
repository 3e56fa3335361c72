"""Tests of mixup and cutmix, and of batches with them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fcnet.data.batches import Augmentation, Batch, Batches, Preprocessing
from fcnet.data.transforms.augment import Affine, Cutout, Flip, Transform
from fcnet.data.transforms.mixup import MixupCutmix, MixupParams, soft_target
from fcnet.data.transforms.whitening import fit_whitening
from fcnet.runtime import distributed
from fcnet.runtime.seeds import generator

SIZE = (8, 6)
PIXELS = torch.randint(0, 256, (24, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
STATISTICS = (torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3]))
MIXINGS = [MixupCutmix(mixup=0.4), MixupCutmix(cutmix=1.0), MixupCutmix(mixup=0.4, cutmix=1.0)]
AUGMENT: tuple[Transform, ...] = (Flip(), Affine(20.0, 0.2), Cutout(3))


def draw_params(mixing: MixupCutmix, num_images: int = 20_000, seed: int = 0) -> MixupParams:
    return mixing.draw(num_images, SIZE, torch.Generator().manual_seed(seed))


def batches(mixing: MixupCutmix | None, batch_size: int = 7, augment: tuple[Transform, ...] = AUGMENT) -> Batches:
    return Batches(
        PIXELS,
        torch.arange(24),
        batch_size=batch_size,
        augmentation=Augmentation(augment, mixing),
        preprocessing=Preprocessing(*STATISTICS),
    )


def concatenate_batches(parts: list[Batch]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.target for part in parts]),
    )


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_lambda_of_mixup_has_a_beta_distribution(alpha: float) -> None:
    share = draw_params(MixupCutmix(mixup=alpha)).lam.double()
    variance = 1 / (4 * (2 * alpha + 1))
    assert float(share.mean()) == pytest.approx(0.5, abs=4 * math.sqrt(variance / 20_000))
    assert float(share.var()) == pytest.approx(variance, rel=0.03)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.distributions.Beta(alpha, alpha).sample((20_000,)).double()
    parts = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert_close(share.quantile(parts), theirs.quantile(parts), rtol=0, atol=0.02)


@pytest.mark.parametrize("mixing", [MixupCutmix(mixup=5e-324), MixupCutmix(cutmix=1e-300)])
def test_with_a_tiny_alpha_half_of_the_images_are_kept_as_they_are(mixing: MixupCutmix) -> None:
    lam = mixing.draw(10_000, (6, 6), torch.Generator().manual_seed(0)).lam
    assert 0.45 < (lam == 1.0).float().mean() < 0.55
    assert ((lam < 0.8) | (lam == 1.0)).all()  # a box as large as the image covers a quarter of it at least


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_an_uncropped_cutmix_box_has_the_area_that_lambda_gives(alpha: float) -> None:
    mixture = MixupCutmix(cutmix=alpha).draw(40_000, (200, 100), torch.Generator().manual_seed(0))
    assert mixture.box is not None
    first, last = mixture.box.unbind(1)
    # Only boxes of at most half the sides can lie wholly inside for every centre in the middle half.
    within = ((first > 0) & (last < torch.tensor([200, 100]))).all(1)
    small = within & (mixture.lam > 0.75)
    sides = (last - first)[small].double()
    assert_close(sides[:, 0], 2 * sides[:, 1], rtol=0, atol=2.0)
    expected = (1 - mixture.lam[small].double()) * 200 * 100
    assert_close(sides.prod(1), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("mixing", [MixupCutmix(cutmix=1.0), MixupCutmix(mixup=0.4, cutmix=1.0)], ids=str)
def test_lambda_of_cutmix_is_the_fraction_of_pixels_outside_the_box(mixing: MixupCutmix) -> None:
    mixture = draw_params(mixing, 500)
    black, white = torch.zeros(500, 1, *SIZE), torch.ones(500, 1, *SIZE)
    kept = mixture.apply_cutmix(white, black).mean((1, 2, 3))
    is_cutmix = kept < 1.0
    assert_close(kept[is_cutmix], mixture.lam[is_cutmix])
    assert 0.35 * len(kept) < int(is_cutmix.sum())
    corners = mixture.apply_cutmix(white, black)[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).any(1).any()  # a box beyond the edge is cropped


def test_mixup_and_cutmix_have_probability_one_half_each() -> None:
    mixture = draw_params(MixupCutmix(mixup=5.0, cutmix=1.0))
    assert mixture.blend is not None
    assert mixture.box is not None
    is_cutmix = (mixture.box[:, 0] < mixture.box[:, 1]).all(1)
    assert (mixture.blend[is_cutmix] == 1.0).all()
    is_mixup = mixture.blend < 1.0
    assert not (is_mixup & is_cutmix).any()
    assert 0.48 < float(is_mixup.double().mean()) < 0.52
    assert_close(mixture.lam[is_mixup], mixture.blend[is_mixup])
    assert float(mixture.lam[is_mixup].double().var()) == pytest.approx(1 / 44, rel=0.05)


@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_partners_are_a_permutation_that_depends_on_the_generator_alone(mixing: MixupCutmix) -> None:
    first = draw_params(mixing, 50)
    torch.manual_seed(99)
    again = draw_params(mixing, 50)
    assert sorted(first.partner.tolist()) == list(range(50))
    assert first.partner.tolist() == again.partner.tolist() != draw_params(mixing, 50, seed=1).partner.tolist()
    assert torch.equal(first.lam, again.lam)
    assert not torch.equal(first.lam, draw_params(mixing, 50, seed=1).lam)


@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_a_mixed_image_combines_two_augmented_images_of_the_epoch(mixing: MixupCutmix) -> None:
    """Finds each mixed image again from two images of the epoch without mixing."""
    plain, labels, _ = concatenate_batches(list(batches(None).epoch(1, 2)))
    mixed, larger, target = concatenate_batches(list(batches(mixing).epoch(1, 2)))
    drawn_partners = mixing.draw(24, SIZE, generator(1, "mixing", 2)).partner
    for position, label in enumerate(labels.tolist()):
        shares = {other: share for other, share in enumerate(target[position].tolist()) if share and other != label}
        (partner, share), *rest = shares.items() or [(label, 0.0)]
        assert not rest
        assert partner in {label, labels[drawn_partners[position]].item()}
        assert float(target[position].sum()) == pytest.approx(1.0)
        own, other = plain[position], plain[labels.tolist().index(partner)]
        apply_cutmix = (mixed[position] == own) | ((mixed[position] - other).abs() < 1e-6)
        if apply_cutmix.all():
            kept = ((mixed[position] - own).abs() < 1e-6).all(0).double().mean().item()
            assert kept >= 1 - share - 1e-6
        else:
            assert_close(mixed[position], (1 - share) * own + share * other, rtol=1e-4, atol=1e-5)
        if share != pytest.approx(0.5):
            assert larger[position].item() == (label if share < 0.5 else partner)


@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_mixing_depends_on_neither_the_batch_size_nor_the_first_batch(mixing: MixupCutmix, batch_size: int) -> None:
    whole = concatenate_batches(list(batches(mixing).epoch(0, 3)))
    for ours, theirs in zip(concatenate_batches(list(batches(mixing, batch_size).epoch(0, 3))), whole, strict=True):
        assert torch.equal(ours, theirs)
    later = concatenate_batches(list(batches(mixing, 7).epoch(0, 3, start=2)))
    for ours, theirs in zip(later, whole, strict=True):
        assert torch.equal(ours, theirs[14:])
    recycled = [part.images.clone() for part in batches(mixing).epoch(0, 3, reuse_buffer=True)]
    assert torch.equal(torch.cat(recycled), whole[0])


@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_ranks_share_mixed_batches(mixing: MixupCutmix, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = concatenate_batches(list(batches(mixing).epoch(0, 0)))
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    ranks = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        ranks.append(list(batches(mixing).epoch(0, 0)))
    together = concatenate_batches(
        [part for number in range(len(ranks[0])) for part in (ranks[rank][number] for rank in range(3))]
    )
    for ours, theirs in zip(together, whole, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_mixed_images_are_whitened_last(mixing: MixupCutmix) -> None:
    plain = batches(mixing)
    whitening = fit_whitening([batch.images for batch in plain], 5)
    whitened = Batches(
        PIXELS,
        torch.arange(24),
        batch_size=7,
        augmentation=Augmentation(AUGMENT, mixing),
        preprocessing=Preprocessing(*STATISTICS, whitening=whitening),
    )
    for ours, theirs in zip(whitened.epoch(0, 1, reuse_buffer=True), plain.epoch(0, 1), strict=True):
        assert_close(ours.images, whitening(theirs.images))


def test_iteration_does_not_mix() -> None:
    for batch, other in zip(batches(MIXINGS[2]), batches(None), strict=True):
        assert torch.equal(batch.images, other.images)
        assert batch.target is batch.labels


def test_a_target_holds_the_weights_of_both_labels() -> None:
    labels = torch.tensor([[0, 2, 1], [1, 2, 0]])
    share, weights = torch.tensor([0.75, 0.25, 0.0]), torch.tensor([1.0, 2.0, 4.0])
    assert_close(soft_target(labels, share, None, 3), torch.tensor([[0.75, 0.25, 0], [0, 0, 1], [1, 0, 0]]))
    assert_close(soft_target(labels, share, weights, 3), torch.tensor([[0.75, 0.5, 0], [0, 0, 4], [1, 0, 0]]))
    assert_close(soft_target(labels[:1], None, weights, 3), torch.tensor([[1.0, 0, 0], [0, 0, 4], [0, 2, 0]]))
