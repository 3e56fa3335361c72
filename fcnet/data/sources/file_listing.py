"""The state of image files on disk, from which a store notices that its data has changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.data.decoding.decode_batch import CHANGED_MESSAGE, FileStamp, file_stamp
from fcnet.data.decoding.image_decoding import check_file_type
from fcnet.data.sources.source import SPLITS
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import sha256

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


@dataclass(frozen=True, slots=True)
class FileListing:
    """The files of a folder, listed without opening one, or the state of a single file.

    Attributes:
        path: the folder or the file.
        state: text that changes with the data. It covers names, sizes, mtimes and ctimes: unpacking and copying may
            restore an mtime, but not a ctime.
        needs_split: whether the folder has no ``train`` and ``test``, so that the package splits it. True for a file,
            since an archive may lack them.
        files: the stamp of each image in the folder, in the order of the names; empty for a file.
        folders: the names of the folders below the folder.
    """

    path: Path
    state: str
    needs_split: bool
    files: dict[str, FileStamp]
    folders: set[str]

    def fingerprint(self, kind: str) -> dict[str, str | int | Sequence[int]]:
        """Returns the fingerprint of a source of this kind; see `SourceSnapshot`."""
        # The path is part of it, because two folders may agree in everything else.
        return {"kind": kind, "path": str(self.path.resolve()), "state": self.state}


def scan_path(path: Path) -> FileListing:
    """Lists a folder of images, or takes the state of a file.

    Args:
        path: the folder or the file.

    Returns:
        The listing. Two listings of unchanged data are equal.

    Raises:
        UserError: ``path`` does not exist or is unreadable.
    """
    files: dict[str, FileStamp] = {}
    folders: set[str] = set()
    try:
        if not path.is_dir():
            return FileListing(path, _format_stamp(_stamp_file(path.stat(), path)), True, files, folders)  # noqa: FBT003
        needs_split = not any(entry.is_dir() and is_split_name(entry.name) for entry in path.iterdir())
        tops = [""] if needs_split else [f"{split}/" for split in SPLITS if (path / split).is_dir()]
        for top in tops:
            _scan_folder(path / top, top, files, folders, follow_links=True)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path}: no such file or folder") from error
    except OSError as error:
        below = f"{error.filename}: " if error.filename and str(error.filename) != str(path) else ""
        reason = f"{below}{error.strerror or error}"
        raise UserError(f"{path} must be a readable folder or tar archive, got: {reason}") from error
    # Stores are named after a hash of these lines, so their form must not change.
    lines = [(name, f"{name}\0False\0{_format_stamp(stamp)}\0") for name, stamp in files.items()]
    lines += [(name, f"{name}\0True\0\0") for name in folders]
    checksum = sha256(os.fsencode("".join(line for _, line in sorted(lines))))
    return FileListing(path, checksum, needs_split, dict(sorted(files.items())), folders)


def check_unchanged(listing: FileListing) -> None:
    """Checks that a folder or a file is in the state of its listing.

    Raises:
        UserError: it has changed, or is unreadable.
    """
    if scan_path(listing.path).state != listing.state:
        raise UserError(f"{listing.path} {CHANGED_MESSAGE}")


def is_split_name(name: str) -> bool:
    """Returns whether a folder is named after a split, in upper or lower case."""
    return name.lower() in SPLITS


def is_image_name(name: str) -> bool:
    """Returns whether a file name has an image suffix and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Returns whether a part of a path starts with a dot."""
    return name.startswith(".") or "/." in name


def _scan_folder(
    folder: str | Path, prefix: str, files: dict[str, FileStamp], folders: set[str], *, follow_links: bool
) -> None:
    """Adds the images and folders below ``folder``, their names after ``prefix``."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            name = prefix + entry.name
            # A link below a class folder could lead back up and never end.
            if entry.is_dir(follow_symlinks=follow_links):
                folders.add(name)
                _scan_folder(entry.path, f"{name}/", files, folders, follow_links=False)
            elif is_image_name(entry.name):
                files[name] = _stamp_file(entry.stat(), entry.path)


def _stamp_file(status: os.stat_result, path: Path | str) -> FileStamp:
    """Returns the stamp of a file that is no pipe and no device."""
    check_file_type(status, str(path))
    return file_stamp(status)


def _format_stamp(stamp: FileStamp) -> str:
    return " ".join(map(str, stamp))
