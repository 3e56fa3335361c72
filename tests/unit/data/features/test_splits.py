"""Tests of the splits of a file of features: all formats hold the same data, and each mistake is one line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from fcnet.data.features import checks, open_features
from fcnet.data.sources.source import iter_slices
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

X = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
Y = np.array([3, 1, 2, 3, 1, 2, 3])
PATHS = np.array([f"train/{row}.png" for row in range(7)])
ARRAYS: dict[str, Any] = {
    "x_train": X,
    "y_train": Y,
    "paths_train": PATHS,
    "x_validation": X[2:5],
    "y_validation": Y[2:5],
    "x_test": X[:4],
    "y_test": Y[:4],
}


def save_npz(folder: Path, **arrays: npt.NDArray[Any] | None) -> Path:
    """Writes `ARRAYS` with some of them changed; None removes one."""
    np.savez(folder / "x.npz", **{name: array for name, array in (ARRAYS | arrays).items() if array is not None})
    return folder / "x.npz"


def save_compressed(folder: Path) -> Path:
    np.savez_compressed(folder / "compressed.npz", **ARRAYS)
    return folder / "compressed.npz"


def save_npy(folder: Path) -> Path:
    path = folder / "arrays"
    path.mkdir()
    for name, array in ARRAYS.items():
        np.save(path / f"{name}.npy", array)
    return path


def save_npy_with_lines(folder: Path) -> Path:
    path = save_npy(folder)
    (path / "paths_train.npy").unlink()
    (path / "paths_train.txt").write_text("".join(f"{name}\n" for name in PATHS))
    return path


def save_safetensors(folder: Path) -> Path:
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items() if array.dtype.kind != "U"}
    save_file(tensors, folder / "x.safetensors", {"paths_train": json.dumps(PATHS.tolist())})
    return folder / "x.safetensors"


def save_parquet(folder: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = folder / "tables"
    path.mkdir()
    for split in ("train", "validation", "test"):
        columns = {"embedding": list(ARRAYS[f"x_{split}"]), "label": ARRAYS[f"y_{split}"]}
        if split == "train":
            columns["path"] = PATHS
        parquet.write_table(pa.table(columns), path / f"{split}.parquet")
    return path


@pytest.mark.parametrize(
    "save", [save_npz, save_compressed, save_npy, save_npy_with_lines, save_safetensors, save_parquet]
)
def test_every_format_holds_the_same_data(save: Any, tmp_path: Path) -> None:
    features = open_features(save(tmp_path))
    assert features.classes == ("1", "2", "3")
    assert features.notes == ("labels are 1, 2, 3: classes are named after them",)
    assert features.num_features == 3
    for split, rows in (("train", slice(0, 7)), ("validation", slice(2, 5)), ("test", slice(0, 4))):
        opened = features.splits[split]  # type: ignore[index]
        assert_close(opened.x, torch.from_numpy(X[rows]), rtol=0, atol=0)
        assert opened.y.tolist() == (Y[rows] - 1).tolist()
    assert list(features.train.names or ()) == PATHS.tolist()
    assert features.validation is not None
    assert features.test is not None
    assert features.test.names is None
    assert features.fingerprint == open_features(save_npz(tmp_path)).fingerprint


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    fingerprints = {
        open_features(save_npz(tmp_path, **changed)).fingerprint
        for changed in (
            {},
            {"x_train": X + np.eye(7, 3, dtype=np.float32) * 1e-6},
            {"x_test": X[:4] * 2},
            {"x_train": X.astype(np.float64)},
            {"y_train": Y[::-1].copy()},
            {"classes": np.array(["a", "b", "c"])},
        )
    }
    assert len(fingerprints) == 6


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_features_keep_their_dtype(dtype: Any, tmp_path: Path) -> None:
    x = X.astype(dtype)
    opened = open_features(save_npz(tmp_path, x_train=x)).train.x
    assert opened.dtype == torch.from_numpy(x.astype(x.dtype.newbyteorder("="))).dtype
    np.testing.assert_array_equal(opened.numpy(), x)


def test_safetensors_keep_bfloat16(tmp_path: Path) -> None:
    x, y = torch.from_numpy(X).bfloat16(), torch.from_numpy(Y)
    file = tmp_path / "x.safetensors"
    save_file({"x_train": x, "y_train": y, "x_test": x.clone(), "y_test": y.clone()}, file)
    assert_close(open_features(file).train.x, x, rtol=0, atol=0)


def test_the_order_in_memory_does_not_matter(tmp_path: Path) -> None:
    path = save_npy(tmp_path)
    fingerprint = open_features(path).fingerprint
    np.save(path / "x_train.npy", np.asfortranarray(X))
    features = open_features(path)
    assert_close(features.train.x, torch.from_numpy(X), rtol=0, atol=0)
    assert features.fingerprint == fingerprint


def test_labels_may_be_text_in_any_format(tmp_path: Path) -> None:
    names = np.array(["a", "köttur", "猫"])[Y - 1]
    arrays = {"y_train": names, "y_validation": names[2:5], "y_test": names[:4]}
    from_npz = open_features(save_npz(tmp_path, **arrays))
    assert from_npz.classes == ("a", "köttur", "猫")
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items() if name.startswith("x_")}
    save_file(tensors, tmp_path / "x.safetensors", {name: json.dumps(array.tolist()) for name, array in arrays.items()})
    assert open_features(tmp_path / "x.safetensors").fingerprint == from_npz.fingerprint


def test_class_names_may_be_given(tmp_path: Path) -> None:
    features = open_features(save_npz(tmp_path, classes=np.array(["one", "two", "three"])))
    assert features.classes == ("one", "two", "three")
    assert features.notes == ("labels are 1, 2, 3: classes names them in this order",)


def test_some_splits_may_be_asked_for(tmp_path: Path) -> None:
    path = save_npz(tmp_path, x_validation=None, y_validation=None, x_val=X[:2], y_val=Y[:2])
    features = open_features(path)
    assert features.validation is not None
    assert len(features.validation.x) == 2
    assert list(open_features(path, splits=("test",)).splits) == ["test"]
    path = save_npz(tmp_path, x_test=None, y_test=None, z=X)
    features = open_features(path, optional=("validation", "test"))
    assert features.test is None
    assert "not used: 1 array of another name (z)" in features.notes


def read_error(path: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        open_features(path, **arguments)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(str(path), path.name)


def with_value(value: float, row: int, dtype: Any = np.float32) -> npt.NDArray[Any]:
    x = X.astype(dtype)
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": with_value(np.nan, 5)}, "x_train in x.npz must hold finite numbers, got NaN in row 5"),
        (
            {"x_test": with_value(-np.inf, 2, np.float16)[:4]},
            "x_test in x.npz must hold finite numbers, got infinity in row 2",
        ),
        ({"x_train": X.reshape(7, 3, 1, 1)}, "must be features (N, D), got the shape (7, 3, 1, 1); flatten each"),
        ({"x_train": X[:, 0]}, "x_train in x.npz must be features (N, D), got the shape (7,)"),
        ({"x_train": np.zeros((7, 8, 8), np.uint8)}, 'got the shape (7, 8, 8); for images set data.source = "arrays"'),
        ({"x_train": X.astype(int)}, 'must be float16, bfloat16, float32 or float64, got int64; save x.astype("float'),
        ({"x_train": X.astype(str)}, "x_train in x.npz must be float16, bfloat16, float32 or float64, got <U"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "must hold at least one example and one feature, got the shape (0, 3)"),
        ({"x_test": X[:4, :2]}, "expected x_train and x_test with one number of features in x.npz, got 3 and 2"),
        ({"y_test": Y[:3]}, "expected x_test (N, D) and y_test (N,) with one N in x.npz, got 4 examples and (3,)"),
        ({"y_train": np.eye(7)}, "got 7 examples and (7, 7); if y_train is one-hot, save y_train.argmax(1)"),
        ({"y_train": Y + 0.5}, "y_train in x.npz must be whole numbers or class names, got 1.5"),
        ({"y_train": Y + 0j}, "y_train in x.npz must be whole numbers or class names, got complex128"),
        ({"y_test": Y[:4] + 9}, "every class in x.npz must have a training example, found none of 10, 11, 12"),
        ({"y_test": np.array(list("abca"))}, "must be numbers in all splits or class names in all splits, got both"),
        (
            {"y_train": Y * 0, "y_validation": Y[:3] * 0, "y_test": Y[:4] * 0},
            "must hold examples of at least two classes, found only 0",
        ),
        ({"x_train": None}, "x.npz must hold x_train and y_train, found no x_train"),
        (
            {"x_test": None, "y_test": None},
            "x.npz must hold x_train, y_train, x_test and y_test, found paths_train, x_train, x_validation, y_train, y",
        ),
        ({"x_val": X, "y_val": Y}, "x.npz must have one validation split, found both validation and val"),
        ({"paths_train": PATHS[:5]}, "paths_train in x.npz must be (7,) strings, got <U11 (5,)"),
        ({"classes": np.array(["a", "b"])}, "classes in x.npz must name the 3 labels 1, 2, 3, got 2 names"),
    ],
)
def test_a_mistake_is_one_line(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in read_error(save_npz(tmp_path, **arrays))


def test_the_first_row_that_is_not_finite_is_named_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "iter_slices", lambda count, size: iter_slices(count, size, chunk_bytes=24))
    path = save_npz(tmp_path)
    blockwise = open_features(path).train.x
    assert_close(blockwise, torch.from_numpy(X), rtol=0, atol=0)
    x = with_value(np.nan, 4)
    x[6] = np.inf
    assert "got NaN in row 4" in read_error(save_npz(tmp_path, x_train=x))


def test_bfloat16_of_numpy_is_refused_with_what_to_do(tmp_path: Path) -> None:
    message = read_error(save_npz(tmp_path, x_train=X.astype(np.float16).view("V2")))
    assert "got |V2; NumPy's files have no bfloat16, save a .safetensors file" in message
