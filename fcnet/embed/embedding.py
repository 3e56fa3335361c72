"""The features of all images of a source, batch by batch.

While the network computes the features of a batch, worker processes decode the next ones. Letters: N images of a batch,
C channels, H rows and W columns.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
import torch

from fcnet.data.decoding.decode_batch import DecodeOptions, decode_images
from fcnet.data.decoding.decode_pool import parallel_map
from fcnet.data.decoding.image_decoding import ShorterSide
from fcnet.data.sources.image_folder import DECODE_BATCH_BYTES
from fcnet.data.sources.source import iter_slices
from fcnet.embed.feature_folder import FeatureBatch
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import numpy.typing as npt
    from torch import Tensor

    from fcnet.data.decoding.decode_batch import ImageFile
    from fcnet.data.sources.source import SplitName
    from fcnet.embed.backbone import Backbone
    from fcnet.embed.feature_folder import FeatureFolder
    from fcnet.embed.labelled_images import LabelledImages


def iter_embedding(
    images: LabelledImages,
    backbone: Backbone,
    folder: FeatureFolder,
    *,
    batch_size: int,
    skip_broken: bool = False,
) -> Iterator[int]:
    """Writes the features of the images that a folder does not have yet.

    Batches never reach over the end of a split and do not depend on where an earlier run was interrupted, so that the
    features of a resumed run have the same bits.

    Args:
        images: the images.
        backbone: the network.
        folder: the started or resumed folder, which this function does not finish.
        batch_size: the images of a batch, unreadable ones included.
        skip_broken: whether to skip unreadable images instead of raising an error.

    Yields:
        The number of images done in all splits, after each batch.

    Raises:
        UserError: an image is unreadable, or its features are not finite.
    """
    pixels_sha256 = folder.pixels_sha256 or hashlib.sha256(json.dumps(images.classes).encode()).hexdigest()
    waiting: tuple[_PixelBatch, Tensor, str] | None = None
    done = sum(folder.num_done.values())
    with contextlib.closing(
        _iter_pixels(images, backbone, folder.num_done, batch_size, skip_broken=skip_broken)
    ) as batches:
        for batch in batches:
            # On a GPU the features are computed while the next batch is decoded, and are read after that.
            features = backbone(batch.pixels) if len(batch.files) else torch.empty(0, backbone.num_features)
            pixels_sha256 = _hash_images(pixels_sha256, batch)
            if waiting:
                done += _append(folder, *waiting, location=images.location, with_paths=images.have_paths)
                yield done
            waiting = batch, features, pixels_sha256
    if waiting:
        done += _append(folder, *waiting, location=images.location, with_paths=images.have_paths)
        yield done


class _PixelBatch(NamedTuple):
    """Decoded images.

    Attributes:
        split: their split.
        pixels: uint8 (N, C, H, W).
        files: the N readable images.
        skipped: the unreadable ones, as pairs of a name and the reason.
    """

    split: SplitName
    pixels: Tensor
    files: list[ImageFile]
    skipped: list[tuple[str, str]]


def _append(
    folder: FeatureFolder, batch: _PixelBatch, features: Tensor, pixels_sha256: str, *, location: str, with_paths: bool
) -> int:
    """Appends a batch to the folder; returns its number of images, unreadable ones included."""
    values: npt.NDArray[np.float32] = features.cpu().numpy()
    finite = np.isfinite(values).all(1)
    if not finite.all():
        name = batch.files[int(finite.argmin())].name
        raise UserError(f"the features of {name} in {location} must be finite, got NaN or infinity")
    labels = np.array([file.label for file in batch.files], dtype=np.int64)
    paths = [file.name for file in batch.files] if with_paths else []
    folder.append(FeatureBatch(batch.split, values, labels, paths, batch.skipped, pixels_sha256))
    return len(batch.files) + len(batch.skipped)


def _hash_images(before: str, batch: _PixelBatch) -> str:
    """Returns the checksum over all images so far, one by one: it depends on no batch size."""
    for file, pixels in zip(batch.files, batch.pixels.numpy(), strict=True):
        before = hashlib.sha256(f"{before} {file.split} {file.label} ".encode() + pixels.data).hexdigest()
    return before


def _iter_pixels(
    images: LabelledImages, backbone: Backbone, num_done: dict[SplitName, int], batch_size: int, *, skip_broken: bool
) -> Generator[_PixelBatch]:
    """Decodes the images that are not done yet."""
    channels, height, width = shape = backbone.preprocessing.shape
    size = backbone.preprocessing.size
    options = DecodeOptions(
        images.location,
        skip_broken,
        channels,
        height,
        width,
        resize=True,
        shorter_side=size if isinstance(size, ShorterSide) else None,
    )
    image_bytes = channels * height * width
    for split, all_files in images.splits.items():
        batches = [
            slice(start, min(start + batch_size, len(all_files)))
            for start in range(num_done[split], len(all_files), batch_size)
        ]
        # A call of a worker decodes a part of a batch, so that all workers share the first batch.
        parts = [
            [
                slice(batch.start + part.start, batch.start + part.stop)
                for part in iter_slices(batch.stop - batch.start, image_bytes, DECODE_BATCH_BYTES)
            ]
            for batch in batches
        ]
        lazy = _LazyParts(all_files, [part for of_batch in parts for part in of_batch])
        with contextlib.closing(parallel_map(decode_images, lazy, options)) as results:
            for batch, of_batch in zip(batches, parts, strict=True):
                decoded = [next(results) for _ in of_batch]
                files = all_files[batch]
                reasons = {
                    part.start - batch.start + index: reason
                    for part, result in zip(of_batch, decoded, strict=True)
                    for index, reason in result.skipped
                }
                pixels = np.frombuffer(bytearray().join(result.data for result in decoded), dtype=np.uint8)
                yield _PixelBatch(
                    split,
                    torch.from_numpy(pixels.reshape(-1, *shape)),
                    [file for index, file in enumerate(files) if index not in reasons],
                    [(files[index].name, reason) for index, reason in reasons.items()],
                )


class _LazyParts(Sequence["Sequence[ImageFile]"]):
    """Parts of a sequence of images, each taken from it when it is decoded: images of an array are made then."""

    def __init__(self, files: Sequence[ImageFile], parts: list[slice]) -> None:
        self._files, self._parts = files, parts

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> Sequence[ImageFile]: ...
    @overload
    def __getitem__(self, index: slice) -> _LazyParts: ...
    def __getitem__(self, index: int | slice) -> Sequence[ImageFile] | _LazyParts:
        if isinstance(index, slice):
            return _LazyParts(self._files, self._parts[index])
        return self._files[self._parts[index]]
