"""Tests of the layouts of labelled images and of the split of class folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from fcnet.data.sources import images
from fcnet.data.sources.class_folders import find_images
from fcnet.data.sources.file_listing import scan_path
from fcnet.runtime.errors import UserError
from tests.unit.data.sources.image_trees import (
    SMALL_TREE,
    class_folders,
    plain_image,
    read_contents,
    write_archive,
    write_files,
)

if TYPE_CHECKING:
    from pathlib import Path


TEST_NAMES = {"ant/0.png", "ant/9.png", "bee/0.png", "bee/9.png", "cow/0.png"}


def names_for_testing(path: Path, test: float = 0.2) -> set[str]:
    """Returns the names of the test images, after checking that each image is in one split."""
    files = find_images(scan_path(path), test).images
    assert len({file.name for file in files}) == len(files)
    return {file.name for file in files if file.split == "test"}


def test_classes_are_in_alphabetical_order(tmp_path: Path) -> None:
    in_order = ["10", "9", "Apple", "date", "fig", "kiwi", "lime", "pear", "plum"]
    for name in in_order[::-2] + in_order[1::2]:
        write_files(tmp_path, {f"{split}/{name}/1.png": plain_image(1) for split in ("train", "test")})
    assert images(tmp_path).snapshot().read().classes == tuple(in_order)


def test_hidden_files_other_files_and_other_folders_are_ignored(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", SMALL_TREE)
    expected = repr(read_contents(images(folder)))
    write_files(
        folder,
        {
            "README.md": b"",
            "train/.DS_Store": b"",
            "train/cat/.a.png": b"",
            "train/cat/Thumbs.db": b"",
            "train/.git/x.png": b"",
            "train/notes.txt": b"",
            "extra/dog/1.png": b"",
        },
    )
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))]
    archive = write_archive(tmp_path / "a.tar", folder, names)
    assert repr(read_contents(images(folder))) == expected
    assert repr(read_contents(images(archive))) == expected


def test_nested_images_belong_to_their_class_and_cyclic_links_end(tmp_path: Path) -> None:
    write_files(tmp_path, {**SMALL_TREE, "train/cat/more/a.png": plain_image(9)})
    (tmp_path / "train/cat/round").symlink_to(tmp_path / "train/cat")
    (tmp_path / "train/cat/z.png").symlink_to(tmp_path / "train/cat/a.png")
    _, splits = read_contents(images(tmp_path))
    assert splits["train"][1].tolist() == [0, 1, 1, 1, 1]
    assert splits["train"][0][:, 0, 0, 0].tolist() == [3, 1, 2, 9, 1]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (
            {"bus/a.txt": b""},
            "CLASS/IMAGE, in {}, found no images; not used: 1 file without an image suffix (bus/a.txt)",
        ),
        ({"test/ant/a.png": plain_image(1), "bus/a.png": plain_image(1)}, "test/CLASS/… in {}, found bus, test"),
        (
            {"train/cat/a.png": plain_image(1), "Val/cat/a.png": plain_image(1)},
            "test/CLASS/… in {}, found Val, train; rename Val to test, and a share of train is held out for validation",
        ),
        (
            {"train/cat/a.txt": b"", "test/cat/a.txt": b""},
            "found no images; not used: 2 files without an image suffix (test/cat/a.txt, train/cat/a.txt)",
        ),
        ({"train/cat/a.png": plain_image(1), "test/cat/a.txt": b""}, "test/CLASS/… in {}, found no images in test"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_another_layout_is_an_error_that_lists_what_was_found(
    tmp_path: Path, form: str, files: dict[str, bytes], found: str
) -> None:
    path = write_files(tmp_path / "folder", files)
    if form == "archive":
        path = write_archive(tmp_path / "a.tar", path, list(files))
    with pytest.raises(UserError) as error:
        images(path).snapshot().read()
    assert str(error.value).startswith("expected train/CLASS/… and test/CLASS/…")
    assert str(error.value).endswith(found.format(path))


def test_the_error_names_the_folder_that_is_meant(tmp_path: Path) -> None:
    files = {"train/cat/a.png": plain_image(1), "train/dog/a.png": plain_image(1)}
    write_files(tmp_path / "only train", files)
    write_files(tmp_path / "one level", {f"pets/{name}": content for name, content in files.items()})
    for folder, rest in (
        ("only train", "train; give {}/train, and a share of each class is held out for testing"),
        ("one level", "pets/train/cat/a.png; give {}/pets, one level deeper"),
    ):
        path = tmp_path / folder
        with pytest.raises(UserError) as error:
            images(path).snapshot().read()
        assert str(error.value).endswith(f" in {path}, found {rest.format(path)}")


def test_split_folders_without_a_class_hold_no_images(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match=r"^expected train/CLASS/… and test/CLASS/… in .*, found no images$"):
        images(tmp_path).snapshot().read()
    write_files(tmp_path, {".DS_Store": b""})
    (tmp_path / "train").rmdir()
    (tmp_path / "test").rmdir()
    with pytest.raises(UserError, match=r"^expected .* or CLASS/IMAGE, in .*, found no images$"):
        images(tmp_path).snapshot().read()


@pytest.mark.parametrize(
    ("test", "counts", "expected"),
    [
        (0.2, {"ant": 10, "bee": 20, "cow": 5}, [2, 4, 1]),
        (0.5, {"ant": 9, "bee": 3, "cow": 2}, [4, 2, 1]),
        (0.01, {"ant": 10, "bee": 2}, [1, 1]),
        (0.99, {"ant": 10, "bee": 2}, [9, 1]),
    ],
)
def test_the_given_fraction_of_each_class_is_for_testing(
    tmp_path: Path, test: float, counts: dict[str, int], expected: list[int]
) -> None:
    classes, splits = read_contents(images(write_files(tmp_path, class_folders(counts)), test))
    assert classes == tuple(counts)
    assert np.bincount(splits["test"][1]).tolist() == expected
    assert np.bincount(splits["train"][1]).tolist() == [
        count - kept for count, kept in zip(counts.values(), expected, strict=True)
    ]
    values = {
        label: sorted(int(x[0, 0, 0]) for pixels, labels in splits.values() for x in pixels[labels == label])
        for label in range(len(counts))
    }
    assert list(values.values()) == [list(range(count)) for count in counts.values()]


def test_the_split_of_a_folder_never_changes(tmp_path: Path) -> None:
    folder = write_files(tmp_path, class_folders({"ant": 10, "bee": 10, "cow": 5}))
    assert names_for_testing(folder) == TEST_NAMES


def test_the_split_depends_on_neither_other_files_nor_their_order(tmp_path: Path) -> None:
    files = class_folders({"ant": 10, "bee": 10, "cow": 5})
    for place, order in enumerate((sorted(files), sorted(files)[::-1], sorted(files, key=lambda name: name[::-1]))):
        folder = write_files(tmp_path / str(place), {name: files[name] for name in order})
        assert names_for_testing(folder) == TEST_NAMES
        for root in ("", "some folder/"):
            assert names_for_testing(write_archive(tmp_path / "a.tar", folder, order, root)) == TEST_NAMES
    write_files(folder, {**class_folders({"dog": 3}), "README.md": b"", "ant/notes.txt": b"", ".git/x.png": b""})
    assert {name for name in names_for_testing(folder) if not name.startswith("dog")} == TEST_NAMES


def test_a_new_image_moves_at_most_one_other_image_of_its_class(tmp_path: Path) -> None:
    folder = write_files(tmp_path, class_folders({"ant": 30, "bee": 30}))
    before = names_for_testing(folder)
    for number in range(30):
        write_files(folder, {f"ant/more {number}.png": plain_image(1)})
        after = names_for_testing(folder)
        # One may leave, pushed out by the new one; one may come, when the share rises by one.
        assert len(before - after) <= 1
        assert len(after - before) <= 1
        assert {name for name in after if name.startswith("bee")} == {n for n in before if n.startswith("bee")}
        before = after


def test_class_folders_may_be_links_and_cyclic_links_end(tmp_path: Path) -> None:
    write_files(tmp_path, {f"elsewhere/{number}.png": plain_image(number) for number in range(5)})
    folder = write_files(tmp_path / "folder", class_folders({"bee": 5}))
    (folder / "ant").symlink_to(tmp_path / "elsewhere")
    (folder / "bee/round").symlink_to(folder / "bee")
    classes, splits = read_contents(images(folder))
    assert classes == ("ant", "bee")
    assert splits["train"][1].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a.png": plain_image(1)}, "expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in {}, found a.png"),
        (
            {"val/ant/0.png": plain_image(1)},
            "expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in {}, found val/ant/0.png",
        ),
        ({"test/0.png": plain_image(1)}, "expected train/CLASS/… and test/CLASS/… in {}, found ant, bee, test"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_folder_that_cannot_be_split_is_an_error(
    tmp_path: Path, form: str, changes: dict[str, bytes], message: str
) -> None:
    path = write_files(tmp_path / "folder", class_folders({"ant": 5, "bee": 5}) | changes)
    if form == "archive":
        path = write_archive(tmp_path / "a.tar", path, [str(found.relative_to(path)) for found in path.rglob("*")])
    with pytest.raises(UserError) as error:
        images(path).snapshot().read()
    assert str(error.value) == message.format(path)


def test_the_error_names_the_first_misplaced_file_by_name(tmp_path: Path) -> None:
    misplaced = {f"train/{number:02}.png": plain_image(1) for number in reversed(range(20))}
    path = write_files(tmp_path, SMALL_TREE | misplaced)
    with pytest.raises(UserError, match=r", found train/00\.png$"):
        images(path).snapshot().read()
