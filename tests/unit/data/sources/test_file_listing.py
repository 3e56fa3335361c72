"""Tests of listings of image files: every change of the data changes them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fcnet.data.sources import images
from fcnet.runtime.errors import UserError
from tests.unit.data.sources.image_trees import (
    SMALL_TREE,
    SORTED_NAMES,
    plain_image,
    write_archive,
    write_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_every_change_to_a_folder_changes_its_fingerprint(tmp_path: Path) -> None:
    source = images(write_files(tmp_path, SMALL_TREE))
    seen = [source.snapshot().fingerprint]
    assert source.snapshot().fingerprint == seen[0]
    name = tmp_path / "train/cat/a.png"
    times = (name.stat().st_atime_ns, name.stat().st_mtime_ns)

    def same_size_and_time() -> None:
        name.write_bytes(plain_image(200, "RGB")[::-1])
        os.utime(name, ns=times)

    changes: list[Callable[[], object]] = [
        lambda: os.utime(name, ns=(0, 0)),
        lambda: name.write_bytes(b"longer" + name.read_bytes()),
        same_size_and_time,
        lambda: name.rename(name.with_name("other.png")),
        lambda: (tmp_path / "train/dog").mkdir(),
        lambda: (tmp_path / "test/cat/d.png").unlink(),
    ]
    for change in changes:
        change()
        seen.append(source.snapshot().fingerprint)
    assert len({repr(fingerprint) for fingerprint in seen}) == len(changes) + 1


def test_hidden_files_do_not_change_a_fingerprint(tmp_path: Path) -> None:
    before = images(write_files(tmp_path, SMALL_TREE)).snapshot().fingerprint
    write_files(tmp_path, {"train/cat/.DS_Store": b"x", "train/cat/notes.txt": b"x"})
    assert images(tmp_path).snapshot().fingerprint == before


def test_a_renamed_or_changed_archive_has_another_fingerprint(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", SMALL_TREE)
    archive = write_archive(tmp_path / "a.tar", folder, SORTED_NAMES)
    (tmp_path / "b.tar").hardlink_to(archive)
    seen = [images(path).snapshot().fingerprint for path in (archive, tmp_path / "b.tar", folder)]
    os.utime(archive, ns=(0, 0))
    seen.append(images(archive).snapshot().fingerprint)
    assert len({repr(fingerprint) for fingerprint in seen}) == 4
    assert images(archive).snapshot().fingerprint == images(archive).snapshot().fingerprint


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path}/nowhere: no such file or folder$"):
        images(tmp_path / "nowhere").snapshot()
