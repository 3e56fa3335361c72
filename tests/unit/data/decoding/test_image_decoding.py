"""Tests of the decoding of one image: the pixels that a browser shows, or an error that names the image."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from fcnet.data.decoding import image_decoding
from fcnet.data.decoding.image_decoding import ShorterSide, decode_image, is_grey
from fcnet.runtime.errors import UserError
from tests.helpers import image_bytes, make_png, measure_peak, png_chunk
from tests.unit.data.decoding.hostile_images import HOSTILE_IMAGES

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

ORIENTATION = 0x0112
RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
# Two rows of three pixels, no two alike.
COLOURS = np.array([[RED, GREEN, BLUE], [WHITE, [10, 20, 30], [200, 100, 50]]], dtype=np.uint8)
GREYS = np.array([[0, 50, 100], [150, 200, 255]], dtype=np.uint8)


def plane(*colours: list[int]) -> npt.NDArray[np.uint8]:
    """One row of pixels as (3, 1, W)."""
    return np.array([colours], dtype=np.uint8).transpose(2, 0, 1)


def block(*colour: int, mode: str = "RGB") -> Image.Image:
    """Returns 16×16 pixels of one colour, which JPEG keeps up to rounding."""
    return Image.new(mode, (16, 16), colour if len(colour) > 1 else colour[0])


def filled(*colour: int) -> npt.NDArray[np.uint8]:
    return np.broadcast_to(np.array(colour, dtype=np.uint8)[:, None, None], (3, 16, 16))


def inks(c: int, m: int, y: int, k: int) -> npt.NDArray[np.uint8]:
    """Returns the colour of white paper under four inks."""
    return filled(*(round((255 - ink) * (255 - k) / 255) for ink in (c, m, y)))


def ycck(c: int, m: int, y: int, k: int) -> bytes:
    """A JPEG as Photoshop writes it: inks inverted, their colours as luma and chroma, marked by Adobe's segment."""
    # The inverted inks' own complement, (c, m, y), is taken for red, green and blue.
    luma, blue, red = Image.new("RGB", (1, 1), (c, m, y)).convert("YCbCr").getpixel((0, 0))  # type: ignore[misc]
    # Pillow inverts all four channels as it writes them.
    whole = bytearray(image_bytes(block(255 - luma, 255 - blue, 255 - red, k, mode="CMYK"), "JPEG", quality=100))
    transform = whole.index(b"Adobe") + 11
    assert whole[transform] == 0
    whole[transform] = 2
    return bytes(whole)


def animated(form: str, **how: Any) -> bytes:
    first, second = Image.fromarray(COLOURS), Image.new("RGB", (3, 2), (1, 2, 3))
    return image_bytes(first, form, save_all=True, append_images=[second], **how)


def with_exif(form: str, exif: bytes) -> bytes:
    return image_bytes(Image.fromarray(COLOURS), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))


@dataclass(frozen=True)
class Case:
    """One image file.

    Attributes:
        kind: its peculiarity, for the test's name.
        content: the file.
        expected: its pixels in three channels, or a pattern of the error message.
        grey: whether it is stored without colour.
        near: the largest rounding error of JPEG.
    """

    kind: str
    content: bytes
    expected: npt.NDArray[np.uint8] | str
    grey: bool = False
    near: int = 0


SHOWN = COLOURS.transpose(2, 0, 1)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
GREY_SHOWN = np.stack([GREYS] * 3)
NO_IMAGE = r"must be an image \(JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP\), got something else"
BROKEN = "must be a whole image, got: "
DEEP = "must have 8 bits a channel, got "
PALETTE = png_chunk(b"PLTE", bytes([9, 8, 7, 1, 2, 3]))
HALF = [round(255 + (value - 255) * 128 / 255) for value in (200, 100, 0)]

