"""Folders and archives of small images, which several tests of the sources read."""

from __future__ import annotations

import io
import stat
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources import Source


def read_contents(source: Source) -> tuple[tuple[str, ...], dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]]:
    """Returns the classes, and for each split all pixels and labels."""
    contents = source.snapshot().read()
    chunks = list(contents.chunks)
    return contents.classes, {
        split: (
            np.concatenate([chunk.pixels for chunk in chunks if chunk.split == split]),
            np.concatenate([chunk.labels for chunk in chunks if chunk.split == split]),
        )
        for split in ("train", "test")
    }


def plain_image(value: int, mode: str = "RGB", size: tuple[int, int] = (3, 2), form: str = "PNG") -> bytes:
    """Returns an image file of one colour, (value, 0, 0) or a grey."""
    colour: Any = {"RGB": (value, 0, 0), "RGBA": (value, 0, 0, 128)}.get(mode, value)
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, form)
    return file.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files below a folder and returns the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_archive(
    path: Path,
    folder: Path,
    members: list[str],
    root: str = "",
    mode: str = "w",
    form: int = tarfile.PAX_FORMAT,
) -> Path:
    """Packs files of a folder into a tar archive and returns its path."""
    with tarfile.open(path, mode.removesuffix(":zst"), format=form) as archive:  # type: ignore[call-overload]
        for member in members:
            archive.add(folder / member, f"{root}{member}", recursive=False)
    if mode.endswith(":zst"):
        path.write_bytes(compress_zstandard(path.read_bytes()))
    return path


def write_zip(
    path: Path, folder: Path, members: list[str], root: str = "", compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    """Packs files, links and folders of a folder into a zip archive, as ``zip -y`` does; returns it."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member in members:
            source, name = folder / member, f"{root}{member}"
            if source.is_symlink():
                archive.writestr(zip_link(name), str(source.readlink()))
            else:
                archive.write(source, name)
    return path


def zip_link(name: str) -> zipfile.ZipInfo:
    """Returns the header of a symbolic link, whose content is the link's target."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def compress_zstandard(content: bytes, *, checksum: bool = True) -> bytes:
    """Compresses as the program ``zstd`` does."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: int(checksum)})


def class_folders(counts: dict[str, int]) -> dict[str, bytes]:
    """Returns the files ``CLASS/NUMBER.png`` of a folder without splits."""
    return {f"{name}/{number}.png": plain_image(number) for name, count in counts.items() for number in range(count)}


SMALL_TREE = {
    "train/cat/b.png": plain_image(2),
    "train/cat/a.png": plain_image(1),
    "train/ant/c.PNG": plain_image(3),
    "test/cat/d.png": plain_image(4),
    "test/ant/e.png": plain_image(5),
}
SORTED_NAMES = ["train/ant/c.PNG", "train/cat/a.png", "train/cat/b.png", "test/ant/e.png", "test/cat/d.png"]
