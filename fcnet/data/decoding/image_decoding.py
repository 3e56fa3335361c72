"""Decoding of one image file into uint8 pixels, by Pillow.

Worker processes import this module, so it imports NumPy and Pillow only where they are used. C channels, H rows and
W columns.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import stat
import struct
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias, TypeVar

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ShorterSide:
    """A size in the manner of torchvision: an image is scaled by its shorter side, then cropped at the centre.

    Attributes:
        pixels: the length that the shorter side is scaled to, with the aspect ratio kept; at least H and W.
        height: H.
        width: W.
        resampling: the name of Pillow's filter, such as ``BILINEAR``.
    """

    pixels: int
    height: int
    width: int
    resampling: str = "BILINEAR"


Size: TypeAlias = tuple[int, int] | ShorterSide
"""(H, W), or the shorter side and (H, W)."""

# Pillow supports dozens of formats and hands some of them to other programs. A file's suffix does not matter.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
GREY_MODES = {"1", "L", "LA", "La"}
MAX_FILE_BYTES = 1 << 29
_MAX_DECODING_BYTES = 1 << 30
_SMALL_PIXELS = 1 << 24  # an image of fewer pixels takes less memory than that, whatever its format and mode
_SCAN_MARKER, _MAX_SCANS = b"\xff\xda", 200  # an encoder writes about 10
_PIECE_BYTES = 1 << 20
_STRIP_PIXELS = 1 << 22
_SAMPLES_PER_PIXEL, _TILE_SIZE, _MAX_TILE_BYTES = 277, (322, 323), 1 << 26
_ORIENTATION = 0x0112
_ORIENTATION_KEYS = {"exif", "xmp"}  # the keys of Image.info that may hold a JPEG's orientation
_ORIENTATION_TRANSPOSES = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_QUARTER_TURNS = {"TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"}  # they exchange width and height
# The errors that Pillow raises for broken files of these formats, and for paths that are not files.
_DECODE_ERRORS = (
    OSError,
    EOFError,
    AttributeError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
)


def decode_image(
    file: Path | IO[bytes] | Image.Image, channels: int, name: str, size: Size | None = None
) -> npt.NDArray[np.uint8]:
    r"""Decodes one image, as a browser shows it.

    The EXIF orientation is applied if it is readable. Transparent pixels are blended with white, because the colours
    stored below them are arbitrary. An animation gives its first frame. Colour profiles are ignored. One channel of a
    colour image is its luma; a grey image has three equal channels.

    Args:
        file: a path, an open binary file, or an open Pillow image, which stays open.
        channels: 1 (grey) or 3 (red, green, blue).
        name: the image's name in error messages.
        size: (H, W) of the result: the image is scaled to cover it, with its aspect ratio kept, by Pillow's
            antialiased bicubic filter, and then cropped at the centre. A `ShorterSide` scales and crops as torchvision
            does. None keeps the image's size.

    Returns:
        A new uint8 array (C, H, W).

    Raises:
        UserError: the file is unreadable, broken or not an image, or has more than 8 bits per channel, or decoding it
            would take more than 1 GiB. That is known from its header: a photo of 100 megapixels takes less.

    Example:
        >>> import io
        >>> decode_image(io.BytesIO(b"P5 2 1 255 \x07\x09"), channels=1, name="two.pgm").tolist()
        [[[7, 9]]]
    """
    import numpy as np

    data, height, width = decode_planes(file, channels, name, size)
    return np.frombuffer(data, dtype=np.uint8).reshape(channels, height, width).copy()


def decode_planes(
    file: Path | IO[bytes] | Image.Image, channels: int, name: str, size: Size | None = None
) -> tuple[bytes, int, int]:
    """Decodes one image like `decode_image`. Returns its channels as bytes, one after another, H and W."""
    if channels not in (1, 3):
        raise UserError(f"channels must be 1 or 3 to decode {name}, got {channels}")
    return _read_image(file, name, lambda image: _image_planes(image, channels, name, size))


def is_grey(file: Path | IO[bytes], name: str) -> bool:
    """Returns whether an image is grey, from its header alone; a palette counts as colour.

    Raises:
        UserError: the file is unreadable or not an image.
    """
    return _read_image(file, name, _has_grey_mode)


def read_shape(file: Path | IO[bytes], name: str) -> tuple[int, int, int]:
    r"""Returns the shape of an image, from its header alone: 1 channel if it is grey, else 3; H and W as it is shown.

    Raises:
        UserError: the file is unreadable or not an image.

    Example:
        >>> import io
        >>> read_shape(io.BytesIO(b"P5 2 1 255 \x07\x09"), name="two.pgm")
        (1, 1, 2)
    """
    return _read_image(file, name, _displayed_shape)


def describe_file_limit(num_bytes: int) -> str:
    """Returns the end of the error of an image file of more than `MAX_FILE_BYTES`."""
    return f"must be an image file of at most {MAX_FILE_BYTES >> 20} MiB, got {num_bytes / 2**20:,.0f} MiB"


def check_file_type(status: os.stat_result, name: str) -> None:
    """Checks that a path is no pipe and no device: reading one would block, or never end.

    Raises:
        UserError: it is one.
    """
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise UserError(f"{name} must be a file, got a pipe or a device")


def _has_grey_mode(image: Image.Image) -> bool:
    # 16-bit grey counts as grey: `decode_image` rejects it with a better message.
    return image.mode in GREY_MODES or image.mode.startswith(("I", "F"))


def _displayed_shape(image: Image.Image) -> tuple[int, int, int]:
    width, height = image.size
    if image.format != "TIFF" and _find_orientation(image) in _QUARTER_TURNS:
        width, height = height, width
    return 1 if _has_grey_mode(image) else 3, height, width


def _image_planes(image: Image.Image, channels: int, name: str, size: Size | None) -> tuple[bytes, int, int]:
    """Converts an opened image. Returns its channels as bytes, H and W."""
    if depth := _excess_depth(image):
        raise UserError(f"{name} must have 8 bits a channel, got {depth}")
    if image.format == "TIFF" or math.prod(image.size) >= _SMALL_PIXELS:
        _check_memory(image, channels, name, resized=size is not None)
    if "progressive" in image.info:
        _check_scans(image, name)
    image.load()
    converted = _convert_mode(_apply_orientation(image), "L" if channels == 1 else "RGB")
    sized = converted if size is None else _resize_and_crop(converted, size)
    # `tobytes` takes half the time of `numpy.asarray`.
    data = sized.tobytes()
    return b"".join(data[channel::channels] for channel in range(channels)), sized.height, sized.width


def _check_memory(image: Image.Image, channels: int, name: str, *, resized: bool) -> None:
    """Raises an error if decoding an image would take too much memory, before its pixels are loaded."""
    samples = 0
    if image.format == "TIFF":
        _silence_libtiff()
        tags = getattr(image, "tag_v2", {})
        # libtiff allocates a whole tile, or a whole strip, which may be as large as the image.
        samples, tile = tags.get(_SAMPLES_PER_PIXEL, 1), [tags.get(tag, 0) for tag in _TILE_SIZE]
        if tile[0] * tile[1] * samples > _MAX_TILE_BYTES:
            raise UserError(f"{name} must have tiles of at most {_MAX_TILE_BYTES >> 20} MiB, got {tile[0]}×{tile[1]}")
    if image.width * image.height < _SMALL_PIXELS:
        return
    # Bytes for each pixel, measured. Pillow stores one byte, or four whatever the number of channels.
    decoded = 1 if image.mode in {"1", "L", "P"} else 4
    decoder = 12 if image.format == "WEBP" else 3 * ("progressive" in image.info) + samples
    rotated = decoded if _find_orientation(image) else 0
    is_converted = image.has_transparency_data or image.mode not in {"1", "L", "RGB"}
    is_grey = image.mode in {"1", "L"} and not is_converted
    converted = 4 * is_converted + (0 if is_grey == (channels == 1) else 4 if is_grey else 1)
    planes = 0 if resized else 3 * channels
    num_bytes = image.width * image.height * (decoded + decoder + rotated + converted + planes)
    if isinstance(file := getattr(image, "fp", None), io.BytesIO):
        num_bytes += file.getbuffer().nbytes
    if num_bytes > _MAX_DECODING_BYTES:
        raise UserError(
            f"{name} must take at most 1 GiB to decode, got {image.width}×{image.height} pixels, "
            f"which take {num_bytes / 2**30:.1f} GiB"
        )


def _check_scans(image: Image.Image, name: str) -> None:
    """Raises an error if a progressive JPEG has too many scans: each takes the time of a whole image, and few bytes."""
    file = getattr(image, "fp", None)
    if file is None:  # already loaded
        return
    position, num_scans = file.tell(), 0
    file.seek(0)
    while num_scans <= _MAX_SCANS and (piece := file.read(_PIECE_BYTES)):
        num_scans += piece.count(_SCAN_MARKER)
    file.seek(position)
    if num_scans > _MAX_SCANS:
        raise UserError(f"{name} must be a JPEG of at most {_MAX_SCANS} scans, got more")


def _excess_depth(image: Image.Image) -> str:
    """Describes the depth of an image that is not loaded yet, if it has more than 8 bits per channel; else empty."""
    if image.mode.startswith(("I", "F")):
        return f"Pillow's mode {image.mode}"
    # Pillow drops the lower bits of 16-bit colour silently, so the codec's arguments must tell.
    for codec, _, _, arguments in getattr(image, "tile", []):
        raw_mode, *numbers = arguments if isinstance(arguments, tuple) and arguments else (arguments,)
        if str(raw_mode).endswith((";16B", ";16L", ";16N")):
            return f"Pillow's mode {raw_mode}"
        if codec.startswith("ppm") and numbers and numbers[0] > 255:
            return f"values up to {numbers[0]}"
    return ""


def _apply_orientation(image: Image.Image) -> Image.Image:
    """Rotates or flips a loaded image by its EXIF orientation. Pillow does this itself for a TIFF."""
    transpose = _find_orientation(image)
    if transpose is None:
        return image
    from PIL import Image

    return image.transpose(Image.Transpose[transpose])


def _find_orientation(image: Image.Image) -> str | None:
    """Returns the name of the transposition that the EXIF orientation asks for, or None."""
    if image.format == "JPEG" and not _ORIENTATION_KEYS & image.info.keys():
        return None
    orientation = None
    with contextlib.suppress(*_DECODE_ERRORS):
        orientation = image.getexif().get(_ORIENTATION)
    return None if orientation is None else _ORIENTATION_TRANSPOSES.get(orientation)


def _convert_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.has_transparency_data:
        image = _composite_on_white(image)
    if image.mode not in {mode, "1", "L", "RGB"}:
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _composite_on_white(image: Image.Image) -> Image.Image:
    """Blends an image with white, a large one in strips, since it takes four copies."""
    from PIL import Image

    rows = max(1, _STRIP_PIXELS // image.width)
    if image.height <= rows:
        strip = image.convert("LA") if image.mode == "La" else image
        strip = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB")
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        result.paste(_composite_on_white(image.crop(box)), box)
    return result


class _PillowWarningFilter:
    """A reentrant context manager that silences Pillow's warnings about odd but readable files.

    Python's warning filters are global to all threads. The first thread to enter installs the filter and the last to
    leave removes it: with one `catch_warnings` per thread, one could restore the filters of another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_entered = 0
        self._catch_warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._num_entered += 1
            if self._num_entered == 1:
                self._catch_warnings = warnings.catch_warnings()
                self._catch_warnings.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_entered -= 1
            if self._num_entered == 0:
                self._catch_warnings.__exit__(None, None, None)


