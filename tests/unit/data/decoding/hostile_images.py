"""Image files that a stranger may send: small ones that take much memory or time."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

from tests.helpers import image_bytes, make_png, png_chunk

SIDE = 13_000  # Pillow itself refuses more than 13,377² pixels


def flat_png(color_type: int, bit_depth: int = 8, side: int = SIDE, *chunks: bytes) -> bytes:
    """Returns a PNG of zeros."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    row = bytes(1 + (side * channels * bit_depth + 7) // 8)
    compressor = zlib.compressobj(1)
    data = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    empty = make_png((side, side), bit_depth, color_type, b"", *chunks)
    before, after = empty.split(png_chunk(b"IDAT", zlib.compress(b"")))
    return before + png_chunk(b"IDAT", data) + after


def text_chunk(kind: bytes, num_megabytes: int) -> bytes:
    """Returns a chunk of compressed text or of a compressed colour profile."""
    heads = {b"zTXt": b"key\0\0", b"iCCP": b"key\0\0", b"iTXt": b"key\0\1\0\0\0"}
    compressor = zlib.compressobj(1)
    data = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(num_megabytes)) + compressor.flush()
    return png_chunk(kind, heads[kind] + data)


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
HOSTILE_IMAGES: dict[str, tuple[bytes, str]] = {
    "a PNG with alpha": (flat_png(6), f"{MEMORY}1.3 GiB"),
    "a grey PNG with alpha": (flat_png(4), f"{MEMORY}1.3 GiB"),
    "a PNG with a transparent grey": (flat_png(0, 8, SIDE, png_chunk(b"tRNS", b"\0\0")), ""),
    "a PNG": (flat_png(2), ""),
    "a PNG of one bit": (flat_png(0, 1), ""),
    "a PNG of 16 bits": (flat_png(0, 16), "x must have 8 bits a channel, got Pillow's mode I;16"),
    "a PNG above Pillow's limit": (flat_png(0, 1, 14_000), "x must be a whole image, got: Image size (196000000 pixels)"),
    "a WebP": (flat(12_000, "WEBP", quality=1, method=0), "x must take at most 1 GiB to decode, got 12000×12000 pixels"),
    "a GIF": (flat(SIDE, "GIF", "P"), ""),
    "a TIFF": (flat(SIDE, "TIFF", "L", compression="tiff_deflate"), ""),
    "a TIFF of CMYK": (flat(SIDE, "TIFF", "CMYK", compression="tiff_deflate"), f"{MEMORY}1.3 GiB"),
    "a TIFF of one huge tile": (tiled_tiff(100, 1 << 15), "x must be a whole image, got: "),
    "a TIFF of one tile beyond all memory": (tiled_tiff(100, 1 << 30), "x must be a whole image, got: "),
    "a TIFF of billions of strips": (counted_tiff(), "x must be a whole image, got: "),
    "a bitmap without data": (rle_bitmap(), ""),
    "a PPM without data": (b"P6 13000 13000 255 ", "x must be a whole image, got: "),
    "a plain PPM without data": (b"P3 13000 13000 255 1", "x must be a whole image, got: "),
    "a JPEG that is rotated and grows": (
        image_bytes(Image.new("CMYK", (SIDE, SIDE)), "JPEG", quality=1), f"{MEMORY}1.3 GiB"
    ),
    "a JPEG of many scans": (jpeg_of_scans(1_000), "x must be a JPEG of at most 200 scans, got more"),
    "a JPEG cut short": (flat(SIDE, "JPEG", quality=1)[:2000], "x must be a whole image, got: "),
    "an animated GIF": (animation("GIF", 200), ""),
    "an animated WebP": (animation("WEBP", 200), ""),
    **{
        f"a PNG with {kind.decode()} of 300 MB": (
            flat_png(0, 8, 8, text_chunk(kind, 300)), "x must be a whole image, got: "
        )
        for kind in (b"zTXt", b"iTXt")
    },
    "a PNG with a colour profile of 300 MB": (flat_png(0, 8, 8, text_chunk(b"iCCP", 300)), ""),
    "a PNG with a chunk of 4 GB": (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**32 - 1) + b"IHDR", "x must be "),
}
"""Each file, and the start of its error; empty if it is an image, which takes at most 1 GiB."""
