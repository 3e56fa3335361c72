"""Stores: the decoded images of a source in flat files, which all processes on a machine map into memory and share.

A store is a folder in the cache, named after the state of its source. It is built once, under a temporary name, and
every byte is checked whenever it is opened. A deleted or damaged store is built again. N images of C channels, H rows
and W columns.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fcnet.data.sources.source import SPLITS
from fcnet.data.store.build import ARRAY_DTYPES, array_file, array_shapes, build_store, map_array, store_key
from fcnet.data.store.image_names import ImageNames
from fcnet.data.store.integrity import block_checksums
from fcnet.data.store.train_copies import TrainCopies
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_json
from fcnet.runtime.locks import UseMark, file_lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fcnet.data.sources.source import Source
    from fcnet.data.store.build import Progress

    Location: TypeAlias = tuple[Path, str, int, tuple[int, int, int], int | None]


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """The images of one split, mapped from files: pages are read on first use, and shared by processes.

    Writing to the tensors changes the memory of this process, never the files. While one of them exists, the store is
    in use, and `fcnet.data.store.cleanup` does not remove it. Pickling a mapped split stores the location of its files;
    pickling a split in memory copies its tensors.

    Attributes:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,), indices of the store's classes.
        moments: int64 (N, 2, C), the sums of x and of x² over the pixels of each channel; see `mean_and_std`.
        names: the name of each image, relative to the folder or archive of the data; None if the source has no names.
        location: folder, split, N, (C, H, W) and bytes of the names of the files; None if the tensors are in memory.
    """

    pixels: Tensor
    labels: Tensor
    moments: Tensor
    names: ImageNames | None = None
    location: Location | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the location of mapped files, or the tensors in memory."""
        if self.location:
            return _map_split, self.location
        # As arrays: torch cannot share a part of a privately mapped file with another process.
        return _split_from_arrays, (self.pixels.numpy(), self.labels.numpy(), self.moments.numpy(), self.names)


@dataclass(frozen=True, eq=False, slots=True)
class Store:
    """The decoded and checked images of a source.

    Attributes:
        train: the training images; every class has at least one.
        validation: the source's own validation images; none in most sources.
        test: the test images.
        classes: the class names, two or more.
        shape: (C, H, W) of every image; (D,) for vectors of features, see `fcnet.data.features.store`.
        fingerprint: the SHA-256 of the classes, images and labels. Stores with one fingerprint hold the same data,
            wherever it lies and whatever decoded it.
        source: the state of the source that the store was built from; see `SourceSnapshot.fingerprint`.
        skipped: the unreadable images of the source, as pairs of a name and the reason.
        notes: one sentence for each kind of thing that the source left out; see `Contents`.
        train_copies: the images of the other splits that are copies of training images.
        metadata_file: the file of this metadata.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    fingerprint: str
    source: dict[str, Any]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    train_copies: dict[str, TrainCopies]
    metadata_file: Path


def cache_folder() -> Path:
    """Returns the folder of all stores: ``$FCNET_CACHE``, by default ``~/.cache/fcnet``.

    Raises:
        UserError: FCNET_CACHE is not set, and the user has no home folder.
    """
    try:
        return Path(os.environ.get("FCNET_CACHE") or Path.home() / ".cache" / "fcnet")
    except RuntimeError:
        raise UserError("FCNET_CACHE must be set to a folder for the cache, because this user has no home") from None


def open_store(source: Source, cache: Path | None = None, progress: Progress | None = None) -> Store:
    """Opens the store of a source, and builds it first if the cache does not have it.

    If several processes need a new store, one builds it and the others wait. An interrupted build resumes.

    Args:
        source: the source of the images.
        cache: the folder of all stores; None for `cache_folder`.
        progress: called with the number of decoded images and the number of all images while a store is built.

    Returns:
        The store.

    Raises:
        UserError: the source or the cache cannot be used.

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
        if cache.exists() and not cache.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(folder):
            if not _try_open(folder, key):
                build_store(snapshot, folder, progress)
        store = _try_open(folder, key)
    except OSError as error:
        if error.filename is not None and not _are_nested(cache, Path(os.fsdecode(error.filename))):
            raise  # an error of the data
        raise UserError(
            f"the cache (FCNET_CACHE) must be a writable folder with free space, got {cache}: {error.strerror or error}"
        ) from error
    assert store, f"{folder} is incomplete although it was just built"
    return store


def _are_nested(a: Path, b: Path) -> bool:
    return a.absolute().is_relative_to(b.absolute()) or b.absolute().is_relative_to(a.absolute())


