"""A run of pictures, decoded together: the work of which one process or several do a part.

Worker processes import this and what is below it, so it needs NumPy and Pillow and nothing that takes long to
import. N pictures of C channels, H rows and W columns.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from fcnet.data.pictures import QUIET, decode_image, is_grey
from fcnet.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fcnet.data.folders import ImageFile


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


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What became of a run of pictures.

    Attributes:
        array: uint8 (N, …), a row for each picture that could be read.
        skipped: the others: each one's place in the run, and why.
    """

    array: npt.NDArray[np.uint8]
    skipped: tuple[tuple[int, str], ...] = ()


def decode_pictures(files: Sequence[ImageFile], how: Decoding) -> Rows:
    """Decodes a run of pictures.

    Args:
        files: the pictures.
        how: what they are to become.

    Returns:
        Rows (C, H, W), their pixels.

    Raises:
        UserError: the first that cannot be read, unless such are skipped, or that has another size.
    """
    pixels = np.empty((len(files), how.channels, how.height, how.width), dtype=np.uint8)
    with QUIET:
        skipped = _fill(pixels, files, how)
    return Rows(pixels[: len(files) - len(skipped)], tuple(skipped))


def _fill(pixels: npt.NDArray[np.uint8], files: Sequence[ImageFile], how: Decoding) -> list[tuple[int, str]]:
    """Decodes pictures into rows, one after another; returns those that are left out."""
    skipped: list[tuple[int, str]] = []
    for place, file in enumerate(files):
        try:
            picture = decode_picture(file, how)
        except UserError as error:
            if not how.skip_broken:
                raise
            skipped.append((place, _reason(file, how, error)))
            continue
        if picture.shape != pixels.shape[1:]:
            raise UserError(
                f"{name_of(file, how)} must be {how.width}×{how.height} pixels as {how.like} is, "
                f"got {picture.shape[2]}×{picture.shape[1]}; data.size resizes them"
            )
        pixels[place - len(skipped)] = picture
    return skipped


def survey_pictures(files: Sequence[ImageFile], how: Decoding) -> Rows:
    """Tells which of a run of pictures are grey, up to the first that is not.

    Returns:
        Rows of 1 (grey) and 0; see `is_grey`.

    Raises:
        UserError: a picture before that cannot be opened, unless such are skipped.
    """
    rows: list[bool] = []
    skipped: list[tuple[int, str]] = []
    for place, file in enumerate(files):
        try:
            rows.append(is_grey(_openable(file), name_of(file, how)))
        except UserError as error:
            if not how.skip_broken:
                raise
            skipped.append((place, _reason(file, how, error)))
        if rows and not rows[-1]:
            break
    return Rows(np.array(rows, dtype=np.uint8), tuple(skipped))


def decode_picture(file: ImageFile, how: Decoding) -> npt.NDArray[np.uint8]:
    """One picture's pixels (C, …), of its own size unless all are resized; see `decode_image`."""
    size = (how.height, how.width) if how.resize else None
    return decode_image(_whole(file), how.channels, name_of(file, how), size)


def name_of(file: ImageFile, how: Decoding) -> str:
    """What errors call a picture."""
    return f"{file.name} in {how.where}"


def _openable(file: ImageFile) -> Path | IO[bytes]:
    return io.BytesIO(file.content) if isinstance(file.content, bytes) else Path(file.content)


def _whole(file: ImageFile) -> Path | IO[bytes]:
    """A picture read at once, faster than Pillow reads it in parts; its path where it cannot be, for the error."""
    if isinstance(file.content, bytes):
        return io.BytesIO(file.content)
    try:
        with open(file.content, "rb") as opened:  # noqa: PTH123 - a Path for each picture would take as long as this
            return io.BytesIO(opened.read())
    except OSError:
        return Path(file.content)


def _reason(file: ImageFile, how: Decoding, error: UserError) -> str:
    return str(error).removeprefix(f"{name_of(file, how)} ")
