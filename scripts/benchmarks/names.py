"""Measures what the names of images add to a store: seconds of processor time, memory and bytes on the disk.

A source of tiny images, with and without names as long as ImageNet's, is built into a store and opened again, each time
in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.report import OURS, Measurement
from fcnet.data.sources.source import Contents, ImageChunk, SourceSnapshot
from fcnet.data.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fcnet.data.sources.source import Fingerprint, SplitName

_CHUNK = 341  # as many images of 32×32 as are decoded at a time
_SIDE = 4
_NUM_CLASSES = 1000
_UNNAMED = "without names"


class Cost(NamedTuple):
    """The cost of building or opening a store."""

    seconds: float
    peak_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class TinyImages:
    """A source of random images; a twentieth of them are test images."""

    count: int
    named: bool

    def snapshot(self) -> SourceSnapshot:
        """Returns a snapshot, as every source does."""
        fingerprint: Fingerprint = {"kind": "tiny", "count": self.count, "named": int(self.named)}
        return SourceSnapshot(fingerprint, lambda: Contents(tuple(map(str, range(_NUM_CLASSES))), self.iter_chunks()))

    def iter_chunks(self) -> Iterator[ImageChunk]:
        """Yields the chunks."""
        draws = np.random.default_rng(0)
        num_test = self.count // 20
        splits: dict[SplitName, int] = {"train": self.count - num_test, "test": num_test}
        for split, count in splits.items():
            for start in range(0, count, _CHUNK):
                rows = range(start, min(start + _CHUNK, count))
                names = tuple(f"{split}/n{row % _NUM_CLASSES:08}/n{row % _NUM_CLASSES:08}_{row}.JPEG" for row in rows)
                pixels = draws.integers(256, size=(len(rows), 1, _SIDE, _SIDE), dtype=np.uint8)
                labels = np.arange(rows.start, rows.stop) % _NUM_CLASSES
                yield ImageChunk(split, pixels, labels, names=names if self.named else ())


def measure(cache: str, count: int, *, named: bool) -> Cost:
    """Opens the store, which builds it first if the cache does not have it, and reads one name in a hundred."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    since = time.process_time()
    store = open_store(TinyImages(count, named), Path(cache))
    if store.train.names is not None:
        assert all(store.train.names[row] for row in range(0, count // 2, 100))
    seconds = time.process_time() - since
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    return Cost(seconds, peak_bytes, sum(file.stat().st_size for file in store.metadata_file.parent.iterdir()))


def compare(count: int, repeats: int) -> list[Measurement]:
    """Prints and returns the seconds to build and to open a store of ``count`` images, with names and without."""
    measurements = []
    for contender, named in ((OURS, True), (_UNNAMED, False)):
        costs: dict[str, list[Cost]] = {"building": [], "opening": []}
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                for action in costs:
                    costs[action].append(_in_new_process(cache, count, named=named))
        measurements += [_measurement(action, count, contender, of_action) for action, of_action in costs.items()]
    return measurements


def _measurement(action: str, count: int, contender: str, costs: list[Cost]) -> Measurement:
    """Prints and returns the medians."""
    seconds, *sizes = zip(*costs, strict=True)
    peak, size = (statistics.median(values) / 2**20 for values in sizes)
    figures = {"peak MiB": peak, "file MiB": size}
    measurement = Measurement(f"{action} a store of {count:,} images", contender, seconds, "s", extra=figures)
    print(
        f"{measurement.case}, {contender}: {measurement.median:.2f} s, peak memory {peak:,.0f} MiB, "
        f"files {size:,.0f} MiB",
        flush=True,
    )
    return measurement


def _in_new_process(cache: str, count: int, *, named: bool) -> Cost:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (cache, count), {"named": named})
