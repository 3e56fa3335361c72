"""The archive of real images becomes a complete store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fcnet.data.sources import images
from fcnet.data.store.store import open_store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.data
def test_every_image_of_the_jpeg_copy_of_cifar10_is_read(tmp_path: Path, image_archive: Path) -> None:
    store = open_store(images(image_archive), tmp_path)
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert store.classes == tuple(names.split())
    assert store.shape == (3, 32, 32)
    assert store.train.pixels.shape == (50_000, 3, 32, 32)
    assert store.test.pixels.shape == (10_000, 3, 32, 32)
    assert store.train.labels.bincount().tolist() == [5_000] * 10
    assert store.test.labels.bincount().tolist() == [1_000] * 10
