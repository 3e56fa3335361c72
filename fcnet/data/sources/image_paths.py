"""Images that are to be looked at: files, folders, tar archives and what comes through a pipe, one after another."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fcnet.data.sources.image_folder import is_image_name
from fcnet.data.sources.tar import is_archive, iter_archive
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STANDARD_INPUT = "-"


class ImageEntry(NamedTuple):
    """An image not yet decoded.

    Attributes:
        name: the argument that it was found by; of one in a folder or an archive that, ``/``, and its name there.
        content: the file's path, its bytes, or what keeps it from being read.
    """

    name: str
    content: Path | bytes | UserError


def iter_images(arguments: Iterable[str | Path]) -> Iterator[ImageEntry]:
    """Finds images while they are asked for: no more than one is held in memory, however many there are.

    In folders and archives those files count that are images by their suffix and not hidden; a file
    that is named itself is taken for an image whatever its name. Links to folders are followed in
    the folder that is named, not farther down, where they could go round.

    Args:
        arguments: image files; folders, walked to the bottom in the order of the names; tar archives, plain or
            compressed, in their own order; ``-`` for standard input. What comes through a pipe, an image or an
            archive, is kept in a temporary file while it is read.

    Yields:
        The images. One that cannot be read, be it for a folder that is not there or an archive that is broken
        from some place on, is a `UserError` in the place of its content, and the others follow.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [Path(entry.name).name for entry in iter_images([folder])]
        ['a.jpg', 'b.png']
    """
    for argument in map(str, arguments):
        if argument == STANDARD_INPUT or _is_pipe(argument):
            yield from _from_pipe(argument)
        elif os.path.isdir(argument):  # noqa: PTH112 - a Path raises where a name is too long to be one
            yield from _require_any(argument, _from_folder(argument, links=True))
        else:
            yield from _from_file(argument, Path(argument))


def _is_pipe(name: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISFIFO(os.stat(name).st_mode)  # noqa: PTH116 - as above
    return False


def _from_file(name: str, path: Path) -> Iterator[ImageEntry]:
    """The images in a file: itself, or those of an archive."""
    try:
        packed = is_archive(path) or path.suffix == ".tar"
    except OSError:
        packed = False  # whoever reads it says what is wrong
    return _require_any(name, _from_archive(name, path)) if packed else iter([ImageEntry(name, path)])


def _from_pipe(name: str) -> Iterator[ImageEntry]:
    """The images that come through a pipe, which can be read but once."""
    with tempfile.NamedTemporaryFile(prefix="fcnet-") as kept:
        if name == STANDARD_INPUT:
            shutil.copyfileobj(sys.stdin.buffer, kept)
        else:
            with Path(name).open("rb") as pipe:
                shutil.copyfileobj(pipe, kept)
        kept.flush()
        path = Path(kept.name)
        if is_archive(path):
            yield from _require_any(name, _from_archive(name, path))
        else:
            yield ImageEntry(name, path.read_bytes())  # the file is gone once the next image is asked for


def _from_folder(folder: str, *, links: bool) -> Iterator[ImageEntry]:
    """The images below a folder; a folder that cannot be read takes the place of its images."""
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        yield ImageEntry(folder, UserError(f"{folder} must be a folder that can be read, got: {error.strerror}"))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=links):
            yield from _from_folder(entry.path, links=False)
        elif is_image_name(entry.name):
            yield ImageEntry(entry.path, Path(entry.path))


def _from_archive(name: str, path: Path) -> Iterator[ImageEntry]:
    """The images in an archive; last, where it is broken, that it is."""
    try:
        for inside, content in iter_archive(path, is_image_name, name):
            found = f"{name}/{inside}"
            missing = UserError(f"{found} must be a file, or a link to a file there, got neither")
            yield ImageEntry(found, missing if content is None else content)
    except UserError as error:
        yield ImageEntry(name, error)


def _require_any(name: str, entries: Iterator[ImageEntry]) -> Iterator[ImageEntry]:
    """The same images, or that there are none."""
    first = next(entries, None)
    if first is None:
        yield ImageEntry(name, UserError(f"{name} must hold an image, found none"))
        return
    yield first
    yield from entries
