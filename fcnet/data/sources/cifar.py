"""The CIFAR-10 and CIFAR-100 sources, which torchvision verifies and reads. They download if files are missing.

N images of 3 channels, 32 rows and 32 columns.
"""

from __future__ import annotations

import contextlib
import errno
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fcnet.data.sources.download import download, md5_matches
from fcnet.data.sources.source import Contents, SourceSnapshot, split_into_chunks
from fcnet.runtime.errors import UserError
from fcnet.runtime.locks import file_lock

if TYPE_CHECKING:
    from pathlib import Path

    from fcnet.data.sources.source import Source, SplitArrays, SplitName

CifarName: TypeAlias = Literal["cifar10", "cifar100"]
_SPLITS: tuple[SplitName, ...] = ("train", "test")
_TITLES: dict[CifarName, str] = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def cifar10(path: Path, *, download: bool = True) -> Source:
    """Returns CIFAR-10.

    Args:
        path: the folder of ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz``, or the folder to download them to.
            Existing files are used if their checksums match; see `read_cifar`.
        download: whether to download missing files.
    """
    return _Cifar(path, "cifar10", download)


def cifar100(path: Path, *, download: bool = True) -> Source:
    """Returns CIFAR-100 with its 100 fine labels.

    Args:
        path: the folder of ``cifar-100-python`` or ``cifar-100-python.tar.gz``, or the folder to download them to.
            Existing files are used if their checksums match; see `read_cifar`.
        download: whether to download missing files.
    """
    return _Cifar(path, "cifar100", download)


@dataclass(frozen=True)
class _Cifar:
    path: Path
    name: CifarName
    download: bool

    def snapshot(self) -> SourceSnapshot:
        # The checksums determine the contents. The path only separates the copies that different users asked for.
        return SourceSnapshot({"kind": self.name, "path": str(self.path.resolve())}, self._read)

    def _read(self) -> Contents:
        classes, splits = read_cifar(self.path, self.name, download=self.download)
        return Contents(classes, split_into_chunks(splits))


def read_cifar(
    path: Path, name: CifarName, *, download: bool = True
) -> tuple[tuple[str, ...], dict[SplitName, SplitArrays]]:
    """Reads CIFAR-10 or CIFAR-100, and downloads the archive first if it is missing.

    Every file is checked against torchvision's checksum before it is unpickled. If the unpacked files are complete,
    nothing is written. If several processes need the download, one downloads and unpacks while the others wait.

    Args:
        path: the folder of the archive or of the unpacked files.
        name: the data set; CIFAR-100 has its fine labels.
        download: whether to download missing files.

    Returns:
        The class names, and for each split the pixels (N, 3, 32, 32) and labels (N,).

    Raises:
        UserError: the data is missing, and must not be downloaded or the download failed.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset: Any = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    title = _TITLES[name]
    if path.is_file():
        raise UserError(
            f"data.path must be a folder with {title}, or to download it to, got the file {path}; "
            "an archive of images needs data.source=images"
        )
    try:
        parts = _load_verified(dataset, path) or _unpack_and_load(dataset, path, may_download=download)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        if isinstance(error, ConnectionError):
            remedy = f"connect to the network, or put a whole {dataset.filename} there"
        elif isinstance(error, FileNotFoundError) or not isinstance(error, OSError):
            remedy = f"put a whole {dataset.filename} there"
        else:
            remedy = "name another folder"
        # Without a download, the path was given to a command that has no data.path.
        rule = f"data.path must be a folder with {title}, or to download it to, got {path}"
        raise UserError(f"{rule if download else f'{path} must hold a whole {title}'}: {reason}; {remedy}") from error
    return tuple(parts[0].classes), {
        split: (part.data.transpose(0, 3, 1, 2), np.array(part.targets, dtype=np.int64))
        for split, part in zip(_SPLITS, parts, strict=True)
    }


def _load_verified(dataset: Any, path: Path) -> list[Any]:  # noqa: ANN401 - a class of torchvision's
    """Loads both splits from unpacked files; returns an empty list if one is missing or has another checksum."""
    with contextlib.suppress(RuntimeError):
        return [dataset(path, train=split == "train") for split in _SPLITS]
    return []


def _unpack_and_load(dataset: Any, path: Path, *, may_download: bool) -> list[Any]:  # noqa: ANN401 - a class of torchvision's
    """Unpacks the archive, downloads it first unless it is there and whole, and loads both splits."""
    path.mkdir(parents=True, exist_ok=True)
    archive = path / dataset.filename
    with file_lock(archive):
        # Another process may have unpacked it while this one waited for the lock.
        if parts := _load_verified(dataset, path):
            return parts
        if not md5_matches(archive, dataset.tgz_md5):
            if not may_download:
                raise FileNotFoundError(errno.ENOENT, "files are missing or damaged")
            download(dataset.url, archive, dataset.tgz_md5)
        with tarfile.open(archive) as unpacking:
            unpacking.extraction_filter = getattr(tarfile, "data_filter", None)  # missing in Python 3.11.3 and older
            unpacking.extractall(path)
        return [dataset(path, train=split == "train") for split in _SPLITS]