def find_store(fingerprint: str, cache: Path | None = None) -> Store | None:
    """Opens the store of some data wherever the data lies now, and builds nothing.

    Args:
        fingerprint: the fingerprint of the store.
        cache: the folder of all stores; None for `cache_folder`.

    Returns:
        The store; None if the cache has no undamaged store with this fingerprint.

    Raises:
        OSError: there is none that can be read, and one that cannot.
    """
    unreadable: OSError | None = None
    for file in (cache or cache_folder()).glob("[!.]*/store.json"):
        try:
            metadata = read_json(file)
            if metadata.get("fingerprint") == fingerprint and (store := _try_open(file.parent, metadata["key"])):
                return store
        except (FileNotFoundError, UserError):
            continue
        except OSError as error:
            unreadable = error
    if unreadable:
        raise unreadable
    return None


def mean_and_std(moments: Tensor, pixels_per_channel: int) -> tuple[Tensor, Tensor]:
    """Computes the mean and standard deviation of x / 255 over all pixels, for each channel.

    With the sums S₁ = Σx and S₂ = Σx² over n pixels, the mean is S₁/n and the variance (n·S₂ − S₁²)/n². The sums are
    integers and computed exactly, so the result does not depend on the order of the images, the machine or the device.

    Args:
        moments: int64 (N, 2, C), rows of `Split.moments`, N at least 1.
        pixels_per_channel: H·W.

    Returns:
        Two float32 tensors (C,) on the CPU: the mean and the standard deviation, without Bessel's correction. The
        standard deviation of a constant channel is set to 1.

    Raises:
        UserError: there are no images.

    Example:
        >>> mean, std = mean_and_std(torch.tensor([[[255], [255 * 255]]]), pixels_per_channel=2)
        >>> mean.item(), std.item()
        (0.5, 0.5)
    """
    if len(moments) == 0:
        raise UserError("mean and standard deviation need at least one image, got none")
    n = len(moments) * pixels_per_channel
    # Python's integers from here on: n·S₂ exceeds 64 bits for a set of CIFAR-10's size.
    sums, squares = moments.sum(0).tolist()
    mean = [s1 / (255 * n) for s1 in sums]
    std = [math.sqrt(n * s2 - s1 * s1) / (255 * n) or 1.0 for s1, s2 in zip(sums, squares, strict=True)]
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def _try_open(folder: Path, key: str) -> Store | None:
    """Opens the store in ``folder``; returns None if it is missing, incomplete or damaged."""
    file = folder / "store.json"
    try:
        metadata = read_json(file)
        if metadata["key"] != key:
            return None
        shape = tuple(metadata["shape"])
        counts, name_bytes = metadata["counts"], metadata["name_bytes"]
        locations = {split: (folder, split, counts[split], shape, name_bytes[split]) for split in SPLITS}
        arrays = {split: _map_arrays(*locations[split]) for split in SPLITS}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    named = {f"{split}_{part}": array for split in SPLITS for part, array in arrays[split].items()}
    if block_checksums(named) != metadata["checksums"]:
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # the time of the last use, by which a cache is cleaned
    return Store(
        **{split: _make_split(arrays[split], locations[split]) for split in SPLITS},
        classes=tuple(metadata["classes"]),
        shape=shape,
        fingerprint=metadata["fingerprint"],
        source=metadata["source"],
        skipped=tuple((name, reason) for name, reason in metadata["skipped"]),
        notes=tuple(metadata["notes"]),
        train_copies={
            split: TrainCopies(count, tuple(first)) for split, (count, first) in metadata["train_copies"].items()
        },
        metadata_file=file,
    )


def _map_split(*location: *Location) -> Split:
    return _make_split(_map_arrays(*location), location)


def _map_arrays(
    folder: Path, split: str, count: int, shape: tuple[int, int, int], name_bytes: int | None
) -> dict[str, npt.NDArray[Any]]:
    """Maps the files of a split; raises ValueError if one has the wrong size."""
    mark = UseMark(folder)
    arrays = {}
    for part, array_shape in array_shapes(count, shape, name_bytes).items():
        array = map_array(array_file(folder, split, part), array_shape, ARRAY_DTYPES[part])
        if isinstance(array, np.memmap):
            # Every tensor over the mapping holds the array, and the array the mark: the store is in use until the last
            # is gone.
            vars(array)["use_mark"] = mark
        arrays[part] = array
    return arrays


def _make_split(arrays: Mapping[str, npt.NDArray[Any]], location: Location) -> Split:
    *_, name_bytes = location
    names = None if name_bytes is None else ImageNames(arrays["names"], arrays["name_ends"])
    pixels, labels, moments = (torch.from_numpy(arrays[part]) for part in ("pixels", "labels", "moments"))
    return Split(pixels, labels, moments, names, location)


def _split_from_arrays(
    pixels: npt.NDArray[Any], labels: npt.NDArray[Any], moments: npt.NDArray[Any], names: ImageNames | None
) -> Split:
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(moments), names)
