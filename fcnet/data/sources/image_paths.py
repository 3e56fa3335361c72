"""Images to classify, found one at a time in files, folders and archives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fcnet.data.sources.archives import is_archive, iter_archive
from fcnet.data.sources.file_listing import is_image_name, is_system_name, is_system_path
from fcnet.data.sources.unused import Reason, UnusedItems
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ImageEntry(NamedTuple):
    """An image that is not decoded yet.

    Attributes:
        name: the argument that named the image, followed by ``/`` and its name inside a folder or an archive.
        content: the path of the file, its bytes, or the error that made it unreadable.
    """

    name: str
    content: Path | bytes | UserError


def iter_images(arguments: Iterable[str | Path], unused: UnusedItems | None = None) -> Iterator[ImageEntry]:
    """Finds images lazily, with at most one in memory.

    In folders and archives, only files with an image suffix that are not hidden count. A file named as an argument is
    an image whatever its name. Links to folders are followed directly below a folder that is named, not deeper, since
    they could lead back up.

    Args:
        arguments: image files; folders, walked recursively in the order of the names; and tar archives, plain or
            compressed, and zip archives, in the order of their members, with the links last.
        unused: counts the other files beside images, and the links to folders that are not followed, except what
            systems make by themselves.

    Yields:
        The images. If one is unreadable, or a folder is missing, or an archive is broken from some member on, the
        entry's content is a `UserError`, and the other entries follow.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [Path(entry.name).name for entry in iter_images([folder])]
        ['a.jpg', 'b.png']
    """
    for argument in map(str, arguments):
        path, others = Path(argument), UnusedItems()
        if os.path.isdir(argument):  # noqa: PTH112 - Path.is_dir raises if the name is too long
            entries = _iter_folder(argument, others, follow_links=True)
        elif _may_be_archive(path):
            entries = _iter_archive(path, others)
        else:
            yield ImageEntry(argument, path)
            continue
        first = next(entries, None)
        if first is None:
            found = f"found only {others.describe()}" if others.describe() else "found none"
            yield ImageEntry(argument, UserError(f"{argument} must hold an image, {found}"))
            continue
        yield first
        yield from entries
        if unused is not None:
            unused.update(others)


def _may_be_archive(path: Path) -> bool:
    try:
        return path.is_file() and (path.suffix in {".tar", ".zip"} or is_archive(path))
    except OSError:
        return False  # decoding the image raises the error


def _iter_folder(folder: str, unused: UnusedItems, *, follow_links: bool) -> Iterator[ImageEntry]:
    """Yields the images below a folder, or an error in their place."""
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        yield ImageEntry(folder, UserError(f"{folder} must be a readable folder, got: {error.strerror}"))
        return
    for entry in entries:
        if is_system_name(entry.name):
            continue
        if entry.is_dir(follow_symlinks=follow_links):
            yield from _iter_folder(entry.path, unused, follow_links=False)
        elif is_image_name(entry.name):
            yield ImageEntry(entry.path, Path(entry.path))
        else:
            unused.add(Reason.DEEP_LINK if entry.is_dir() else Reason.NO_IMAGE_SUFFIX, entry.path)


def _iter_archive(path: Path, unused: UnusedItems) -> Iterator[ImageEntry]:
    """Yields the images of an archive, then the error if it is broken."""

    def is_wanted(name: str) -> bool:
        if not (is_image_name(name) or is_system_path(name)):
            unused.add(Reason.NO_IMAGE_SUFFIX, f"{path}/{name}")
        return is_image_name(name)

    try:
        for member, content in iter_archive(path, is_wanted):
            yield ImageEntry(f"{path}/{member}", content)
    except UserError as error:
        yield ImageEntry(str(path), error)
