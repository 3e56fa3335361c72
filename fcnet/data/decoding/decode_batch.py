"""A run of images, decoded together: the work of which one process or several do a part.

Worker processes import this and what is below it, so it needs Pillow and nothing that takes long to import.
C channels, H rows and W columns.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from fcnet.data.decoding.image_decoding import IGNORE_PILLOW_WARNINGS, decode_planes, is_grey
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

FileStamp: TypeAlias = tuple[int, int, int]
CHANGED_MESSAGE = "must stay as it is while it is read, got a change"


class ImageFile(NamedTuple):
    """An image not yet decoded.

    Attributes:
        name: relative to the folder or the archive.
        content: the file's path, or from an archive its bytes.
        stamp: what `file_stamp` was of the file when it was found, which it must still be; None: it may be another.
        split: the split it belongs to.
        label: its class's place among the classes.
    """

    name: str
    content: str | bytes
    stamp: FileStamp | None = None
    split: Literal["train", "test"] = "train"
    label: int = 0


class FileChangedError(UserError):
    """A file is not what it was when it was found."""


def file_stamp(status: os.stat_result) -> FileStamp:
    """What tells one state of a file from another: size, and times of modification and of change in nanoseconds."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What images are to become.

    Attributes:
        location: the folder or the archive they are in, for errors.
        skip_broken: whether an image that cannot be read is left out, else it is an error.
        channels: 1 or 3.
        height: H.
        width: W.
        resize: whether images of another size are brought to this one, else they are an error.
        reference_name: the name of the image that the others must be as large as.
    """

    location: str
    skip_broken: bool
    channels: int = 3
    height: int = 0
    width: int = 0
    resize: bool = False
    reference_name: str = ""


@dataclass(frozen=True, slots=True)
class DecodedImages:
    """What became of a run of images.

    Attributes:
        data: uint8 values, as many for each image that could be read.
        skipped: the others: each one's place in the run, and why.
    """

    data: bytes
    skipped: tuple[tuple[int, str], ...] = ()


def decode_images(files: Sequence[ImageFile], options: DecodeOptions) -> DecodedImages:
    """Decodes a run of images.

    Args:
        files: the images.
        options: what they are to become.

    Returns:
        Their pixels, C·H·W of each.

    Raises:
        UserError: the first that cannot be read, unless such are skipped, that has another size, or
            that has changed.
    """
    pixels: list[bytes] = []
    skipped: list[tuple[int, str]] = []
    with IGNORE_PILLOW_WARNINGS:
        for place, file in enumerate(files):
            try:
                data, height, width = decode_image_file(file, options)
            except UserError as error:
                skipped.append((place, _skip_reason(file, options, error)))
                continue
            if (height, width) != (options.height, options.width):
                raise UserError(
                    f"{display_name(file, options)} must be {options.width}×{options.height} pixels as {options.reference_name} is, "
                    f"got {width}×{height}; data.size resizes them"
                )
            pixels.append(data)
    return DecodedImages(b"".join(pixels), tuple(skipped))


def detect_grey(files: Sequence[ImageFile], options: DecodeOptions) -> DecodedImages:
    """Tells which of a run of images are grey, up to the first that is not.

    Returns:
        1 (grey) or 0 for each; see `is_grey`.

    Raises:
        UserError: an image before that cannot be opened, unless such are skipped.
    """
    rows: list[bool] = []
    skipped: list[tuple[int, str]] = []
    for place, file in enumerate(files):
        try:
            rows.append(is_grey(_as_file(file), display_name(file, options)))
        except UserError as error:
            skipped.append((place, _skip_reason(file, options, error)))
        if rows and not rows[-1]:
            break
    return DecodedImages(bytes(rows), tuple(skipped))


def decode_image_file(file: ImageFile, options: DecodeOptions) -> tuple[bytes, int, int]:
    """One image's channels with H and W, which are its own unless all are resized; see `decode_image`."""
    size = (options.height, options.width) if options.resize else None
    return decode_planes(_read_file(file, options), options.channels, display_name(file, options), size)


def display_name(file: ImageFile, options: DecodeOptions) -> str:
    """What errors call an image."""
    return f"{file.name} in {options.location}"


def _as_file(file: ImageFile) -> Path | IO[bytes]:
    return io.BytesIO(file.content) if isinstance(file.content, bytes) else Path(file.content)


def _read_file(file: ImageFile, options: DecodeOptions) -> Path | IO[bytes]:
    """An image read at once, faster than Pillow reads it in parts; its path where it cannot be, for the error."""
    if isinstance(file.content, bytes):
        return io.BytesIO(file.content)
    try:
        with open(file.content, "rb", buffering=0) as opened:  # noqa: PTH123 - a Path would take as long as all this
            content, now = opened.read(), file_stamp(os.fstat(opened.fileno()))
    except OSError as error:
        if isinstance(error, FileNotFoundError) and file.stamp:
            raise FileChangedError(f"{display_name(file, options)} {CHANGED_MESSAGE}") from error
        return Path(file.content)
    if file.stamp not in (None, now):
        raise FileChangedError(f"{display_name(file, options)} {CHANGED_MESSAGE}")
    return io.BytesIO(content)


def skip_or_raise(options: DecodeOptions, error: UserError) -> None:
    """Raises what is wrong with an image, unless it is broken and such are left out."""
    if not options.skip_broken or isinstance(error, FileChangedError):
        raise error


def _skip_reason(file: ImageFile, options: DecodeOptions, error: UserError) -> str:
    """Why an image is skipped; raises the error where it may not be."""
    skip_or_raise(options, error)
    return str(error).removeprefix(f"{display_name(file, options)} ")
