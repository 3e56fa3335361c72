"""Decoding of a batch of image files, the unit of work of a decode process.

Worker processes import this module, so it must not import torch or NumPy. C channels, H rows and W columns.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from fcnet.data.decoding.image_decoding import (
    IGNORE_PILLOW_WARNINGS,
    MAX_FILE_BYTES,
    ShorterSide,
    decode_planes,
    describe_file_limit,
    is_grey,
    read_shape,
)
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

FileStamp: TypeAlias = tuple[int, int, int]
"""Size, mtime and ctime of a file, both times in nanoseconds."""

CHANGED_MESSAGE = "changed while it was being read"
OTHER_CHANNELS, OTHER_SIZE = 1, 2
"""Flags of an image whose channels, or whose size, decoding changes."""


class ImageFile(NamedTuple):
    """A labelled image that is not decoded yet.

    Attributes:
        name: the image's name relative to its folder or archive.
        content: the path of the file, or the bytes of an archive's member.
        stamp: the stamp that the file must still have when it is read; None to skip the check.
        split: the split of the image.
        label: the index of its class.
    """

    name: str
    content: str | bytes
    stamp: FileStamp | None = None
    split: Literal["train", "validation", "test"] = "train"
    label: int = 0


class FileChangedError(UserError):
    """A file has changed since it was listed."""


def file_stamp(status: os.stat_result) -> FileStamp:
    """Returns the stamp of a file from its status."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of `decode_images`.

    Attributes:
        location: the folder or archive of the images, for error messages.
        skip_broken: whether to skip unreadable images instead of raising an error.
        channels: 1 or 3.
        height: H.
        width: W.
        resize: whether to resize images of another size instead of raising an error.
        reference_name: the name of the image that sets the size of all others, for error messages.
        shorter_side: how to resize images in the manner of torchvision; None for the other manner.
    """

    location: str
    skip_broken: bool
    channels: int = 3
    height: int = 0
    width: int = 0
    resize: bool = False
    reference_name: str = ""
    shorter_side: ShorterSide | None = None


@dataclass(frozen=True, slots=True)
class DecodedImages:
    """The result for a batch of images.

    Attributes:
        data: uint8 values of the readable images, the same number for each.
        skipped: the unreadable images, as pairs of the index in the batch and the reason.
    """

    data: bytes
    skipped: tuple[tuple[int, str], ...] = ()


def decode_images(files: Sequence[ImageFile], options: DecodeOptions) -> DecodedImages:
    """Decodes a batch of images.

    Args:
        files: the images.
        options: their channels, their size, and the treatment of images without it.

    Returns:
        The pixels, C·H·W values for each image.

    Raises:
        UserError: an image is unreadable and must not be skipped, has another size, or has changed.
    """
    pixels: list[bytes] = []
    skipped: list[tuple[int, str]] = []
    with IGNORE_PILLOW_WARNINGS:
        for index, file in enumerate(files):
            try:
                data, height, width = decode_image_file(file, options)
            except UserError as error:
                skipped.append((index, _skip_reason(file, options, error)))
                continue
            if (height, width) != (options.height, options.width):
                raise UserError(
                    f"{display_name(file, options)} must be {options.width}×{options.height} pixels like "
                    f"{options.reference_name}, got {width}×{height}; data.size resizes all images"
                )
            pixels.append(data)
    return DecodedImages(b"".join(pixels), tuple(skipped))


def detect_grey(files: Sequence[ImageFile], options: DecodeOptions) -> DecodedImages:
    """Finds out which images of a batch are grey, up to the first colour image.

    Returns:
        1 for a grey image and 0 for the first colour image; see `is_grey`.

    Raises:
        UserError: an image is unreadable and must not be skipped.
    """
    flags: list[bool] = []
    skipped: list[tuple[int, str]] = []
    for index, file in enumerate(files):
        try:
            flags.append(is_grey(_as_file(file), display_name(file, options)))
        except UserError as error:
            skipped.append((index, _skip_reason(file, options, error)))
        if flags and not flags[-1]:
            break
    return DecodedImages(bytes(flags), tuple(skipped))


def compare_headers(files: Sequence[ImageFile], options: DecodeOptions) -> DecodedImages:
    """Finds out which images of a batch decoding converts, from their headers.

    Returns:
        For each readable image the sum of `OTHER_CHANNELS` and `OTHER_SIZE`, where they hold.

    Raises:
        UserError: an image is unreadable and must not be skipped.
    """
    flags: list[int] = []
    skipped: list[tuple[int, str]] = []
    with IGNORE_PILLOW_WARNINGS:
        for index, file in enumerate(files):
            try:
                channels, height, width = read_shape(_as_file(file), display_name(file, options))
            except UserError as error:
                skipped.append((index, _skip_reason(file, options, error)))
                continue
            differs = (height, width) != (options.height, options.width)
            flags.append(OTHER_CHANNELS * (channels != options.channels) + OTHER_SIZE * differs)
    return DecodedImages(bytes(flags), tuple(skipped))


def decode_image_file(file: ImageFile, options: DecodeOptions) -> tuple[bytes, int, int]:
    """Decodes one image. Returns its channels, H and W; the size is the image's own unless `options` resizes it."""
    size = (options.shorter_side or (options.height, options.width)) if options.resize else None
    return decode_planes(_read_file(file, options), options.channels, display_name(file, options), size)


def display_name(file: ImageFile, options: DecodeOptions) -> str:
    """Returns the name of an image for error messages."""
    return f"{file.name} in {options.location}"


def skip_or_raise(options: DecodeOptions, error: UserError) -> None:
    """Raises the error of an image, unless broken images are skipped. A changed file always raises."""
    if not options.skip_broken or isinstance(error, FileChangedError):
        raise error


def _skip_reason(file: ImageFile, options: DecodeOptions, error: UserError) -> str:
    """Returns the reason for skipping an image; raises the error if it must not be skipped."""
    skip_or_raise(options, error)
    name = display_name(file, options)
    return str(error).removeprefix(name).removeprefix(":").strip()


def _as_file(file: ImageFile) -> Path | IO[bytes]:
    return io.BytesIO(file.content) if isinstance(file.content, bytes) else Path(file.content)


def _read_file(file: ImageFile, options: DecodeOptions) -> Path | IO[bytes]:
    """Reads an image file into memory after checking its stamp; returns the path of an unreadable file.

    One read of the whole file is faster than Pillow's reads of its parts. Pillow then raises the error of the path.
    """
    if isinstance(file.content, bytes):
        return io.BytesIO(file.content)
    if file.stamp and file.stamp[0] > MAX_FILE_BYTES:
        raise UserError(f"{display_name(file, options)} {describe_file_limit(file.stamp[0])}")
    try:
        with open(file.content, "rb", buffering=0) as opened:  # noqa: PTH123 - Path would double the time
            content, stamp = opened.read(), file_stamp(os.fstat(opened.fileno()))
    except OSError as error:
        if isinstance(error, FileNotFoundError) and file.stamp:
            raise FileChangedError(f"{display_name(file, options)} {CHANGED_MESSAGE}") from error
        return Path(file.content)
    if file.stamp not in (None, stamp):
        raise FileChangedError(f"{display_name(file, options)} {CHANGED_MESSAGE}")
    return io.BytesIO(content)
