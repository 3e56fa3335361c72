"""Tests of the images source: decoding, options and changes on disk."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fcnet.data.sources import arrays, image_folder, images
from fcnet.runtime.errors import UserError
from tests.unit.data.sources.image_trees import (
    SMALL_TREE,
    SORTED_NAMES,
    class_folders,
    plain_image,
    read_contents,
    write_archive,
    write_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_images_are_sorted_by_class_and_name(tmp_path: Path) -> None:
    classes, splits = read_contents(images(write_files(tmp_path, SMALL_TREE)))
    assert classes == ("ant", "cat")
    assert splits["train"][1].tolist() == [0, 1, 1]
    assert splits["train"][0].shape == (3, 3, 2, 3)
    assert splits["train"][0][:, :, 0, 0].tolist() == [[3, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert splits["test"][0][:, 0, 1, 2].tolist() == [5, 4]


def test_the_images_do_not_depend_on_the_chunk_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_contents(images(write_files(tmp_path, SMALL_TREE)))
    monkeypatch.setattr(image_folder, "DECODE_BATCH_BYTES", 1)
    assert len(list(images(tmp_path).snapshot().read().chunks)) == 5
    assert repr(read_contents(images(tmp_path))) == repr(whole)


def test_grey_images_have_one_channel_unless_one_image_is_in_colour(tmp_path: Path) -> None:
    grey = {name: plain_image(7, "L") for name in SORTED_NAMES}
    _, splits = read_contents(images(write_files(tmp_path / "grey", {**grey, "train/cat/z.png": plain_image(1, "1")})))
    assert splits["train"][0].shape == (4, 1, 2, 3)
    assert splits["train"][0][:, 0, 0, 0].tolist() == [7, 7, 7, 255]
    _, splits = read_contents(images(write_files(tmp_path / "mixed", {**grey, "test/cat/z.png": plain_image(9)})))
    assert splits["train"][0][:, :, 0, 0].tolist() == [[7, 7, 7]] * 3
    assert splits["test"][0][-1, :, 0, 0].tolist() == [9, 0, 0]


NO_IMAGE = "must be an image (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP), got something else"


WRONG: list[tuple[dict[str, bytes | None], str]] = [
    (
        {"test/cat/d.png": plain_image(4, size=(5, 4))},
        "test/cat/d.png in {} must be 3×2 pixels like train/ant/c.PNG, got 5×4",
    ),
    ({"test/cat/d.png": plain_image(4)[:-30]}, "test/cat/d.png in {} must be a whole image, got: "),
    (
        {"test/cat/d.png": b"text"},
        f"test/cat/d.png in {{}} {NO_IMAGE}",
    ),
    (
        {"train/ant/c.PNG": b""},
        f"train/ant/c.PNG in {{}} {NO_IMAGE}",
    ),
    (
        {"test/cat/d.png": plain_image(400, "I;16")},
        "test/cat/d.png in {} must have 8 bits a channel, got Pillow's mode I;16",
    ),
    (
        {"train/dog/f.png": plain_image(6), "test/cow/f.png": plain_image(6)},
        "every class in {} must have a training image, found none of cow",
    ),
    ({"train/f.png": plain_image(6)}, "expected train/CLASS/… and test/CLASS/… in {}, found train/f.png"),
]


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_an_error_names_the_image_and_the_rule_it_breaks(
    tmp_path: Path, form: str, changes: dict[str, bytes | None], message: str
) -> None:
    path = write_files(tmp_path / "folder", SMALL_TREE)
    write_files(path, {name: content for name, content in changes.items() if content is not None})
    for name in (name for name, content in changes.items() if content is None):
        (path / name).unlink()
    if form == "archive":
        names = [str(found.relative_to(path)) for found in path.rglob("*")]
        path = write_archive(tmp_path / "a.tar", path, names)
    with pytest.raises(UserError) as error:
        read_contents(images(path))
    assert str(error.value).startswith(message.format(path))
    assert "\n" not in str(error.value)


def test_the_test_fraction_is_in_the_fingerprint_only_where_it_matters(tmp_path: Path) -> None:
    one = write_files(tmp_path / "one", class_folders({"ant": 5, "bee": 5}))
    two = write_files(tmp_path / "two", SMALL_TREE)
    archive = write_archive(tmp_path / "a.tar", two, SORTED_NAMES)
    for path, matters in ((one, True), (archive, True), (two, False)):
        assert (images(path, 0.2).snapshot().fingerprint != images(path, 0.3).snapshot().fingerprint) == matters
    before = images(one).snapshot().fingerprint
    write_files(one, {"ant/more.png": plain_image(1)})
    assert images(one).snapshot().fingerprint != before


@pytest.mark.parametrize("test", [0.0, 1.0, -0.1, float("nan")])
def test_a_test_fraction_outside_0_to_1_is_an_error(tmp_path: Path, test: float) -> None:
    with pytest.raises(UserError, match=rf"^test must be greater than 0 and less than 1, got {test}$"):
        images(tmp_path, test)


@pytest.mark.parametrize("skip_broken", [False, True])
@pytest.mark.parametrize("change", ["rewritten", "touched", "removed", "replaced"])
@pytest.mark.parametrize("name", ["train/cat/a.png", "test/cat/d.png"])
def test_an_image_that_changes_before_it_is_read_is_an_error(
    tmp_path: Path, name: str, change: str, *, skip_broken: bool
) -> None:
    folder = write_files(tmp_path / "folder", SMALL_TREE)
    file = folder / name
    write_files(tmp_path, {"other.png": file.read_bytes()})
    os.utime(tmp_path / "other.png", ns=(0, file.stat().st_mtime_ns))
    seen = images(folder, skip_broken=skip_broken).snapshot()
    changes: dict[str, Callable[[], object]] = {
        "rewritten": lambda: file.write_bytes(file.read_bytes()),
        "touched": lambda: os.utime(file, ns=(0, 0)),
        "removed": file.unlink,
        "replaced": lambda: (tmp_path / "other.png").rename(file),
    }
    time.sleep(0.02)  # the clock of a file system may tick no oftener
    changes[change]()
    with pytest.raises(UserError) as error:
        list(seen.read().chunks)
    assert str(error.value) == f"{name} in {folder} changed while it was being read"


def test_new_images_and_changes_to_decoded_images_do_no_harm(tmp_path: Path) -> None:
    folder = write_files(tmp_path, SMALL_TREE)
    _, expected = read_contents(images(folder))
    seen = images(folder).snapshot()
    read = seen.read()
    write_files(folder, {"train/cat/new.png": plain_image(1)})
    first, *rest = read.chunks
    write_files(folder, {"train/cat/a.png": plain_image(1)})
    got = {examples.split: examples.labels.tolist() for examples in (first, *rest)}
    assert got == {split: labels.tolist() for split, (_, labels) in expected.items()}
    assert images(folder).snapshot().fingerprint != seen.fingerprint


@pytest.mark.parametrize("form", ["archive", "arrays"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, form: str) -> None:
    if form == "archive":
        path = write_archive(tmp_path / "a.tar", write_files(tmp_path / "folder", SMALL_TREE), SORTED_NAMES)
        seen = images(path).snapshot()
    else:
        path = tmp_path / "a.npz"
        pixels, labels = np.zeros((2, 4, 4), np.uint8), np.arange(2)
        np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
        seen = arrays(path).snapshot()
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError) as error:
        seen.read()
    assert str(error.value) == f"{path} changed while it was being read"
