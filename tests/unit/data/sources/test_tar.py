"""Tests of tar archives, plain and compressed: whole ones are read like folders, broken ones are errors."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import pytest

from fcnet.data.sources import images
from fcnet.runtime.errors import UserError
from tests.unit.data.sources.image_trees import (
    SMALL_TREE,
    SORTED_NAMES,
    compress_zstandard,
    read_contents,
    write_archive,
    write_files,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2", "w:zst"])
@pytest.mark.parametrize("root", ["", "./", "some folder/", "/"])
def test_an_archive_gives_the_images_of_its_folder_in_any_order_of_members(
    tmp_path: Path, mode: str, root: str
) -> None:
    folder = write_files(tmp_path / "folder", SMALL_TREE)
    shuffled = [SORTED_NAMES[place] for place in (3, 1, 4, 0, 2)]
    archive = write_archive(tmp_path / "images.archive", folder, shuffled, root, mode)
    assert repr(read_contents(images(archive))) == repr(read_contents(images(folder)))


def test_a_link_in_an_archive_has_the_content_of_its_target(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", SMALL_TREE)
    (folder / "train/cat/hard.png").hardlink_to(folder / "train/cat/a.png")
    (folder / "train/ant/soft.png").symlink_to("../cat/b.png")
    names = ["train/ant/soft.png", *SORTED_NAMES, "train/cat/hard.png"]
    archive = write_archive(tmp_path / "a.tar", folder, names)
    assert repr(read_contents(images(archive))) == repr(read_contents(images(folder)))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2", "w:zst"])
def test_an_archive_truncated_anywhere_is_an_error(tmp_path: Path, mode: str) -> None:
    archive = write_archive(tmp_path / "a.tar", write_files(tmp_path / "folder", SMALL_TREE), SORTED_NAMES, mode=mode)
    whole = archive.read_bytes()
    # A plain archive ends with 10,240-byte padding, of which the first kilobyte alone means something.
    end = whole.rstrip(b"\0") + bytes(512) if mode == "w" else whole
    for length in sorted({0, 3, len(end) // 3, 512, 1024, 1536, len(end) - 600, len(end) - 1}):
        if 0 <= length < len(end):
            archive.write_bytes(whole[:length])
            with pytest.raises(UserError, match=r"a\.tar must be a folder or a whole tar or zip archive, got: "):
                images(archive).snapshot().read()


def test_a_broken_header_does_not_pass_for_the_end_of_an_archive(tmp_path: Path) -> None:
    write_files(tmp_path / "folder", SMALL_TREE)
    archive = write_archive(tmp_path / "a.tar", tmp_path / "folder", SORTED_NAMES, form=tarfile.USTAR_FORMAT)
    broken = bytearray(archive.read_bytes())
    broken[broken.index(b"test/cat/d.png")] ^= 1
    archive.write_bytes(broken)
    with pytest.raises(UserError, match=r"a\.tar must be a folder or a whole tar or zip archive, got: broken header"):
        images(archive).snapshot().read()


@pytest.mark.parametrize("checksum", [True, False])
def test_a_zstandard_archive_may_have_several_frames_and_skippable_ones(tmp_path: Path, checksum: bool) -> None:
    folder = write_files(tmp_path / "folder", SMALL_TREE)
    archive = write_archive(tmp_path / "a.tar.zst", folder, SORTED_NAMES)
    content = archive.read_bytes()
    skipped = b"\x5a\x2a\x4d\x18\x03\x00\x00\x00???"
    parts = [compress_zstandard(part, checksum=checksum) for part in (content[:700], content[700:])]
    archive.write_bytes(skipped + skipped.join(parts))
    assert repr(read_contents(images(archive))) == repr(read_contents(images(folder)))
    archive.write_bytes(parts[0] + parts[1][:-1])
    with pytest.raises(
        UserError, match=r"a\.tar\.zst must be a folder or a whole tar or zip archive, got: Compressed file "
    ):
        images(archive).snapshot().read()


def test_a_flipped_bit_of_a_zstandard_archive_is_an_error_or_changes_no_content(tmp_path: Path) -> None:
    archive = write_archive(
        tmp_path / "a.tar.zst", write_files(tmp_path / "folder", SMALL_TREE), SORTED_NAMES, mode="w:zst"
    )
    whole, expected = archive.read_bytes(), repr(read_contents(images(archive)))
    refused = 0
    for bit in range(0, 8 * len(whole), 5):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(changed)
        try:
            assert repr(read_contents(images(archive))) == expected
        except UserError as error:
            refused += str(error).startswith(f"{archive} must be a folder or a whole tar or zip archive, got: ")
    assert refused >= 0.95 * len(range(0, 8 * len(whole), 5))
