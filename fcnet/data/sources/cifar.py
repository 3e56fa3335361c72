"""CIFAR-10 and CIFAR-100: downloaded unless they are there, verified and read by torchvision.

N images of 3 channels, 32 rows and 32 columns.
"""

from __future__ import annotations

import contextlib
import tarfile
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fcnet.data.sources.download import download, md5_matches
from fcnet.data.sources.image_folder import SPLITS, SplitName
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import file_lock

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

CifarName: TypeAlias = Literal["cifar10", "cifar100"]
_TITLES: dict[CifarName, str] = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def read_cifar(
    path: Path, name: CifarName
) -> tuple[tuple[str, ...], dict[SplitName, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]]:
    """Reads one of the two sets, which is downloaded first unless it is there.

    All that is read has torchvision's checksums, and had them before it was unpickled. Where the
    unpacked files are whole nothing is written. Of several processes that miss them one downloads
    and unpacks, and the others wait.

    Args:
        path: the folder in which the archive or the unpacked files are, or into which they are put.
        name: which set; the labels of CIFAR-100 are the fine ones.

    Returns:
        The class names, and for each split pixels (N, 3, 32, 32) and labels (N,).

    Raises:
        UserError: the set is not there and cannot be had.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset: Any = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    try:
        parts = _load_verified(dataset, path) or _download_and_load(dataset, path)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(
            f"data.path must be a folder with {_TITLES[name]}, or to download it to, got {path}: "
            f"connect to the network, or put a whole {dataset.filename} there; what went wrong: {reason}"
        ) from error
    return tuple(parts[0].classes), {
        split: (part.data.transpose(0, 3, 1, 2), np.array(part.targets, dtype=np.int64))
        for split, part in zip(SPLITS, parts, strict=True)
    }


def _load_verified(dataset: Any, path: Path) -> list[Any]:  # noqa: ANN401 - a class of torchvision's
    """Both splits from unpacked files; nothing where one of these is missing or has another sum."""
    with contextlib.suppress(RuntimeError):
        return [dataset(path, train=split == "train") for split in SPLITS]
    return []


def _download_and_load(dataset: Any, path: Path) -> list[Any]:  # noqa: ANN401
    """Both splits from the archive, which is downloaded unless it is there and whole."""
    path.mkdir(parents=True, exist_ok=True)
    archive = path / dataset.filename
    with file_lock(archive):
        if parts := _load_verified(dataset, path):
            return parts
        if not md5_matches(archive, dataset.tgz_md5):
            download(dataset.url, archive, dataset.tgz_md5)
        with tarfile.open(archive) as whole:
            whole.extraction_filter = getattr(tarfile, "data_filter", None)  # unknown to Python 3.11.3
            whole.extractall(path)
        return [dataset(path, train=split == "train") for split in SPLITS]
