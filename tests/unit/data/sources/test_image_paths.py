"""Tests of finding images one at a time in files, folders and archives."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fcnet.data.sources import image_paths
from fcnet.data.sources.archives import iter_archive, read_archive
from fcnet.data.sources.image_paths import ImageEntry, iter_images
from fcnet.data.sources.unused import UnusedItems
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(name.encode())


def write_members(name: str, members: dict[str, bytes | str], form: str = "w") -> None:
    """Writes an archive; a str is the target of a symbolic link."""
    with tarfile.open(name, form) as archive:  # type: ignore[call-overload]
        for path, content in members.items():
            member = tarfile.TarInfo(path.rstrip("+"))
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def read_entries(*arguments: str) -> list[tuple[str, object]]:
    """Returns the names with their bytes or error messages."""

    def read(entry: ImageEntry) -> object:
        if isinstance(entry.content, Path):
            return entry.content.read_bytes()
        return str(entry.content) if isinstance(entry.content, UserError) else entry.content

    return [(entry.name, read(entry)) for entry in iter_images(arguments)]


def test_a_folder_is_walked_recursively_in_the_order_of_the_names() -> None:
    touch("top/b.png", "top/a/2.jpg", "top/a/10.jpg", "top/c/d/e/f.tiff", "top/a.gif", "top/notes.txt", "top/.x/1.png")
    names = ["top/a/10.jpg", "top/a/2.jpg", "top/a.gif", "top/b.png", "top/c/d/e/f.tiff"]
    assert read_entries("top") == [(name, name.encode()) for name in names]


def test_links_to_folders_are_followed_only_at_the_top() -> None:
    touch("far/x.png", "top/in/y.png")
    Path("top/near").symlink_to("../far")
    Path("top/in/round").symlink_to("..")
    Path("top/in/z.png").symlink_to("../../far/x.png")
    assert [name for name, _ in read_entries("top")] == ["top/in/y.png", "top/in/z.png", "top/near/x.png"]


def test_a_named_file_is_an_image_unless_it_is_an_archive() -> None:
    touch("letter.txt", "very.hidden")
    write_members("looks.png", {"a.png": b"1"})
    write_members("all.tar", {"a.png": b"2"})
    touch("broken.tar")
    assert read_entries("letter.txt", "looks.png", "all.tar", "broken.tar") == [
        ("letter.txt", b"letter.txt"),
        ("looks.png/a.png", b"1"),
        ("all.tar/a.png", b"2"),
        ("broken.tar", "broken.tar must be a folder or a whole tar or zip archive, got: truncated header"),
    ]


def test_an_impossible_file_name_is_yielded_as_a_path() -> None:
    assert list(iter_images(["x" * 5000])) == [("x" * 5000, Path("x" * 5000))]


@pytest.mark.parametrize("form", ["w", "w:gz", "w:bz2", "w:xz"])
def test_reading_an_archive_one_file_at_a_time_equals_reading_it_whole(form: str) -> None:
    members: dict[str, bytes | str] = {
        "ahead.png": "in/last.png",
        **{f"./in/{number}.png": bytes([number]) * 700 for number in range(40)},
        "notes.txt": b"no image",
        "in/.hidden.png": b"no",
        "in/link.png": "3.png",
        "in/last.png": b"last",
        "back.png": "in/0.png",
    }
    write_members("all", members, form)
    walked = dict(iter_archive(Path("all"), lambda name: name.endswith(".png")))
    whole, _ = read_archive(Path("all"), lambda name: name.endswith(".png"))
    assert walked == whole
    assert len(walked) == 45


def test_a_broken_link_is_an_error_entry_after_the_others() -> None:
    write_members("all.tar", {"a.png": "gone.png", "b.png": "b.png", "c.png": b"c"})
    remedy = "store the file or folder itself"
    assert read_entries("all.tar") == [
        ("all.tar/c.png", b"c"),
        ("all.tar/a.png", f"a.png in all.tar links to gone.png, which leads to nothing in the archive; {remedy}"),
        ("all.tar/b.png", f"b.png in all.tar links to b.png, which leads in a loop; {remedy}"),
    ]


def test_the_complete_images_of_a_truncated_archive_come_before_its_error() -> None:
    write_members("whole.tar", {f"{number}.png": bytes([number]) * 600 for number in range(9)})
    content = Path("whole.tar").read_bytes()
    for name, cut in (("cut.tar", content[:6000]), ("cut.tar.xz", lzma.compress(content)[:-30])):
        Path(name).write_bytes(cut)
        *images, (last, message) = read_entries(name)
        assert last == name
        assert str(message).startswith(f"{name} must be a folder or a whole tar or zip archive, got: ")
        assert images == [(f"{name}/{number}.png", bytes([number]) * 600) for number in range(len(images))]
    for end in range(9 * 1536 - 700, 9 * 1536 + 512, 50):  # also after the last image
        Path("cut.tar").write_bytes(content[:end])
        assert "must be a folder or a whole tar or zip archive" in str(read_entries("cut.tar")[-1][1]), end


def test_two_members_with_one_name_are_both_yielded() -> None:
    write_members("all.tar", {"a.png": b"old", "a.png+": b"new"})
    assert read_entries("all.tar") == [("all.tar/a.png", b"old"), ("all.tar/a.png", b"new")]


def test_an_archive_is_read_lazily() -> None:
    write_members("all.tar", {f"{number}.png": b"1" for number in range(20)})
    read = []

    def counted(*arguments: object) -> Iterator[tuple[str, bytes | UserError]]:
        for name, content in iter_archive(*arguments):  # type: ignore[arg-type]
            read.append(name)
            yield name, content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_paths, "iter_archive", counted)
        for index, _ in enumerate(iter_images(["all.tar"])):
            assert len(read) == index + 1


def test_no_images_are_an_error_entry_that_says_what_is_there_instead() -> None:
    Path("none").mkdir()
    touch("texts/a.heic", "texts/b/c.txt", "texts/.hidden")
    write_members("all.tar", {"a.txt": b"1", "__MACOSX/._a.png": b"2"})
    write_members("empty.tar", {})
    assert read_entries("none", "texts", "all.tar", "empty.tar") == [
        ("none", "none must hold an image, found none"),
        (
            "texts",
            "texts must hold an image, found only 2 files without an image suffix (texts/a.heic, texts/b/c.txt)",
        ),
        ("all.tar", "all.tar must hold an image, found only 1 file without an image suffix (all.tar/a.txt)"),
        ("empty.tar", "empty.tar must hold an image, found none"),
    ]


def test_what_is_left_out_beside_images_is_counted_except_what_systems_make() -> None:
    systems = ["Thumbs.db", "desktop.ini", ".DS_Store", "._x.png", "@eaDir/x.png", "__MACOSX/x.txt"]
    touch("top/a.png", "top/b/notes.txt", "top/b/c.heic", "other/x.png", *(f"top/{name}" for name in systems))
    Path("top/b/far").symlink_to("../../other")
    members: dict[str, bytes | str] = dict.fromkeys(("in/e.md", "in/f.png", *systems), b"")
    write_members("all.tar", {**members, "near": "in"})
    unused = UnusedItems()
    names = [entry.name for entry in iter_images(["top", "all.tar"], unused)]
    assert names == ["top/a.png", "all.tar/in/f.png", "all.tar/near/f.png"]
    assert unused.describe() == (
        "4 files without an image suffix (all.tar/in/e.md, all.tar/near/e.md, top/b/c.heic, …), "
        "1 link to a folder more than one level down (top/b/far)"
    )


def test_an_unreadable_folder_is_an_error_entry_and_the_others_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("top/a/1.png", "top/b/1.png", "top/c/1.png")
    scandir = os.scandir

    def raise_for_b(folder: str) -> object:
        if folder == "top/b":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", raise_for_b)
    assert read_entries("top") == [
        ("top/a/1.png", b"top/a/1.png"),
        ("top/b", "top/b must be a readable folder, got: Permission denied"),
        ("top/c/1.png", b"top/c/1.png"),
    ]
