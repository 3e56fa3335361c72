"""The state of image files on disk, from which a store notices that its data has changed."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fcnet.data.decoding.decode_batch import CHANGED_MESSAGE, FileStamp, file_stamp
from fcnet.data.decoding.image_decoding import check_file_type
from fcnet.data.sources.unused import Reason, UnusedItems
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from fcnet.data.sources.source import SplitName

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)
_SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
# Names without a dot in front that Windows, macOS and network drives make by themselves, in lower case.
_SYSTEM_NAMES = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information"),
    *("__macosx", "icon\r", "network trash folder", "temporary items"),
    *("@eadir", "#recycle", "#snapshot", "lost+found"),
}
_BROKEN_LINK_ERRORS = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass(frozen=True, slots=True)
class FileListing:
    """The files of a folder, listed without opening one, or the state of a single file.

    Attributes:
        path: the folder or the file.
        state: text that changes with the data. It covers names, sizes, mtimes and ctimes: unpacking and copying may
            restore an mtime, but not a ctime.
        test_only: whether only the test split is listed, if there are splits.
        splits: the name of the folder of each split; empty without ``train`` and ``test``, where the package splits
            the images, and for a file, which may be an archive.
        files: the stamp of each image in the folder, in the order of the names; empty for a file.
        folders: the names of the folders below the folder, and of those beside its splits.
        unused: everything else in the folder, except what systems make by themselves.
    """

    path: Path
    state: str = ""
    test_only: bool = False
    splits: dict[SplitName, str] = field(default_factory=dict)
    files: dict[str, FileStamp] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    unused: UnusedItems = field(default_factory=UnusedItems)

    @property
    def listed_splits(self) -> dict[SplitName, str]:
        """The splits whose images are listed."""
        return select_splits(self.splits, test_only=self.test_only)

    def fingerprint(self, kind: str) -> dict[str, str | int | Sequence[int]]:
        """Returns the fingerprint of a source of this kind; see `SourceSnapshot`."""
        # The path is part of it, because two folders may agree in everything else.
        return {"kind": kind, "path": str(self.path.resolve()), "state": self.state}


def scan_path(path: Path, *, test_only: bool = False) -> FileListing:
    """Lists a folder of images, or takes the state of a file.

    Args:
        path: the folder or the file.
        test_only: whether to list only the test split, if there are splits.

    Returns:
        The listing. Two listings of unchanged data are equal.

    Raises:
        UserError: ``path`` does not exist or is unreadable, or has two folders for one split.
    """
    try:
        if not path.is_dir():
            return FileListing(path, _format_stamp(_stamp_file(path.stat(), path)), test_only)
        return _list_folder(path, test_only=test_only)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path}: no such file or folder") from error
    except OSError as error:
        below = f"{error.filename}: " if error.filename and str(error.filename) != str(path) else ""
        reason = f"{below}{error.strerror or error}"
        raise UserError(f"{path} must be a readable folder or archive, got: {reason}") from error


def check_unchanged(listing: FileListing) -> None:
    """Checks that a folder or a file is in the state of its listing.

    Raises:
        UserError: it has changed, or is unreadable.
    """
    if scan_path(listing.path, test_only=listing.test_only).state != listing.state:
        raise UserError(f"{listing.path} {CHANGED_MESSAGE}")


def find_splits(folders: Iterable[str], path: Path | str = "") -> dict[SplitName, str]:
    """Finds the folders of the splits: ``train``, ``test``, and ``val``, ``valid`` or ``validation``, in any case.

    Args:
        folders: the names of the folders in ``path``.
        path: the folder or archive of the data, for the error.

    Returns:
        The name of the folder of each split; none if there is neither ``train`` nor ``test``, where ``valid`` may be
        the name of a class.

    Raises:
        UserError: two folders are named after one split.

    Example:
        >>> from pathlib import Path
        >>> find_splits(["Train", "extra", "val"], Path("pets")), find_splits(["invalid", "valid"], Path("pets"))
        ({'train': 'Train', 'validation': 'val'}, {})
    """
    splits: dict[SplitName, str] = {}
    for name in sorted(folders):
        if split := _SPLIT_NAMES.get(name.lower()):
            if split in splits:
                raise UserError(f"{path} must have one {split} split, found the folders {splits[split]} and {name}")
            splits[split] = name
    return splits if splits.keys() & {"train", "test"} else {}


def select_splits(splits: dict[SplitName, str], *, test_only: bool) -> dict[SplitName, str]:
    """Returns the splits of which images are used: all of them, or only the test split."""
    return {split: folder for split, folder in splits.items() if split == "test"} if test_only else splits


def is_image_name(name: str) -> bool:
    """Returns whether a path has an image suffix, and no part of it is the name of a system's own file.

    Example:
        >>> [is_image_name(name) for name in ("cat/1.JFIF", "cat/notes.txt", "cat/@eaDir/1.jpg/thumb.jpg")]
        [True, False, False]
    """
    return name.lower().endswith(SUFFIXES) and not is_system_path(name)


def is_system_path(name: str) -> bool:
    """Returns whether a part of a path names what systems make by themselves: hidden files, thumbnails, trash.

    Example:
        >>> [is_system_path(name) for name in ("cat/Thumbs.db", "__MACOSX/._cat", "cat/1.png")]
        [True, True, False]
    """
    return any(map(is_system_name, name.split("/")))


def is_system_name(name: str) -> bool:
    """Returns whether one part of a path is such a name; see `is_system_path`."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def _list_folder(path: Path, *, test_only: bool) -> FileListing:
    with os.scandir(path) as scanned:
        entries = [entry for entry in scanned if not is_system_name(entry.name)]
    splits = find_splits((entry.name for entry in entries if entry.is_dir()), path)
    listing = FileListing(path, test_only=test_only, splits=splits)
    if splits:
        _scan_splits(entries, listing)
    else:
        _scan_entries(entries, "", listing, follow_links=True)
    # Stores are named after a hash of these lines, so their form must not change.
    lines = [(name, f"{name}\0False\0{_format_stamp(stamp)}\0") for name, stamp in listing.files.items()]
    lines += [(name, f"{name}\0True\0\0") for name in listing.folders]
    checksum = sha256(os.fsencode("".join(line for _, line in sorted(lines))))
    return replace(listing, state=checksum, files=dict(sorted(listing.files.items())))


