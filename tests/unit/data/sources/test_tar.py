"""Tests of tar archives, plain and compressed: whole ones are read like folders, broken ones are errors."""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING

import pytest

from fcnet.data.sources import images, size_limits
from fcnet.data.sources.file_listing import is_image_name
from fcnet.data.sources.tar import iter_archive, read_archive
from fcnet.runtime.errors import UserError
from tests.helpers import measure_peak
from tests.unit.data.sources.hostile_archives import (
    HOSTILE_ARCHIVES,
    header,
    links,
    member,
    pax,
    pax_member,
    with_hole,
)
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


def test_a_link_out_of_an_archive_is_an_error(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", SMALL_TREE)
    (folder / "train/ant/soft.png").symlink_to("../../../elsewhere.png")
    archive = write_archive(tmp_path / "a.tar", folder, [*SORTED_NAMES, "train/ant/soft.png"])
    expected = f"train/ant/soft.png in {archive} must be a file or a link to an image in the archive, got a link to "
    with pytest.raises(UserError, match=f"^{re.escape(expected)}"):
        images(archive).snapshot().read()


def test_a_file_that_is_not_an_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + bytes(2000))
    with pytest.raises(UserError, match=r"a\.zip must be a folder or a whole tar archive, got: "):
        images(tmp_path / "a.zip").snapshot().read()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2", "w:zst"])
def test_an_archive_truncated_anywhere_is_an_error(tmp_path: Path, mode: str) -> None:
    archive = write_archive(tmp_path / "a.tar", write_files(tmp_path / "folder", SMALL_TREE), SORTED_NAMES, mode=mode)
    whole = archive.read_bytes()
    # A plain archive ends with 10,240-byte padding, of which the first kilobyte alone means something.
    end = whole.rstrip(b"\0") + bytes(512) if mode == "w" else whole
    for length in sorted({0, 3, len(end) // 3, 512, 1024, 1536, len(end) - 600, len(end) - 1}):
        if 0 <= length < len(end):
            archive.write_bytes(whole[:length])
            with pytest.raises(UserError, match=r"a\.tar must be a folder or a whole tar archive, got: "):
                images(archive).snapshot().read()


def test_a_broken_header_does_not_pass_for_the_end_of_an_archive(tmp_path: Path) -> None:
    write_files(tmp_path / "folder", SMALL_TREE)
    archive = write_archive(tmp_path / "a.tar", tmp_path / "folder", SORTED_NAMES, form=tarfile.USTAR_FORMAT)
    broken = bytearray(archive.read_bytes())
    broken[broken.index(b"test/cat/d.png")] ^= 1
    archive.write_bytes(broken)
    with pytest.raises(UserError, match=r"a\.tar must be a folder or a whole tar archive, got: broken header"):
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
    with pytest.raises(UserError, match=r"a\.tar\.zst must be a folder or a whole tar archive, got: Compressed file "):
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
            refused += str(error).startswith(f"{archive} must be a folder or a whole tar archive, got: ")
    assert refused >= 0.95 * len(range(0, 8 * len(whole), 5))


def test_an_archive_from_a_stranger_can_only_be_refused(tmp_path: Path) -> None:
    for number, (write, _) in enumerate(HOSTILE_ARCHIVES.values()):
        (tmp_path / f"{number}").mkdir()
        write(tmp_path / f"{number}" / "a.tar")
    script = f"""
        for number in range({len(HOSTILE_ARCHIVES)}):
            os.chdir(f"{tmp_path}/{{number}}")
            started = time.monotonic()
            try:
                read_archive(Path("a.tar"), is_image_name)
                print("read")
            except UserError as error:
                print(error)
            try:
                for name, content in iter_archive(Path("a.tar"), is_image_name):
                    assert len(content) < 1000 if isinstance(content, bytes) else "\\n" not in str(content)
            except UserError as error:
                assert "\\n" not in str(error)
            assert time.monotonic() - started < 20, number  # on a busy machine
    """
    imports = """
import os, time
from pathlib import Path
from fcnet.data.sources.file_listing import is_image_name
from fcnet.data.sources.tar import iter_archive, read_archive
from fcnet.runtime.errors import UserError
"""
    peak, lines = measure_peak(script, imports)
    assert peak < 300
    for (kind, (_, message)), line in zip(HOSTILE_ARCHIVES.items(), lines, strict=True):
        assert line.startswith(message), kind


def test_links_are_followed_through_links_in_any_order(tmp_path: Path) -> None:
    names = [f"train/cat/{number}.png" for number in range(5)]
    chain = links(iter([(names[3], "4.png"), (names[0], "1.png"), (names[2], "3.png"), (names[1], "2.png")]))
    (tmp_path / "a.tar").write_bytes(chain + member(names[4], b"x") + bytes(1024))
    for contents in (
        read_archive(tmp_path / "a.tar", is_image_name)[0],
        dict(iter_archive(tmp_path / "a.tar", is_image_name)),
    ):
        assert contents == dict.fromkeys(names, b"x")


def test_the_last_of_a_file_and_a_link_of_one_name_counts(tmp_path: Path) -> None:
    link = header("b.png", 0, tarfile.SYMTYPE, "a.png")
    for members, expected in (
        (member("a.png", b"a") + member("b.png", b"b") + link, b"a"),
        (member("a.png", b"a") + link + member("b.png", b"b"), b"b"),
    ):
        (tmp_path / "a.tar").write_bytes(members + bytes(1024))
        assert read_archive(tmp_path / "a.tar", is_image_name)[0]["b.png"] == expected


def test_names_lead_nowhere(tmp_path: Path) -> None:
    odd = [member(name, b"x") for name in ("/etc/x.png", "../../x.png", "a/../b.png", "./c.png")]
    odd.append(pax_member(pax("path", "d\0e.png"), content=b"x"))
    (tmp_path / "a.tar").write_bytes(b"".join(odd) + bytes(1024))
    assert sorted(read_archive(tmp_path / "a.tar", is_image_name)[0]) == ["b.png", "c.png", "d\0e.png", "etc/x.png"]


def test_images_that_exceed_the_free_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_limits, "free_bytes", lambda device: 1 << 20)
    with_hole(header("x.png", 100 << 20), (100 << 20) + 2048)(tmp_path / "a.tar")
    with pytest.raises(UserError) as error:
        read_archive(tmp_path / "a.tar", is_image_name)
    assert str(error.value) == (
        f"out of memory: {tmp_path / 'a.tar'} needs 0.1 GiB more and 0.0 GiB are free; "
        "unpack it to a folder, of which nothing stays in memory"
    )
