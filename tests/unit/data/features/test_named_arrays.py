"""Tests of files of named arrays: what is mapped, and what is said of a damaged file."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from fcnet.data.features.named_arrays import open_arrays
from fcnet.runtime.errors import UserError

X = np.arange(12, dtype=np.float32).reshape(4, 3)
MAPS = Path("/proc/self/maps")


def save_array(folder: Path) -> Path:
    np.save(folder / "x_train.npy", X)
    return folder


def save_tensor(folder: Path) -> Path:
    save_file({"x_train": torch.from_numpy(X)}, folder / "x.safetensors")
    return folder / "x.safetensors"


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not list mappings")
@pytest.mark.parametrize("save", [save_array, save_tensor])
def test_arrays_are_mapped_from_the_file(save: Any, tmp_path: Path) -> None:
    x = open_arrays(save(tmp_path)).read("x_train")
    assert isinstance(x, Tensor)
    assert str(tmp_path) in MAPS.read_text()
    assert_close(x, torch.from_numpy(X), rtol=0, atol=0)
    del x
    gc.collect()
    assert str(tmp_path) not in MAPS.read_text()


@pytest.mark.parametrize("save", [save_array, save_tensor])
def test_writing_to_an_array_does_not_change_the_file(save: Any, tmp_path: Path) -> None:
    arrays = open_arrays(save(tmp_path))
    x = arrays.read("x_train")
    assert isinstance(x, Tensor)
    x.zero_()
    again = arrays.read("x_train")
    assert isinstance(again, Tensor)
    assert_close(again, torch.from_numpy(X), rtol=0, atol=0)


def test_numbers_at_odd_places_of_a_file_are_read(tmp_path: Path) -> None:
    data = X.tobytes()
    entry = {"dtype": "F32", "shape": [4, 3], "data_offsets": [1, 1 + len(data)]}
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "x_train": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" + data)
    x = open_arrays(tmp_path / "x.safetensors").read("x_train")
    assert isinstance(x, Tensor)
    assert x.data_ptr() % 4 == 0
    assert_close(x, torch.from_numpy(X), rtol=0, atol=0)


def read_error(path: Path) -> str:
    with pytest.raises(UserError) as error:
        open_arrays(path).read("x_train")
    message = str(error.value)
    assert "\n" not in message
    return message.replace(str(path), path.name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npz", b"PK\x03\x04 and no more", "x.npz must be a whole NumPy archive (.npz), got: File is not a zip file"),
        ("x.safetensors", b"{}", "x.safetensors must be a whole safetensors file, got: "),
        ("x_train.npy", b"", "x_train.npy must be .npz, .safetensors, a folder of .npy files or a folder with train.p"),
        ("x_train.npy", b"", "; pass the folder that holds x_train.npy, y_train.npy, …"),
        ("train.parquet", b"", "; pass the folder that holds train.parquet and test.parquet"),
        ("x.csv", b"1,2", "x.csv must be .npz, .safetensors, a folder of .npy files or a folder with train.parquet"),
    ],
)
def test_a_file_of_another_kind_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in read_error(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert read_error(tmp_path / "x.npz") == "x.npz: no such file or folder"


def test_a_folder_without_arrays_says_what_it_holds(tmp_path: Path) -> None:
    expected = "must hold x_train.npy, y_train.npy, … or train.parquet and test.parquet, found"
    assert f"{expected} nothing" in read_error(tmp_path)
    (tmp_path / "cat").mkdir()
    assert f"{expected} cat" in read_error(tmp_path)
    (tmp_path / "x_train.npy").touch()
    (tmp_path / "train.parquet").touch()
    assert f"{expected} both" in read_error(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"\x80\x04pickled", b"PK\x03\x04"])
def test_a_damaged_array_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x_train.npy").write_bytes(content)
    assert "x_train.npy must be a whole NumPy array (.npy), got: " in read_error(tmp_path)


def test_a_cut_array_is_named(tmp_path: Path) -> None:
    file = save_array(tmp_path) / "x_train.npy"
    file.write_bytes(file.read_bytes()[:-4])
    assert "x_train.npy must be a whole NumPy array (.npy), got: " in read_error(tmp_path)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_python_objects_are_not_unpickled(suffix: str, tmp_path: Path) -> None:
    array: Any = np.array([print], dtype=object)
    if suffix == "npz":
        np.savez(tmp_path / "x.npz", x_train=array)
    else:
        np.save(tmp_path / "x_train.npy", array)
    assert "must be a whole NumPy" in read_error(tmp_path / "x.npz" if suffix == "npz" else tmp_path)


def test_a_damaged_member_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=X)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[data.index(X.tobytes()) + 5] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    assert "x.npz must be a whole NumPy archive (.npz), got: Bad CRC-32 for file 'x_train.npy'" in read_error(
        tmp_path / "x.npz"
    )


@pytest.mark.parametrize("text", ["no JSON", "[1, 2]", '{"a": 1}'])
def test_text_in_metadata_is_a_list_of_strings(text: str, tmp_path: Path) -> None:
    save_file({"x_train": torch.from_numpy(X)}, tmp_path / "x.safetensors", {"classes": text})
    with pytest.raises(UserError, match=r"classes in the metadata of .* must be a JSON list of strings, got") as error:
        open_arrays(tmp_path / "x.safetensors").read("classes")
    assert text in str(error.value)


def test_lines_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (save_array(tmp_path) / "paths_train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"paths_train\.txt must be text in UTF-8"):
        open_arrays(tmp_path).read("paths_train")
