"""Labelled images: each source gives the same images as its store, undecoded."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fcnet.data import sources
from fcnet.data.decoding.decode_batch import DecodeOptions, decode_images
from fcnet.data.sources.source import ImageChunk
from fcnet.data.store.store import open_store
from fcnet.embed import labelled_images
from fcnet.embed.labelled_images import ArrayImages, LabelledImages, open_images
from fcnet.runtime.errors import UserError
from tests.helpers import write_image_folder

if TYPE_CHECKING:
    from pathlib import Path

    from fcnet.data.sources.source import Source


def assert_same_as_store(images: LabelledImages, source: Source, cache: Path) -> None:
    """Compares the images with those of the source's store."""
    store = open_store(source, cache)
    channels, height, width = store.shape
    options = DecodeOptions(images.location, skip_broken=False, channels=channels, height=height, width=width)
    assert images.classes == store.classes
    for name in ("train", "validation", "test"):
        split = getattr(store, name)
        assert (name in images.splits) == (len(split.labels) > 0)
        if name in images.splits:
            files = images.splits[name][:]
            assert [file.label for file in files] == split.labels.tolist()
            pixels = np.frombuffer(decode_images(files, options).data, np.uint8).reshape(-1, *store.shape)
            assert np.array_equal(pixels, split.pixels.numpy())
            if images.have_paths:
                assert [file.name for file in files] == list(split.names or [])


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    counts = {"train": 3, "val": 2, "test": 2}
    write_image_folder(
        tmp_path / "pets", ("ant", "bee"), counts, lambda *_: draws.integers(256, size=(4, 5, 3), dtype=np.uint8)
    )
    return tmp_path / "pets"


def test_a_folder_and_an_archive_of_it(pets: Path, tmp_path: Path) -> None:
    assert_same_as_store(open_images(str(pets)), sources.images(pets), tmp_path / "cache")
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(pets, "pets")
    assert_same_as_store(open_images(str(tmp_path / "pets.tar")), sources.images(pets), tmp_path / "cache")


def test_a_folder_without_splits_is_split_as_elsewhere(pets: Path, tmp_path: Path) -> None:
    assert_same_as_store(open_images(str(pets / "train")), sources.images(pets / "train"), tmp_path / "cache")


@pytest.mark.parametrize("shape", [(7, 4, 5), (7, 3, 4, 5), (7, 4, 5, 3)])
def test_arrays_of_pixels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    y = np.array(["b", "a", "b", "a", "a", "b", "b"])
    np.savez(tmp_path / "pets.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    images = open_images(str(tmp_path / "pets.npz"))
    assert_same_as_store(images, sources.arrays(tmp_path / "pets.npz"), tmp_path / "cache")
    assert not images.have_paths


def test_digits(tmp_path: Path) -> None:
    assert_same_as_store(open_images("digits"), sources.digits(), tmp_path)


def test_a_folder_with_cifar_is_read_and_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cifar(name: str, path: Path, *, download: bool = True) -> Source:
        asked.append((name, path, download))
        return sources.synthetic((3, 2, 2), 4, 2, 2)

    monkeypatch.setattr(sources, "cifar10", lambda *args, **kw: cifar("cifar10", *args, **kw))
    monkeypatch.setattr(sources, "cifar100", lambda *args, **kw: cifar("cifar100", *args, **kw))
    (tmp_path / "cifar-100-python").mkdir()
    open_images(str(tmp_path))
    open_images("cifar10")
    open_images("cifar100")
    data = labelled_images.CIFAR_FOLDER
    assert asked == [("cifar100", tmp_path, False), ("cifar10", data, True), ("cifar100", data, True)]


def test_nothing_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: no such file or folder"):
        open_images(str(tmp_path / "nothing"))


def test_images_of_several_chunks_are_one_sequence() -> None:
    pixels = np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2)
    labels = np.arange(5)
    rows = [slice(0, 2), slice(2, 2), slice(2, 5)]
    images = ArrayImages([ImageChunk("test", pixels[each], labels[each]) for each in rows])
    assert len(images) == 5
    assert [file.label for file in images] == [file.label for file in images[:]] == [0, 1, 2, 3, 4]
    assert [file.label for file in images[1:4:2]] == [1, 3]
    assert images[-1].content == b"P5 2 2 255\n" + bytes([16, 17, 18, 19])
    assert images[4].name == "image 4 of test"
    with pytest.raises(IndexError):
        images[5]
    assert len(ArrayImages([])) == 0
