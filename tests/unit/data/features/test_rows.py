"""Tests of vectors of features without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from fcnet.data.features.rows import read_feature_rows
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

X = np.arange(6, dtype=np.float32).reshape(2, 3)
NAMES = np.array(["a.png", "b.png"])


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"x": X, "paths": NAMES, "other": X[:1]}, ["a.png", "b.png"]),
        ({"x_test": X, "y_test": NAMES, "paths_test": NAMES, "x_train": X[:1]}, ["a.png", "b.png"]),
        ({"embedding": X}, None),
    ],
)
def test_the_array_is_found_by_its_name(arrays: dict[str, Any], names: list[str] | None, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", **arrays)
    rows = read_feature_rows(tmp_path / "new.npz", 3)
    assert_close(rows.x, torch.from_numpy(X), rtol=0, atol=0)
    assert (None if rows.names is None else list(rows.names)) == names


def test_npy_and_safetensors_files_are_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "new.npy", X)
    save_file({"x": torch.from_numpy(X).bfloat16()}, tmp_path / "new.safetensors")
    assert_close(read_feature_rows(tmp_path / "new.npy", 3).x, torch.from_numpy(X), rtol=0, atol=0)
    assert read_feature_rows(tmp_path / "new.safetensors", 3).x.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": X, "b": X}, "new.npz must hold an array x (N, D), found a, b"),
        ({"x": X[:, :2]}, "x in new.npz must be features (N, 3) for this model, got (2, 2)"),
        ({"x": X.astype(int)}, "x in new.npz must be float16, bfloat16, float32 or float64, got int64"),
        ({"x": np.array([[np.nan, 0.0, 0.0]], np.float32)}, "x in new.npz must hold finite numbers, got NaN in row 0"),
        ({"x": X, "paths": NAMES[:1]}, "paths in new.npz must be (2,) strings"),
        ({}, "new.npz must hold an array x (N, D), found no arrays"),
    ],
)
def test_a_mistake_is_one_line(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", **arrays)
    with pytest.raises(UserError) as error:
        read_feature_rows(tmp_path / "new.npz", 3)
    assert message in str(error.value).replace(f"{tmp_path}/", "")
