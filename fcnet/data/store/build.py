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

from fcnet.data.sources.source import SPLITS
from fcnet.runtime import files
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import file_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader, BufferedWriter
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources.source import Contents, ImageChunk, SourceSnapshot, SplitName

    Progress = Callable[[int, int], object]

FORMAT = 2  # to be raised when these files, or what a source makes of the same data, change
ARRAY_DTYPES: dict[str, np.dtype[Any]] = {
    "pixels": np.dtype(np.uint8),
    "labels": np.dtype(np.int64),
    "moments": np.dtype(np.int64),
}
_JOURNAL = "journal"
_FILES = {(split, part): f"{split}_{part}.bin" for split in SPLITS for part in ARRAY_DTYPES}


def store_key(fingerprint: object) -> str:
    """The SHA-256 that names a store, of what it is made from and of the form it has."""
    canonical = json.dumps([FORMAT, fingerprint], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def array_shapes(count: int, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shape of each part of a split that holds ``count`` images of the given shape (C, H, W)."""
    return {"pixels": (count, *shape), "labels": (count,), "moments": (count, 2, shape[0])}


def array_file(folder: Path, split: str, part: str) -> Path:
    """The file that a part of a split is in."""
    return folder / f"{split}_{part}.bin"


def unfinished_folder(folder: Path) -> Path:
    """The name under which a store is built."""
    return folder.with_name(f".{folder.name}.unfinished")


def finished_folder(build_folder: Path) -> Path:
    """The name that a store gets once it is whole, from that under which it is built."""
    return build_folder.with_name(build_folder.name.removeprefix(".").removesuffix(".unfinished"))


def build_store(snapshot: SourceSnapshot, folder: Path, progress: Progress | None = None) -> None:
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
    build_folder = unfinished_folder(folder)
    resumable = False
    try:
        contents = snapshot.read()
        resumable = contents.resume_after is not None
        head = {"fingerprint": store_key(snapshot.fingerprint), "source": dict(snapshot.fingerprint)}
        metadata = head | _write_files(contents, build_folder, head, progress)
        files.write_text(build_folder / "store.json", json.dumps(metadata, indent=2) + "\n")
        (build_folder / _JOURNAL).unlink()
        if folder.exists():
            shutil.rmtree(folder)  # files are missing from it, or cut short
        build_folder.rename(folder)
        files.fsync(folder.parent)
    except BaseException as error:
        if isinstance(error, Exception) or not (resumable and read_progress(build_folder)["done"]):
            shutil.rmtree(build_folder, ignore_errors=True)
        raise


def read_progress(build_folder: Path) -> dict[str, Any]:
    """What an unfinished store is made from, and how many images are done: for a list of stores."""
    lines = _read_journal(build_folder)
    done = sum(line["count"] + len(line["skipped"]) for line in lines[1:])
    return {"source": lines[0]["source"] if lines else {}, "done": done}


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed builds of other stores have left: unfinished ones that no process holds the lock of."""
    for leftover in folder.parent.glob(unfinished_folder(folder.with_name("*")).name):
        if leftover != unfinished_folder(folder):
            with contextlib.suppress(BlockingIOError), file_lock(finished_folder(leftover), wait=False):
                shutil.rmtree(leftover)


def _write_files(contents: Contents, folder: Path, head: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Writes the six files; returns what ``store.json`` says about them."""
    lines = _resume(folder, head) if contents.resume_after else []
    if not lines:
        _start_build(folder, head)
    done = sum(line["count"] + len(line["skipped"]) for line in lines)
    chunks = contents.resume_after(done) if contents.resume_after and done else contents.chunks
    report = progress if progress and contents.num_images else lambda done, total: None
    report(done, contents.num_images)
    with contextlib.ExitStack() as stack:
        if close := getattr(chunks, "close", None):
            stack.callback(close)
        out = {of: stack.enter_context((folder / name).open("ab")) for of, name in _FILES.items()}
        journal = stack.enter_context((folder / _JOURNAL).open("ab"))
        for chunk in chunks:
            _check_labels(chunk, contents.classes)
            lines.append(_append_chunk(chunk, out, journal))
            done += len(chunk.labels) + len(chunk.skipped)
            report(done, contents.num_images)
    for name in _FILES.values():
        files.fsync(folder / name)
    labels = {split: np.fromfile(array_file(folder, split, "labels"), np.int64) for split in SPLITS}
    skipped = [pair for line in lines for pair in line["skipped"]]
    _check_classes(contents.classes, labels, skipped)
    counts = {split: len(labels[split]) for split in SPLITS}
    return {"classes": contents.classes, "shape": lines[0]["shape"], "counts": counts, "skipped": skipped}


def _start_build(folder: Path, head: dict[str, Any]) -> None:
    """Makes the folder with nothing done in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in _FILES.values():
        (folder / name).touch()
    (folder / _JOURNAL).write_bytes(_checksum_line(head))


def _append_chunk(
    chunk: ImageChunk, out: dict[tuple[SplitName, str], BufferedWriter], journal: IO[bytes]
) -> dict[str, Any]:
    """Writes some examples, then their line in the journal, which is returned."""
    digest = hashlib.sha256()
    for part, array in _chunk_arrays(chunk).items():
        data = np.ascontiguousarray(array).data
        digest.update(data)
        out[chunk.split, part].write(data)
        out[chunk.split, part].flush()
    line = {
        "split": chunk.split,
        "count": len(chunk.labels),
        "shape": chunk.pixels.shape[1:],
        "skipped": chunk.skipped,
        "sha256": digest.hexdigest(),
    }
    journal.write(_checksum_line(line))
    journal.flush()
    return line


def _resume(folder: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the journal that are true of the files, from the first on; all else is cut off."""
    lines = _read_journal(folder)
    if not lines or lines[0] != json.loads(json.dumps(head)):
        return []
    with contextlib.ExitStack() as stack:
        try:
            written = {of: stack.enter_context((folder / name).open("rb")) for of, name in _FILES.items()}
        except FileNotFoundError:
            return []
        valid_lines = list(itertools.takewhile(lambda line: _line_is_valid(line, written), lines[1:]))
    for (split, part), name in _FILES.items():
        os.truncate(folder / name, sum(_array_bytes(line)[part] for line in valid_lines if line["split"] == split))
    (folder / _JOURNAL).write_bytes(b"".join(map(_checksum_line, [head, *valid_lines])))
    for entry in folder.iterdir():
        if entry.name not in {_JOURNAL, *_FILES.values()}:
            entry.unlink()
    return valid_lines


def _line_is_valid(line: dict[str, Any], written: dict[tuple[SplitName, str], BufferedReader]) -> bool:
    """Whether a line of the journal is true of what comes next in the files."""
    digest = hashlib.sha256()
    for part, size in _array_bytes(line).items():
        digest.update(written[line["split"], part].read(size))
    return bool(digest.hexdigest() == line["sha256"])


def _array_bytes(line: dict[str, Any]) -> dict[str, int]:
    shapes = array_shapes(line["count"], line["shape"])
    return {part: math.prod(shapes[part]) * dtype.itemsize for part, dtype in ARRAY_DTYPES.items()}


def _checksum_line(facts: dict[str, Any]) -> bytes:
    text = json.dumps(facts).encode()
    return b"%s %s\n" % (hashlib.sha256(text).hexdigest().encode(), text)


def _read_journal(folder: Path) -> list[dict[str, Any]]:
    """The lines that hold what their checksums say, up to the first that does not."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / _JOURNAL).read_bytes().splitlines():
            checksum, _, text = line.partition(b" ")
            if hashlib.sha256(text).hexdigest().encode() != checksum:
                break
            lines.append(json.loads(text))
    return lines


def _chunk_arrays(chunk: ImageChunk) -> dict[str, npt.NDArray[Any]]:
    num_images, channels, height, width = chunk.pixels.shape
    x = chunk.pixels.reshape(num_images, channels, height * width)
    # Summed as int64, so exactly: C channels over p pixels for each of n images.
    sums, squares = x.sum(-1, dtype=np.int64), np.einsum("ncp,ncp->nc", x, x, dtype=np.int64)
    return {
        "pixels": chunk.pixels,
        "labels": chunk.labels,
        "moments": np.stack([sums, squares], axis=1),
    }


def _check_labels(chunk: ImageChunk, classes: tuple[str, ...]) -> None:
    outside = chunk.labels[(chunk.labels < 0) | (chunk.labels >= len(classes))]
    if len(outside):
        raise UserError(f"labels must be 0 to {len(classes) - 1}, got {outside[0]} in {chunk.split}")


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