def _scan_splits(entries: Iterable[os.DirEntry[str]], listing: FileListing) -> None:
    """Adds the images and folders of the splits, and counts what lies beside them."""
    for entry in entries:
        if not entry.is_dir():
            if is_image_name(entry.name):
                listing.unused.add(Reason.OUTSIDE_CLASSES, entry.name)
            else:
                _add_file(entry, entry.name, listing)
        elif entry.name in listing.listed_splits.values():
            with os.scandir(entry.path) as scanned:
                _scan_entries(scanned, f"{entry.name}/", listing, follow_links=True)
        else:
            reason = Reason.OTHER_SPLIT if entry.name in listing.splits.values() else Reason.OUTSIDE_SPLITS
            listing.unused.add(reason, entry.name)


def _scan_entries(
    entries: Iterable[os.DirEntry[str]], prefix: str, listing: FileListing, *, follow_links: bool
) -> None:
    """Adds the images and folders among the entries of a folder and below, their names after ``prefix``."""
    for entry in entries:
        if is_system_name(entry.name):
            continue
        name = prefix + entry.name
        # A link below a class folder could lead back up and never end.
        if entry.is_dir(follow_symlinks=follow_links):
            listing.folders.add(name)
            with os.scandir(entry.path) as scanned:
                _scan_entries(scanned, f"{name}/", listing, follow_links=False)
        else:
            _add_file(entry, name, listing)


def _add_file(entry: os.DirEntry[str], name: str, listing: FileListing) -> None:
    """Adds an image, or counts another file or a link."""
    try:
        if is_image_name(entry.name):
            listing.files[name] = _stamp_file(entry.stat(), entry.path)
            return
        leads_to_folder = entry.is_symlink() and stat.S_ISDIR(entry.stat().st_mode)
    except OSError as error:
        if not (entry.is_symlink() and error.errno in _BROKEN_LINK_ERRORS):
            raise
        listing.unused.add(Reason.BROKEN_LINK, name)
        return
    listing.unused.add(Reason.INNER_LINK if leads_to_folder else Reason.NO_IMAGE_SUFFIX, name)


def _stamp_file(status: os.stat_result, path: Path | str) -> FileStamp:
    """Returns the stamp of a file that is no pipe and no device."""
    check_file_type(status, str(path))
    return file_stamp(status)


def _format_stamp(stamp: FileStamp) -> str:
    return " ".join(map(str, stamp))
