"""One image file, decoded by Pillow into uint8 pixels.

Worker processes import this, so it does without NumPy until an array is asked for. C channels, H rows and W columns.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import warnings
from typing import IO, TYPE_CHECKING, TypeVar

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

_Result = TypeVar("_Result")

# Only these, whatever the file's name says: Pillow knows dozens, and hands some to outside programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
GREY_MODES = {"1", "L", "LA", "La"}
_ORIENTATION = 0x0112
_ORIENTATION_KEYS = {"exif", "xmp"}  # where Pillow keeps what may hold a JPEG's orientation
_ORIENTATION_TRANSPOSES = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# What Pillow raises on broken files, over all the formats above, and on what is no file.
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
    file: Path | IO[bytes] | Image.Image, channels: int, name: str, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    r"""Reads one image, as a page shows it.

    It is turned as its EXIF orientation says, unless that cannot be read; what is transparent is
    laid over white, since the colours that a file keeps beneath mean nothing; and of an animation
    the first frame counts. No colour profile is applied. A colour image becomes grey by its luma
    when one channel is asked for, and a grey one becomes colour by three equal channels.

    Args:
        file: a path, an open binary file, or an image that Pillow has opened, which stays open.
        channels: 1 (grey) or 3 (red, green, blue).
        name: what errors call the image.
        size: (H, W) to bring the image to: it is scaled, its proportions kept and by Pillow's antialiased bicubic
            filter, until it covers them, and what juts out is cut off alike on both sides; None: its own size.

    Returns:
        uint8 (C, H, W), an array of its own.

    Raises:
        UserError: the file cannot be read, is broken or no image, or has more than 8 bits a channel.

    Example:
        >>> import io
        >>> decode_image(io.BytesIO(b"P5 2 1 255 \x07\x09"), channels=1, name="two.pgm").tolist()
        [[[7, 9]]]
    """
    import numpy as np

    data, height, width = decode_planes(file, channels, name, size)
    return np.frombuffer(data, dtype=np.uint8).reshape(channels, height, width).copy()


def decode_planes(
    file: Path | IO[bytes] | Image.Image, channels: int, name: str, size: tuple[int, int] | None = None
) -> tuple[bytes, int, int]:
    """The same as bytes, one channel after another, with H and W; see `decode_image`."""
    if channels not in (1, 3):
        raise UserError(f"channels must be 1 or 3 to decode {name}, got {channels}")
    return _read_image(file, name, lambda image: _image_planes(image, channels, name, size))


def is_grey(file: Path | IO[bytes], name: str) -> bool:
    """Whether an image is stored without colour, from its header alone; a palette counts as colour.

    Raises:
        UserError: the file cannot be read, or is no image.
    """
    # 16-bit grey is still grey here: `decode_image` refuses it with a better reason.
    return _read_image(file, name, lambda image: image.mode in GREY_MODES or image.mode.startswith(("I", "F")))


def _image_planes(image: Image.Image, channels: int, name: str, size: tuple[int, int] | None) -> tuple[bytes, int, int]:
    """The channels of an image whose header is read, with H and W."""
    if depth := _excess_depth(image):
        raise UserError(f"{name} must have 8 bits a channel, got {depth}")
    image.load()
    converted = _convert_mode(_apply_orientation(image), "L" if channels == 1 else "RGB")
    sized = converted if size is None else _resize_and_crop(converted, size)
    # Half the time of `numpy.asarray`, which asks an image for more than its bytes.
    data = sized.tobytes()
    return b"".join(data[channel::channels] for channel in range(channels)), sized.height, sized.width


def _excess_depth(image: Image.Image) -> str:
    """What says that an image not yet loaded has more than 8 bits a channel; nothing if it has not."""
    if image.mode.startswith(("I", "F")):
        return f"Pillow's mode {image.mode}"
    for codec, _, _, how in getattr(image, "tile", []):  # of colours Pillow would drop the lower bits in silence
        raw, *numbers = how if isinstance(how, tuple) and how else (how,)
        if str(raw).endswith((";16B", ";16L", ";16N")):
            return f"Pillow's mode {raw}"
        if codec.startswith("ppm") and numbers and numbers[0] > 255:
            return f"values up to {numbers[0]}"
    return ""


def _apply_orientation(image: Image.Image) -> Image.Image:
    """A loaded image turned as its EXIF orientation says; Pillow has turned a TIFF already."""
    from PIL import Image

    if image.format == "JPEG" and not _ORIENTATION_KEYS & image.info.keys():
        return image
    orientation = None
    with contextlib.suppress(*_DECODE_ERRORS):
        orientation = image.getexif().get(_ORIENTATION)
    return (
        image.transpose(Image.Transpose[_ORIENTATION_TRANSPOSES[orientation]])
        if orientation in _ORIENTATION_TRANSPOSES
        else image
    )


def _convert_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.has_transparency_data:
        image = _composite_on_white(image)
    if image.mode not in {mode, "1", "L", "RGB"}:
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _composite_on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    image = image.convert("LA") if image.mode == "La" else image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


class _PillowWarningFilter:
    """Keeps what Pillow remarks on files that it can live with from whoever decodes them.

    Python's filters are those of all threads, so the first to come in puts one up and the last to
    leave takes it down: each for itself could leave another's behind.
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
"""To be entered around many images, where doing so for each would take long; one in another does no harm."""


def _resize_and_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the image that has the proportions of ``size``, (H, W), and is as large as can be, at that size."""
    from PIL.Image import Resampling

    height, width = size
    scale = min(image.width / width, image.height / height)
    across, down = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (max(across, 0.0), max(down, 0.0), image.width - max(across, 0.0), image.height - max(down, 0.0))
    return image.resize((width, height), Resampling.BICUBIC, box=box)


def _read_image(file: Path | IO[bytes] | Image.Image, name: str, read: Callable[[Image.Image], _Result]) -> _Result:
    """What is seen in an image, its header read; whatever Pillow makes of a broken one becomes a `UserError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with IGNORE_PILLOW_WARNINGS:
            if isinstance(file, Image.Image):
                return read(file)
            with Image.open(file, formats=FORMATS) as image:
                return read(image)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} must be an image ({', '.join(FORMATS)}), got something else") from None
    except (*_DECODE_ERRORS, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{name} must be a whole image, got: {' '.join(str(reason).split())}") from error
