"""Tests of batches: order, augmentation, normalization, ranks and splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from fcnet.data.batches import Augmentation, Batch, Batches, Preprocessing, normalize, smallest_part, split_validation
from fcnet.data.transforms.augment import Flip, Shift
from fcnet.runtime import distributed, memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from fcnet.data.transforms.augment import Transform

PIXELS = torch.randint(0, 256, (23, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(23)
STATISTICS = (torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3]))
AUGMENT: tuple[Transform, ...] = (Flip(), Shift(2))


def batches(batch_size: int = 5, augment: tuple[Transform, ...] = (), rows: Tensor | None = None) -> Batches:
    return Batches(
        PIXELS,
        LABELS,
        batch_size=batch_size,
        augmentation=Augmentation(augment),
        rows=rows,
        preprocessing=Preprocessing(*STATISTICS),
    )


def concatenate_batches(batches: Batches, seed: int, epoch: int, start: int = 0) -> tuple[Tensor, Tensor]:
    parts = list(batches.epoch(seed, epoch, start=start))
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])


@given(st.floats(0.0, 1.0), st.floats(1e-3, 0.5))
def test_normalization_agrees_with_its_formula_to_a_fraction_of_a_grey_level(mean: float, std: float) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    statistics = torch.tensor([mean]), torch.tensor([std])
    result = normalize(levels, *statistics)
    expected = (levels.double() / 255 - statistics[0].double()) / statistics[1].double()
    assert result.dtype == torch.float32
    assert float((result - expected).abs().max()) <= 2**-14 / (255 * std)


def test_iteration_yields_every_image_once_without_augmentation() -> None:
    parts = list(batches(augment=AUGMENT))
    assert_close(torch.cat([part.labels for part in parts]), LABELS)
    assert_close(torch.cat([part.images for part in parts]), normalize(PIXELS, *STATISTICS))
    assert [part.size for part in parts] == [5, 5, 5, 5, 3]


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 30))
def test_an_epoch_yields_every_image_once_for_any_batch_size(seed: int, epoch: int, batch_size: int) -> None:
    images, labels = concatenate_batches(batches(batch_size), seed, epoch)
    assert sorted(labels.tolist()) == LABELS.tolist()
    assert_close(images, normalize(PIXELS[labels], *STATISTICS))
    assert labels.tolist() == concatenate_batches(batches(7), seed, epoch)[1].tolist()
    assert len(list(batches(batch_size).epoch(seed, epoch))) == len(batches(batch_size))


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = {tuple(concatenate_batches(batches(), seed, epoch)[1].tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5])
def test_an_epoch_started_late_yields_the_same_batches(start: int) -> None:
    images, labels = concatenate_batches(batches(augment=AUGMENT), 1, 2)
    parts = list(batches(augment=AUGMENT).epoch(1, 2, start=start))
    assert len(parts) == 5 - start
    for number, part in enumerate(parts, start=start):
        assert_close(part.images, images[5 * number : 5 * number + 5], rtol=0, atol=0)
        assert_close(part.labels, labels[5 * number : 5 * number + 5])


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_the_global_batches_of_one_process(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(batches(augment=AUGMENT).epoch(1, 2))
    ranks = []
    for rank in range(world_size):
        monkeypatch.setattr(distributed, "world_size", lambda: world_size)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        ranks.append(list(batches(augment=AUGMENT).epoch(1, 2)))
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert {part.size for part in parts} == {len(batch.labels)}
        assert_close(torch.cat([part.images for part in parts]), batch.images, rtol=0, atol=0)
        assert_close(torch.cat([part.labels for part in parts]), batch.labels)
        assert max(len(part.labels) for part in parts) - min(len(part.labels) for part in parts) <= 1


def test_only_the_selected_rows_are_used() -> None:
    labels = concatenate_batches(batches(rows=torch.tensor([3, 1, 20])), 0, 0)[1]
    assert sorted(labels.tolist()) == [1, 3, 20]


def test_floating_images_are_unchanged() -> None:
    images = torch.randn(9, 4, dtype=torch.float64)
    parts = list(Batches(images, torch.arange(9), batch_size=4))
    assert_close(torch.cat([part.images for part in parts]), images, rtol=0, atol=0)


def test_images_are_augmented_in_order_without_shuffling() -> None:
    parts = list(batches(augment=AUGMENT).epoch(1, 2, shuffle=False))
    assert torch.equal(torch.cat([part.labels for part in parts]), LABELS)
    images = PIXELS
    for index, transform in enumerate(AUGMENT):
        images = transform.apply(images, transform.draw(23, generator(1, "augment", index, 2)))
    assert_close(torch.cat([part.images for part in parts]), normalize(images, *STATISTICS))


def test_making_a_batch_does_not_change_the_images() -> None:
    before = PIXELS.clone()
    concatenate_batches(batches(augment=AUGMENT), 0, 0)
    assert_close(PIXELS, before)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.1, 0.3, 0.9]),
    st.integers(0, 3),
)
def test_a_split_is_a_partition_with_the_same_share_of_each_class(labels: list[int], share: float, seed: int) -> None:
    train, validation = split_validation(torch.tensor(labels), share, seed)
    assert sorted(train.tolist() + validation.tolist()) == list(range(len(labels)))
    for label in set(labels):
        total = labels.count(label)
        num_validation = sum(labels[row] == label for row in validation.tolist())
        assert num_validation == min(round(share * total), total - 1)


def test_a_split_depends_on_the_seed_alone() -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    same = [split_validation(labels, 0.2, 5)[1].tolist() for _ in range(2)]
    assert same[0] == same[1] != split_validation(labels, 0.2, 6)[1].tolist()


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (PIXELS, LABELS[:3], {}, "expected images (N, …) and labels (N,), got (23, 3, 6, 5) and (3,)"),
        (PIXELS, LABELS.float(), {}, "labels must be int64, got torch.float32"),
        (PIXELS[:, 0], LABELS, {}, "uint8 images must be (N, C, H, W), got (23, 6, 5)"),
        (PIXELS.int(), LABELS, {}, "images must be uint8 or of a floating dtype, got torch.int32"),
        (
            PIXELS.float(),
            LABELS,
            {"augmentation": Augmentation((Flip(),))},
            "images must be uint8 to be augmented or whitened, got torch.float32",
        ),
        (PIXELS, LABELS, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error(
    images: Tensor, labels: Tensor, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError) as error:
        Batches(images, labels, **options)  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize(("num_parts", "lengths"), [(1, [7]), (2, [4, 3]), (3, [3, 2, 2]), (9, [1] * 7)])
def test_the_parts_of_a_batch_have_its_images_labels_and_targets_in_order(num_parts: int, lengths: list[int]) -> None:
    batch = Batch(torch.randn(7, 5), torch.arange(7), torch.rand(7, 3), size=20)
    parts = batch.split(num_parts)
    assert [len(part.labels) for part in parts] == lengths
    for column in ("images", "labels", "target"):
        assert torch.equal(torch.cat([getattr(part, column) for part in parts]), getattr(batch, column))
    assert {part.size for part in parts} == {20}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("num_parts", [2, 3, 8])
def test_all_ranks_make_as_many_parts_of_a_batch(ranks: int, num_parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is one exchange of batch normalization, for which all ranks wait."""
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    for size in range(1, 20):
        parts = []
        for rank in range(ranks):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            rows = torch.arange(size)[distributed.rank_slice(size)]
            parts.append([len(part.labels) for part in Batch(rows[:, None], rows, rows, size).split(num_parts)])
        assert len(set(map(len, parts))) == 1
        seen = [sum(of_ranks) for of_ranks in zip(*parts, strict=True)]
        assert sum(seen) == size
        assert smallest_part(size, num_parts) <= min(seen)


