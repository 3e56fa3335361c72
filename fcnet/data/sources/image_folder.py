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

from fcnet.data.decoding.decode_batch import CHANGED_MESSAGE, FileStamp, ImageFile, file_stamp
from fcnet.data.sources.tar import read_archive
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SplitName: TypeAlias = Literal["train", "test"]
NamesBySplit: TypeAlias = dict[str, dict[str, list[str]]]
SPLITS: tuple[SplitName, ...] = ("train", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


@dataclass(frozen=True, slots=True)
class FileListing:
    """What there is in a folder of images, without opening a file; of an archive, its own state alone.

    Attributes:
        path: the folder or the archive.
        state: what tells this state of it from another: sizes and times of change, ctime as well as mtime, because
            unpacking and copying may set mtime back.
        needs_split: whether the images may come in one folder and so be split here.
        files: the images of a folder by name, in order, each with its stamp; none of an archive.
        folders: the names of the folders in a folder.
    """

    path: Path
    state: str
    needs_split: bool
    files: dict[str, FileStamp]
    folders: set[str]


def scan_path(path: Path) -> FileListing:
    """Lists a folder, or takes the state of an archive.

    Args:
        path: the folder or the archive.

    Returns:
        What is there now; the same state later if nothing has changed in between.

    Raises:
        UserError: ``path`` cannot be read.
    """
    files: dict[str, FileStamp] = {}
    folders: set[str] = set()
    try:
        if not path.is_dir():
            return FileListing(
                path, _format_stamp(file_stamp(path.stat())), needs_split=True, files=files, folders=folders
            )
        needs_split = not any(entry.is_dir() and _is_split(entry.name) for entry in path.iterdir())
        tops = [""] if needs_split else [f"{split}/" for split in SPLITS if (path / split).is_dir()]
        for top in tops:
            _scan_folder(path / top, top, files, folders, links=True)
    except OSError as error:
        raise _read_error(path, error) from error
    lines = [(name, f"{name}\0False\0{_format_stamp(of)}\0") for name, of in files.items()]
    lines += [(name, f"{name}\0True\0\0") for name in folders]
    digest = hashlib.sha256(os.fsencode("".join(line for _, line in sorted(lines))))
    return FileListing(path, digest.hexdigest(), needs_split, dict(sorted(files.items())), folders)


def find_images(listing: FileListing, test: float) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Sorts the images of a folder or a tar archive by split and class, in the same way for both.

    An archive may be compressed (gzip, xz, bzip2, Zstandard), and its folder may lie in one other
    folder. It is read through once, and the image files in it are held in memory as they are, compressed.

    Of each class in a folder without train and test of its own, the images whose names have the
    lowest hashes are for testing. So the shares are exact, which a threshold for the hash would not
    give small classes, and nothing else counts: no seed, no order of listing, no other class. An
    image more in a class moves at most one other image of it from one split to the other.

    Args:
        listing: the folder or the archive.
        test: for images that come in one folder, the share of each class for testing, in (0, 1);
            the nearest whole number of images, but at least one, and one is left to train on.

    Returns:
        The class names in order, and the images: train before test, then by class, then by name.

    Raises:
        UserError: it cannot be read, has changed or is laid out otherwise, has no images or a class
            without any or too few to split, or the classes of its splits differ.
    """
    path = listing.path
    contents: dict[str, bytes] = {}
    if path.is_dir():
        files, folders, in_one = list(listing.files), listing.folders, listing.needs_split
        beside = {entry.name for entry in path.iterdir() if not _is_hidden(entry.name)}
    else:
        contents, folders = _strip_root(*read_archive(path, is_image_name))
        check_unchanged(listing)
        files = list(contents)
        beside = {name.split("/")[0] for name in files}
        in_one = not any(map(_is_split, beside))
    names = (
        _split_by_hash(path, files, folders, test)
        if files and in_one
        else _group_by_split(path, files, folders, beside)
    )
    classes = _check_classes(path, names)
    images = [
        ImageFile(name, contents.get(name, f"{path}/{name}"), listing.files.get(name), split, label)
        for split in SPLITS
        for label, class_name in enumerate(classes)
        for name in sorted(names[split][class_name])
    ]
    return classes, images


def check_unchanged(listing: FileListing) -> None:
    """Refuses a file that is no longer as it was when it was looked at.

    Raises:
        UserError: it has changed, or cannot be read.
    """
    if scan_path(listing.path).state != listing.state:
        raise UserError(f"{listing.path} {CHANGED_MESSAGE}")


def _scan_folder(
    folder: str | Path, prefix: str, files: dict[str, FileStamp], folders: set[str], *, links: bool
) -> None:
    """Adds all that counts in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            name = prefix + entry.name
            # Links to folders are followed for classes alone: farther down they could go round.
            if entry.is_dir(follow_symlinks=links):
                folders.add(name)
                _scan_folder(entry.path, f"{name}/", files, folders, links=False)
            elif is_image_name(entry.name):
                files[name] = file_stamp(entry.stat())


def _strip_root(files: dict[str, bytes], folders: set[str]) -> tuple[dict[str, bytes], set[str]]:
    """The same without the one folder that all images lie in, if there is one."""
    tops = {name.split("/")[0] for name in files}
    if len(tops) != 1 or any(map(_is_split, tops)):
        return files, folders
    root = f"{tops.pop()}/"
    return (
        {name.removeprefix(root): content for name, content in files.items()},
        {name.removeprefix(root) for name in folders if name.startswith(root)},
    )


def _group_by_split(path: Path, files: Iterable[str], folders: set[str], beside: set[str]) -> NamesBySplit:
    """The names of the images by split and class; no names for a class's folder that is empty."""
    expected = f"expected train/CLASS/… and test/CLASS/… in {path}"
    if not beside >= set(SPLITS):
        raise UserError(f"{expected}, found {_first_names(beside) or 'no images'}")
    names: NamesBySplit = {split: {} for split in SPLITS}
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


def _split_by_hash(path: Path, files: Iterable[str], folders: set[str], test: float) -> NamesBySplit:
    """The same for images that come in one folder, of which some of each class are for testing."""
    classes: dict[str, list[str]] = {folder: [] for folder in folders if not ("/" in folder or _is_hidden(folder))}
    for name in files:
        class_name, *below = name.split("/")
        # Where images lie deeper, this may well be a level too high: data sets or splits, not classes.
        if len(below) != 1:
            raise UserError(f"expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in {path}, found {name}")
        classes.setdefault(class_name, []).append(name)
    if empty := {class_name for class_name, mine in classes.items() if not mine}:
        raise UserError(f"every class folder in {path} must hold an image, found none in {_first_names(empty)}")
    names: NamesBySplit = {split: {} for split in SPLITS}
    for class_name, mine in classes.items():
        if len(mine) == 1:
            raise UserError(f"every class in {path} must hold two images or more to be split, found only {mine[0]}")
        mine.sort(key=lambda name: (derive_seed(0, "test", ascii(name.split("/")[1])), name))
        count = min(max(1, round(test * len(mine))), len(mine) - 1)
        names["test"][class_name], names["train"][class_name] = mine[:count], mine[count:]
    return names


def _check_classes(path: Path, names: NamesBySplit) -> tuple[str, ...]:
    """The classes in order, once each is known to have images in both splits."""
    empty = {f"{split}/{name}" for split in SPLITS for name in names[split] if not names[split][name]}
    if empty:
        raise UserError(f"every class folder in {path} must hold an image, found none in {_first_names(empty)}")
    train, test = (set(names[split]) for split in SPLITS)
    if train != test:
        differences = [("train", train - test), ("test", test - train)]
        found = " and ".join(f"{_first_names(alone)} in {split} only" for split, alone in differences if alone)
        raise UserError(f"expected the same classes in train and test of {path}, found {found}")
    if not train:
        raise UserError(f"expected train/CLASS/… and test/CLASS/… in {path}, found no images")
    if unreadable := {ascii(name) for name in train if name.encode(errors="ignore").decode() != name}:
        raise UserError(f"class names in {path} must be UTF-8, got {_first_names(unreadable)}")
    return tuple(sorted(train))


def _format_stamp(of: FileStamp) -> str:
    return " ".join(map(str, of))


def _is_split(name: str) -> bool:
    return name.lower() in SPLITS


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: by its suffix, and not hidden."""
    return name.lower().endswith(SUFFIXES) and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _first_names(names: set[str]) -> str:
    """The first few names, for an error."""
    return ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")


def _read_error(path: Path, error: OSError) -> UserError:
    where = f"{error.filename}: " if error.filename and str(error.filename) != str(path) else ""
    return UserError(
        f"{path} must be a folder or a tar archive that can be read, got: {where}{error.strerror or error}"
    )
