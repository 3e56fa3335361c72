"""The layout of labelled image files, in a folder or in a tar archive.

The files are ``train/CLASS/…`` and ``test/CLASS/…``, or ``CLASS/IMAGE`` without splits, which this module then makes.
A folder named train or test, in upper or lower case, is always a split, so that half of a data set never passes for
two classes. A class of that name needs the first layout or another name.

Names are relative to the data's folder, with ``/`` between their parts: ``train/cat/0001.jpg``. Hidden files, files
without an image suffix, and folders beside ``train`` and ``test`` are ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from fcnet.data.decoding.decode_batch import ImageFile
from fcnet.data.sources.file_listing import check_unchanged, is_hidden, is_image_name, is_split_name
from fcnet.data.sources.tar import read_archive
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fcnet.data.sources.file_listing import FileListing
    from fcnet.data.sources.source import SplitName

NamesBySplit: TypeAlias = dict[str, dict[str, list[str]]]
"""The names of images by split and class."""

_SPLITS: tuple[SplitName, ...] = ("train", "test")
_WITH_SPLITS = "train/CLASS/… and test/CLASS/…"
_MAX_NAMED = 5


def find_images(listing: FileListing, test: float) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Sorts the images of a folder or a tar archive by split and class.

    An archive may be compressed (gzip, xz, bzip2, Zstandard), and its data may lie in one top-level folder. It is
    read once, and its image files are kept in memory as they are, compressed.

    Without ``train`` and ``test``, the images with the lowest hashes of their names become the test images of each
    class. This gives small classes their exact share, which a threshold on the hash would not, and the split depends
    on no seed, no order and no other class. A new image moves at most one other image of its class between splits.

    Args:
        listing: the folder or the archive.
        test: the fraction of each class for testing, in (0, 1), if there is no ``train`` and ``test``. The number of
            images is rounded, and each split gets at least one.

    Returns:
        The class names in order, and the images: train before test, then by class, then by name.

    Raises:
        UserError: the data is unreadable, has changed or has another layout; it has no images, or a class has none or
            too few to split; or the splits have different classes.
    """
    path = listing.path
    contents: dict[str, bytes] = {}
    if path.is_dir():
        files, folders, needs_split = list(listing.files), listing.folders, listing.needs_split
        tops = {entry.name for entry in path.iterdir() if not is_hidden(entry.name)}
    else:
        contents, folders = _strip_root(*read_archive(path, is_image_name))
        check_unchanged(listing)
        files = list(contents)
        tops = {name.split("/")[0] for name in files}
        needs_split = not any(map(is_split_name, tops))
    if files and needs_split:
        names = _split_by_hash(path, files, folders, test)
    else:
        names = _group_by_split(path, files, folders, tops)
    classes = _check_classes(path, names)
    images = [
        ImageFile(name, contents.get(name, f"{path}/{name}"), listing.files.get(name), split, label)
        for split in _SPLITS
        for label, class_name in enumerate(classes)
        for name in sorted(names[split][class_name])
    ]
    return classes, images


def _strip_root(files: dict[str, bytes], folders: set[str]) -> tuple[dict[str, bytes], set[str]]:
    """Removes the top-level folder from all names if it holds every image and is not a split."""
    tops = {name.split("/")[0] for name in files}
    if len(tops) != 1 or any(map(is_split_name, tops)):
        return files, folders
    root = f"{tops.pop()}/"
    return (
        {name.removeprefix(root): content for name, content in files.items()},
        {name.removeprefix(root) for name in folders if name.startswith(root)},
    )


def _group_by_split(path: Path, files: Iterable[str], folders: set[str], tops: set[str]) -> NamesBySplit:
    """Groups ``SPLIT/CLASS/…``; a class with an empty folder has no names."""
    if not tops >= set(_SPLITS):
        raise UserError(f"expected {_WITH_SPLITS} in {path}, found {_list_names(tops) or 'no images'}")
    names: NamesBySplit = {split: {} for split in _SPLITS}
    for folder in folders:
        split, *below = folder.split("/")
        if split in names and len(below) == 1 and not is_hidden(folder):
            names[split][below[0]] = []
    for name in files:
        split, *below = name.split("/")
        if split in names and len(below) == 1:
            raise UserError(f"expected {_WITH_SPLITS} in {path}, found {name}")
        if split in names:
            names[split].setdefault(below[0], []).append(name)
    return names


def _split_by_hash(path: Path, files: Iterable[str], folders: set[str], test: float) -> NamesBySplit:
    """Groups ``CLASS/IMAGE`` and splits each class by the hashes of its names."""
    by_class: dict[str, list[str]] = {folder: [] for folder in folders if not ("/" in folder or is_hidden(folder))}
    for name in files:
        class_name, *below = name.split("/")
        # Deeper images suggest that the path is a level too high, and these are data sets or splits, not classes.
        if len(below) != 1:
            raise UserError(f"expected {_WITH_SPLITS}, or CLASS/IMAGE, in {path}, found {name}")
        by_class.setdefault(class_name, []).append(name)
    if empty := {class_name for class_name, names in by_class.items() if not names}:
        raise UserError(f"every class folder in {path} must hold an image, found none in {_list_names(empty)}")
    split_names: NamesBySplit = {split: {} for split in _SPLITS}
    for class_name, names in by_class.items():
        if len(names) == 1:
            raise UserError(f"every class in {path} must hold at least two images to be split, found only {names[0]}")
        names.sort(key=lambda name: (derive_seed(0, "test", ascii(name.split("/")[1])), name))
        num_test = min(max(1, round(test * len(names))), len(names) - 1)
        split_names["test"][class_name], split_names["train"][class_name] = names[:num_test], names[num_test:]
    return split_names


def _check_classes(path: Path, names: NamesBySplit) -> tuple[str, ...]:
    """Returns the classes in order, after checking that each has images in both splits."""
    empty = {f"{split}/{name}" for split in _SPLITS for name in names[split] if not names[split][name]}
    if empty:
        raise UserError(f"every class folder in {path} must hold an image, found none in {_list_names(empty)}")
    train, test = (set(names[split]) for split in _SPLITS)
    if train != test:
        differences = [("train", train - test), ("test", test - train)]
        found = " and ".join(f"{_list_names(extra)} in {split} only" for split, extra in differences if extra)
        raise UserError(f"expected the same classes in train and test of {path}, found {found}")
    if not train:
        raise UserError(f"expected {_WITH_SPLITS} in {path}, found no images")
    if unreadable := {ascii(name) for name in train if name.encode(errors="ignore").decode() != name}:
        raise UserError(f"class names in {path} must be UTF-8, got {_list_names(unreadable)}")
    return tuple(sorted(train))


def _list_names(names: set[str]) -> str:
    """Returns the first few names for an error message."""
    return ", ".join(sorted(names)[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