IGNORE_PILLOW_WARNINGS = _PillowWarningFilter()
"""Enter it once around many images, because entering it for each image takes long."""


def _resize_and_crop(image: Image.Image, size: Size) -> Image.Image:
    """Crops the largest centred box with the aspect ratio of ``size``, (H, W), and resizes it to ``size``."""
    from PIL.Image import Resampling

    if isinstance(size, ShorterSide):
        return _resize_shorter_side(image, size)
    height, width = size
    scale = min(image.width / width, image.height / height)
    # Rounding may make a margin slightly negative.
    left, top = max((image.width - scale * width) / 2, 0.0), max((image.height - scale * height) / 2, 0.0)
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Resampling.BICUBIC, box=box)


def _resize_shorter_side(image: Image.Image, size: ShorterSide) -> Image.Image:
    """Scales and crops an image, pixel for pixel as torchvision's ``Resize`` and ``CenterCrop`` do."""
    from PIL.Image import Resampling

    shorter, longer = sorted(image.size)
    if shorter != size.pixels:
        scaled = int(size.pixels * longer / shorter)
        width, height = (size.pixels, scaled) if image.width <= image.height else (scaled, size.pixels)
        image = image.resize((width, height), Resampling[size.resampling])
    left, top = round((image.width - size.width) / 2), round((image.height - size.height) / 2)
    return image.crop((left, top, left + size.width, top + size.height))


