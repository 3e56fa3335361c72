"""Labelled image files: a folder of classes, or a tar archive of one.

It holds ``train/CLASS/…`` and ``test/CLASS/…``, or ``CLASS/IMAGE`` alone and is then split here. A
folder that is called train or test, in whatever case, is always taken for a split: half of a data
set must not pass for two classes. So a class of that name needs the first layout or another name.

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
from fcnet.seeds import derive

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
        content: the file's path, or from an archive its bytes.
    """

    name: str
    split: SplitName
    label: int
    content: str | bytes


def find_images(path: Path, test: float) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Lists the images of a folder or a tar archive, the same list for both.

    An archive may be compressed (gzip, xz, bzip2, Zstandard), and its folder may lie in one other
    folder. It is read through once, and the image files in it are held in memory as they are, compressed.

    Of each class in a folder without train and test of its own, the images whose names have the
    lowest hashes are for testing. So the shares are exact, which a threshold for the hash would not
    give small classes, and nothing else counts: no seed, no order of listing, no other class. An
    image more in a class moves at most one other image of it from one split to the other.

    Args:
        path: the folder or the archive.
        test: for images that come in one folder, the share of each class for testing, in (0, 1);
            the nearest whole number of images, but at least one, and one is left to train on.

    Returns:
        The class names in order, and the images: train before test, then by class, then by name.

    Raises:
        UserError: ``path`` cannot be read or is laid out otherwise, has no images or a class
            without any or too few to split, or the classes of its splits differ.
    """
    files: dict[str, str | bytes] = {}
    if path.is_dir():
        entries = _walk(path)
        folders = {name for name, is_folder, _ in entries if is_folder}
        files.update((name, f"{path}/{name}") for name, is_folder, _ in entries if not is_folder)
        beside = {entry.name for entry in path.iterdir() if not _is_hidden(entry.name)}
        in_one = is_divided(path)
    else:
        contents, folders = _unrooted(*read_archive(path, _is_image))
        files.update(contents)
        beside = {name.split("/")[0] for name in files}
        in_one = not any(map(_is_split, beside))
    names = _divided(path, files, folders, test) if files and in_one else _grouped(path, files, folders, beside)
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


def is_divided(path: Path) -> bool:
    """Whether the images may come in one folder and so be split here; an archive is not read to find out.

    Raises:
        UserError: ``path`` cannot be read.
    """
    try:
        return not path.is_dir() or not any(entry.is_dir() and _is_split(entry.name) for entry in path.iterdir())
    except OSError as error:
        raise _unreadable(path, error) from error


def _walk(path: Path, *, stamps: bool = False) -> list[tuple[str, bool, str]]:
    """Name, whether it is a folder, and a stamp if asked for, of all that counts in a folder."""
    tops = [""] if is_divided(path) else [f"{split}/" for split in SPLITS if (path / split).is_dir()]
    try:
        return [found for top in tops for found in _below(path / top, top, links=True, stamps=stamps)]
    except OSError as error:
        raise _unreadable(path, error) from error


def _below(folder: str | Path, prefix: str, *, links: bool, stamps: bool) -> Iterator[tuple[str, bool, str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            name = f"{prefix}{entry.name}"
            # Links to folders are followed for classes alone: farther down they could go round.
            if entry.is_dir(follow_symlinks=links):
                yield name, True, ""
                yield from _below(entry.path, f"{name}/", links=False, stamps=stamps)
            elif _is_image(entry.name):
                yield name, False, _stamp(entry.stat()) if stamps else ""


def _unrooted(files: dict[str, bytes], folders: set[str]) -> tuple[dict[str, bytes], set[str]]:
    """The same without the one folder that all images lie in, if there is one."""
    tops = {name.split("/")[0] for name in files}
    if len(tops) != 1 or any(map(_is_split, tops)):
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


def _divided(path: Path, files: Iterable[str], folders: set[str], test: float) -> Grouped:
    """The same for images that come in one folder, of which some of each class are for testing."""
    classes: dict[str, list[str]] = {folder: [] for folder in folders if not ("/" in folder or _is_hidden(folder))}
    for name in files:
        class_name, *below = name.split("/")
        # Where images lie deeper, this may well be a level too high: data sets or splits, not classes.
        if len(below) != 1:
            raise UserError(f"expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in {path}, found {name}")
        classes.setdefault(class_name, []).append(name)
    if empty := {class_name for class_name, mine in classes.items() if not mine}:
        raise UserError(f"every class folder in {path} must hold an image, found none in {_some(empty)}")
    names: Grouped = {split: {} for split in SPLITS}
    for class_name, mine in classes.items():
        if len(mine) == 1:
            raise UserError(f"every class in {path} must hold two images or more to be split, found only {mine[0]}")
        mine.sort(key=lambda name: (derive(0, "test", ascii(name.split("/")[1])), name))
        count = min(max(1, round(test * len(mine))), len(mine) - 1)
        names["test"][class_name], names["train"][class_name] = mine[:count], mine[count:]
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


def _is_split(name: str) -> bool:
    return name.lower() in SPLITS


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
