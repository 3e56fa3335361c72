"""Tests of features in Parquet files."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fcnet.data.features import open_features
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

X = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
Y = [0, 1, 2] * 3


def write_tables(
    folder: Path, *, x: Any = None, y: Any = None, names: tuple[str, str] = ("embedding", "label")
) -> Path:
    """Writes a train and a test split, in row groups of four."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {names[0]: list(X) if x is None else x, names[1]: Y if y is None else y}
    for split in ("train", "test"):
        parquet.write_table(pa.table(columns), folder / f"{split}.parquet", row_group_size=4)
    return folder


def read_error(path: Path) -> str:
    with pytest.raises(UserError) as error:
        open_features(path)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(f"{path}/", "")


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("container", ["list_", "large_list", "fixed"])
def test_vectors_of_any_list_type_and_dtype_are_read(kind: str, container: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    element = getattr(pa, kind)()
    list_type = pa.list_(element, 3) if container == "fixed" else getattr(pa, container)(element)
    features = open_features(write_tables(tmp_path, x=pa.array(list(X.astype(kind)), list_type)))
    assert_close(features.train.x, torch.from_numpy(X.astype(kind)), rtol=0, atol=0)
    assert features.train.y.tolist() == Y


def test_columns_have_the_names_that_are_given(tmp_path: Path) -> None:
    path = write_tables(tmp_path, names=("clip", "animal"))
    assert open_features(path, feature_column="clip", label_column="animal").num_features == 3
    assert read_error(path) == "data.feature_column must be a column of train.parquet (clip, animal), got embedding"


def test_labels_may_be_categories(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    labels = pa.array(["cat", "dog", "cow"] * 3).dictionary_encode()
    assert open_features(write_tables(tmp_path, y=labels)).classes == ("cat", "cow", "dog")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [[1.0, 2.0]] * 6 + [[1.0]] * 3}, "vectors of one length, got 2 and 1 in row 6"),
        ({"x": [[1.0, None]] * 9}, "embedding in train.parquet must have a number in each place, found nulls"),
        ({"x": [None, *X[1:]]}, "embedding in train.parquet must have a number in each place, found nulls"),
        ({"x": [1.0] * 9}, "must be a column of lists of floating numbers, got double; data.feature_column names the"),
        ({"x": [["a"]] * 9}, "must be a column of lists of floating numbers, got list<"),
        ({"y": [None, *Y[1:]]}, "label in train.parquet must have a value in each row, found 1 null"),
        ({"x": [[np.nan, 1.0]] * 9}, "embedding of train.parquet in "),
    ],
)
def test_a_mistake_is_one_line(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in read_error(write_tables(tmp_path, **columns))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (write_tables(tmp_path) / "train.parquet").write_bytes(b"PAR1")
    assert "train.parquet must be a whole Parquet file, got: " in read_error(tmp_path)


def test_without_pyarrow_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.parquet").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert read_error(tmp_path) == "train.parquet needs the pyarrow package: pip install pyarrow"
