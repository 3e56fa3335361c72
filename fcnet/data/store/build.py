"""How a store is made: image by image into flat files, and on from where a killed process left it.

A store is built in a folder of another name, which is renamed when whole. Beside the files there a journal grows
by a line for each run of images once they are written, with checksums of the line and of the run's bytes. What a
killed build leaves is believed as far as these hold, so nothing depends on what reached the disk in which order.
N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fcnet.data.sources.image_folder import SPLITS
from fcnet.runtime import files
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import locked

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader, BufferedWriter
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources.image_folder import SplitName
    from fcnet.data.sources.source import Contents, Examples, Snapshot

    Progress = Callable[[int, int], object]

FORMAT = 2  # to be raised when these files, or what a source makes of the same data, change
PARTS: dict[str, np.dtype[Any]] = {
    "pixels": np.dtype(np.uint8),
    "labels": np.dtype(np.int64),
    "moments": np.dtype(np.int64),
}
_JOURNAL = "journal"
_FILES = {(split, part): f"{split}_{part}.bin" for split in SPLITS for part in PARTS}


def store_key(fingerprint: object) -> str:
    """The SHA-256 that names a store, of what it is made from and of the form it has."""
    canonical = json.dumps([FORMAT, fingerprint], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def part_shapes(count: int, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shape of each part of a split that holds ``count`` images of the given shape (C, H, W)."""
    return {"pixels": (count, *shape), "labels": (count,), "moments": (count, 2, shape[0])}


def part_file(folder: Path, split: str, part: str) -> Path:
    """The file that a part of a split is in."""
    return folder / f"{split}_{part}.bin"


def unfinished(folder: Path) -> Path:
    """The name under which a store is built."""
    return folder.with_name(f".{folder.name}.unfinished")


def finished_name(growing: Path) -> Path:
    """The name that a store gets once it is whole, from that under which it is built."""
    return growing.with_name(growing.name.removeprefix(".").removesuffix(".unfinished"))


def build_store(snapshot: Snapshot, folder: Path, progress: Progress | None = None) -> None:
    """Makes the store; ``folder`` is not there until it is whole. Its lock must be held.

    Args:
        snapshot: what it is made from.
        folder: where it is to be.
        progress: told how many of how many images are done, where they are files to be decoded.

    Raises:
        UserError: the source cannot be used, and why. Nothing is left then, nor after any other
            error; but what an interrupted build has done is there for the next one.
    """
    _remove_leftovers(folder)
    growing = unfinished(folder)
    resumable = False
    try:
        contents = snapshot.read()
        resumable = contents.after is not None
        head = {"fingerprint": store_key(snapshot.fingerprint), "source": dict(snapshot.fingerprint)}
        about = head | _write(contents, growing, head, progress)
        files.write_text(growing / "store.json", json.dumps(about, indent=2) + "\n")
        (growing / _JOURNAL).unlink()
        if folder.exists():
            shutil.rmtree(folder)  # files are missing from it, or cut short
        growing.rename(folder)
        files.flush(folder.parent)
    except BaseException as error:
        if isinstance(error, Exception) or not (resumable and read_head(growing)["done"]):
            shutil.rmtree(growing, ignore_errors=True)
        raise


def read_head(growing: Path) -> dict[str, Any]:
    """What an unfinished store is made from, and how many images are done: for a list of stores."""
    lines = _journal_lines(growing)
    done = sum(line["count"] + len(line["skipped"]) for line in lines[1:])
    return {"source": lines[0]["source"] if lines else {}, "done": done}


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed builds of other stores have left: unfinished ones that no process holds the lock of."""
    for leftover in folder.parent.glob(unfinished(folder.with_name("*")).name):
        if leftover != unfinished(folder):
            with contextlib.suppress(BlockingIOError), locked(finished_name(leftover), wait=False):
                shutil.rmtree(leftover)


def _write(contents: Contents, folder: Path, head: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Writes the six files; returns what ``store.json`` says about them."""
    lines = _taken_up(folder, head) if contents.after else []
    if not lines:
        _begin(folder, head)
    done = sum(line["count"] + len(line["skipped"]) for line in lines)
    examples = contents.after(done) if contents.after and done else contents.examples
    report = progress if progress and contents.num_images else lambda done, total: None
    report(done, contents.num_images)
    with contextlib.ExitStack() as stack:
        if close := getattr(examples, "close", None):
            stack.callback(close)
        out = {of: stack.enter_context((folder / name).open("ab")) for of, name in _FILES.items()}
        journal = stack.enter_context((folder / _JOURNAL).open("ab"))
        for some in examples:
            _check_labels(some, contents.classes)
            lines.append(_append(some, out, journal))
            done += len(some.labels) + len(some.skipped)
            report(done, contents.num_images)
    for name in _FILES.values():
        files.flush(folder / name)
    labels = {split: np.fromfile(part_file(folder, split, "labels"), np.int64) for split in SPLITS}
    skipped = [pair for line in lines for pair in line["skipped"]]
    _check_classes(contents.classes, labels, skipped)
    counts = {split: len(labels[split]) for split in SPLITS}
    return {"classes": contents.classes, "shape": lines[0]["shape"], "counts": counts, "skipped": skipped}


