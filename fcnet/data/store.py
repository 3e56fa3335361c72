"""The decoded form of a source: flat files that every process on a machine maps and shares.

A store is a folder in the cache, named after what it was made from. It is made once, under another
name, and renamed when whole; deleting it or the whole cache costs no more than making it again.
N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fcnet import files
from fcnet.data.folders import SPLITS
from fcnet.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from fcnet.data.sources import Contents, Examples, Source

FORMAT = 2  # to be raised when these files, or what a source makes of the same data, change
_DTYPES = {"pixels": torch.uint8, "labels": torch.int64, "moments": torch.int64}


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """The images of one split, mapped from files: read when touched, and shared by processes.

    Writing to these tensors changes this process's memory, never the files. Pickled for another
    process, a mapped split is the place of its files, and one in memory is a copy of its tensors.

    Attributes:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,), each a place among the store's classes.
        moments: int64 (N, 2, C), for each image the sums of x and of x² over a channel's pixels;
            see `mean_and_std`.
        place: folder, split, N and (C, H, W) of the files; None: the tensors are in memory.
    """

    pixels: Tensor
    labels: Tensor
    moments: Tensor
    place: tuple[Path, str, int, tuple[int, int, int]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Maps the files again where there are any."""
        if self.place:
            return _mapped, self.place
        # As arrays, because torch hands no part of a privately mapped file to another process.
        return _in_memory, (self.pixels.numpy(), self.labels.numpy(), self.moments.numpy())


@dataclass(frozen=True, eq=False, slots=True)
class Store:
    """A whole source, decoded and checked.

    Attributes:
        train: the images to train on; every class is among them.
        test: the images to test on.
        classes: the names of the classes, two or more.
        shape: (C, H, W) of every image.
        fingerprint: SHA-256 of what the store was made from, in hexadecimal.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    fingerprint: str


def open_store(source: Source, cache: Path | None = None) -> Store:
    """Maps a source's store, which is made first unless the cache has it.

    Of several processes that want a new store one makes it and the others wait.

    Args:
        source: what the store is made from.
        cache: the folder of all stores; None: ``$FCNET_CACHE``, else ``~/.cache/fcnet``.

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
    cache = cache or Path(os.environ.get("FCNET_CACHE") or Path.home() / ".cache" / "fcnet")
    fingerprint = source.fingerprint()
    key = _key(fingerprint)
    folder = cache / f"{fingerprint['kind']}-{key[:16]}"
    try:
        if store := _opened(folder, key):
            return store
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not _opened(folder, key):
                _build(source, key, folder)
        store = _opened(folder, key)
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


def _key(fingerprint: object) -> str:
    canonical = json.dumps([FORMAT, fingerprint], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _opened(folder: Path, key: str) -> Store | None:
    """The store in ``folder``; None if there is none, or not all of it."""
    try:
        about = json.loads((folder / "store.json").read_bytes())
        if about["fingerprint"] != key:
            return None
        shape = tuple(about["shape"])
        train, test = (_mapped(folder, split, about["counts"][split], shape) for split in SPLITS)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return Store(train, test, tuple(about["classes"]), shape, key)


def _mapped(folder: Path, split: str, count: int, shape: tuple[int, int, int]) -> Split:
    """Maps a split's files; a ValueError if one is not of the size it must be."""
    shapes = {"pixels": (count, *shape), "labels": (count,), "moments": (count, 2, shape[0])}
    parts = {}
    for part, dtype in _DTYPES.items():
        path, size = folder / _file_name(split, part), math.prod(shapes[part])
        if path.stat().st_size != size * dtype.itemsize:
            raise ValueError(f"{path} must be {size * dtype.itemsize} bytes, got {path.stat().st_size}")
        parts[part] = torch.from_file(str(path), shared=False, size=size, dtype=dtype).view(shapes[part])
    return Split(**parts, place=(folder, split, count, shape))


def _in_memory(pixels: npt.NDArray[Any], labels: npt.NDArray[Any], moments: npt.NDArray[Any]) -> Split:
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(moments))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits until no other process builds ``folder``, and keeps others waiting meanwhile.

    The lock goes with the process that holds it, however that ends. Its file stays: removing it
    could part two processes that wait for it.
    """
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(source: Source, key: str, folder: Path) -> None:
    """Makes the store; ``folder`` is not there until it is whole. Its lock must be held."""
    _remove_leftovers(folder.parent)
    unfinished = _unfinished(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        about = {"fingerprint": key, **_write(source.read(), unfinished)}
        if _key(source.fingerprint()) != key:
            raise UserError(f"images must stay as they are while they are read, got a change ({folder.name})")
        files.write_text(unfinished / "store.json", json.dumps(about, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)  # files are missing from it, or cut short
        unfinished.rename(folder)
        files.flush(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.unfinished")


def _remove_leftovers(cache: Path) -> None:
    """Removes what killed builds have left: unfinished stores that no process holds the lock of."""
    for leftover in cache.glob(_unfinished(Path("*")).name):
        with contextlib.suppress(BlockingIOError), leftover.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover)


def _write(contents: Contents, folder: Path) -> dict[str, Any]:
    """Writes the six files; returns what ``store.json`` says about them."""
    counts = dict.fromkeys(SPLITS, 0)
    shape: tuple[int, ...] = ()
    present: set[int] = set()
    with contextlib.ExitStack() as stack:
        out = {
            (split, part): stack.enter_context((folder / _file_name(split, part)).open("wb"))
            for split in SPLITS
            for part in _DTYPES
        }
        for examples in contents.examples:
            _check_labels(examples, contents.classes)
            for part, array in _parts(examples).items():
                out[examples.split, part].write(np.ascontiguousarray(array).data)
            counts[examples.split] += len(examples.labels)
            shape = examples.pixels.shape[1:]
            if examples.split == "train":
                present.update(examples.labels.tolist())
    for path in folder.iterdir():
        files.flush(path)
    _check_classes(contents.classes, present)
    return {"classes": contents.classes, "shape": shape, "counts": counts}


def _parts(examples: Examples) -> dict[str, npt.NDArray[Any]]:
    x = examples.pixels.reshape(*examples.pixels.shape[:2], -1)
    # Summed as int64, so exactly: C channels over p pixels for each of n images.
    sums, squares = x.sum(-1, dtype=np.int64), np.einsum("ncp,ncp->nc", x, x, dtype=np.int64)
    return {
        "pixels": examples.pixels,
        "labels": examples.labels,
        "moments": np.stack([sums, squares], axis=1),
    }


def _check_labels(examples: Examples, classes: tuple[str, ...]) -> None:
    outside = examples.labels[(examples.labels < 0) | (examples.labels >= len(classes))]
    if len(outside):
        raise UserError(f"labels must be 0 to {len(classes) - 1}, got {outside[0]} in {examples.split}")


def _check_classes(classes: tuple[str, ...], present: set[int]) -> None:
    if len(classes) < 2:
        raise UserError(f"classes must be two or more, got {', '.join(classes) or 'none'}")
    missing = [name for label, name in enumerate(classes) if label not in present]
    if missing:
        raise UserError(f"every class must have an image to train on, found none of {', '.join(missing[:5])}")


def _file_name(split: str, part: str) -> str:
    return f"{split}_{part}.bin"