CASES = [
    # grey and black
    Case("grey JPEG", image_bytes(block(77, mode="L"), "JPEG"), filled(77, 77, 77), grey=True, near=1),
    Case("grey PNG", image_bytes(Image.fromarray(GREYS), "PNG"), GREY_SHOWN, grey=True),
    Case("grey PNG of 2 bits", make_png((4, 1), 2, 0, b"\0\x1b"),
        plane([0] * 3, [85] * 3, [170] * 3, WHITE), grey=True),
    Case("PNG of 1 bit", make_png((3, 1), 1, 0, b"\0\x40"), plane([0] * 3, WHITE, [0] * 3), grey=True),
    Case("TIFF of 1 bit", image_bytes(Image.fromarray(GREYS > 99), "TIFF", compression="group4"),
        np.stack([np.where(GREYS > 99, 255, 0)] * 3).astype(np.uint8), grey=True),
    Case("PBM, in which 1 is black", b"P1 2 1 1 0", plane([0] * 3, WHITE), grey=True),
    Case("PGM of 16 levels", b"P5 2 1 15 \x0f\x03", plane(WHITE, [51] * 3), grey=True),
    # colour
    Case("JPEG", image_bytes(block(200, 100, 50), "JPEG", quality=100), filled(200, 100, 50), near=2),
    Case("progressive JPEG", image_bytes(block(200, 100, 50), "JPEG", progressive=True), filled(200, 100, 50), near=2),
    Case("PPM as text with a remark", b"P3 # here\n2 1\n255 1 2 3 # there\n255 0 9", plane([1, 2, 3], [255, 0, 9])),
    Case("BMP", image_bytes(Image.fromarray(COLOURS), "BMP"), SHOWN),
    Case("BMP with a palette", image_bytes(Image.fromarray(COLOURS).quantize(6), "BMP"), SHOWN),
    Case("TIFF with LZW", image_bytes(Image.fromarray(COLOURS), "TIFF", compression="tiff_lzw"), SHOWN),
    Case("WebP without loss", image_bytes(Image.fromarray(COLOURS), "WEBP", lossless=True), SHOWN),
    Case("palette", make_png((2, 1), 1, 3, b"\0\x40", PALETTE), plane([9, 8, 7], [1, 2, 3])),
    Case("palette of greys", make_png((2, 1), 8, 3, b"\0\0\1", png_chunk(b"PLTE", bytes([7] * 3 + [9] * 3))),
        plane([7] * 3, [9] * 3)),
    Case("GIF", image_bytes(Image.fromarray(COLOURS).quantize(6), "GIF"), SHOWN),
    # inks
    Case("JPEG of inverted inks", image_bytes(block(255, 0, 0, 0, mode="CMYK"), "JPEG", quality=100),
        inks(255, 0, 0, 0), near=2),
    Case("JPEG of inverted inks and black", image_bytes(block(20, 120, 220, 60, mode="CMYK"), "JPEG", quality=100),
        inks(20, 120, 220, 60), near=2),
    Case("JPEG of inks as luma and chroma", ycck(20, 120, 220, 60), inks(20, 120, 220, 60), near=3),
    Case("JPEG of black ink as luma and chroma", ycck(0, 0, 0, 255), inks(0, 0, 0, 255), near=3),
    Case("TIFF of inks", image_bytes(block(20, 120, 220, 60, mode="CMYK"), "TIFF"), inks(20, 120, 220, 60), near=1),
    Case("TIFF of luma and chroma", image_bytes(block(200, 100, 50).convert("YCbCr"), "TIFF", compression="tiff_lzw"),
        filled(200, 100, 50), near=2),
    Case("TIFF of Lab", image_bytes(Image.new("LAB", (1, 1), (255, 128, 128)), "TIFF"), plane(WHITE), near=1),
    # transparent pixels are blended with white
    Case("alpha", make_png((3, 1), 8, 6, bytes([0, 200, 100, 0, 255, 200, 100, 0, 128, 200, 100, 0, 0])),
        plane([200, 100, 0], HALF, WHITE)),
    Case("grey and alpha", make_png((3, 1), 8, 4, bytes([0, 100, 255, 0, 128, 7, 0])),
        plane([100] * 3, [127] * 3, WHITE), grey=True),
    Case("palette and alpha", make_png((2, 1), 8, 3, b"\0\0\1", PALETTE, png_chunk(b"tRNS", b"\0\xff")),
        plane(WHITE, [1, 2, 3])),
    Case("a colour that is transparent",
        make_png((2, 1), 8, 2, bytes([0, 1, 2, 3, 4, 5, 6]), png_chunk(b"tRNS", b"\0\1\0\2\0\3")),
        plane(WHITE, [4, 5, 6])),
    Case("a grey that is transparent", make_png((2, 1), 8, 0, b"\0\1\2", png_chunk(b"tRNS", b"\0\1")),
        plane(WHITE, [2] * 3), grey=True),
    Case("a bit that is transparent", make_png((2, 1), 1, 0, b"\0\x40", png_chunk(b"tRNS", b"\0\0")),
        plane(WHITE, WHITE), grey=True),
    Case("GIF with a transparent colour",
        image_bytes(Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P"), "GIF", transparency=0),
        plane(WHITE, [1] * 3)),
    Case("TIFF with alpha", image_bytes(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "TIFF"), plane(WHITE)),
    Case("WebP with alpha", image_bytes(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "WEBP", lossless=True), plane(WHITE)),
    # several images in one file
    Case("animated GIF", animated("GIF"), SHOWN),
    Case("animated PNG", animated("PNG"), SHOWN),
    Case("animated WebP", animated("WEBP", lossless=True), SHOWN),
    Case("TIFF of two pages", animated("TIFF"), SHOWN),
    # metadata
    Case("JPEG with something after its end", image_bytes(block(200, 100, 50), "JPEG", quality=100) + b"more",
        filled(200, 100, 50), near=2),
    Case("cut EXIF", with_exif("PNG", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"), SHOWN),
    Case("EXIF of something else", with_exif("WEBP", b"Exif\0\0" + b"\xff" * 40), SHOWN),
    Case("EXIF that leads outside itself",
        with_exif("PNG", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\0\0\xff\xff\0\0"), SHOWN),
    Case("EXIF orientation 9",
        with_exif("PNG", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0"), SHOWN),
    Case("EXIF orientation in words",
        with_exif("PNG", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x03\0\0\0up\0\0\0\0\0\0"), SHOWN),
    Case("JPEG with cut EXIF",
        image_bytes(block(200, 100, 50), "JPEG", quality=100, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"),
        filled(200, 100, 50), near=2),
    Case("broken animation", make_png((1, 1), 8, 0, b"\0\7", png_chunk(b"acTL", b"\0" * 8)), plane([7] * 3), grey=True),
    # more than 8 bits
    Case("grey PNG of 16 bits", make_png((1, 1), 16, 0, bytes(3)), f"{DEEP}Pillow's mode I;16"),
    Case("PNG of 16 bits", make_png((1, 1), 16, 2, bytes(7)), f"{DEEP}Pillow's mode RGB;16B"),
    Case("PNG of 16 bits with alpha", make_png((1, 1), 16, 6, bytes(9)), f"{DEEP}Pillow's mode RGBA;16B"),
    Case("grey PNG of 16 bits with alpha", make_png((1, 1), 16, 4, bytes(5)), f"{DEEP}Pillow's mode LA;16B"),
    Case("PPM of 10 bits", b"P6 1 1 1023 " + bytes(6), f"{DEEP}values up to 1023"),
    Case("PGM of 16 bits", b"P5 1 1 65535 " + bytes(2), f"{DEEP}Pillow's mode I"),
    Case("TIFF of 16 bits", image_bytes(Image.fromarray(GREYS.astype(np.uint16)), "TIFF"), f"{DEEP}Pillow's mode I;16"),
    Case("TIFF of floats", image_bytes(Image.fromarray(GREYS.astype(np.float32)), "TIFF"), f"{DEEP}Pillow's mode F"),
    # not an image, or an incomplete one
    Case("nothing", b"", NO_IMAGE),
    Case("text", b"an image", NO_IMAGE),
    Case("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n", NO_IMAGE),
    Case("SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='2' height='2'/>", NO_IMAGE),
    Case("no pixels", make_png((0, 1), 8, 0, b""), NO_IMAGE),
    Case("header alone", image_bytes(Image.fromarray(COLOURS), "PNG")[:33], f"{BROKEN}.*|{NO_IMAGE}"),
    Case("cut PNG", image_bytes(NOISE, "PNG")[:500], f"{BROKEN}image file is truncated.*"),
    Case("cut JPEG", image_bytes(NOISE, "JPEG")[:700], f"{BROKEN}image file is truncated .*"),
    Case("cut GIF", image_bytes(NOISE, "GIF")[:1000], f"{BROKEN}image file is truncated .*"),
    Case("cut TIFF", image_bytes(NOISE, "TIFF")[:500], f"{BROKEN}.*|{NO_IMAGE}"),
    Case("cut WebP", image_bytes(Image.fromarray(COLOURS), "WEBP")[:-9], f"{BROKEN}.*|{NO_IMAGE}"),
    Case("cut BMP", image_bytes(Image.fromarray(COLOURS), "BMP")[:-9], f"{BROKEN}image file is truncated .*"),
    Case("cut PPM", b"P6 3 2 255 abc", f"{BROKEN}image file is truncated .*"),
    Case("PNG with a changed bit", image_bytes(NOISE, "PNG").replace(b"IDAT", b"IDAU"), NO_IMAGE),
    Case("a decompression bomb", make_png((100_000, 100_000), 8, 0, b"\0"),
        "is too large to decode: Image size \\(10000000000 pixels\\) exceeds limit of .*"),
    Case("a bomb of text",
        make_png((1, 1), 8, 0, b"\0\7", png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 24)))),
        f"{BROKEN}.*|{NO_IMAGE}"),
    Case("larger than a number can say", b"P5 99999999999 99999999999 255 ", f"{BROKEN}.*|{NO_IMAGE}"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_an_image_is_decoded_as_a_browser_shows_it_or_is_an_error(
    case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "image.jpg"  # the wrong suffix for most
    path.write_bytes(case.content)
    for file in (path, io.BytesIO(case.content)):
        if isinstance(case.expected, str):
            with pytest.raises(UserError) as error:
                decode_image(file, 3, "its name")
            assert re.fullmatch(f"its name ({case.expected})", str(error.value)), str(error.value)
        else:
            got = decode_image(file, 3, "its name")
            assert got.shape == case.expected.shape
            assert np.abs(got.astype(int) - case.expected).max() <= case.near
            assert is_grey(path, "its name") == case.grey
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "case", [case for case in CASES if not isinstance(case.expected, str)], ids=lambda case: case.kind
)
def test_one_channel_is_the_luma_of_the_colours(case: Case) -> None:
    assert not isinstance(case.expected, str)
    luma = np.tensordot(np.array([299, 587, 114]) / 1000, case.expected.astype(float), 1)
    got = decode_image(io.BytesIO(case.content), 1, "its name")
    assert got.shape == (1, *luma.shape)
    assert np.abs(got[0] - luma).max() <= 1 + case.near


def test_the_cases_are_many_and_different() -> None:
    assert len({case.kind for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_a_truncated_image_is_an_error_unless_all_its_pixels_are_left(form: str) -> None:
    whole = image_bytes(NOISE, form)
    expected = decode_image(io.BytesIO(whole), 3, "x")
    refused = 0
    for length in range(0, len(whole), 3):
        try:
            np.testing.assert_array_equal(decode_image(io.BytesIO(whole[:length]), 3, "x"), expected)
        except UserError:
            refused += 1
    assert refused >= 0.95 * len(range(0, len(whole), 3))


# --- orientation ------------------------------------------------------------------------------------------------

# By the standard: the position of the stored row r and column c in the oriented image of H rows and W columns.
ORIENTED_POSITION = {
    1: lambda r, c, h, w: (r, c),
    2: lambda r, c, h, w: (r, w - 1 - c),
    3: lambda r, c, h, w: (h - 1 - r, w - 1 - c),
    4: lambda r, c, h, w: (h - 1 - r, c),
    5: lambda r, c, h, w: (c, r),
    6: lambda r, c, h, w: (c, w - 1 - r),
    7: lambda r, c, h, w: (h - 1 - c, w - 1 - r),
    8: lambda r, c, h, w: (h - 1 - c, r),
}


@pytest.mark.parametrize("orientation", ORIENTED_POSITION)
@pytest.mark.parametrize(
    ("form", "how"),
    [
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
    ids=str,
)
def test_an_image_is_oriented_by_its_exif_data(orientation: int, form: str, how: dict[str, Any]) -> None:
    oriented = COLOURS.repeat(8, 0).repeat(8, 1)
    h, w = oriented.shape[:2]
    stored = np.zeros_like(oriented if orientation < 5 else oriented.transpose(1, 0, 2))
    for r in range(stored.shape[0]):
        for c in range(stored.shape[1]):
            stored[r, c] = oriented[ORIENTED_POSITION[orientation](r, c, h, w)]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    got = decode_image(io.BytesIO(image_bytes(Image.fromarray(stored), form, exif=exif, **how)), 3, "x")
    assert got.shape == (3, h, w)
    # The middle of each block, which JPEG keeps up to rounding.
    assert np.abs(got[:, 4::8, 4::8].astype(int) - SHOWN).max() <= (4 if form == "JPEG" else 0)


def test_an_open_image_is_oriented_once_and_stays_open() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for form in ("PNG", "TIFF"):
        with Image.open(io.BytesIO(image_bytes(Image.fromarray(COLOURS), form, exif=exif))) as image:
            expected = COLOURS[::-1].transpose(2, 1, 0)
            for _ in range(2):
                np.testing.assert_array_equal(decode_image(image, 3, "x"), expected)


# --- warnings ----------------------------------------------------------------------------------------------------


def test_pillows_warnings_are_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)  # 6 pixels are a warning, more than 8 an error
    content = image_bytes(Image.fromarray(COLOURS), "PNG")
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(content)):
        pass
    before = list(warnings.filters)
    np.testing.assert_array_equal(decode_image(io.BytesIO(content), 3, "x"), SHOWN)
    assert not is_grey(io.BytesIO(content), "x")
    assert list(warnings.filters) == before


def test_threads_that_decode_at_once_restore_the_warning_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    content = image_bytes(Image.fromarray(COLOURS), "PNG")
    before, errors = list(warnings.filters), []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        try:
            for _ in range(100):
                decode_image(io.BytesIO(content), 3, "x")
        except BaseException as error:  # noqa: BLE001 - a warning that came through is one, and so is any other
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(warnings.filters) == before


# --- sizes and channels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_a_lossless_image_is_decoded_exactly(form: str) -> None:
    colours = np.arange(0, 2 * 3 * 3 * 10, 10, dtype=np.uint8).reshape(2, 3, 3)
    file = io.BytesIO()
    Image.fromarray(colours).save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    got = decode_image(io.BytesIO(file.getvalue()), 3, "x")
    np.testing.assert_array_equal(got, colours.transpose(2, 0, 1))
    assert got.flags.writeable
    assert got.flags.c_contiguous


def test_an_image_is_converted_to_the_given_number_of_channels(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(image_bytes(block(100, 0, 0), "PNG"))
    assert decode_image(tmp_path / "x.png", 1, "x")[:, 0, 0].tolist() == [30]
    assert decode_image(io.BytesIO(image_bytes(block(100, mode="L"), "PNG")), 3, "x")[:, 0, 0].tolist() == [100] * 3
    with pytest.raises(UserError, match=r"^channels must be 1 or 3 to decode x, got 4$"):
        decode_image(tmp_path / "x.png", 4, "x")


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^x\.png: no such file$"):
        decode_image(tmp_path / "x.png", 3, "x.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_image_is_decoded_or_raises_a_user_error(form: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, form)
    damaged = bytearray(file.getvalue()[: data.draw(st.integers(1, len(file.getvalue())))])
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        assert decode_image(io.BytesIO(damaged), 3, "x").shape[0] == 3


def ramp(height: int, width: int) -> Image.Image:
    """Red rises by 2 a column, green by 2 a row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("of", "to"),
    [((60, 100), (6, 6)), ((100, 60), (6, 6)), ((60, 100), (3, 10)), ((50, 50), (5, 10))],
)
def test_an_image_is_scaled_to_cover_the_size_and_cropped_at_the_centre(
    of: tuple[int, int], to: tuple[int, int]
) -> None:
    got = decode_image(ramp(*of), 3, "x", to).astype(float)
    assert got.shape == (3, *to)
    scale = min(of[0] / to[0], of[1] / to[1])
    for axis, channel in ((1, got[0].mean(0)), (0, got[1].mean(1))):
        # The centre of a pixel lies so far from the image's centre, in pixels of before.
        places = (np.arange(to[axis]) - (to[axis] - 1) / 2) * scale + (of[axis] - 1) / 2
        np.testing.assert_allclose(channel[1:-1], 2 * places[1:-1], atol=1)  # rounding; a border is mirrored


def test_downscaling_averages_fine_patterns() -> None:
    stripes = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    got = decode_image(stripes, 1, "x", (8, 8))
    assert got.min() >= 125
    assert got.max() <= 130


def test_an_image_of_the_target_size_is_unchanged() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    np.testing.assert_array_equal(decode_image(image, 3, "x", (9, 7)), decode_image(image, 3, "x"))


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (97, 1), (3, 7), (33, 31), (200, 200)])
@pytest.mark.parametrize("of", [(1, 1), (1, 50), (31, 33), (97, 89)])
def test_any_size_can_be_resized_to_any_other(of: tuple[int, int], size: tuple[int, int]) -> None:
    assert np.all(decode_image(Image.new("L", of[::-1], 9), 1, "x", size) == np.full((1, *size), 9))


# --- files from strangers ---------------------------------------------------------------------------------------


def test_hostile_images_are_refused_in_little_memory(tmp_path: Path) -> None:
    images = {kind: image for kind, image in HOSTILE_IMAGES.items() if not image.slow}
    for number, image in enumerate(images.values()):
        (tmp_path / str(number)).write_bytes(image.make())
    script = f"""
        for number in range({len(images)}):
            try:
                print(decode_image(Path(str(number)), 3, "x", (8, 8)).shape)
            except UserError as error:
                print(error)
    """
    imports = """
from pathlib import Path
from fcnet.data.decoding.image_decoding import decode_image
from fcnet.runtime.errors import UserError
"""
    peak, lines = measure_peak(script, imports, cwd=tmp_path)
    assert peak < 1024
    for (kind, image), line in zip(images.items(), lines, strict=True):
        assert line.startswith(image.error), kind


def test_a_broken_tiff_prints_nothing_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    whole = image_bytes(Image.effect_noise((64, 64), 50), "TIFF", compression="tiff_lzw")
    for place in range(8, len(whole) - 8, 40):
        with contextlib.suppress(UserError):
            decode_image(io.BytesIO(whole[:place] + b"\xff" * 8 + whole[place + 8 :]), 1, "x")
    assert capfd.readouterr() == ("", "")


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"^x must be a file, got a pipe or a device$"):
        decode_image(tmp_path / "x.png", 3, "x")


def test_a_large_transparent_image_is_blended_in_strips_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    for mode, channels in (("RGBA", 4), ("LA", 2)):
        pixels = draws.integers(256, size=(37, 11, channels), dtype=np.uint8)
        image = Image.fromarray(pixels, mode)
        whole = decode_image(image, 3, "x")
        monkeypatch.setattr(image_decoding, "_STRIP_PIXELS", 50)
        assert np.array_equal(decode_image(image, 3, "x"), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("size", [(40, 31), (31, 40), (24, 24), (300, 17), (20, 20), (17, 300)])
@pytest.mark.parametrize("resampling", ["BILINEAR", "BICUBIC"])
def test_a_shorter_side_scales_and_crops_as_torchvision_does(size: tuple[int, int], resampling: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8))
    ours = decode_image(image, 3, "x.png", ShorterSide(24, 19, 20, resampling))
    interpolation = transforms.InterpolationMode[resampling]
    theirs = transforms.Compose([transforms.Resize(24, interpolation), transforms.CenterCrop((19, 20))])(image)
    assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))