def _begin(folder: Path, head: dict[str, Any]) -> None:
    """Makes the folder with nothing done in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in _FILES.values():
        (folder / name).touch()
    (folder / _JOURNAL).write_bytes(_sealed(head))


def _append(examples: Examples, out: dict[tuple[SplitName, str], BufferedWriter], journal: IO[bytes]) -> dict[str, Any]:
    """Writes some examples, then their line in the journal, which is returned."""
    digest = hashlib.sha256()
    for part, array in _parts(examples).items():
        data = np.ascontiguousarray(array).data
        digest.update(data)
        out[examples.split, part].write(data)
        out[examples.split, part].flush()
    line = {
        "split": examples.split,
        "count": len(examples.labels),
        "shape": examples.pixels.shape[1:],
        "skipped": examples.skipped,
        "sha256": digest.hexdigest(),
    }
    journal.write(_sealed(line))
    journal.flush()
    return line


def _taken_up(folder: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the journal that are true of the files, from the first on; all else is cut off."""
    lines = _journal_lines(folder)
    if not lines or lines[0] != json.loads(json.dumps(head)):
        return []
    with contextlib.ExitStack() as stack:
        try:
            written = {of: stack.enter_context((folder / name).open("rb")) for of, name in _FILES.items()}
        except FileNotFoundError:
            return []
        believed = list(itertools.takewhile(lambda line: _holds(line, written), lines[1:]))
    for (split, part), name in _FILES.items():
        os.truncate(folder / name, sum(_part_bytes(line)[part] for line in believed if line["split"] == split))
    (folder / _JOURNAL).write_bytes(b"".join(map(_sealed, [head, *believed])))
    for entry in folder.iterdir():
        if entry.name not in {_JOURNAL, *_FILES.values()}:
            entry.unlink()
    return believed


def _holds(line: dict[str, Any], written: dict[tuple[SplitName, str], BufferedReader]) -> bool:
    """Whether a line of the journal is true of what comes next in the files."""
    digest = hashlib.sha256()
    for part, size in _part_bytes(line).items():
        digest.update(written[line["split"], part].read(size))
    return bool(digest.hexdigest() == line["sha256"])


def _part_bytes(line: dict[str, Any]) -> dict[str, int]:
    shapes = part_shapes(line["count"], line["shape"])
    return {part: math.prod(shapes[part]) * dtype.itemsize for part, dtype in PARTS.items()}


def _sealed(facts: dict[str, Any]) -> bytes:
    text = json.dumps(facts).encode()
    return b"%s %s\n" % (hashlib.sha256(text).hexdigest().encode(), text)


def _journal_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines that hold what their checksums say, up to the first that does not."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / _JOURNAL).read_bytes().splitlines():
            checksum, _, text = line.partition(b" ")
            if hashlib.sha256(text).hexdigest().encode() != checksum:
                break
            lines.append(json.loads(text))
    return lines


def _parts(examples: Examples) -> dict[str, npt.NDArray[Any]]:
    num_images, channels, height, width = examples.pixels.shape
    x = examples.pixels.reshape(num_images, channels, height * width)
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


def _check_classes(classes: tuple[str, ...], labels: dict[Any, npt.NDArray[np.int64]], skipped: list[Any]) -> None:
    if len(classes) < 2:
        raise UserError(f"classes must be two or more, got {', '.join(classes) or 'none'}")
    for split in SPLITS if skipped else SPLITS[:1]:
        missing = sorted(set(range(len(classes))) - set(np.unique(labels[split]).tolist()))
        names = ", ".join(classes[label] for label in missing[:5])
        if missing and skipped:
            raise UserError(
                f"every class must keep an image where broken ones are skipped ({len(skipped):,} are), "
                f"found none of {names} in {split}; the first: {skipped[0][0]} {skipped[0][1]}"
            )
        if missing:
            raise UserError(f"every class must have an image to train on, found none of {names}")