def test_a_batch_is_split_into_no_more_parts_than_it_has_images() -> None:
    batch = Batch(torch.arange(6.0).reshape(3, 2), torch.arange(3), torch.arange(3), 3)
    assert [part.labels.tolist() for part in batch.split(10**12)] == [[0], [1], [2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_are_standardized_batch_by_batch(dtype: torch.dtype) -> None:
    x = torch.rand(11, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    mean, std = torch.tensor([0.5, 0.25, -1.0]), torch.tensor([0.5, 2.0, 1.0])
    batches = Batches(x, torch.arange(11) % 2, batch_size=4, preprocessing=Preprocessing(mean, std))
    found = torch.cat([batch.images for batch in batches])
    assert found.dtype == torch.float32
    assert torch.equal(found, normalize(x, mean, std))
    torch.testing.assert_close(found.double(), (x.double() - mean) / std, rtol=1e-6, atol=1e-6)
    assert torch.equal(batches.images, x)


@pytest.mark.parametrize(
    ("free_bytes", "moved"), [(None, False), (2 * PIXELS.nbytes - 1, False), (2 * PIXELS.nbytes, True)]
)
def test_images_move_if_they_take_at_most_half_of_the_free_memory(
    free_bytes: int | None, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: free_bytes)
    there = Batches(PIXELS, LABELS, device="meta")
    assert there.images.device.type == ("meta" if moved else "cpu")
    assert there.labels.device.type == "meta"


def test_derived_batches_share_the_tensors_and_have_their_own_settings() -> None:
    original = batches(augment=AUGMENT)
    rows = torch.tensor([3, 1, 4])
    derived = original.derive(rows=rows, batch_size=2, balance="weights")
    same = Batches(PIXELS, LABELS, rows=rows, batch_size=2, balance="weights")
    assert derived.images is original.images
    assert derived.labels is original.labels
    for ours, theirs in zip(derived.epoch(0, 1), same.epoch(0, 1), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.target, theirs.target)
    assert (original.batch_size, original.balance, original.num_images) == (5, "none", 23)
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        original.derive(rows=rows, batch_size=0)
