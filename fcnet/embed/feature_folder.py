"""A folder of features, written batch by batch under another name and renamed when it is whole.

It holds ``x_SPLIT.npy`` and ``y_SPLIT.npy`` for each split, ``classes.npy``, ``paths_SPLIT.txt`` if the images have
paths, and ``metadata.json``, which tells how the features were made. A journal has one line for each batch, written
after the batch, with a checksum of its bytes: after a kill, writing resumes after the last batch that is whole.
Letters: N images, D features.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fcnet.runtime.errors import UserError
from fcnet.runtime.files import disk_full_as_user_error, fsync, read_json, sha256, write_json
from fcnet.runtime.formatting import escape_unprintable, format_count
from fcnet.runtime.journal import encode_line, read_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources.source import SplitName

METADATA = "metadata.json"
_JOURNAL = "journal"
_DTYPES: dict[str, np.dtype[Any]] = {"x": np.dtype("<f4"), "y": np.dtype("<i8")}


class FeatureBatch(NamedTuple):
    """Consecutive images of one split.

    Attributes:
        split: their split.
        features: float32 (N, D).
        labels: int64 (N,).
        paths: their paths; none if they have no paths.
        skipped: the unreadable images among them, as pairs of a name and the reason.
        pixels_sha256: a checksum over all images so far, as the network got them.
    """

    split: SplitName
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    paths: Sequence[str]
    skipped: Sequence[tuple[str, str]]
    pixels_sha256: str


class FeatureFolder:
    """Writes a folder of features. One process at a time may do so.

    Args:
        path: the folder. It appears when the features are whole.
        recipe: how the features are made. Writing resumes only with an equal one.
        counts: the number of images of each split, unreadable ones included.
        num_features: D.

    Attributes:
        num_done: the number of images of each split that are written, or skipped, so far.
        skipped: the unreadable images so far.
        pixels_sha256: the checksum of the last batch; empty before the first.
    """

    def __init__(
        self, path: Path, recipe: Mapping[str, Any], counts: Mapping[SplitName, int], num_features: int
    ) -> None:
        self._path, self._folder = path, unfinished_folder(path)
        self._head = json.loads(json.dumps({"recipe": recipe, "counts": counts, "features": num_features}))
        self._counts, self._num_features = counts, num_features
        self._lines: list[dict[str, Any]] = []

    @property
    def num_done(self) -> dict[SplitName, int]:  # noqa: D102 - documented as an attribute
        return {
            split: sum(line["count"] + len(line["skipped"]) for line in self._lines if line["split"] == split)
            for split in self._counts
        }

    @property
    def skipped(self) -> list[tuple[str, str]]:  # noqa: D102 - documented as an attribute
        return [(name, reason) for line in self._lines for name, reason in line["skipped"]]

    @property
    def num_written(self) -> dict[SplitName, int]:
        """The number of images of each split with features so far."""
        return {split: sum(line["count"] for line in self._lines if line["split"] == split) for split in self._counts}

    @property
    def pixels_sha256(self) -> str:  # noqa: D102 - documented as an attribute
        return str(self._lines[-1]["pixels"]) if self._lines else ""

    def start(self) -> None:
        """Starts with empty files, or after the last whole batch of an interrupted command.

        Raises:
            UserError: there are unfinished features that were made in another way.
        """
        lines = read_lines(self._folder / _JOURNAL)
        if lines:
            self._resume(lines)
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for split, count in self._counts.items():
            for part in _DTYPES:
                with self._file(part, split).open("wb") as file:
                    write_header(file, part, count, self._num_features)
            self._file("paths", split).touch()
        (self._folder / _JOURNAL).write_bytes(encode_line(self._head))

    def _resume(self, lines: list[dict[str, Any]]) -> None:
        """Truncates the files after the last whole batch."""
        recipes = lines[0]["recipe"], self._head["recipe"]
        if difference := first_difference(*recipes, [*recipes[0], *recipes[1]]):
            raise UserError(
                f"--resume: the unfinished features in {self._folder} were made with {difference}; "
                "remove that folder to start anew"
            )
        with contextlib.ExitStack() as stack:
            files = {}
            for split in self._counts:
                for part in ("x", "y", "paths"):
                    files[part, split] = stack.enter_context(self._file(part, split).open("rb"))
                    files[part, split].seek(self._header_bytes(part, split))
            self._lines = list(itertools.takewhile(lambda line: self._is_whole(line, files), lines[1:]))
        ends = {(part, split): self._header_bytes(part, split) for part, split in files}
        for line in self._lines:
            for part, num_bytes in zip(("x", "y", "paths"), line["bytes"], strict=True):
                ends[part, line["split"]] += num_bytes
        for (part, split), end in ends.items():
            os.truncate(self._file(part, split), end)
        (self._folder / _JOURNAL).write_bytes(b"".join(map(encode_line, [self._head, *self._lines])))

    def append(self, batch: FeatureBatch) -> None:
        """Appends a batch, then its line to the journal.

        Raises:
            UserError: the disk is full.
        """
        text = "".join(f"{escape_unprintable(path)}\n" for path in batch.paths)
        contents = {
            "x": np.ascontiguousarray(batch.features, _DTYPES["x"]).tobytes(),
            "y": np.ascontiguousarray(batch.labels, _DTYPES["y"]).tobytes(),
            "paths": text.encode(),
        }
        line = {
            "split": batch.split,
            "count": len(batch.labels),
            "skipped": batch.skipped,
            "bytes": [len(content) for content in contents.values()],
            "sha256": sha256(*contents.values()),
            "pixels": batch.pixels_sha256,
        }
        with disk_full_as_user_error(self._path):
            for part, content in contents.items():
                with self._file(part, batch.split).open("ab") as file:
                    file.write(content)
            with (self._folder / _JOURNAL).open("ab") as file:
                file.write(encode_line(line))
        self._lines.append(line)

    def finish(self, classes: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Writes the class names and the metadata with the checksum of each file; then the folder appears.

        Args:
            classes: the class names.
            metadata: what else the metadata says.
        """
        with disk_full_as_user_error(self._path):
            for split, count in self.num_written.items():
                for part in _DTYPES:
                    with self._file(part, split).open("r+b") as file:
                        write_header(file, part, count, self._num_features)
                if not self._file("paths", split).stat().st_size:
                    self._file("paths", split).unlink()
            np.save(self._folder / "classes.npy", np.array(classes, dtype=np.str_))
            names = sorted(file.name for file in self._folder.iterdir() if file.name not in {_JOURNAL, METADATA})
            for name in names:
                fsync(self._folder / name)
            made = {"images": self.num_written, "features": self._num_features}
            made |= {"skipped": self.skipped, "pixels_sha256": self.pixels_sha256}
            checksums = {name: sha256(self._folder / name) for name in names}
            write_json(self._folder / METADATA, {**metadata, **made, "files": checksums})
            (self._folder / _JOURNAL).unlink()
            if self._path.is_dir():
                self._path.rmdir()  # it is empty
            self._folder.rename(self._path)
            fsync(self._path.parent)

    def _file(self, part: str, split: str) -> Path:
        return self._folder / (f"paths_{split}.txt" if part == "paths" else f"{part}_{split}.npy")

    def _header_bytes(self, part: str, split: SplitName) -> int:
        """Returns the length of a file's header."""
        if part == "paths":
            return 0
        header = io.BytesIO()
        write_header(header, part, self._counts[split], self._num_features)
        return header.tell()

    @staticmethod
    def _is_whole(line: dict[str, Any], files: Mapping[tuple[str, SplitName], IO[bytes]]) -> bool:
        """Returns whether the next bytes of the files match a line of the journal."""
        parts = zip(("x", "y", "paths"), line["bytes"], strict=True)
        return bool(sha256(*(files[part, line["split"]].read(size) for part, size in parts)) == line["sha256"])


