"""The decoded form of a source: flat files that every process on a machine maps and shares.

A store is a folder in the cache, named after what it was made from. It is made once, under another
name, and renamed when whole; deleting it or the whole cache costs no more than making it again.
N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fcnet.data.sources.source import SPLITS
from fcnet.data.store.build import ARRAY_DTYPES, array_file, array_shapes, build_store, store_key
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import file_lock

if TYPE_CHECKING:
    import numpy.typing as npt

    from fcnet.data.sources.source import Source
    from fcnet.data.store.build import Progress


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """The images of one split, mapped from files: read when touched, and shared by processes.

    Writing to these tensors changes this process's memory, never the files. While one of them lives the
    store is in use: its files are locked, and `fcnet.data.store.cleanup` leaves it alone. Pickled for another
    process, a mapped split is the place of its files, and one in memory is a copy of its tensors.

    Attributes:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,), each a place among the store's classes.
        moments: int64 (N, 2, C), for each image the sums of x and of x² over a channel's pixels;
            see `mean_and_std`.
        location: folder, split, N and (C, H, W) of the files; None: the tensors are in memory.
    """

    pixels: Tensor
    labels: Tensor
    moments: Tensor
    location: tuple[Path, str, int, tuple[int, int, int]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Maps the files again where there are any."""
        if self.location:
            return _map_split, self.location
        # As arrays, because torch hands no part of a privately mapped file to another process.
        return _split_from_arrays, (self.pixels.numpy(), self.labels.numpy(), self.moments.numpy())


@dataclass(frozen=True, eq=False, slots=True)
class Store:
    """A whole source, decoded and checked.

    Attributes:
        train: the images to train on; every class is among them.
        test: the images to test on.
        classes: the names of the classes, two or more.
        shape: (C, H, W) of every image.
        fingerprint: SHA-256 of what the store was made from, in hexadecimal.
        skipped: images of the source that are not in it since they cannot be read, each with the reason.
        metadata_file: the file that holds all this.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    fingerprint: str
    skipped: tuple[tuple[str, str], ...]
    metadata_file: Path


def cache_folder() -> Path:
    """The folder of all stores: ``$FCNET_CACHE``, else ``~/.cache/fcnet``."""
    return Path(os.environ.get("FCNET_CACHE") or Path.home() / ".cache" / "fcnet")


def open_store(source: Source, cache: Path | None = None, progress: Progress | None = None) -> Store:
    """Maps a source's store, which is made first unless the cache has it.

    Of several processes that want a new store one makes it and the others wait.

    Args:
        source: what the store is made from.
        cache: the folder of all stores; None: `cache_folder`.
        progress: told, while a store is made of images that have to be decoded, how many are done and
            how many there are.

    Returns:
        The store.

    Raises:
        UserError: the source or the cache cannot be used, and why.

    Example:
        >>> import tempfile
        >>> from fcnet.data.sources import synthetic
        >>> with tempfile.TemporaryDirectory() as cache:
        ...     store = open_store(synthetic((1, 8, 8), 20, 10, num_classes=2), Path(cache))
        >>> store.train.pixels.shape, store.classes
        (torch.Size([20, 1, 8, 8]), ('0', '1'))
    """
    cache = cache or cache_folder()
    snapshot = source.snapshot()
    key = store_key(snapshot.fingerprint)
    folder = cache / f"{snapshot.fingerprint['kind']}-{key[:16]}"
    try:
        if store := _try_open(folder, key):
            return store
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(folder):
            if not _try_open(folder, key):
                build_store(snapshot, folder, progress)
        store = _try_open(folder, key)
    except OSError as error:
        raise UserError(
            f"the cache (FCNET_CACHE) must be a folder with room that can be written, got {cache}: "
            f"{error.strerror or error}"
        ) from error
    assert store, f"{folder} is not whole although it was just built"
    return store


def mean_and_std(moments: Tensor, pixels_per_channel: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x/255 over all pixels of some images, for each channel.

    With the sums S₁ = Σx and S₂ = Σx² over n pixels, the mean is S₁/n and the variance
    (n·S₂ − S₁²)/n²: the sums are whole numbers, added and multiplied without rounding, so the
    result is the same whatever the order of the images, the machine and the device.

    Args:
        moments: int64 (N, 2, C), rows of a split's moments, N at least 1.
        pixels_per_channel: H·W.

    Returns:
        Two float32 tensors (C,), on the CPU: the mean, and the standard deviation (that of these
        pixels, not an estimate for others). A channel that never varies gets 1.

    Raises:
        UserError: there are no images.

    Example:
        >>> mean, std = mean_and_std(torch.tensor([[[255], [255 * 255]]]), pixels_per_channel=2)
        >>> mean.item(), std.item()
        (0.5, 0.5)
    """
    if len(moments) == 0:
        raise UserError("mean and standard deviation must be of at least one image, got none")
    n = len(moments) * pixels_per_channel
    # Python's integers from here on: n·S₂ outgrows 64 bits for a set of CIFAR-10's size.
    sums, squares = moments.sum(0).tolist()
    mean = [s1 / (255 * n) for s1 in sums]
    std = [math.sqrt(n * s2 - s1 * s1) / (255 * n) or 1.0 for s1, s2 in zip(sums, squares, strict=True)]
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def _try_open(folder: Path, key: str) -> Store | None:
    """The store in ``folder``; None if there is none, or not all of it."""
    file = folder / "store.json"
    try:
        metadata = json.loads(file.read_bytes())
        if metadata["fingerprint"] != key:
            return None
        shape = tuple(metadata["shape"])
        train, test = (_map_split(folder, split, metadata["counts"][split], shape) for split in SPLITS)
        skipped = tuple((name, reason) for name, reason in metadata.get("skipped", []))
        classes = tuple(metadata["classes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # the time of the last use, which a cache is cleaned by
    return Store(train, test, classes, shape, key, skipped, file)


def _map_split(folder: Path, split: str, count: int, shape: tuple[int, int, int]) -> Split:
    """Maps a split's files; a ValueError if one is not of the size it must be."""
    shapes = array_shapes(count, shape)
    parts = {
        part: _map_file(array_file(folder, split, part), shapes[part], ARRAY_DTYPES[part]) for part in ARRAY_DTYPES
    }
    return Split(**parts, location=(folder, split, count, shape))


def _split_from_arrays(pixels: npt.NDArray[Any], labels: npt.NDArray[Any], moments: npt.NDArray[Any]) -> Split:
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(moments))


def _map_file(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    size = math.prod(shape) * dtype.itemsize
    with path.open("rb") as file:
        # The mapping holds the file open, and with it this lock, until the last tensor over it is gone.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
        if (found := os.fstat(file.fileno()).st_size) != size:
            raise ValueError(f"{path} must be {size} bytes, got {found}")
        array: npt.NDArray[Any] = np.memmap(file, dtype, "c", shape=shape) if size else np.empty(shape, dtype)
    return torch.from_numpy(array)
