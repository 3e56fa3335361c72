"""Tests of the dataset for torch's loaders, in one process and in workers."""

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


def invert(image: Tensor) -> Tensor:
    return 255 - image


def test_each_index_gives_the_stores_image_and_label(store: Store) -> None:
    dataset = ImageDataset(store.train, store.classes)
    assert (len(dataset), dataset.classes) == (103, ["0", "1", "2", "3"])
    for index in (0, 1, 50, 102, -1, -103):
        image, label = dataset[index]
        assert image.dtype == torch.uint8
        assert torch.equal(image, store.train.pixels[index])
        assert type(label) is int
        assert label == store.train.labels[index]
    assert len(list(iter(dataset))) == 103


@pytest.mark.parametrize("index", [103, -104])
def test_an_index_out_of_range_is_an_error(store: Store, index: int) -> None:
    with pytest.raises(IndexError, match=rf"^index must be less than 103, got {index}$"):
        ImageDataset(store.train, store.classes)[index]


def test_several_indices_at_once_equal_single_ones(store: Store) -> None:
    dataset = ImageDataset(store.train, store.classes, invert)
    indices = [7, 3, 3, 102]
    for (image, label), index in zip(dataset.__getitems__(indices), indices, strict=True):
        assert torch.equal(image, 255 - store.train.pixels[index])
        assert label == store.train.labels[index]


def test_writing_to_an_image_does_not_change_the_store(store: Store) -> None:
    dataset = ImageDataset(store.train, store.classes)
    before = store.train.pixels.clone()
    dataset[5][0].zero_()
    for image, _ in dataset.__getitems__([6, 7]):
        image.zero_()
    assert torch.equal(store.train.pixels, before)


def test_print_shows_what_torchvisions_datasets_show(store: Store) -> None:
    lines = repr(ImageDataset(store.train, store.classes, invert)).splitlines()
    count, shape = len(store.train.labels), tuple(store.train.pixels.shape[1:])
    assert lines[:4] == [
        "Dataset ImageDataset",
        f"    Number of datapoints: {count}",
        f"    Shape of an image: {shape}",
        f"    Number of classes: {len(store.classes)}",
    ]
    assert lines[4].startswith("    Transform: <function invert")
    assert len(repr(ImageDataset(store.train, store.classes)).splitlines()) == 4


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_two_workers_load_the_same_pixels_in_the_same_order(store: Store, start: str) -> None:
    dataset = ImageDataset(store.train, store.classes)
    loader = DataLoader(dataset, batch_size=16, num_workers=2, multiprocessing_context=start)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [16] * 6 + [7]
    assert torch.equal(torch.cat([images for images, _ in batches]), store.train.pixels)
    assert torch.equal(torch.cat([labels for _, labels in batches]), store.train.labels)


def test_a_pickled_dataset_holds_the_location_of_its_files(tmp_path: Path) -> None:
    large = open_store(synthetic((3, 32, 32), 2000, 10, num_classes=4), tmp_path)
    dataset = ImageDataset(large.train, large.classes, invert)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)  # noqa: S301 - ours
    assert again.classes == dataset.classes
    assert torch.equal(again[1999][0], 255 - large.train.pixels[1999])
    assert len(pickle.dumps(again)) == len(pickled)


def test_a_split_in_memory_and_a_slice_of_a_mapped_one_can_be_pickled(store: Store) -> None:
    in_memory = Split(store.test.pixels.clone(), store.test.labels.clone(), store.test.moments.clone())
    part = Split(store.train.pixels[3:9], store.train.labels[3:9], store.train.moments[3:9])
    for split in (in_memory, part):
        sent = ForkingPickler.dumps(ImageDataset(split, store.classes))  # as to a worker that is spawned
        ((images, labels),) = DataLoader(pickle.loads(sent), batch_size=100)  # noqa: S301 - ours
        assert torch.equal(images, split.pixels)
        assert torch.equal(labels, split.labels)