def write_header(file: IO[bytes], part: str, count: int, num_features: int) -> None:
    """Writes the header of an array file. Its length does not depend on the number of images.

    Args:
        file: the file, at its start.
        part: ``x`` or ``y``.
        count: N.
        num_features: D.
    """
    shape = (count, num_features) if part == "x" else (count,)
    # NumPy leaves room for a longer first axis.
    np.lib.format.write_array_header_1_0(file, {"descr": _DTYPES[part].str, "fortran_order": False, "shape": shape})


def unfinished_folder(path: Path) -> Path:
    """Returns the folder in which features are written, given the folder in which they appear."""
    return path.with_name(f".{path.name}.unfinished")


def check_output_folder(path: Path, *, resume: bool) -> bool:
    """Checks that features can be written to a folder; returns whether they are finished already.

    Args:
        path: the folder.
        resume: whether unfinished or finished features may be there.

    Raises:
        UserError: something else is there, or unfinished features.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--out must be a folder, got the file {path}")
    if path.is_dir() and any(path.iterdir()):
        if resume and (path / METADATA).is_file():
            return True
        raise UserError(f"--out: {path} already exists and is not empty")
    if unfinished_folder(path).exists() and not resume:
        lines = read_lines(unfinished_folder(path) / _JOURNAL)
        count = sum(line["count"] for line in lines[1:])
        raise UserError(
            f"--out: {unfinished_folder(path)} holds the features of {format_count(count, 'image')} from an "
            "interrupted command; use --resume to continue it, or remove that folder to start anew"
        )
    return False


def read_recipe(path: Path) -> dict[str, Any]:
    """Returns how the features of a folder were made, finished or not; nothing if there are none."""
    if (path / METADATA).is_file():
        return read_json(path / METADATA)
    lines = read_lines(unfinished_folder(path) / _JOURNAL)
    return dict(lines[0]["recipe"]) if lines else {}


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Returns a phrase on the first difference of two recipes; nothing if they agree.

    Args:
        before: the recipe of the features that are there.
        now: the recipe of the command.
        keys: the keys to compare.

    Example:
        >>> first_difference({"backbone": {"name": "a", "mean": [0.5]}}, {"backbone": {"name": "b"}}, ["backbone"])
        'backbone.name a, got b'
    """
    for key in keys:
        was, is_now = before.get(key), json.loads(json.dumps(now.get(key)))
        if was == is_now:
            continue
        if isinstance(was, dict) and isinstance(is_now, dict):
            return f"{key}.{first_difference(was, is_now, [*was, *is_now])}"
        return f"{key} {was}, got {is_now}"
    return ""
