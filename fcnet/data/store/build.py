"""Building of stores: images are appended to flat files, and an interrupted build resumes.

A store is built in a folder with a temporary name, which is renamed when it is complete. A journal in that folder has
one line for each chunk of images, written after the chunk, with checksums of the line and of the chunk's bytes. A build
resumes after the last chunk that matches its checksums, so it does not matter in which order the system wrote the files
to the disk. N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shutil
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fcnet.data.sources.source import SPLITS
from fcnet.data.store.image_names import encode_names
from fcnet.data.store.integrity import block_checksums, content_fingerprint
from fcnet.data.store.train_copies import SplitArrays, find_train_copies
from fcnet.runtime import files
from fcnet.runtime.errors import UserError
from fcnet.runtime.journal import encode_line, read_lines
from fcnet.runtime.locks import file_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader, BufferedWriter
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources.source import Contents, ImageChunk, SourceSnapshot, SplitName

    Progress = Callable[[int, int], object]

FORMAT = 5  # increase when the files change, or when a source decodes the same data differently
ARRAY_DTYPES: dict[str, np.dtype[Any]] = {
    "pixels": np.dtype(np.uint8),
    "labels": np.dtype(np.int64),
    "moments": np.dtype(np.int64),
    "names": np.dtype(np.uint8),
    "name_ends": np.dtype(np.int64),
}
_JOURNAL = "journal"
_FILES = {(split, part): f"{split}_{part}.bin" for split in SPLITS for part in ARRAY_DTYPES}


def store_key(fingerprint: object) -> str:
    """Returns the SHA-256 of a source's fingerprint and of the format, after which a store is named."""
    canonical = json.dumps([FORMAT, fingerprint], sort_keys=True, separators=(",", ":"))
    return files.sha256(canonical.encode())


def array_shapes(count: int, shape: tuple[int, ...], name_bytes: int | None) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array of a split.

    Args:
        count: the number of images.
        shape: (C, H, W) of each.
        name_bytes: the bytes of their names in UTF-8; None if they have no names.
    """
    return {
        "pixels": (count, *shape),
        "labels": (count,),
        "moments": (count, 2, shape[0]),
        "names": (name_bytes or 0,),
        "name_ends": (0 if name_bytes is None else count,),
    }


def array_file(folder: Path, split: str, part: str) -> Path:
    """Returns the file of an array of a split."""
    return folder / f"{split}_{part}.bin"


def map_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Maps a file into memory: writing to the array changes the memory of this process, never the file.

    Raises:
        ValueError: the file has the wrong size.
    """
    size = math.prod(shape) * dtype.itemsize
    with path.open("rb") as file:
        if (found := os.fstat(file.fileno()).st_size) != size:
            raise ValueError(f"{path} must be {size} bytes, got {found}")
        return np.memmap(file, dtype, "c", shape=shape) if size else np.empty(shape, dtype)


def unfinished_folder(folder: Path) -> Path:
    """Returns the folder in which a store is built, given the folder of the finished store."""
    return folder.with_name(f".{folder.name}.unfinished")


def finished_folder(build_folder: Path) -> Path:
    """Returns the folder of a finished store, given the folder in which it is built."""
    return build_folder.with_name(build_folder.name.removeprefix(".").removesuffix(".unfinished"))


def build_store(snapshot: SourceSnapshot, folder: Path, progress: Progress | None = None) -> None:
    """Builds a store. The caller must hold the lock of ``folder``, which appears when the store is complete.

    An interrupted or killed build keeps its progress for the next one. An error removes it.

    Args:
        snapshot: the source.
        folder: the folder of the store.
        progress: called with the number of decoded images and the number of all images, if there is decoding to do.

    Raises:
        UserError: the source cannot be used.
    """
    _remove_leftovers(folder)
    build_folder = unfinished_folder(folder)
    resumable = False
    try:
        contents = snapshot.read()
        resumable = contents.resume_after is not None
        head = {"key": store_key(snapshot.fingerprint), "source": dict(snapshot.fingerprint)}
        metadata = head | _write_files(contents, build_folder, head, progress)
        files.write_json(build_folder / "store.json", metadata | _examine(build_folder, metadata))
        (build_folder / _JOURNAL).unlink()
        if folder.exists():
            shutil.rmtree(folder)  # a damaged store
        build_folder.rename(folder)
        files.fsync(folder.parent)
    except BaseException as error:
        # KeyboardInterrupt and SystemExit are no Exceptions: they keep the progress.
        if isinstance(error, Exception) or not (resumable and read_progress(build_folder)["done"]):
            shutil.rmtree(build_folder, ignore_errors=True)
        raise


