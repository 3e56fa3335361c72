"""Tests of fcnet.data.sources.archive_member: tar and zip archives yield the same kind of members."""

from __future__ import annotations

import io
import tarfile
import zipfile
from typing import TYPE_CHECKING

from fcnet.data.sources.tar import iter_tar
from fcnet.data.sources.zip import iter_zip

if TYPE_CHECKING:
    from pathlib import Path

    from fcnet.data.sources.archive_member import ArchiveMember

FILES = {"train/cat/1.png": b"one", "train/cat/2.png": b"", "notes.txt": b"text"}
SYMBOLIC_LINK = 0o120777


def write_both(folder: Path) -> tuple[Path, Path]:
    """Writes a folder, files and a symbolic link as a tar and as a zip archive."""
    with tarfile.open(folder / "a.tar", "w") as tar, zipfile.ZipFile(folder / "a.zip", "w") as archive:
        directory = tarfile.TarInfo("train")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        archive.writestr("train/", b"")
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            archive.writestr(name, content)
        link = tarfile.TarInfo("train/dog")
        link.type, link.linkname = tarfile.SYMTYPE, "cat"
        tar.addfile(link)
        zip_link = zipfile.ZipInfo("train/dog")
        zip_link.create_system, zip_link.external_attr = 3, SYMBOLIC_LINK << 16
        archive.writestr(zip_link, "cat")
    return folder / "a.tar", folder / "a.zip"


def describe(member: ArchiveMember) -> tuple[str, str, bytes | str]:
    content = member.read() if member.kind == "file" else member.target if member.kind == "link" else ""
    return member.name.rstrip("/"), member.kind, content


def test_members_of_a_tar_and_of_a_zip_archive_agree(tmp_path: Path) -> None:
    tar, archive = write_both(tmp_path)
    expected = [
        ("train", "folder", ""),
        *((name, "file", content) for name, content in FILES.items()),
        ("train/dog", "link", "cat"),
    ]
    assert [describe(member) for member in iter_tar(tar)] == expected
    assert [describe(member) for member in iter_zip(archive)] == expected


def test_positions_differ_and_are_the_same_in_each_pass(tmp_path: Path) -> None:
    tar, archive = write_both(tmp_path)
    for iter_members, path in ((iter_tar, tar), (iter_zip, archive)):
        first, second = ([member.position for member in iter_members(path)] for _ in range(2))
        assert first == second
        assert len(set(first)) == len(first) == 2 + len(FILES)
