"""Labelled image files: a folder ``train/CLASS/…`` and ``test/CLASS/…``, or a tar archive of one.

Names are relative to that folder, with ``/`` between their parts: ``train/cat/0001.jpg``. Left
alone are hidden files, files that are not images by their suffix, and what lies beside ``train``
and ``test``.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from fcnet.data.archives import read_archive
from fcnet.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SplitName: TypeAlias = Literal["train", "test"]
Grouped: TypeAlias = dict[str, dict[str, list[str]]]
SPLITS: tuple[SplitName, ...] = ("train", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image not yet decoded.

    Attributes:
        name: relative to the folder or the archive.
        split: the split it belongs to.
        label: its class's place among the classes.
        content: the file, or from an archive the file's bytes.
    """

    name: str
    split: SplitName
    label: int
    content: Path | bytes


def find_images(path: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Lists the images of a folder or a tar archive, the same list for both.

    An archive may be compressed (gzip, xz, bzip2), and its folder may lie in one other folder. It
    is read through once, and the image files in it are held in memory as they are, compressed.

    Args:
        path: the folder or the archive.

    Returns:
        The class names in order, and the images: train before test, then by class, then by name.

    Raises:
        UserError: ``path`` cannot be read or is laid out otherwise, has no images or a class
            without any, or the classes of its splits differ.
    """
    files: dict[str, Path | bytes] = {}
    if path.is_dir():
        entries = _walk(path)
        folders = {name for name, is_folder, _ in entries if is_folder}
        files.update((name, path / name) for name, is_folder, _ in entries if not is_folder)
        beside = {entry.name for entry in path.iterdir() if not _is_hidden(entry.name)}
    else:
        contents, folders = _unrooted(*read_archive(path, _is_image))
        files.update(contents)
        beside = {name.split("/")[0] for name in files}
    names = _grouped(path, files, folders, beside)
    classes = _checked_classes(path, names)
    images = [
        ImageFile(name, split, label, files[name])
        for split in SPLITS
        for label, class_name in enumerate(classes)
        for name in sorted(names[split][class_name])
    ]
    return classes, images


def state(path: Path) -> dict[str, str | int]:
    """What tells this state of a folder or an archive from another, without opening a file.

    Sizes and times of change: ctime as well as mtime, because unpacking and copying may set mtime
    back. The path is part of it, since two copies can agree in all the rest and yet differ.

    Args:
        path: the folder or the archive.

    Returns:
        Values that JSON can hold.

    Raises:
        UserError: ``path`` cannot be read.
    """
    try:
        if not path.is_dir():
            return {"state": _stamp(path.stat()), "path": str(path.resolve())}
        digest = hashlib.sha256()
        for name, is_folder, stamp in sorted(_walk(path, stamps=True)):
            digest.update(os.fsencode(f"{name}\0{is_folder}\0{stamp}\0"))
    except OSError as error:
        raise _unreadable(path, error) from error
    return {"path": str(path.resolve()), "state": digest.hexdigest()}


def _walk(path: Path, *, stamps: bool = False) -> list[tuple[str, bool, str]]:
    """Name, whether it is a folder, and a stamp if asked for, of all that counts in a folder."""
    try:
        return [
            found for split in SPLITS if (path / split).is_dir() for found in _below(path / split, split, stamps=stamps)
        ]
    except OSError as error:
        raise _unreadable(path, error) from error


def _below(folder: str | Path, name: str, *, stamps: bool) -> Iterator[tuple[str, bool, str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            inner = f"{name}/{entry.name}"
            # Links to folders are followed for classes alone: farther down they could go round.
            if _is_hidden(entry.name):
                continue
            if entry.is_dir(follow_symlinks="/" not in name):
                yield inner, True, ""
                yield from _below(entry.path, inner, stamps=stamps)
            elif _is_image(entry.name):
                yield inner, False, _stamp(entry.stat()) if stamps else ""


def _unrooted(files: dict[str, bytes], folders: set[str]) -> tuple[dict[str, bytes], set[str]]:
    """The same without the one folder that all images lie in, if there is one."""
    tops = {name.split("/")[0] for name in files}
    if len(tops) != 1 or tops <= set(SPLITS):
        return files, folders
    root = f"{tops.pop()}/"
    return (
        {name.removeprefix(root): content for name, content in files.items()},
        {name.removeprefix(root) for name in folders if name.startswith(root)},
    )


def _grouped(path: Path, files: Iterable[str], folders: set[str], beside: set[str]) -> Grouped:
    """The names of the images by split and class; no names for a class's folder that is empty."""
    expected = f"expected train/CLASS/… and test/CLASS/… in {path}"
    if not beside >= set(SPLITS):
        raise UserError(f"{expected}, found {_some(beside) or 'no images'}")
    names: Grouped = {split: {} for split in SPLITS}
    for folder in folders:
        split, *below = folder.split("/")
        if split in names and len(below) == 1 and not _is_hidden(folder):
            names[split][below[0]] = []
    for name in files:
        split, *below = name.split("/")
        if split in names and len(below) == 1:
            raise UserError(f"{expected}, found {name}")
        if split in names:
            names[split].setdefault(below[0], []).append(name)
    return names


def _checked_classes(path: Path, names: Grouped) -> tuple[str, ...]:
    """The classes in order, once each is known to have images in both splits."""
    empty = {f"{split}/{name}" for split in SPLITS for name in names[split] if not names[split][name]}
    if empty:
        raise UserError(f"every class folder in {path} must hold an image, found none in {_some(empty)}")
    train, test = (set(names[split]) for split in SPLITS)
    if train != test:
        differences = [("train", train - test), ("test", test - train)]
        found = " and ".join(f"{_some(alone)} in {split} only" for split, alone in differences if alone)
        raise UserError(f"expected the same classes in train and test of {path}, found {found}")
    if not train:
        raise UserError(f"expected train/CLASS/… and test/CLASS/… in {path}, found no images")
    if unreadable := {ascii(name) for name in train if name.encode(errors="ignore").decode() != name}:
        raise UserError(f"class names in {path} must be UTF-8, got {_some(unreadable)}")
    return tuple(sorted(train))


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _some(names: set[str]) -> str:
    """The first few names, for an error."""
    return ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")


def _unreadable(path: Path, error: OSError) -> UserError:
    where = f"{error.filename}: " if error.filename and str(error.filename) != str(path) else ""
    return UserError(
        f"{path} must be a folder or a tar archive that can be read, got: {where}{error.strerror or error}"
    )
