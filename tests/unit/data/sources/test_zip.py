"""Tests of zip archives: whole ones are read like folders, broken ones are errors."""

from __future__ import annotations

import random
import shutil
import stat
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest

from fcnet.data.sources import images
from fcnet.data.sources import zip as zip_module
from fcnet.data.sources.archives import iter_archive, read_archive
from fcnet.data.sources.file_listing import is_image_name
from fcnet.data.sources.zip import is_zip, iter_zip
from fcnet.runtime.errors import UserError
from tests.unit.data.sources.hostile_archives import ZipEntry, zip_bytes
from tests.unit.data.sources.image_trees import SMALL_TREE, SORTED_NAMES, read_contents, write_files, write_zip

if TYPE_CHECKING:
    from pathlib import Path

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def read_names(path: Path, *names: bytes, **fields: int) -> list[str]:
    """Writes an archive of files with these names; returns the names that reading it gives."""
    path.write_bytes(zip_bytes(*(ZipEntry(name, b"x", **fields) for name in names)))  # type: ignore[arg-type]
    return list(read_archive(path, is_image_name)[0])


@pytest.mark.parametrize("compression", METHODS)
@pytest.mark.parametrize("root", ["", "./", "some folder/", "/"])
def test_an_archive_gives_the_images_of_its_folder_in_any_order_of_members(
    tmp_path: Path, compression: int, root: str
) -> None:
    folder = write_files(tmp_path / "folder", SMALL_TREE)
    shuffled = [SORTED_NAMES[place] for place in (3, 1, 4, 0, 2)]
    archive = write_zip(tmp_path / "images.archive", folder, shuffled, root, compression)
    assert repr(read_contents(images(archive))) == repr(read_contents(images(folder)))


@pytest.mark.parametrize("compression", METHODS)
def test_large_files_are_read_whole(tmp_path: Path, compression: int) -> None:
    content = random.Random(1).randbytes(100_000) * 4
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.writestr("x.png", content)
        archive.writestr("empty.png", b"")
    assert read_archive(tmp_path / "a.zip", is_image_name) == ({"x.png": content, "empty.png": b""}, set())


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs the program zip")
def test_what_the_program_zip_writes_is_read_with_its_links_and_names(tmp_path: Path) -> None:
    names = ["train/ant/1.png", "train/été/ü.png", "train/日本/1.png"]
    folder = write_files(tmp_path / "folder", {name: name.encode() for name in names})
    (folder / "train/bee").symlink_to("été")
    (folder / "train/ant/2.png").symlink_to("../日本/1.png")
    subprocess.run(["zip", "-qry", tmp_path / "a.zip", "."], cwd=folder, check=True)
    files, folders = read_archive(tmp_path / "a.zip", is_image_name)
    expected = {name: name.encode() for name in names}
    assert files == expected | {"train/bee/ü.png": expected[names[1]], "train/ant/2.png": expected[names[2]]}
    assert folders == {"train", *(f"train/{name}" for name in ("ant", "bee", "été", "日本"))}


def test_names_are_utf8_with_and_without_the_flag_or_else_of_the_code_page_437(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    assert read_names(path, "é/日.png".encode(), flags=0x800) == ["é/日.png"]
    assert read_names(path, "é/日.png".encode()) == ["é/日.png"]
    assert read_names(path, "é/ñ.png".encode("cp437")) == ["é/ñ.png"]


def test_backslashes_are_separators_where_no_slash_is(tmp_path: Path) -> None:
    names = [b"train\\ant\\1.png", b"train/ant/2\\3.png", b"train\\bee\\"]
    (tmp_path / "a.zip").write_bytes(zip_bytes(*(ZipEntry(name, b"", mode=0) for name in names)))
    files, folders = read_archive(tmp_path / "a.zip", is_image_name)
    assert list(files) == ["train/ant/1.png", "train/ant/2\\3.png"]
    assert folders == {"train", "train/ant", "train/bee"}


def test_a_folder_is_known_by_its_mode_or_by_the_end_of_its_name(tmp_path: Path) -> None:
    entries = [ZipEntry(b"ant/", mode=0), ZipEntry(b"bee", mode=stat.S_IFDIR | 0o755), ZipEntry(b"cow.png", mode=0)]
    (tmp_path / "a.zip").write_bytes(zip_bytes(*entries))
    assert [member.kind for member in iter_zip(tmp_path / "a.zip")] == ["folder", "folder", "file"]


def test_an_archive_with_a_comment_or_without_files_is_whole(tmp_path: Path) -> None:
    for content in (zip_bytes(), zip_bytes(comment=b"of pets")):
        assert is_zip(content)
        (tmp_path / "a.zip").write_bytes(content)
        assert read_archive(tmp_path / "a.zip", is_image_name) == ({}, set())


def test_an_archive_truncated_anywhere_is_an_error(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", write_files(tmp_path / "folder", SMALL_TREE), SORTED_NAMES)
    whole = archive.read_bytes()
    for length in range(4, len(whole), 41):
        archive.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.zip must be a folder or a whole tar or zip archive, got: a zip "):
            images(archive).snapshot().read()


@pytest.mark.parametrize("compression", METHODS)
def test_a_flipped_bit_is_an_error_or_changes_no_content(tmp_path: Path, compression: int) -> None:
    folder = write_files(tmp_path / "folder", {"train/ant/1.png": b"abc" * 99, "train/bee/2.png": bytes(range(200))})
    archive = write_zip(tmp_path / "a.zip", folder, ["train/ant/1.png", "train/bee/2.png"], compression=compression)
    whole, expected = archive.read_bytes(), read_archive(archive, is_image_name)[0]
    refused = 0
    for bit in range(0, 8 * len(whole), 23):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(changed)
        try:
            found = read_archive(archive, lambda name: True)[0]
        except UserError as error:
            refused += str(archive) in str(error)
        else:
            assert set(found.values()) <= set(expected.values()), bit  # the names have no checksum
    assert refused >= 0.5 * len(range(0, 8 * len(whole), 23))


def test_one_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    entries = [ZipEntry(b"a.png", b"a"), ZipEntry(b"b.png", b"b", crc=7), ZipEntry(b"c.png", b"c", flags=1)]
    (tmp_path / "a.zip").write_bytes(zip_bytes(*entries, ZipEntry(b"d.png", b"d")))
    archive = tmp_path / "a.zip"
    assert [(name, str(content)) for name, content in iter_archive(archive, is_image_name)] == [
        ("a.png", "b'a'"),
        ("b.png", f"b.png in {archive} must be a whole file, got: Bad CRC-32 for file 'b.png'"),
        ("c.png", f"c.png in {archive} is encrypted; unpack the archive with its password to a folder"),
        ("d.png", "b'd'"),
    ]


def test_files_that_are_not_selected_are_not_read(tmp_path: Path) -> None:
    broken = ZipEntry(b"notes.txt", b"b", crc=7)
    (tmp_path / "a.zip").write_bytes(zip_bytes(broken, ZipEntry(b"a.png", b"a")))
    assert read_archive(tmp_path / "a.zip", is_image_name)[0] == {"a.png": b"a"}


def test_the_list_of_files_must_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(zip_module, "check_fits_memory", lambda *given: asked.append(given))
    (tmp_path / "a.zip").write_bytes(zip_bytes(*(ZipEntry(b"%d.png" % number, b"a") for number in range(9))))
    read_archive(tmp_path / "a.zip", is_image_name)
    assert asked == [(9000, tmp_path / "a.zip", "unpack it to a folder")]
