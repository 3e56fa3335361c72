"""Times the building of a store of small JPEG files against decoding alone, by Pillow in as many processes."""

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


def compare(count: int, repeats: int) -> list[Measurement]:
    """Prints and returns the seconds that a store of ``count`` files takes; the limit is Pillow alone."""
    processors = num_processors()
    with tempfile.TemporaryDirectory() as name, multiprocessing.get_context("spawn").Pool(processors) as pool:
        paths = write_images(Path(name), count)
        runs: dict[str, Callable[[], object]] = {
            OURS: build_store(Path(name), processors),
            f"{OURS}, one process": build_store(Path(name), 1),
            LIMIT: lambda: pool.map(decode_only, paths, chunksize=256),
        }
        times = time_interleaved(runs, repeats, fill_seconds=0.0, device=torch.device("cpu"))
    case = f"a store of {count:,} JPEG files of 32×32"
    measurements = []
    for contender, seconds in times.items():
        note = "Pillow alone" if contender == LIMIT else ""
        measurement = Measurement(case, contender, seconds, "s", note=note)
        measurement.extra["images/s"] = count / measurement.median
        measurements.append(measurement)
    print_measurements(measurements)
    return measurements
