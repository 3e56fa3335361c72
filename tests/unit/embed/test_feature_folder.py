"""Folders of features: whole or not there, and resumed after the last batch whose bytes are whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fcnet.embed.feature_folder import (
    FeatureBatch,
    FeatureFolder,
    check_output_folder,
    first_difference,
    read_recipe,
    unfinished_folder,
)
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_json, sha256
from tests.helpers import flip_bit, read_tree

if TYPE_CHECKING:
    from pathlib import Path

    from fcnet.data.sources.source import SplitName

COUNTS: dict[SplitName, int] = {"train": 5, "test": 3}
RECIPE = {"backbone": {"name": "net", "mean": (0.5,)}, "batch_size": 2}
DRAWS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def make_batch(split: SplitName, start: int, stop: int, *skipped: int) -> FeatureBatch:
    rows = [row for row in range(start, stop) if row not in skipped]
    paths = [f"{split}/a/{row}.png" for row in rows]
    broken = [(f"{split}/a/{row}.png", "is broken") for row in skipped]
    return FeatureBatch(split, DRAWS[rows], np.array(rows, np.int64) % 2, paths, broken, f"{split}{stop}")


BATCHES = [
    make_batch("train", 0, 2),
    make_batch("train", 2, 4),
    make_batch("train", 4, 5),
    make_batch("test", 0, 2),
    make_batch("test", 2, 3),
]


def open_folder(path: Path, **changes: Any) -> FeatureFolder:
    folder = FeatureFolder(path, RECIPE | changes, COUNTS, 3)
    folder.start()
    return folder


def write(path: Path, batches: list[FeatureBatch] = BATCHES) -> dict[str, bytes | None]:
    folder = open_folder(path)
    for batch in batches:
        folder.append(batch)
    folder.finish(("a", "köttur"), RECIPE)
    return read_tree(path)


def test_the_folder_holds_arrays_classes_paths_and_what_made_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = write(out)
    assert set(files) == {
        *("x_train.npy", "y_train.npy", "paths_train.txt", "x_test.npy", "y_test.npy", "paths_test.txt"),
        *("classes.npy", "metadata.json"),
    }
    x, y = np.load(out / "x_train.npy", mmap_mode="r"), np.load(out / "y_train.npy")
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert np.array_equal(x, DRAWS[:5])
    assert y.tolist() == [0, 1, 0, 1, 0]
    assert np.array_equal(np.load(out / "x_test.npy"), DRAWS[:3])
    assert (out / "paths_test.txt").read_text() == "test/a/0.png\ntest/a/1.png\ntest/a/2.png\n"
    assert np.load(out / "classes.npy").tolist() == ["a", "köttur"]
    metadata = read_json(out / "metadata.json")
    assert metadata["images"] == COUNTS
    assert (metadata["features"], metadata["pixels_sha256"], metadata["skipped"]) == (3, "test3", [])
    assert metadata["files"] == {name: sha256(out / name) for name in files if name != "metadata.json"}
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_nothing_appears_before_the_end(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out")
    for batch in BATCHES:
        folder.append(batch)
        assert not (tmp_path / "out").exists()


def test_skipped_images_shorten_the_arrays(tmp_path: Path) -> None:
    batches = [make_batch("train", 0, 2, 1), make_batch("train", 2, 4, 2, 3), make_batch("train", 4, 5), *BATCHES[3:]]
    write(tmp_path / "out", batches)
    assert np.array_equal(np.load(tmp_path / "out/x_train.npy"), DRAWS[[0, 4]])
    assert np.load(tmp_path / "out/y_train.npy").tolist() == [0, 0]
    assert (tmp_path / "out/paths_train.txt").read_text() == "train/a/0.png\ntrain/a/4.png\n"
    metadata = read_json(tmp_path / "out/metadata.json")
    assert metadata["images"] == {"train": 2, "test": 3}
    assert [name for name, _ in metadata["skipped"]] == [f"train/a/{row}.png" for row in (1, 2, 3)]


def test_images_without_paths_have_no_file_of_paths(tmp_path: Path) -> None:
    files = write(tmp_path / "out", [batch._replace(paths=[]) for batch in BATCHES])
    assert not [name for name in files if name.startswith("paths")]


def test_a_path_of_several_lines_stays_on_one(tmp_path: Path) -> None:
    batches = [BATCHES[0]._replace(paths=["a\nb", "c\u2028d\udcff"]), *BATCHES[1:]]
    write(tmp_path / "out", batches)
    lines = (tmp_path / "out/paths_train.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["a\\nb", "c\\u2028d\\udcff"]
    assert len(lines) == 5


@pytest.mark.parametrize("num_batches", range(6))
@pytest.mark.parametrize("damage", ["none", "more", "less", "bit", "journal"])
def test_resuming_gives_the_same_bytes_whatever_was_written_last(tmp_path: Path, num_batches: int, damage: str) -> None:
    whole = write(tmp_path / "whole")
    out = tmp_path / "out"
    folder = open_folder(out)
    for batch in BATCHES[:num_batches]:
        folder.append(batch)
    unfinished = unfinished_folder(out)
    split = "test" if num_batches > 3 else "train"
    if damage == "more":
        for name in (f"x_{split}.npy", f"paths_{split}.txt"):
            with (unfinished / name).open("ab") as file:
                file.write(b"half a batch")
    elif damage == "less" and num_batches:
        file_size = (unfinished / f"x_{split}.npy").stat().st_size
        with (unfinished / f"x_{split}.npy").open("r+b") as file:
            file.truncate(file_size - 1)
    elif damage == "bit" and num_batches:
        flip_bit(unfinished / f"x_{split}.npy", 0.999)
    elif damage == "journal":
        content = (unfinished / "journal").read_bytes()
        (unfinished / "journal").write_bytes(content[:-5])
    expected = max(num_batches - (damage in {"less", "bit", "journal"}), 0)
    resumed = open_folder(out)
    assert sum(resumed.num_done.values()) == sum(len(batch.labels) for batch in BATCHES[:expected])
    for batch in BATCHES[expected:]:
        resumed.append(batch)
    resumed.finish(("a", "köttur"), RECIPE)
    assert read_tree(out) == whole


def test_features_of_another_recipe_are_not_resumed(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out")
    folder.append(BATCHES[0])
    before = read_tree(tmp_path)
    with pytest.raises(UserError, match=r"\.out\.unfinished were made with backbone\.name net, got other; remove"):
        open_folder(tmp_path / "out", backbone={"name": "other", "mean": (0.5,)})
    assert read_tree(tmp_path) == before


def test_an_output_folder_is_checked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not check_output_folder(out, resume=False)
    out.mkdir()
    assert not check_output_folder(out, resume=False)
    (out / "notes.txt").touch()
    for resume in (False, True):
        with pytest.raises(UserError, match=r"--out: \S+out already exists and is not empty$"):
            check_output_folder(out, resume=resume)
    with pytest.raises(UserError, match=r"--out must be a folder, got the file \S+notes\.txt"):
        check_output_folder(out / "notes.txt", resume=False)
    folder = open_folder(tmp_path / "new")
    folder.append(BATCHES[0])
    with pytest.raises(UserError, match=r"\.new\.unfinished holds the features of 2 images from an interrupted"):
        check_output_folder(tmp_path / "new", resume=False)
    assert not check_output_folder(tmp_path / "new", resume=True)
    write(tmp_path / "whole")
    assert check_output_folder(tmp_path / "whole", resume=True)


def test_the_recipe_is_read_of_finished_and_unfinished_features(tmp_path: Path) -> None:
    assert read_recipe(tmp_path / "out") == {}
    open_folder(tmp_path / "out")
    assert read_recipe(tmp_path / "out")["batch_size"] == 2
    write(tmp_path / "whole")
    assert read_recipe(tmp_path / "whole")["batch_size"] == 2


def test_the_first_difference_is_named_by_its_key() -> None:
    assert first_difference({"a": 1, "b": [1]}, {"a": 1, "b": (1,)}, ["a", "b"]) == ""
    assert first_difference({"a": 1}, {}, ["a"]) == "a 1, got None"
    assert first_difference({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, ["a"]) == "a.b.c 1, got 2"
