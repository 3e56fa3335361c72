"""Pictures are found one after another, in order, wherever they are."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fcnet.data.sources import image_paths
from fcnet.data.sources.image_paths import ImageEntry, iter_images
from fcnet.data.sources.tar import iter_archive, read_archive
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


def packed(name: str, members: dict[str, bytes | str], form: str = "w") -> None:
    """An archive in which a text is what a symbolic link leads to."""
    with tarfile.open(name, form) as archive:  # type: ignore[call-overload]
        for path, content in members.items():
            member = tarfile.TarInfo(path.rstrip("+"))
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def found(*arguments: str) -> list[tuple[str, object]]:
    """Names with contents: bytes, a path's bytes, or what is said."""

    def read(entry: ImageEntry) -> object:
        if isinstance(entry.content, Path):
            return entry.content.read_bytes()
        return str(entry.content) if isinstance(entry.content, UserError) else entry.content

    return [(entry.name, read(entry)) for entry in iter_images(arguments)]


def test_a_folder_is_walked_to_the_bottom_in_the_order_of_the_names() -> None:
    touch("top/b.png", "top/a/2.jpg", "top/a/10.jpg", "top/c/d/e/f.tiff", "top/a.gif", "top/notes.txt", "top/.x/1.png")
    names = ["top/a/10.jpg", "top/a/2.jpg", "top/a.gif", "top/b.png", "top/c/d/e/f.tiff"]
    assert found("top") == [(name, name.encode()) for name in names]


def test_links_to_folders_are_followed_in_the_folder_named_and_no_farther() -> None:
    touch("far/x.png", "top/in/y.png")
    Path("top/near").symlink_to("../far")
    Path("top/in/round").symlink_to("..")
    Path("top/in/z.png").symlink_to("../../far/x.png")
    assert [name for name, _ in found("top")] == ["top/in/y.png", "top/in/z.png", "top/near/x.png"]


def test_a_file_is_taken_for_an_image_whatever_its_name_unless_it_is_an_archive() -> None:
    touch("letter.txt", "very.hidden")
    packed("looks.png", {"a.png": b"1"})
    packed("all.tar", {"a.png": b"2"})
    touch("broken.tar")
    assert found("letter.txt", "looks.png", "all.tar", "broken.tar") == [
        ("letter.txt", b"letter.txt"),
        ("looks.png/a.png", b"1"),
        ("all.tar/a.png", b"2"),
        ("broken.tar", "broken.tar must be a folder or a whole tar archive, got: truncated header"),
    ]


def test_a_name_that_no_file_can_have_is_left_to_whoever_reads_it() -> None:
    assert list(iter_images(["x" * 5000])) == [("x" * 5000, Path("x" * 5000))]


@pytest.mark.parametrize("form", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_gives_what_reading_it_whole_gives(form: str) -> None:
    members: dict[str, bytes | str] = {
        "ahead.png": "in/last.png",
        **{f"./in/{number}.png": bytes([number]) * 700 for number in range(40)},
        "notes.txt": b"no image",
        "in/.hidden.png": b"no",
        "in/link.png": "3.png",
        "in/last.png": b"last",
        "back.png": "in/0.png",
    }
    packed("all", members, form)
    walked = dict(iter_archive(Path("all"), lambda name: name.endswith(".png")))
    whole, _ = read_archive(Path("all"), lambda name: name.endswith(".png"))
    assert walked == whole
    assert len(walked) == 45


def test_a_link_that_leads_nowhere_is_said_and_the_others_come() -> None:
    packed("all.tar", {"a.png": "gone.png", "b.png": "b.png", "c.png": b"c"})
    said = "must be a file, or a link to a file there, got neither"
    assert found("all.tar") == [
        ("all.tar/a.png", f"all.tar/a.png {said}"),
        ("all.tar/b.png", f"all.tar/b.png {said}"),
        ("all.tar/c.png", b"c"),
    ]


def test_what_is_whole_of_a_cut_archive_comes_before_the_word_that_it_is_cut() -> None:
    packed("whole.tar", {f"{number}.png": bytes([number]) * 600 for number in range(9)})
    content = Path("whole.tar").read_bytes()
    for name, cut in (("cut.tar", content[:6000]), ("cut.tar.xz", lzma.compress(content)[:-30])):
        Path(name).write_bytes(cut)
        *pictures, (last, said) = found(name)
        assert last == name
        assert str(said).startswith(f"{name} must be a folder or a whole tar archive, got: ")
        assert pictures == [(f"{name}/{number}.png", bytes([number]) * 600) for number in range(len(pictures))]
    for end in range(9 * 1536 - 700, 9 * 1536 + 512, 50):  # be it behind the last image
        Path("cut.tar").write_bytes(content[:end])
        assert "must be a folder or a whole tar archive" in str(found("cut.tar")[-1][1]), end


def test_where_two_members_have_one_name_both_come() -> None:
    packed("all.tar", {"a.png": b"old", "a.png+": b"new"})
    assert found("all.tar") == [("all.tar/a.png", b"old"), ("all.tar/a.png", b"new")]


def test_a_picture_of_an_archive_is_read_when_it_is_asked_for() -> None:
    packed("all.tar", {f"{number}.png": b"1" for number in range(20)})
    read = []

    def counted(*arguments: object) -> Iterator[tuple[str, bytes | None]]:
        for name, content in iter_archive(*arguments):  # type: ignore[arg-type]
            read.append(name)
            yield name, content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_paths, "iter_archive", counted)
        for place, _ in enumerate(iter_images(["all.tar"])):
            assert len(read) == place + 1


def test_where_nothing_is_an_image_that_is_said() -> None:
    Path("none").mkdir()
    touch("texts/a.txt")
    packed("all.tar", {"a.txt": b"1"})
    assert found("none", "texts", "all.tar") == [
        (name, f"{name} must hold an image, found none") for name in ("none", "texts", "all.tar")
    ]


def test_a_folder_that_cannot_be_read_is_said_and_the_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("top/a/1.png", "top/b/1.png", "top/c/1.png")
    scandir = os.scandir

    def refusing(folder: str) -> object:
        if folder == "top/b":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    assert found("top") == [
        ("top/a/1.png", b"top/a/1.png"),
        ("top/b", "top/b must be a folder that can be read, got: Permission denied"),
        ("top/c/1.png", b"top/c/1.png"),
    ]
