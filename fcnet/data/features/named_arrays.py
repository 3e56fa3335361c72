"""Files of named arrays in one form: ``.npz``, ``.safetensors``, a folder of ``.npy`` files, or a folder of Parquet.

An array is read when it is asked for. Arrays of ``.npy`` and ``.safetensors`` files are mapped into memory: pages are
read on first use, processes share them, and the system drops them when memory is short.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fcnet.data.decoding.image_decoding import check_file_type
from fcnet.data.features.parquet import parquet_columns
from fcnet.data.sources.npz import READ_ERRORS, SUFFIXES, is_npz, read_array, read_headers
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    AnyArray: TypeAlias = "Tensor | npt.NDArray[Any]"

_KINDS = ".npz, .safetensors, a folder of .npy files or a folder with train.parquet and test.parquet"
_TEXT_NAMES = {
    "classes",
    *(f"{kind}_{suffix}" for kind in ("y", "paths") for each in SUFFIXES.values() for suffix in each),
}
_REMEDY = "save each array as a .npy file in one folder, which is mapped instead of read"


@dataclass(frozen=True)
class NamedArrays:
    """The arrays of a file or folder.

    Attributes:
        path: the file or folder.
        readers: reads each array, by its name; an array of numbers may be a tensor.
        labels: what an array is called in errors, where that is not its name.
    """

    path: Path
    readers: Mapping[str, Callable[[], AnyArray]]
    labels: Mapping[str, str]

    def label(self, name: str) -> str:
        """Returns what an array is called in errors."""
        return self.labels.get(name, name)

    def read(self, name: str) -> AnyArray:
        """Reads or maps an array.

        Raises:
            UserError: it is damaged, holds Python objects, or does not fit in memory.
        """
        return self.readers[name]()


def open_arrays(path: Path, *, feature_column: str = "embedding", label_column: str = "label") -> NamedArrays:
    """Opens a file or folder of named arrays, and reads none of them.

    Args:
        path: the file, or the folder.
        feature_column: the column of a Parquet file that becomes the array ``x_…``.
        label_column: the column that becomes ``y_…``.

    Raises:
        UserError: there is no such file, or it is damaged or of another kind.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/x_train.npy", np.ones((3, 2), np.float16))
        ...     arrays = open_arrays(Path(folder))
        ...     arrays.read("x_train")
        tensor([[1., 1.],
                [1., 1.],
                [1., 1.]], dtype=torch.float16)
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        return _open_folder(path, feature_column, label_column)
    check_file_type(path.stat(), str(path))
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix == ".npz" or is_npz(path):
        return _open_npz(path)
    advice = ""
    if path.suffix in (".npy", ".parquet"):
        names = "x_train.npy, y_train.npy, …" if path.suffix == ".npy" else "train.parquet and test.parquet"
        advice = f"; pass the folder that holds {names}"
    raise UserError(f"{path} must be {_KINDS}{advice}")


def read_npy(file: Path) -> AnyArray:
    """Maps an ``.npy`` file: numbers as a tensor, text as an array.

    Raises:
        UserError: it is no whole ``.npy`` file, or holds Python objects.
    """
    try:
        try:
            return share_array(np.lib.format.open_memmap(file, mode="c"))
        except ValueError:  # an empty array cannot be mapped
            with file.open("rb") as opened:
                return share_array(np.lib.format.read_array(opened, allow_pickle=False))
    except (*READ_ERRORS, SyntaxError, TypeError, LookupError) as error:
        raise UserError(f"{file} must be a whole NumPy array (.npy), got: {' '.join(str(error).split())}") from error


def share_array(array: npt.NDArray[Any]) -> AnyArray:
    """Returns floating numbers as a tensor, in the memory of the array where its layout allows that."""
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        return array
    # A tensor has the byte order of the machine, and numbers at multiples of their size.
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["A", "W"]))


def _open_npz(path: Path) -> NamedArrays:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except READ_ERRORS as error:
        raise _damaged(path, "NumPy archive (.npz)", error) from error
    return NamedArrays(path, {name: partial(_read_member, path, name) for name in names}, {})


def _read_member(path: Path, name: str) -> AnyArray:
    # Read, even if stored without compression: nothing in an archive begins at a multiple of its numbers' size.
    try:
        with zipfile.ZipFile(path) as archive:
            read_headers(path, archive, [name], _REMEDY)
            return share_array(read_array(archive, name))
    except UserError:
        raise
    except READ_ERRORS as error:
        raise _damaged(path, "NumPy archive (.npz)", error) from error


def _open_safetensors(path: Path) -> NamedArrays:
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor if tensor.data_ptr() % tensor.element_size() == 0 else tensor.clone()

    try:
        with safe_open(path, framework="pt") as file:
            readers: dict[str, Callable[[], AnyArray]] = {name: partial(read, name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, "safetensors file", error) from error
    # The format holds numbers alone; its metadata may hold text.
    for name in _TEXT_NAMES & metadata.keys() - readers.keys():
        readers[name] = partial(_parse_names, path, name, metadata[name])
    return NamedArrays(path, readers, {})


def _parse_names(path: Path, name: str, text: str) -> npt.NDArray[np.str_]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise UserError(f"{name} in the metadata of {path} must be a JSON list of strings, got {text[:40]}")
    return np.array(names, dtype=np.str_)


def _open_folder(path: Path, feature_column: str, label_column: str) -> NamedArrays:
    files = {file.name: file for file in sorted(path.iterdir())}
    tables = {
        split: files[f"{suffix}.parquet"]
        for split, suffixes in SUFFIXES.items()
        for suffix in suffixes
        if f"{suffix}.parquet" in files
    }
    arrays = [file for name, file in files.items() if name.endswith(".npy")]
    if tables and not arrays:
        columns = {
            name: column
            for split, file in tables.items()
            for name, column in parquet_columns(file, split, feature_column, label_column).items()
        }
        labels = {name: f"{column.name} of {column.file.name}" for name, column in columns.items()}
        return NamedArrays(path, {name: column.read for name, column in columns.items()}, labels)
    if not arrays or tables:
        found = "both" if tables else ", ".join(list(files)[:5]) or "nothing"
        raise UserError(
            f"{path} must hold x_train.npy, y_train.npy, … or train.parquet and test.parquet, found {found}"
        )
    readers: dict[str, Callable[[], AnyArray]] = {file.stem: partial(read_npy, file) for file in arrays}
    for file in files.values():
        if file.suffix == ".txt" and file.stem not in readers:
            readers[file.stem] = partial(_read_lines, file)
    return NamedArrays(path, readers, {})


def _read_lines(file: Path) -> npt.NDArray[np.str_]:
    try:
        return np.array(file.read_text(encoding="utf-8").splitlines(), dtype=np.str_)
    except UnicodeDecodeError:
        raise UserError(f"{file} must be text in UTF-8") from None


def _damaged(path: Path, kind: str, error: Exception) -> UserError:
    return UserError(f"{path} must be a whole {kind}, got: {' '.join(str(error).split())}")
