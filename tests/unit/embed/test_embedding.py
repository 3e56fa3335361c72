"""Embedding: every image once, in order, decoded as the backbone wants it, also after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from fcnet.data.decoding.image_decoding import ShorterSide
from fcnet.embed import embedding
from fcnet.embed.backbone import Backbone, ImagePreprocessing
from fcnet.embed.embedding import iter_embedding
from fcnet.embed.feature_folder import FeatureFolder
from fcnet.embed.labelled_images import open_images
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_json
from tests.helpers import read_tree, write_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.data.decoding.image_decoding import Size

COUNTS = {"train": 5, "test": 3}


@pytest.fixture
def pets(working_folder: Path) -> Path:
    """Colour images, each of another size."""
    draws = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for name in ("ant", "bee"):
            for number in range(count):
                size = (*draws.integers(6, 20, size=2), 3)
                write_image(f"pets/{split}/{name}/{number}.png", draws.integers(256, size=size, dtype=np.uint8))
    return Path("pets")


def make_backbone(size: Size = (4, 5), network: Callable[[Tensor], Any] = lambda images: images) -> Backbone:
    return Backbone(network, ImagePreprocessing(3, size), {"name": "net"})


def embed(out: str, backbone: Backbone, images: str = "pets", batch_size: int = 3, **options: Any) -> dict[str, Any]:
    """Writes the features of all images; returns the metadata."""
    opened = open_images(images)
    counts = {split: len(files) for split, files in opened.splits.items()}
    folder = FeatureFolder(Path(out), {"batch_size": batch_size}, counts, backbone.num_features)
    folder.start()
    done = list(iter_embedding(opened, backbone, folder, batch_size=batch_size, **options))
    assert done == sorted(set(done))
    assert done[-1] == sum(counts.values())
    folder.finish(opened.classes, {})
    return read_json(Path(out) / "metadata.json")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_features_are_those_of_each_image_with_torchvisions_transforms(pets: Path, batch_size: int) -> None:
    embed("out", make_backbone(ShorterSide(8, 5, 6)), batch_size=batch_size)
    for split, count in COUNTS.items():
        paths = Path("out", f"paths_{split}.txt").read_text().splitlines()
        assert paths == [f"{split}/{name}/{number}.png" for name in ("ant", "bee") for number in range(count)]
        assert np.load(f"out/y_{split}.npy").tolist() == [0] * count + [1] * count
        x = np.load(f"out/x_{split}.npy")
        for path, features in zip(paths, x, strict=True):
            with Image.open(pets / path) as image:
                expected = transforms.center_crop(transforms.resize(image, [8]), [5, 6])
            assert np.array_equal(features, transforms.pil_to_tensor(expected).flatten().numpy())


def test_parts_of_a_batch_change_nothing(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = embed("out", make_backbone())
    monkeypatch.setattr(embedding, "DECODE_BATCH_BYTES", 1)
    assert embed("parts", make_backbone()) == before


def test_the_checksum_of_the_pixels_depends_on_what_the_network_gets_alone(pets: Path) -> None:
    first, other_batches, other_size = (
        embed(f"out {number}", make_backbone(size), batch_size=batch_size)["pixels_sha256"]
        for number, (size, batch_size) in enumerate([((4, 5), 3), ((4, 5), 2), ((5, 4), 3)])
    )
    assert first == other_batches
    assert first != other_size
    pets.rename("moved")
    assert embed("again", make_backbone(), images="moved")["pixels_sha256"] == first


@pytest.mark.parametrize("stop", range(1, 6))
def test_an_interrupted_run_resumes_with_the_batches_of_a_whole_one(pets: Path, stop: int) -> None:
    embed("whole", make_backbone())
    sizes: list[int] = []

    def network(images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(sizes) == stop + 1:  # the first is the trial
            raise KeyboardInterrupt
        return images

    with pytest.raises(KeyboardInterrupt):
        embed("out", make_backbone(network=network))
    assert not Path("out").exists()
    embed("out", make_backbone())
    assert read_tree("out") == read_tree("whole")


def test_broken_images_are_an_error_or_skipped(pets: Path) -> None:
    for name in ("train/ant/1.png", "train/ant/2.png", "test/bee/0.png"):
        (pets / name).write_bytes(b"broken")
    with pytest.raises(UserError, match=r"train/ant/1\.png in pets must be an image"):
        embed("out", make_backbone())
    metadata = embed("skipped", make_backbone(), skip_broken=True, batch_size=1)
    assert [name for name, _ in metadata["skipped"]] == ["train/ant/1.png", "train/ant/2.png", "test/bee/0.png"]
    assert metadata["images"] == {"train": 8, "test": 5}
    assert "train/ant/1.png" not in Path("skipped/paths_train.txt").read_text()
    assert len(np.load("skipped/x_train.npy")) == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_with_the_image(pets: Path, value: float) -> None:
    backbone = make_backbone(network=lambda images: torch.full(images.shape, value))
    with pytest.raises(UserError, match=r"features of train/ant/0\.png in pets must be finite, got NaN or infinity"):
        embed("out", backbone)


def test_images_of_arrays_are_scaled_like_files(working_folder: Path) -> None:
    x = np.random.default_rng(0).integers(256, size=(6, 9, 12, 3), dtype=np.uint8)
    y = np.arange(6) % 2
    np.savez("pets.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    for row, pixels in enumerate(x):
        write_image(f"files/train/{row % 2}/{row}.png", pixels)
        write_image(f"files/test/{row % 2}/{row}.png", pixels)
    for images in ("pets.npz", "files"):
        embed(f"of {images}", make_backbone(ShorterSide(8, 6, 7)), images=images)
    from_files = {
        Path(path).stem: features
        for path, features in zip(
            Path("of files/paths_train.txt").read_text().splitlines(), np.load("of files/x_train.npy"), strict=True
        )
    }
    assert np.array_equal(np.load("of pets.npz/x_train.npy"), [from_files[str(row)] for row in range(6)])
    assert not Path("of pets.npz/paths_train.txt").exists()
