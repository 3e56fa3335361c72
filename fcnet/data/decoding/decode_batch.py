"""A run of pictures, decoded together: the work of which one process or several do a part.

Worker processes import this and what is below it, so it needs Pillow and nothing that takes long to import.
C channels, H rows and W columns.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from fcnet.data.decoding.image_decoding import QUIET, decode_planes, is_grey
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

Stamp: TypeAlias = tuple[int, int, int]
CHANGED = "must stay as it is while it is read, got a change"


class ImageFile(NamedTuple):
    """An image not yet decoded.

    Attributes:
        name: relative to the folder or the archive.
        content: the file's path, or from an archive its bytes.
        stamp: what `stamp` was of the file when it was found, which it must still be; None: it may be another.
        split: the split it belongs to.
        label: its class's place among the classes.
    """

    name: str
    content: str | bytes
    stamp: Stamp | None = None
    split: Literal["train", "test"] = "train"
    label: int = 0


class ChangedError(UserError):
    """A file is not what it was when it was found."""


def stamp(status: os.stat_result) -> Stamp:
    """What tells one state of a file from another: size, and times of modification and of change in nanoseconds."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True, slots=True)
class Decoding:
    """What pictures are to become.

    Attributes:
        where: the folder or the archive they are in, for errors.
        skip_broken: whether a picture that cannot be read is left out, else it is an error.
        channels: 1 or 3.
        height: H.
        width: W.
        resize: whether pictures of another size are brought to this one, else they are an error.
        like: the name of the picture that the others must be as large as.
    """

    where: str
    skip_broken: bool
    channels: int = 3
    height: int = 0
    width: int = 0
    resize: bool = False
    like: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """What became of a run of pictures.

    Attributes:
        data: uint8 values, as many for each picture that could be read.
        skipped: the others: each one's place in the run, and why.
    """

    data: bytes
    skipped: tuple[tuple[int, str], ...] = ()


def decode_pictures(files: Sequence[ImageFile], how: Decoding) -> Rows:
    """Decodes a run of pictures.

    Args:
        files: the pictures.
        how: what they are to become.

    Returns:
        Their pixels, C·H·W of each.

    Raises:
        UserError: the first that cannot be read, unless such are skipped, that has another size, or
            that has changed.
    """
    pixels: list[bytes] = []
    skipped: list[tuple[int, str]] = []
    with QUIET:
        for place, file in enumerate(files):
            try:
                data, height, width = decode_picture(file, how)
            except UserError as error:
                skipped.append((place, _reason(file, how, error)))
                continue
            if (height, width) != (how.height, how.width):
                raise UserError(
                    f"{name_of(file, how)} must be {how.width}×{how.height} pixels as {how.like} is, "
                    f"got {width}×{height}; data.size resizes them"
                )
            pixels.append(data)
    return Rows(b"".join(pixels), tuple(skipped))


def survey_pictures(files: Sequence[ImageFile], how: Decoding) -> Rows:
    """Tells which of a run of pictures are grey, up to the first that is not.

    Returns:
        1 (grey) or 0 for each; see `is_grey`.

    Raises:
        UserError: a picture before that cannot be opened, unless such are skipped.
    """
    rows: list[bool] = []
    skipped: list[tuple[int, str]] = []
    for place, file in enumerate(files):
        try:
            rows.append(is_grey(_openable(file), name_of(file, how)))
        except UserError as error:
            skipped.append((place, _reason(file, how, error)))
        if rows and not rows[-1]:
            break
    return Rows(bytes(rows), tuple(skipped))


def decode_picture(file: ImageFile, how: Decoding) -> tuple[bytes, int, int]:
    """One picture's channels with H and W, which are its own unless all are resized; see `decode_image`."""
    size = (how.height, how.width) if how.resize else None
    return decode_planes(_whole(file, how), how.channels, name_of(file, how), size)


def name_of(file: ImageFile, how: Decoding) -> str:
    """What errors call a picture."""
    return f"{file.name} in {how.where}"


def _openable(file: ImageFile) -> Path | IO[bytes]:
    return io.BytesIO(file.content) if isinstance(file.content, bytes) else Path(file.content)


def _whole(file: ImageFile, how: Decoding) -> Path | IO[bytes]:
    """A picture read at once, faster than Pillow reads it in parts; its path where it cannot be, for the error."""
    if isinstance(file.content, bytes):
        return io.BytesIO(file.content)
    try:
        with open(file.content, "rb", buffering=0) as opened:  # noqa: PTH123 - a Path would take as long as all this
            content, now = opened.read(), stamp(os.fstat(opened.fileno()))
    except OSError as error:
        if isinstance(error, FileNotFoundError) and file.stamp:
            raise ChangedError(f"{name_of(file, how)} {CHANGED}") from error
        return Path(file.content)
    if file.stamp not in (None, now):
        raise ChangedError(f"{name_of(file, how)} {CHANGED}")
    return io.BytesIO(content)


def skip_or_raise(how: Decoding, error: UserError) -> None:
    """Raises what is wrong with a picture, unless it is broken and such are left out."""
    if not how.skip_broken or isinstance(error, ChangedError):
        raise error


def _reason(file: ImageFile, how: Decoding, error: UserError) -> str:
    """Why a picture is skipped; raises the error where it may not be."""
    skip_or_raise(how, error)
    return str(error).removeprefix(f"{name_of(file, how)} ")