def read_progress(build_folder: Path) -> dict[str, Any]:
    """Returns the source of an unfinished store and the number of decoded images, for a list of stores."""
    lines = read_lines(build_folder / _JOURNAL)
    done = sum(line["count"] + len(line["skipped"]) for line in lines[1:])
    return {"source": lines[0]["source"] if lines else {}, "done": done}


def _remove_leftovers(folder: Path) -> None:
    """Removes unfinished stores that killed builds have left, other than this one."""
    for leftover in folder.parent.glob(unfinished_folder(folder.with_name("*")).name):
        if leftover != unfinished_folder(folder):
            with contextlib.suppress(BlockingIOError), file_lock(finished_folder(leftover), wait=False):
                shutil.rmtree(leftover)


def _write_files(contents: Contents, folder: Path, head: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Writes the array files. Returns their metadata for ``store.json``."""
    lines = _resume(folder, head) if contents.resume_after else []
    if not lines:
        _start_build(folder, head)
    if contents.num_bytes > (free := shutil.disk_usage(folder).free):
        sizes = f"{contents.num_bytes / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free"
        raise UserError(f"cannot write {folder.parent}: the images need {sizes}; lower their number or size")
    done = sum(line["count"] + len(line["skipped"]) for line in lines)
    chunks = contents.resume_after(done) if contents.resume_after and done else contents.chunks
    report = progress if progress and contents.num_images else lambda done, total: None
    report(done, contents.num_images)
    with contextlib.ExitStack() as stack:
        if close := getattr(chunks, "close", None):
            stack.callback(close)
        out = {of: stack.enter_context((folder / name).open("ab")) for of, name in _FILES.items()}
        journal = stack.enter_context((folder / _JOURNAL).open("ab"))
        name_starts = {split: _name_bytes(lines, split) or 0 for split in SPLITS}
        for chunk in chunks:
            _check_labels(chunk, contents.classes)
            lines.append(_append_chunk(chunk, name_starts[chunk.split], out, journal))
            name_starts[chunk.split] += lines[-1]["name_bytes"] or 0
            done += len(chunk.labels) + len(chunk.skipped)
            report(done, contents.num_images)
    for name in _FILES.values():
        files.fsync(folder / name)
    skipped = [pair for line in lines for pair in line["skipped"]]
    if not contents.test_only:
        _check_classes(contents.classes, np.fromfile(array_file(folder, "train", "labels"), np.int64), skipped)
    return {
        "classes": contents.classes,
        "shape": lines[0]["shape"],
        "counts": {split: sum(line["count"] for line in lines if line["split"] == split) for split in SPLITS},
        "name_bytes": {split: _name_bytes(lines, split) for split in SPLITS},
        "skipped": skipped,
        "notes": contents.notes,
    }


def _name_bytes(lines: list[dict[str, Any]], split: str) -> int | None:
    """Returns the bytes of the names in a split's chunks; None without names."""
    name_bytes = [line["name_bytes"] for line in lines if line["split"] == split and line["name_bytes"] is not None]
    return sum(name_bytes) if name_bytes else None


def _examine(folder: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns what ``store.json`` says of the written arrays: fingerprint, checksums and copies of training images."""
    arrays = {
        name.removesuffix(".bin"): map_array(
            folder / name,
            array_shapes(metadata["counts"][split], metadata["shape"], metadata["name_bytes"][split])[part],
            ARRAY_DTYPES[part],
        )
        for (split, part), name in _FILES.items()
    }
    # Moments follow from pixels, and renamed images are the same data.
    splits = [split for split in SPLITS if split != "validation" or metadata["counts"][split]]
    images = [arrays[f"{split}_{part}"] for split in splits for part in ("pixels", "labels")]
    fingerprint = content_fingerprint(metadata["classes"], metadata["shape"], images)
    train, *others = (SplitArrays(arrays[f"{split}_pixels"], arrays[f"{split}_moments"]) for split in SPLITS)
    copies = {split: find_train_copies(train, other) for split, other in zip(SPLITS[1:], others, strict=True)}
    return {"fingerprint": fingerprint, "checksums": block_checksums(arrays), "train_copies": copies}


def _start_build(folder: Path, head: dict[str, Any]) -> None:
    """Creates the folder with empty files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in _FILES.values():
        (folder / name).touch()
    (folder / _JOURNAL).write_bytes(encode_line(head))


def _append_chunk(
    chunk: ImageChunk, name_start: int, out: dict[tuple[SplitName, str], BufferedWriter], journal: IO[bytes]
) -> dict[str, Any]:
    """Appends a chunk to the array files, then its line to the journal. Returns the line.

    Args:
        chunk: the images.
        name_start: the bytes of the names before them.
        out: the array files.
        journal: the journal.
    """
    assert len(chunk.names) in (0, len(chunk.labels)), f"{len(chunk.labels)} images have {len(chunk.names)} names"
    arrays = {part: np.ascontiguousarray(array).data for part, array in _chunk_arrays(chunk, name_start).items()}
    for part, data in arrays.items():
        out[chunk.split, part].write(data)
        out[chunk.split, part].flush()
    line = {
        "split": chunk.split,
        "count": len(chunk.labels),
        "shape": chunk.pixels.shape[1:],
        "name_bytes": arrays["names"].nbytes if chunk.names else None,
        "skipped": chunk.skipped,
        "sha256": files.sha256(*arrays.values()),
    }
    journal.write(encode_line(line))
    journal.flush()
    return line


def _resume(folder: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """Truncates the files after the last valid chunk. Returns the journal's lines of the valid chunks."""
    lines = read_lines(folder / _JOURNAL)
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
    (folder / _JOURNAL).write_bytes(b"".join(map(encode_line, [head, *valid_lines])))
    for entry in folder.iterdir():
        if entry.name not in {_JOURNAL, *_FILES.values()}:
            entry.unlink()
    return valid_lines


def _line_is_valid(line: dict[str, Any], written: dict[tuple[SplitName, str], BufferedReader]) -> bool:
    """Returns whether the next bytes of the files match a line of the journal."""
    arrays = [written[line["split"], part].read(size) for part, size in _array_bytes(line).items()]
    return bool(files.sha256(*arrays) == line["sha256"])


def _array_bytes(line: dict[str, Any]) -> dict[str, int]:
    shapes = array_shapes(line["count"], line["shape"], line["name_bytes"])
    return {part: math.prod(shapes[part]) * dtype.itemsize for part, dtype in ARRAY_DTYPES.items()}


def _chunk_arrays(chunk: ImageChunk, name_start: int) -> dict[str, npt.NDArray[Any]]:
    num_images, channels, height, width = chunk.pixels.shape
    x = chunk.pixels.reshape(num_images, channels, height * width)
    # Exact sums in int64: n images, c channels, p pixels.
    sums, squares = x.sum(-1, dtype=np.int64), np.einsum("ncp,ncp->nc", x, x, dtype=np.int64)
    names, name_ends = encode_names(chunk.names, name_start)
    return {
        "pixels": chunk.pixels,
        "labels": chunk.labels,
        "moments": np.stack([sums, squares], axis=1),
        "names": names,
        "name_ends": name_ends,
    }


def _check_labels(chunk: ImageChunk, classes: tuple[str, ...]) -> None:
    outside = chunk.labels[(chunk.labels < 0) | (chunk.labels >= len(classes))]
    if len(outside):
        raise UserError(f"labels must be 0 to {len(classes) - 1}, got {outside[0]} in {chunk.split}")


def _check_classes(classes: tuple[str, ...], labels: npt.NDArray[np.int64], skipped: list[Any]) -> None:
    """Checks that every class has a training image. Classes may be absent from the other splits."""
    if len(classes) < 2:
        raise UserError(f"classes must be two or more, got {', '.join(classes) or 'none'}")
    missing = sorted(set(range(len(classes))) - set(np.unique(labels).tolist()))
    names = ", ".join(classes[label] for label in missing[:5])
    if missing and skipped:
        raise UserError(
            f"every class must have a readable image, found none of {names} in train "
            f"({len(skipped):,} broken images are skipped; the first: {skipped[0][0]} {skipped[0][1]})"
        )
    if missing:
        raise UserError(f"every class must have a training image, found none of {names}")
