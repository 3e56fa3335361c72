"""Times the building of a store of small JPEG files, and its opening.

Building is compared with decoding alone, by Pillow in as many processes, and opening with reading the files once.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks.cases import CLASSES
from benchmarks.report import LIMIT, OURS, Measurement, print_measurements, time_interleaved
from fcnet.data import sources
from fcnet.data.decoding import decode_pool
from fcnet.data.store import store
from fcnet.runtime.hardware import num_processors

if TYPE_CHECKING:
    from collections.abc import Callable


def write_images(folder: Path, count: int) -> list[str]:
    """Writes JPEG files of 32×32 smooth noise, the last sixth into the test split. Returns their paths."""
    draws, paths = np.random.default_rng(0), []
    for number in range(count):
        split, label = "test" if 6 * number >= 5 * count else "train", number % CLASSES
        path = folder / split / str(label) / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=75)
        paths.append(str(path))
    return paths


def write_arrays(file: Path, count: int) -> None:
    """Writes an archive of random images, a sixth of them in the test split."""
    draws, num_test = np.random.default_rng(0), count // 6
    images = draws.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % CLASSES
    train, test = slice(num_test, None), slice(num_test)
    np.savez(file, x_train=images[train], y_train=labels[train], x_test=images[test], y_test=labels[test])


def decode_only(path: str) -> None:
    """Decodes a file and discards the pixels."""
    with Image.open(path) as image:
        np.asarray(image.convert("RGB"))


def build_store(folder: Path, processors: int) -> Callable[[], None]:
    """Returns a function that builds the store of a folder in an empty cache."""

    def build() -> None:
        with (
            mock.patch.object(decode_pool, "num_processors", return_value=processors),
            tempfile.TemporaryDirectory() as cache,
        ):
            store.open_store(sources.images(folder), Path(cache))

    return build


def read_files(folder: Path) -> None:
    """Reads each file of a folder once and discards it."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def compare(count: int, repeats: int) -> list[Measurement]:
    """Prints and returns the seconds that building a store of ``count`` files takes, and opening it.

    The limit of building is Pillow alone, that of opening a plain read of the files, which are in the page cache.
    """
    processors = num_processors()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as cache:
        paths = write_images(Path(name), count)
        with multiprocessing.get_context("spawn").Pool(processors) as pool:
            building: dict[str, Callable[[], object]] = {
                OURS: build_store(Path(name), processors),
                f"{OURS}, one process": build_store(Path(name), 1),
                LIMIT: lambda: pool.map(decode_only, paths, chunksize=256),
            }
            measurements = _time(f"a store of {count:,} JPEG files of 32×32", building, "Pillow alone", count, repeats)
        opening: dict[str, Callable[[], object]] = {
            OURS: lambda: store.open_store(sources.arrays(Path(name) / "arrays.npz"), Path(cache)),
            LIMIT: lambda: read_files(Path(cache)),
        }
        write_arrays(Path(name) / "arrays.npz", count)
        opening[OURS]()
        measurements += _time(f"opening a store of {count:,} images of 32×32", opening, "a plain read", count, repeats)
    print_measurements(measurements)
    return measurements


def _time(case: str, runs: dict[str, Callable[[], object]], limit: str, count: int, repeats: int) -> list[Measurement]:
    times = time_interleaved(runs, repeats, fill_seconds=0.0, device=torch.device("cpu"))
    measurements = []
    for contender, seconds in times.items():
        measurement = Measurement(case, contender, seconds, "s", note=limit if contender == LIMIT else "")
        measurement.extra["images/s"] = count / measurement.median
        measurements.append(measurement)
    return measurements
