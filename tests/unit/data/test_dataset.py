"""The view for other loaders: the store's pixels, whoever asks and from whatever process."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING

import pytest
import torch
from torch.utils.data import DataLoader

from fcnet.data.dataset import ImageDataset
from fcnet.data.sources import synthetic
from fcnet.data.store.store import Split, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from fcnet.data.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(synthetic((3, 5, 4), 103, 10, num_classes=4), tmp_path)


def inverted(image: Tensor) -> Tensor:
    return 255 - image


def test_every_place_holds_the_stores_image_and_label(store: Store) -> None:
    dataset = ImageDataset(store.train, store.classes)
    assert (len(dataset), dataset.classes) == (103, ("0", "1", "2", "3"))
    for place in (0, 1, 50, 102, -1, -103):
        image, label = dataset[place]
        assert image.dtype == torch.uint8
        assert torch.equal(image, store.train.pixels[place])
        assert type(label) is int
        assert label == store.train.labels[place]
    assert len(list(iter(dataset))) == 103


@pytest.mark.parametrize("place", [103, -104])
def test_a_place_outside_is_an_index_error(store: Store, place: int) -> None:
    with pytest.raises(IndexError, match=rf"^index must be less than 103, got {place}$"):
        ImageDataset(store.train, store.classes)[place]


def test_several_places_are_what_each_of_them_is(store: Store) -> None:
    dataset = ImageDataset(store.train, store.classes, inverted)
    places = [7, 3, 3, 102]
    for (image, label), place in zip(dataset.__getitems__(places), places, strict=True):
        assert torch.equal(image, 255 - store.train.pixels[place])
        assert label == store.train.labels[place]


def test_an_image_may_be_written_to_and_the_store_stays_as_it_is(store: Store) -> None:
    dataset = ImageDataset(store.train, store.classes)
    before = store.train.pixels.clone()
    dataset[5][0].zero_()
    for image, _ in dataset.__getitems__([6, 7]):
        image.zero_()
    assert torch.equal(store.train.pixels, before)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_two_workers_bring_the_same_pixels_in_the_same_order(store: Store, start: str) -> None:
    dataset = ImageDataset(store.train, store.classes)
    loader = DataLoader(dataset, batch_size=16, num_workers=2, multiprocessing_context=start)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [16] * 6 + [7]
    assert torch.equal(torch.cat([images for images, _ in batches]), store.train.pixels)
    assert torch.equal(torch.cat([labels for _, labels in batches]), store.train.labels)


def test_pickled_it_is_the_place_of_files_which_are_mapped_again(tmp_path: Path) -> None:
    large = open_store(synthetic((3, 32, 32), 2000, 10, num_classes=4), tmp_path)
    dataset = ImageDataset(large.train, large.classes, inverted)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)  # noqa: S301 - ours
    assert again.classes == dataset.classes
    assert torch.equal(again[1999][0], 255 - large.train.pixels[1999])
    assert len(pickle.dumps(again)) == len(pickled)


def test_a_split_in_memory_and_a_part_of_a_mapped_one_reach_a_worker_too(store: Store) -> None:
    in_memory = Split(store.test.pixels.clone(), store.test.labels.clone(), store.test.moments.clone())
    part = Split(store.train.pixels[3:9], store.train.labels[3:9], store.train.moments[3:9])
    for split in (in_memory, part):
        sent = ForkingPickler.dumps(ImageDataset(split, store.classes))  # as to a worker that is spawned
        ((images, labels),) = DataLoader(pickle.loads(sent), batch_size=100)  # noqa: S301 - ours
        assert torch.equal(images, split.pixels)
        assert torch.equal(labels, split.labels)
