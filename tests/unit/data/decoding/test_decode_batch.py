"""Tests of the decoding of a batch of image files: sizes, broken images and changed files."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from fcnet.data.decoding.decode_batch import (
    DecodedImages,
    DecodeOptions,
    ImageFile,
    decode_images,
    detect_grey,
    file_stamp,
)
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = DecodeOptions("set", skip_broken=False, channels=1, height=1, width=2, reference_name="a.pgm")
SKIPPING = DecodeOptions("set", skip_broken=True, channels=1, height=1, width=2)
NO_IMAGE = "must be an image (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP), got something else"


def grey(*pixels: int) -> bytes:
    return b"P5 %d 1 255 " % len(pixels) + bytes(pixels)


def colour() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 1)).save(file, "PNG")
    return file.getvalue()


def test_the_pixels_of_a_batch_are_in_order_from_files_and_from_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(grey(1, 2))
    files = [ImageFile("a.pgm", str(tmp_path / "a.pgm")), ImageFile("b.pgm", grey(3, 4))]
    assert decode_images(files, OPTIONS) == DecodedImages(bytes([1, 2, 3, 4]))


def test_an_image_of_another_size_is_an_error_unless_all_are_resized() -> None:
    files = [ImageFile("a.pgm", grey(1, 2)), ImageFile("b.pgm", grey(5, 5, 5, 5))]
    with pytest.raises(UserError) as error:
        decode_images(files, OPTIONS)
    assert str(error.value) == "b.pgm in set must be 2×1 pixels like a.pgm, got 4×1; data.size resizes all images"
    resized = decode_images(files, DecodeOptions("set", False, channels=1, height=1, width=2, resize=True))
    assert resized.data == bytes([1, 2, 5, 5])


def test_a_broken_image_is_an_error_or_is_skipped_with_the_reason() -> None:
    files = [ImageFile("a.pgm", b"text"), ImageFile("b.pgm", grey(3, 4)), ImageFile("c.pgm", b"")]
    with pytest.raises(UserError) as error:
        decode_images(files, OPTIONS)
    assert str(error.value) == f"a.pgm in set {NO_IMAGE}"
    assert decode_images(files, SKIPPING) == DecodedImages(bytes([3, 4]), ((0, NO_IMAGE), (2, NO_IMAGE)))


def test_a_missing_image_without_a_stamp_is_skipped_as_any_broken_one(tmp_path: Path) -> None:
    files = [ImageFile("a.pgm", str(tmp_path / "a.pgm"))]
    assert decode_images(files, SKIPPING) == DecodedImages(b"", ((0, "no such file"),))


@pytest.mark.parametrize("change", ["touched", "removed"])
def test_a_changed_file_is_an_error_even_where_broken_images_are_skipped(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(grey(1, 2))
    file = ImageFile("a.pgm", str(path), file_stamp(path.stat()))
    assert decode_images([file], SKIPPING).data == bytes([1, 2])
    if change == "touched":
        os.utime(path, ns=(0, 0))
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"^a\.pgm in set changed while it was being read$"):
        decode_images([file], SKIPPING)


def test_detection_of_grey_images_stops_at_the_first_colour_image() -> None:
    files = [ImageFile(name, content) for name, content in (("a", grey(1)), ("b", colour()), ("c", b"broken"))]
    assert detect_grey(files, OPTIONS) == DecodedImages(bytes([1, 0]))
    assert detect_grey(files[:1] + files[2:], SKIPPING) == DecodedImages(bytes([1]), ((1, NO_IMAGE),))