@functools.cache
def _silence_libtiff() -> None:
    """Stops libtiff from printing its own lines about broken files on standard error."""
    import ctypes

    from PIL import _imaging

    with contextlib.suppress(OSError, AttributeError):  # a Pillow whose libtiff has no visible symbols
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _read_image(file: Path | IO[bytes] | Image.Image, name: str, read: Callable[[Image.Image], _Result]) -> _Result:
    """Opens an image and applies ``read``; turns Pillow's errors into `UserError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with IGNORE_PILLOW_WARNINGS:
            if isinstance(file, Image.Image):
                return read(file)
            if isinstance(file, Path):
                status = file.stat()
                check_file_type(status, name)
                if status.st_size > MAX_FILE_BYTES:
                    raise UserError(f"{name} {describe_file_limit(status.st_size)}")
            with Image.open(file, formats=FORMATS) as image:
                return read(image)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} must be an image ({', '.join(FORMATS)}), got something else") from None
    except (*_DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise UserError(f"{name}{_describe_failure(error)}") from error


def _describe_failure(error: Exception) -> str:
    """Returns the end of the error for an image that the system or Pillow cannot read."""
    from PIL import Image

    if isinstance(error, FileNotFoundError):
        return ": no such file"
    if isinstance(error, OSError) and error.strerror:  # of the system; Pillow's own have no number
        return f": {error.strerror}"
    reason = " ".join(str(error).split())
    if isinstance(error, Image.DecompressionBombError):
        return f" is too large to decode: {reason}"
    return f" must be a whole image, got: {reason}"
