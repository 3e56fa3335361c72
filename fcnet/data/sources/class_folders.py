"""The layout of labelled image files, in a folder or in an archive.

The files are ``train/CLASS/…``, ``test/CLASS/…`` and possibly ``val/CLASS/…``, or ``CLASS/IMAGE`` without splits, which
this module then makes. A folder named train or test, in upper or lower case, is always a split, so that half of a data
set never passes for two classes. A class of that name needs the first layout or another name.

Names are relative to the data's folder, with ``/`` between their parts: ``train/cat/0001.jpg``. What systems make by
themselves is ignored, such as hidden files. Everything else that is not used is counted.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from fcnet.data.decoding.decode_batch import ImageFile
from fcnet.data.sources.archives import read_archive
from fcnet.data.sources.file_listing import (
    check_unchanged,
    find_splits,
    is_image_name,
    is_system_path,
    select_splits,
)
from fcnet.data.sources.source import SPLITS
from fcnet.data.sources.unused import Reason, UnusedItems, list_names, missing_class_notes
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fcnet.data.sources.file_listing import FileListing
    from fcnet.data.sources.source import SplitName

NamesByClass: TypeAlias = dict[str, list[str]]
"""The names of the images of each class; none for an empty folder."""


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """The images of a folder or an archive.

    Attributes:
        classes: the class names in order, in Unicode's composed form (NFC).
        images: the images in the order of `SPLITS`, then by class, then by name.
        notes: sentences on what is not used, and on classes without images in a split.
    """

    classes: tuple[str, ...]
    images: list[ImageFile]
    notes: tuple[str, ...]


def find_images(listing: FileListing, test: float) -> LabelledFiles:
    """Sorts the images of a folder or an archive by split and class.

    The data of an archive may lie in one top-level folder. An archive is read once, and its image files are kept in
    memory as they are, compressed. Class names that differ only in their Unicode form, as macOS and other systems
    write them, are one class.

    Without ``train`` and ``test``, the images with the lowest hashes of their names become the test images of each
    class. This gives small classes their exact share, which a threshold on the hash would not, and the split depends
    on no seed, no order and no other class. A new image moves at most one other image of its class between splits.

    Args:
        listing: the folder or the archive. If it lists the test split alone, all images are test images where there
            are no splits.
        test: the fraction of each class for testing, in (0, 1), if there is no ``train`` and ``test``. The number of
            images is rounded, and a class of two or more images has at least one in each split.

    Raises:
        UserError: the data is unreadable, has changed or has another layout; it has no images for training or for
            testing, or a class has some in another split but none for training.
    """
    tree = _read_folder(listing) if listing.path.is_dir() else _read_archive(listing)
    splits, spellings = _group_by_split(tree)
    if not tree.splits and not tree.test_only:
        _hold_out_test(splits, test)
    classes = _check_classes(tree, splits)
    _count_empty_folders(tree, classes, splits)
    images = [
        ImageFile(name, tree.contents.get(name, f"{tree.path}/{name}"), listing.files.get(name), split, label)
        for split in SPLITS
        for label, class_name in enumerate(classes)
        for name in sorted(splits[split].get(class_name, []), key=_composed)
    ]
    return LabelledFiles(classes, images, (*tree.unused.notes(), *_class_notes(classes, splits, spellings)))


@dataclass(frozen=True, slots=True)
class _Tree:
    """The names of images and folders before they are grouped.

    Attributes:
        path: the folder or the archive.
        test_only: whether all images are test images.
        splits: the name of the folder of each split.
        files: the names of the images, in order.
        folders: the names of the folders.
        unused: everything else.
        contents: the image files of an archive; empty for a folder.
    """

    path: Path
    test_only: bool
    splits: dict[SplitName, str]
    files: Sequence[str]
    folders: set[str]
    unused: UnusedItems
    contents: Mapping[str, bytes]

    def layout_error(self, found: str, remedy: str = "") -> UserError:
        """Returns the error for data of another layout."""
        layouts = "test/CLASS/…" if self.test_only else "train/CLASS/… and test/CLASS/…"
        layouts = f"{layouts} in" if self.splits else f"{layouts}, or CLASS/IMAGE, in"
        return UserError("; ".join(filter(None, [f"expected {layouts} {self.path}, found {found}", remedy])))


def _read_folder(listing: FileListing) -> _Tree:
    return _Tree(
        path=listing.path,
        test_only=listing.test_only,
        splits=listing.splits,
        files=list(listing.files),
        folders=listing.folders,
        unused=listing.unused.copy(),
        contents={},
    )


def _read_archive(listing: FileListing) -> _Tree:
    """Reads the images of an archive, and counts the rest as for a folder."""
    path, other_files = listing.path, set[str]()

    def is_wanted(name: str) -> bool:
        if is_image_name(name):
            return True
        if not is_system_path(name):
            other_files.add(name)
        return False

    contents, folders = read_archive(path, is_wanted)
    check_unchanged(listing)
    root = _find_root(contents)
    contents = {name.removeprefix(root): content for name, content in contents.items()}
    folders = {name.removeprefix(root) for name in folders if name.startswith(root) and not is_system_path(name)}
    names = [*contents, *(name.removeprefix(root) for name in other_files)]
    tops = {name.split("/")[0] for name in (*folders, *(name for name in names if "/" in name))}
    splits = find_splits(tops, path)
    used = set(select_splits(splits, test_only=listing.test_only).values())
    unused = UnusedItems()
    for name in names:
        top, _, below = name.partition("/")
        if splits and not below and name in contents:
            unused.add(Reason.OUTSIDE_CLASSES, name)
        elif name not in contents and (top in used or not (splits and below)):
            unused.add(Reason.NO_IMAGE_SUFFIX, name)
    for top in tops - used if splits else ():
        unused.add(Reason.OTHER_SPLIT if top in splits.values() else Reason.OUTSIDE_SPLITS, top)
    files = sorted(name for name in contents if not splits or ("/" in name and name.split("/")[0] in used))
    return _Tree(path, listing.test_only, splits, files, folders, unused, contents)


def _find_root(names: Iterable[str]) -> str:
    """Returns the top-level folder that holds every image, with a slash; empty if there is none, or it is a split."""
    tops = {name.partition("/")[:2] for name in names}
    if len(tops) != 1:
        return ""
    top, slash = tops.pop()
    return f"{top}/" if slash and not find_splits([top]) else ""


def _group_by_split(tree: _Tree) -> tuple[dict[SplitName, NamesByClass], dict[str, set[str]]]:
    """Groups the names by split and class.

    Returns:
        The names by split and class, all of them in one split where the data has none; and for each class its names in
        the forms in which they are written.
    """
    _check_splits(tree)
    prefixes: dict[SplitName, str] = {"test" if tree.test_only else "train": ""}
    if tree.splits:
        used = select_splits(tree.splits, test_only=tree.test_only)
        prefixes = {split: f"{folder}/" for split, folder in used.items()}
    splits: dict[SplitName, NamesByClass] = {split: {} for split in SPLITS}
    spellings: dict[str, set[str]] = {}
    for split, prefix in prefixes.items():
        for name in tree.files:
            if name.startswith(prefix):
                class_name = _class_of(name, prefix, tree)
                spellings.setdefault(_composed(class_name), set()).add(class_name)
                splits[split].setdefault(_composed(class_name), []).append(name)
    return splits, spellings


def _check_splits(tree: _Tree) -> None:
    """Checks that the data has images and, if it has splits, all that are needed."""
    missing = {"test"} if tree.test_only else {"train", "test"}
    if tree.splits and (missing := missing - tree.splits.keys()):
        found = list_names([*tree.splits.values(), *tree.unused.first(Reason.OUTSIDE_SPLITS)])
        train, validation = (tree.splits.get(split) for split in ("train", "validation"))
        remedy = ""
        if tree.test_only and tree.path.is_dir() and (other := validation or train):
            remedy = f"give {tree.path / other} to use its images"
        elif validation and train:
            remedy = f"rename {validation} to test, and a share of {train} is held out for validation"
        elif train and tree.path.is_dir():
            remedy = f"give {tree.path / train}, and a share of each class is held out for testing"
        raise tree.layout_error(found, remedy)
    if not tree.files:
        raise tree.layout_error("no images", *tree.unused.notes())


def _class_of(name: str, prefix: str, tree: _Tree) -> str:
    """Returns the class folder of an image."""
    class_name, slash, below = name.removeprefix(prefix).partition("/")
    if not slash:
        raise tree.layout_error(name)
    # Without splits, deeper images suggest that the path is a level too high: these are data sets, not classes.
    if not prefix and "/" in below:
        is_only_folder = tree.path.is_dir() and all(other.startswith(f"{class_name}/") for other in tree.files)
        raise tree.layout_error(name, f"give {tree.path / class_name}, one level deeper" * is_only_folder)
    return class_name


def _hold_out_test(splits: dict[SplitName, NamesByClass], test: float) -> None:
    """Moves a fraction of each class from the training to the test split, by the hashes of the names."""
    for class_name, names in splits["train"].items():
        names.sort(key=lambda name: (derive_seed(0, "test", ascii(_composed(name.split("/")[1]))), name))
        num_test = min(max(1, round(test * len(names))), len(names) - 1)
        splits["test"][class_name], splits["train"][class_name] = names[:num_test], names[num_test:]


def _check_classes(tree: _Tree, splits: dict[SplitName, NamesByClass]) -> tuple[str, ...]:
    """Returns the classes in order, after checking that each has images to train on, and that some are for testing."""
    classes = {name for names in splits.values() for name, images in names.items() if images}
    if unreadable := {ascii(name) for name in classes if name.encode(errors="ignore").decode() != name}:
        raise UserError(f"class names in {tree.path} must be UTF-8, got {list_names(unreadable)}")
    if not tree.test_only and (untrained := classes - splits["train"].keys()):
        raise UserError(f"every class in {tree.path} must have a training image, found none of {list_names(untrained)}")
    if not any(splits["test"].values()):
        if tree.splits:
            raise tree.layout_error(f"no images in {tree.splits['test']}")
        raise UserError(f"a class in {tree.path} must have two images, one of them for testing, found one of each")
    return tuple(sorted(classes))


def _count_empty_folders(tree: _Tree, classes: Sequence[str], splits: dict[SplitName, NamesByClass]) -> None:
    """Counts class folders whose class has no image, and a validation split without any."""
    used = select_splits(tree.splits, test_only=tree.test_only)
    tops = set(used.values())
    known = set(classes)
    for name in tree.folders:
        parts = name.split("/")
        is_class = parts[0] in tops if tree.splits else True
        if is_class and len(parts) == 1 + bool(tree.splits) and _composed(parts[-1]) not in known:
            tree.unused.add(Reason.EMPTY_CLASS, name)
    if "validation" in used and not splits["validation"]:
        tree.unused.add(Reason.EMPTY_SPLIT, used["validation"])


def _class_notes(
    classes: Sequence[str], splits: dict[SplitName, NamesByClass], spellings: Mapping[str, set[str]]
) -> Iterator[str]:
    """Yields sentences on classes without images in a split, and on names that look the same."""
    for split in ("validation", "test"):
        if splits[split] and splits["train"]:
            yield from missing_class_notes(split, classes, (name for name, images in splits[split].items() if images))
    if merged := [name for name, forms in spellings.items() if len(forms) > 1]:
        yield f"names that differ only in their Unicode form are one class: {list_names(merged)}"
    by_case: dict[str, list[str]] = {}
    for name in classes:
        by_case.setdefault(name.casefold(), []).append(name)
    if similar := [name for names in by_case.values() if len(names) > 1 for name in names]:
        yield f"classes whose names differ only by case: {list_names(similar)}"


def _composed(name: str) -> str:
    """Returns a name in Unicode's composed form, in which macOS and other systems agree."""
    return unicodedata.normalize("NFC", name)
