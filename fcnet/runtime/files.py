"""Files that change whole or not at all, and that are not believed before their checksum is."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_CHECKSUM_FIELD = re.compile(rb'"checksum": "([0-9a-f]{64})"\n}\n\Z')
_RESERVED_KEYS = {"tensors", "checksum"}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside ``path`` that takes its place when the block ends well.

    The temporary file is flushed to the disk before it is renamed and removed when the block fails, so
    that ``path`` holds its old bytes or its new ones at every moment, and nothing else is left.

    Args:
        path: the file to create or replace; its folder must exist.

    Yields:
        The temporary file's path, an empty file to be written.

    Raises:
        UserError: there is no room for it.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "notes.txt"
        ...     write_text(file, "old")
        ...     try:
        ...         with atomic_write(file) as temporary:
        ...             _ = temporary.write_text("half of")
        ...             raise KeyboardInterrupt
        ...     except KeyboardInterrupt:
        ...         print([entry.name for entry in Path(folder).iterdir()], file.read_text())
        ['notes.txt'] old
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        with disk_full_as_user_error(path):
            yield temporary
            temporary.chmod(0o666 & ~_get_umask())
            fsync(temporary)
            temporary.replace(path)
            fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_full_as_user_error(path: Path) -> Iterator[None]:
    """Makes a `UserError` of a disk's refusal to take more, while ``path`` is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise UserError(f"{path} must have room on its disk, got: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` whole or not at all, as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def fsync(path: Path) -> None:
    """Waits until what was written to a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksummed(stem: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Writes ``STEM.safetensors`` and then ``STEM.json``, which holds the checksums of both.

    The tensors are complete on the disk before the metadata names them, so a pair that was cut off
    has no metadata, or metadata that does not fit.

    Args:
        stem: the path without an ending; its folder must exist.
        tensors: by name, on any device; they may be views and share memory.
        metadata: what JSON can hold; the names ``tensors`` and ``checksum`` are taken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors_file, metadata_file = _pair_paths(stem)
    with atomic_write(tensors_file) as temporary:
        try:
            save_file(_unshare_memory(tensors), temporary)
        except SafetensorError as error:
            raise UserError(f"{tensors_file} must be on a disk that takes it, got: {error}") from error
        content = {key: value for key, value in metadata.items() if key not in _RESERVED_KEYS}
        content |= {"tensors": {"file": tensors_file.name, "sha256": sha256(temporary)}, "checksum": "0" * 64}
        data = f"{json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode()
    write_bytes(metadata_file, _replace_checksum(data, hashlib.sha256(data).hexdigest()))


def read_checksummed(stem: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write_checksummed` wrote, or refuses it: every byte of both files is covered.

    Args:
        stem: the path without an ending.

    Returns:
        The tensors, on the CPU, and the metadata.

    Raises:
        UserError: a file is missing or is not, to the bit, what was written; the file is named.

    Example:
        >>> import torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checksummed(Path(folder) / "x", {"weight": torch.ones(2)}, {"epoch": 3})
        ...     tensors, metadata = read_checksummed(Path(folder) / "x")
        >>> tensors["weight"].tolist(), metadata["epoch"]
        ([1.0, 1.0], 3)
    """
    from safetensors.torch import load_file

    metadata, tensors_file = read_metadata(stem), _pair_paths(stem)[0]
    if not tensors_file.is_file():
        raise UserError(f"{tensors_file} is missing")
    if sha256(tensors_file) != metadata["tensors"]["sha256"]:
        raise UserError(
            f"{tensors_file} is damaged: its bytes do not have the checksum written in {_pair_paths(stem)[1].name}"
        )
    return load_file(tensors_file), metadata


def read_metadata(stem: Path) -> dict[str, Any]:
    """The metadata alone, of a pair whose tensors are not looked at; refuses them as `read_checksummed` does."""
    metadata_file = _pair_paths(stem)[1]
    if not metadata_file.is_file():
        raise UserError(f"{metadata_file} is missing")
    data = metadata_file.read_bytes()
    found = _CHECKSUM_FIELD.search(data)
    if found is None or hashlib.sha256(_replace_checksum(data, "0" * 64)).hexdigest().encode() != found[1]:
        raise UserError(f"{metadata_file} is damaged: its bytes do not have the checksum written in it")
    metadata: dict[str, Any] = json.loads(data)
    return metadata


def _replace_checksum(data: bytes, checksum: str) -> bytes:
    """The metadata file's bytes with another checksum, which is the last of its fields."""
    return _CHECKSUM_FIELD.sub(f'"checksum": "{checksum}"\n}}\n'.encode(), data)


def _unshare_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own as safetensors wants it; copied where it is not."""
    unshared: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        memory = held.untyped_storage().data_ptr()
        unshared[name] = held.clone() if memory in taken else held
        taken.add(memory)
    return unshared


def _pair_paths(stem: Path) -> tuple[Path, Path]:
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def _get_umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
