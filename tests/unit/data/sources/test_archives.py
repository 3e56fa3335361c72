"""Tests of archives of both formats: they are read as the folder that was packed, and faulty ones are refused."""

from __future__ import annotations

import io
import os
import random
import re
import tarfile
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fcnet.data.sources import archive_tree, images, size_limits
from fcnet.data.sources.archives import is_archive, iter_archive, read_archive
from fcnet.data.sources.file_listing import is_image_name
from fcnet.runtime.errors import UserError
from tests.helpers import measure_peak
from tests.unit.data.sources.hostile_archives import (
    HOSTILE_ARCHIVES,
    HOSTILE_ZIPS,
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
    plain_image,
    read_contents,
    write_archive,
    write_files,
    write_zip,
    zip_link,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.data.sources.hostile_archives import HostileArchives

FORMATS = ["tar", "zip"]


def pack(folder: Path, form: str, names: list[str] | None = None) -> Path:
    """Packs a folder with its links; returns the archive."""
    members = names or sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    write = write_archive if form == "tar" else write_zip
    return write(folder.with_suffix(f".{form}"), folder, members)


def pack_texts(path: Path, files: dict[str, bytes | str]) -> Path:
    """Writes an archive of files and of links, of which the content is a str."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(zip_link(name) if isinstance(content, str) else name, content)
        return path
    with tarfile.open(path, "w") as archive_file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive_file.addfile(info)
            else:
                info.size = len(content)
                archive_file.addfile(info, io.BytesIO(content))
    return path


def read_both(path: Path, wanted: Callable[[str], bool] = is_image_name) -> dict[str, bytes]:
    """Returns the files of an archive, after checking that reading them one at a time gives the same."""
    files, _ = read_archive(path, wanted)
    assert dict(iter_archive(path, wanted)) == files
    return files


def walk(folder: Path, around: tuple[Path, ...] = ()) -> dict[str, bytes] | None:
    """Returns the files below a folder as a program sees them that follows links; None if one is broken or a loop."""
    place = folder.resolve()
    files: dict[str, bytes] = {}
    for path in folder.iterdir():
        if not path.exists() or path.resolve() in (*around, place):
            return None
        if path.is_dir():
            below = walk(path, (*around, place))
            if below is None:
                return None
            files |= {f"{path.name}/{name}": content for name, content in below.items()}
        else:
            files[path.name] = path.read_bytes()
    return files


def plant_links(draws: random.Random, folder: Path) -> Path:
    """Writes a folder of a few files, and links between them, to folders, and through other links."""
    files = [f"{'/'.join(draws.choices('abc', k=draws.randint(1, 3)))}/{number}.png" for number in range(8)]
    write_files(folder, {name: name.encode() for name in files})
    names = [path.relative_to(folder) for path in folder.rglob("*")]
    for number in range(draws.randint(1, 6)):
        at, target = draws.choice([name for name in names if (folder / name).is_dir()]), draws.choice(names)
        if (folder / target).is_symlink() and draws.random() < 0.3:
            target = target / "../a"  # beside the end of the link, not beside the link
        link = at / f"l{number}{target.suffix}"
        gone = "/gone" if draws.random() < 0.1 else ""
        (folder / link).symlink_to(os.path.relpath(target.parent, at) + f"/{target.name}{gone}")
        names.append(link)
    return folder


@pytest.mark.parametrize("form", FORMATS)
def test_a_class_folder_that_is_a_link_is_a_class(tmp_path: Path, form: str) -> None:
    kinds = {"ant": 1, "bee": 20, ".store/cow": 40}
    names = {
        f"{kind}/{number}.png": plain_image(first + number) for kind, first in kinds.items() for number in range(5)
    }
    folder = write_files(tmp_path / "pets", names)
    (folder / "cow").symlink_to(".store/cow")
    classes, contents = read_contents(images(folder))
    assert (classes, sum(len(labels) for _, labels in contents.values())) == (("ant", "bee", "cow"), 15)
    assert repr(read_contents(images(pack(folder, form)))) == repr((classes, contents))


@pytest.mark.parametrize("form", FORMATS)
def test_an_archive_gives_what_its_folder_gives_with_links_in_any_order(tmp_path: Path, form: str) -> None:
    refused = 0
    for number in range(40):
        draws = random.Random(number)
        folder = plant_links(draws, tmp_path / f"{number}")
        names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
        draws.shuffle(names)
        archive, expected = pack(folder, form, names), walk(folder)
        if expected is None:
            refused += 1
            with pytest.raises(UserError, match=r"^(|.*/)l\d.* in .* links to .*, which leads "):
                read_archive(archive, is_image_name)
        else:
            assert read_both(archive) == expected, number
    assert 5 < refused < 30


def test_a_hard_link_is_relative_to_the_root_and_may_lead_to_a_link(tmp_path: Path) -> None:
    pairs = [("b/1.png", "b/2.png"), ("b/2.png", "./a/x.png"), ("b/3.png", "/../b/s.png")]
    first, last = links(iter(pairs), tarfile.LNKTYPE), links(iter([("b/s.png", "../a/x.png")]))
    (tmp_path / "a.tar").write_bytes(first + member("a/x.png", b"x") + last + bytes(1024))
    names = ["a/x.png", "b/1.png", "b/2.png", "b/3.png", "b/s.png"]
    assert read_both(tmp_path / "a.tar") == dict.fromkeys(names, b"x")


@pytest.mark.parametrize("form", FORMATS)
def test_a_link_may_lead_to_a_file_that_is_not_selected_itself(tmp_path: Path, form: str) -> None:
    files: dict[str, bytes | str] = {
        "1.png": ".git/annex/blob",
        ".git/annex/blob": b"x",
        "2.png": "notes",
        "notes": b"y",
    }
    assert read_both(pack_texts(tmp_path / f"a.{form}", files)) == {"1.png": b"x", "2.png": b"y"}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("/etc/pets", "which leads out of the archive"),
        ("/train/ant", "which leads out of the archive"),
        ("../../ant", "which leads out of the archive"),
        ("../test/../../train/ant", "which leads out of the archive"),
        ("gone", "which leads to nothing in the archive"),
        ("ant/1.png/x", "which leads to nothing in the archive"),
        ("ant/1.png/../2.png", "which leads to nothing in the archive"),
        ("cow", "which leads in a loop"),
        ("..", "which leads in a loop"),
        ("other", "which leads in a loop"),
        ("../test/up/ant", "which leads in a loop"),
        ("./" * 300, "which leads through a path of more than 256 parts"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".png"])
def test_a_link_that_leads_nowhere_is_refused_by_name(
    tmp_path: Path, form: str, target: str, fault: str, suffix: str
) -> None:
    others = {"train/other": f"cow{suffix}", "test/up": f"../train/cow{suffix}"}
    if target not in {"other", "../test/up/ant"}:
        others = {}
    files: dict[str, bytes | str] = {f"train/cow{suffix}": f"{target}{suffix if target == 'cow' else ''}", **others}
    archive = pack_texts(tmp_path / f"a.{form}", {**files, "train/ant/1.png": b"x", "test/ant/2.png": b"y"})
    shown = str(files[f"train/cow{suffix}"])
    shown = shown if len(shown) <= 200 else f"{shown[:200]}…"
    message = f"train/cow{suffix} in {archive} links to {shown}, {fault}; store the file or folder itself"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_archive(archive, is_image_name)
    entries = dict(iter_archive(archive, is_image_name))
    assert str(entries.pop(f"train/cow{suffix}")) == message
    assert {name: content for name, content in entries.items() if isinstance(content, bytes)} == {
        "train/ant/1.png": b"x",
        "test/ant/2.png": b"y",
    }


@pytest.mark.parametrize("form", FORMATS)
def test_links_that_lead_nowhere_do_no_harm_where_no_image_can_be(tmp_path: Path, form: str) -> None:
    asked = []

    def wanted(name: str) -> bool:
        asked.append(name)
        return is_image_name(name)

    files: dict[str, bytes | str] = {
        "a.png": b"x",
        "notes.txt": "/etc/notes.txt",
        ".git/now": "gone",
        ".a.png": "/a.png",
    }
    assert read_archive(pack_texts(tmp_path / f"a.{form}", files), wanted)[0] == {"a.png": b"x"}
    assert sorted(asked) == sorted(files)


@pytest.mark.parametrize(("length", "works"), [(40, True), (41, False)])
@pytest.mark.parametrize("form", FORMATS)
def test_a_chain_of_links_is_as_long_as_on_linux(tmp_path: Path, form: str, length: int, works: bool) -> None:
    chain: dict[str, bytes | str] = {f"{number}.png": f"{number + 1}.png" for number in range(length)}
    archive = pack_texts(tmp_path / f"a.{form}", {**chain, f"{length}.png": b"x"})
    if works:
        assert read_both(archive) == {f"{number}.png": b"x" for number in range(length + 1)}
        return
    with pytest.raises(UserError, match=r"^0\.png in .* links to 1\.png, which leads through more than 40 links; "):
        read_archive(archive, is_image_name)


@pytest.mark.parametrize("form", FORMATS)
def test_a_few_links_do_not_expand_to_millions_of_names(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_tree, "_MIN_NAME_BYTES", 1 << 20)
    doubled: dict[str, bytes | str] = {"f0/x.png": b"x"}
    for level in range(1, 30):
        doubled |= {f"f{level}/{side}": f"../f{level - 1}" for side in "ab"}
    archive = pack_texts(tmp_path / f"a.{form}", doubled)
    message = f"the folders and links in {archive} must give at most 1 MiB of names, got more; unpack it to a folder"
    for read in (read_archive, lambda *given: list(iter_archive(*given))):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            read(archive, is_image_name)


@pytest.mark.parametrize("form", FORMATS)
def test_a_member_below_a_link_is_refused(tmp_path: Path, form: str) -> None:
    archive = pack_texts(tmp_path / f"a.{form}", {"real/1.png": b"x", "ant": "real", "ant/2.png": b"y"})
    with pytest.raises(UserError, match=r"^ant in \S+ must be a link or a folder, got both$"):
        read_archive(archive, is_image_name)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_last_of_several_members_of_one_name_counts(tmp_path: Path, form: str) -> None:
    orders: list[tuple[list[tuple[str, bytes | str]], bytes]] = [
        ([("a.png", b"a"), ("b.png", b"b"), ("b.png", "a.png")], b"a"),
        ([("a.png", b"a"), ("b.png", "a.png"), ("./b.png", b"b")], b"b"),
        ([("b.png", b"old"), ("/b.png", b"new")], b"new"),
    ]
    for files, expected in orders:
        path = tmp_path / f"a.{form}"
        if form == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in files:
                    archive.writestr(zip_link(name) if isinstance(content, str) else name, content)
        else:
            path.write_bytes(
                b"".join(
                    links(iter([(name, content)])) if isinstance(content, str) else member(name, content)
                    for name, content in files
                )
                + bytes(1024)
            )
        assert read_archive(path, is_image_name)[0]["b.png"] == expected


@pytest.mark.parametrize("form", FORMATS)
def test_folders_without_an_image_are_known_even_if_they_are_no_members(tmp_path: Path, form: str) -> None:
    files: dict[str, bytes | str] = {"train/ant/1.png": b"x", "train/bee/notes.txt": b"", "train/cow": "bee"}
    _, folders = read_archive(pack_texts(tmp_path / f"a.{form}", files), is_image_name)
    assert folders == {"train", "train/ant", "train/bee", "train/cow"}


@pytest.mark.parametrize("form", FORMATS)
def test_names_lead_nowhere(tmp_path: Path, form: str) -> None:
    odd: dict[str, bytes | str] = dict.fromkeys(("/etc/x.png", "../../y.png", "a/../b.png", "./c.png", "/", ".."), b"x")
    archive = pack_texts(tmp_path / f"a.{form}", odd)
    assert sorted(read_both(archive)) == ["b.png", "c.png", "etc/x.png", "y.png"]


def test_a_name_of_a_tar_archive_may_hold_a_zero(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(pax_member(pax("path", "d\0e.png"), content=b"x") + bytes(1024))
    assert read_both(tmp_path / "a.tar") == {"d\0e.png": b"x"}


def test_images_that_exceed_the_free_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_limits, "free_bytes", lambda device: 1 << 20)
    with_hole(header("x.png", 100 << 20), (100 << 20) + 2048)(tmp_path / "a.tar")
    with pytest.raises(UserError) as error:
        read_archive(tmp_path / "a.tar", is_image_name)
    assert str(error.value) == (
        f"out of memory: {tmp_path / 'a.tar'} needs 0.1 GiB more and 0.0 GiB are free; "
        "unpack it to a folder, of which nothing stays in memory"
    )


def test_archives_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", SMALL_TREE)
    for mode in ("w", "w:gz", "w:xz", "w:bz2", "w:zst"):
        assert is_archive(write_archive(tmp_path / "a", folder, SORTED_NAMES, mode=mode))
    assert is_archive(write_zip(tmp_path / "a", folder, SORTED_NAMES))
    assert is_archive(write_zip(tmp_path / "a", folder, []))
    for content in (b"", b"P", b"PK", plain_image(1), b"x_train"):
        (tmp_path / "a").write_bytes(content)
        assert not is_archive(tmp_path / "a")


@pytest.mark.parametrize("save", ["savez", "savez_compressed"])
def test_arrays_are_no_archive_of_images(tmp_path: Path, save: str) -> None:
    getattr(np, save)(tmp_path / "x.npz", x_train=np.zeros(3), y_train=np.zeros(3))
    assert not is_archive(tmp_path / "x.npz")
    expected = f'{tmp_path}/x.npz must be a folder or an archive of images, got arrays (use data.source = "arrays")'
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        read_archive(tmp_path / "x.npz", is_image_name)


@pytest.mark.parametrize(("name", "hostile"), [("a.tar", HOSTILE_ARCHIVES), ("a.zip", HOSTILE_ZIPS)])
def test_an_archive_from_a_stranger_can_only_be_refused(tmp_path: Path, name: str, hostile: HostileArchives) -> None:
    for number, (write, _) in enumerate(hostile.values()):
        (tmp_path / f"{number}").mkdir()
        write(tmp_path / f"{number}" / name)
    script = f"""
        for number in range({len(hostile)}):
            os.chdir(f"{tmp_path}/{{number}}")
            started = time.monotonic()
            try:
                read_archive(Path("{name}"), is_image_name)
                print("read")
            except UserError as error:
                print(error)
            try:
                for _, content in iter_archive(Path("{name}"), is_image_name):
                    assert len(content) < 1000 if isinstance(content, bytes) else "\\n" not in str(content)
            except UserError as error:
                assert "\\n" not in str(error)
            assert time.monotonic() - started < 20, number  # on a busy machine
    """
    imports = """
import os, time
from pathlib import Path
from fcnet.data.sources.archives import iter_archive, read_archive
from fcnet.data.sources.file_listing import is_image_name
from fcnet.runtime.errors import UserError
"""
    peak, lines = measure_peak(script, imports)
    assert peak < 300
    for (kind, (_, message)), line in zip(hostile.items(), lines, strict=True):
        assert line.startswith(message), kind
