"""Image files that a stranger may send: small ones that take much memory or time."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from tests.helpers import image_bytes, make_png, png_chunk

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 13_000  # Pillow itself refuses more than 13,377² pixels


class HostileImage(NamedTuple):
    """A file, and the start of its error, empty if it is an image; slow files take seconds to make or to decode."""

    make: Callable[[], bytes]
    error: str
    slow: bool = False


def compressed_zeros(count: int, head: bytes = b"") -> bytes:
    """Returns a zlib stream of zeros, made at once: a block of a mebibyte is repeated."""
    compressor = zlib.compressobj(9, wbits=-15)
    block = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, wbits=-15)
    rest = last.compress(bytes(count % (1 << 20))) + last.flush()
    checksum = struct.pack(">HH", count % 65521, 1)
    return head + b"\x78\x01" + block * (count >> 20) + rest + checksum


def flat_png(color_type: int, bit_depth: int = 8, side: int = SIDE, *chunks: bytes) -> bytes:
    """Returns a PNG of zeros."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    data = compressed_zeros(side * (1 + (side * channels * bit_depth + 7) // 8))
    empty = make_png((side, side), bit_depth, color_type, b"", *chunks)
    before, after = empty.split(png_chunk(b"IDAT", zlib.compress(b"")))
    return before + png_chunk(b"IDAT", data) + after


def text_chunk(kind: bytes) -> bytes:
    """Returns a chunk of 300 MB of compressed text, or of a compressed colour profile."""
    heads = {b"zTXt": b"key\0\0", b"iCCP": b"key\0\0", b"iTXt": b"key\0\1\0\0\0"}
    return png_chunk(kind, compressed_zeros(300 << 20, heads[kind]))


def grown_jpeg(mode: str) -> bytes:
    """Returns a small JPEG whose header claims a large image."""
    small = image_bytes(Image.new(mode, (8, 8)), "JPEG")
    size = small.index(b"\xff\xc0") + 5
    return small[:size] + struct.pack(">HH", SIDE, SIDE) + small[size + 4 :]


def flat(side: int, form: str, mode: str = "RGB", **options: Any) -> bytes:
    return image_bytes(Image.new(mode, (side, side), 1 if mode in {"L", "P", "1"} else "teal"), form, **options)


def jpeg_of_scans(num_scans: int, side: int = 2_000) -> bytes:
    """Returns a progressive JPEG whose last scan is repeated."""
    whole = flat(side, "JPEG", progressive=True)
    start = whole.rindex(b"\xff\xda")
    last = whole[start:-2]
    return whole[:start] + last * num_scans + b"\xff\xd9"


def rle_bitmap(side: int = SIDE) -> bytes:
    """Returns a compressed BMP of one byte of data."""
    palette = bytes(1024)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 4, 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, 54 + 1024) + info + palette + b"\0\1"


def tiff(entries: list[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """Returns a TIFF of one directory: (tag, type, count, value) each."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", 0) + data


def tiled_tiff(side: int, tile: int) -> bytes:
    """Returns a compressed TIFF of a single tile that is much larger than the image."""
    offset = 8 + 2 + 11 * 12 + 4
    data = zlib.compress(bytes(1000))
    entries = [
        *((256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)),
        *((322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, offset), (325, 4, 1, len(data)), (339, 3, 1, 1)),
    ]
    return tiff(entries, data)


def counted_tiff() -> bytes:
    """Returns a TIFF that claims four billion strip offsets."""
    entries = [
        *((256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)),
        *((273, 4, 2**32 - 1, 8), (279, 4, 2**32 - 1, 8)),
    ]
    return tiff(entries, bytes(1000))


def animation(form: str, num_frames: int, side: int = 1_000) -> bytes:
    frames = [Image.new("RGB", (side, side), (number, 0, 0)) for number in range(num_frames)]
    file = io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:])
    return file.getvalue()


MEMORY = "x must take at most 1 GiB to decode, got 13000×13000 pixels, which take "
WHOLE = "x must be a whole image, got: "
HOSTILE_IMAGES: dict[str, HostileImage] = {
    "a PNG with alpha": HostileImage(lambda: flat_png(6), f"{MEMORY}1.3 GiB"),
    "a grey PNG with alpha": HostileImage(lambda: flat_png(4), f"{MEMORY}1.3 GiB"),
    "a PNG with a transparent grey": HostileImage(
        lambda: flat_png(0, 8, SIDE, png_chunk(b"tRNS", b"\0\0")), "", slow=True
    ),
    "a PNG": HostileImage(lambda: flat_png(2), "", slow=True),
    "a PNG of one bit": HostileImage(lambda: flat_png(0, 1), "", slow=True),
    "a PNG of 16 bits": HostileImage(lambda: flat_png(0, 16), "x must have 8 bits a channel, got Pillow's mode I;16"),
    "a PNG above Pillow's limit": HostileImage(
        lambda: flat_png(0, 1, 14_000), "x is too large to decode: Image size (196000000 pixels)"
    ),
    "a WebP": HostileImage(
        lambda: flat(12_000, "WEBP", quality=1, method=0),
        "x must take at most 1 GiB to decode, got 12000×12000 pixels",
        slow=True,
    ),
    "a GIF": HostileImage(lambda: flat(SIDE, "GIF", "P"), "", slow=True),
    "a TIFF": HostileImage(lambda: flat(SIDE, "TIFF", "L", compression="tiff_deflate"), "", slow=True),
    "a TIFF of CMYK": HostileImage(
        lambda: flat(SIDE, "TIFF", "CMYK", compression="tiff_deflate"), f"{MEMORY}1.9 GiB", slow=True
    ),
    "a TIFF of one huge tile": HostileImage(
        lambda: tiled_tiff(100, 1 << 15), "x must have tiles of at most 64 MiB, got 32768×32768"
    ),
    "a TIFF of one tile beyond all memory": HostileImage(
        lambda: tiled_tiff(100, 1 << 30), "x must have tiles of at most 64 MiB, got "
    ),
    "a TIFF of billions of strips": HostileImage(counted_tiff, "x must be an image ("),
    "a bitmap without data": HostileImage(rle_bitmap, f"{WHOLE}not enough image data"),
    "a PPM without data": HostileImage(lambda: b"P6 13000 13000 255 ", WHOLE),
    "a plain PPM without data": HostileImage(lambda: b"P3 13000 13000 255 1", WHOLE),
    "a JPEG that grows": HostileImage(lambda: grown_jpeg("CMYK"), f"{MEMORY}1.3 GiB"),
    "a JPEG of many scans": HostileImage(
        lambda: jpeg_of_scans(1_000), "x must be a JPEG of at most 200 scans, got more"
    ),
    "a JPEG cut short": HostileImage(lambda: grown_jpeg("RGB"), "", slow=True),
    "an animated GIF": HostileImage(lambda: animation("GIF", 200), "", slow=True),
    "an animated WebP": HostileImage(lambda: animation("WEBP", 200), "", slow=True),
    "a PNG with zTXt of 300 MB": HostileImage(lambda: flat_png(0, 8, 8, text_chunk(b"zTXt")), WHOLE),
    "a PNG with iTXt of 300 MB": HostileImage(lambda: flat_png(0, 8, 8, text_chunk(b"iTXt")), WHOLE),
    "a PNG with a colour profile of 300 MB": HostileImage(lambda: flat_png(0, 8, 8, text_chunk(b"iCCP")), WHOLE),
    "a PNG with a chunk of 4 GB": HostileImage(
        lambda: b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**32 - 1) + b"IHDR", WHOLE
    ),
}
"""All of them decode, or are refused, in at most 1 GiB."""
