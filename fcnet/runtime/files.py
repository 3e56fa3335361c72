"""Files that change whole or not at all, and files that are read only if their checksums match."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_CHECKSUM_FIELD = re.compile(rb'"checksum": "([0-9a-f]{64})"\n}\n\Z')
_MAX_JSON_BYTES = 1 << 28
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY_ENDING = ".tmp"
_TEMPORARY_NAME = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(_TEMPORARY_ENDING)}")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary file that replaces ``path`` when the block ends without an error.

    At every moment ``path`` holds its old bytes or its new ones. The temporary file is flushed to the disk before it
    is renamed; if the block fails it is removed.

    Args:
        path: file to create or replace; its folder must exist.

    Yields:
        Path of the temporary file, to be created. It has the name of ``path`` and lies in a temporary folder beside it,
        named ``.NAME.xxxxxxxx.tmp``, so that other libraries' temporary files lie there too.

    Raises:
        UserError: the disk is full.

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
    with disk_full_as_user_error(path):
        folder = Path(tempfile.mkdtemp(_TEMPORARY_ENDING, f".{path.name}.", path.parent))
        try:
            temporary = folder / path.name
            yield temporary
            temporary.chmod(0o666 & ~_get_umask())  # safetensors lets the owner alone read
            # The contents must be on the disk before the name points to them, and the name before we return.
            fsync(temporary)
            temporary.replace(path)
            fsync(path.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_temporary_files(folder: Path) -> None:
    """Removes what `atomic_write` leaves in a folder, and in the folders below it, when its process is killed."""
    # `os.walk` passes over a folder that vanishes meanwhile: another process may be writing beside the run.
    for path, names, _ in os.walk(folder):
        for name in filter(_TEMPORARY_NAME.fullmatch, list(names)):
            names.remove(name)
            shutil.rmtree(Path(path, name), ignore_errors=True)


@contextlib.contextmanager
def disk_full_as_user_error(path: Path) -> Iterator[None]:
    """Turns the error of a full disk into a `UserError` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path``, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def fsync(path: Path) -> None:
    """Waits until everything written to a file, or to a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(*contents: Path | bytes | memoryview) -> str:
    """Returns the SHA-256 of files and bytes, one after another, in hexadecimal.

    Example:
        >>> sha256(b"abc") == sha256(b"a", b"bc")
        True
    """
    digest = hashlib.sha256()
    for content in contents:
        if isinstance(content, Path):
            with content.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        else:
            digest.update(content)
    return digest.hexdigest()


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object, whole or not at all, with a checksum of the file's own bytes as its last field.

    Args:
        file: file to create or replace; its folder must exist.
        content: the object; its key ``checksum`` is reserved.
    """
    write_bytes(file, _encode_json(content))


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object that `write_json` wrote.

    Raises:
        UserError: the file is missing, or differs in any bit from the one that was written; the message names it.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if (size := file.stat().st_size) > _MAX_JSON_BYTES:
        raise UserError(f"{file} must have at most {_MAX_JSON_BYTES:,} bytes, got {size:,}")
    data = file.read_bytes()
    found = _CHECKSUM_FIELD.search(data)
    if found is None or sha256(_replace_checksum(data, "0" * 64)).encode() != found[1]:
        raise UserError(f"{file} is damaged: its bytes do not match the checksum in it")
    return parse_json_object(data, file)


def parse_json_object(data: bytes, file: Path) -> dict[str, Any]:
    """Parses a JSON object, or a line with one, from ``file``.

    Raises:
        UserError: the data hold anything else.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: expected a JSON object, got {data[:60].decode(errors='replace')!r}")
    return content


def write_checksummed(stem: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Writes tensors to ``STEM.safetensors``, then metadata and the checksums of both files to ``STEM.json``.

    The tensors are on the disk before the metadata names them. An interrupted write leaves the old metadata or none,
    and `read_checksummed` refuses old metadata beside new tensors: what must survive needs a stem of its own.

    Args:
        stem: path without a suffix; its folder must exist.
        tensors: tensors by name, on any device; they may be views and share memory.
        metadata: contents of the JSON file; the keys ``tensors`` and ``checksum`` are reserved.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors_file, metadata_file = _pair_paths(stem)
    with atomic_write(tensors_file) as temporary:
        try:
            save_file(_unshare_memory(tensors), temporary)
        except SafetensorError as error:
            raise UserError(f"cannot write {tensors_file}: {error}") from error
        content = {key: value for key, value in metadata.items() if key != "tensors"}
        content["tensors"] = {"file": tensors_file.name, "sha256": sha256(temporary)}
        data = _encode_json(content)
    write_bytes(metadata_file, data)


def read_checksummed(stem: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors and the metadata that `write_checksummed` wrote.

    The checksums cover every byte of both files.

    Args:
        stem: path without a suffix.

    Returns:
        The tensors, on the CPU, and the metadata.

    Raises:
        UserError: a file is missing, or differs in any bit from the one that was written; the message names it.

    Example:
        >>> import torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checksummed(Path(folder) / "x", {"weight": torch.ones(2)}, {"epoch": 3})
        ...     tensors, metadata = read_checksummed(Path(folder) / "x")
        >>> tensors["weight"].tolist(), metadata["epoch"]
        ([1.0, 1.0], 3)
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors_file, metadata_file = _pair_paths(stem)
    metadata = read_metadata(stem)
    if not tensors_file.is_file():
        raise UserError(f"{tensors_file}: no such file")
    described = metadata.get("tensors")
    if not isinstance(described, dict) or sha256(tensors_file) != described.get("sha256"):
        raise UserError(f"{tensors_file} is damaged: its bytes do not match the checksum in {metadata_file.name}")
    try:
        return load_file(tensors_file), metadata
    except (SafetensorError, KeyError, RuntimeError) as error:  # KeyError: a dtype that torch does not know
        raise UserError(f"{tensors_file} must be a safetensors file, got: {' '.join(str(error).split())}") from None


def read_metadata(stem: Path) -> dict[str, Any]:
    """Reads the metadata alone, with the checks of `read_checksummed` on ``STEM.json``."""
    return read_json(_pair_paths(stem)[1])


class ChecksummedFolder:
    """Files of a folder that keep their own form, with their checksums beside them in ``checksums.json``.

    One process at a time may write; others may read meanwhile. The new checksum is on the disk before the file
    changes, beside the checksum of the old contents, so that a kill at any moment leaves a file that can be read.

    Args:
        path: the folder.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = ChecksummedFolder(Path(folder))
        ...     files.write("notes.txt", b"one")
        ...     files.read("notes.txt"), files.read("other.txt")
        (b'one', None)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checksums_file = path / "checksums.json"

    def write(self, name: str, data: bytes) -> None:
        """Writes a file and its checksum.

        Raises:
            UserError: the checksums are damaged.
        """
        before = self._sha256(name)
        settled = self._settled()
        believed = before if before in settled.get(name, ()) else None
        self._write_checksums(settled | {name: [sha256(data), believed]})
        write_bytes(self.path / name, data)

    def settle(self) -> None:
        """Forgets the checksums of earlier contents. A file with its newest contents must keep them from here on.

        Raises:
            UserError: the checksums are damaged.
        """
        self._write_checksums(self._settled())

    def read(self, name: str) -> bytes | None:
        """Reads a file; None if it was never written.

        Raises:
            UserError: the file or the checksums are missing or damaged.
        """
        file, known = self.path / name, None
        while (checksums := self.checksums()) != known:  # the writer may change both in between
            data = file.read_bytes() if file.is_file() else None
            sums = checksums.get(name, [None])
            if (None if data is None else sha256(data)) in sums:
                return data
            known = checksums
        if data is None:
            raise UserError(f"{file}: no such file")
        raise UserError(f"{file} is damaged: its bytes do not match the checksum in {self.checksums_file.name}")

    def checksums(self) -> dict[str, list[str | None]]:
        """Returns the checksums by file: of the newest contents, and of those before, None if there were none.

        A file that certainly has its newest contents has one checksum.

        Raises:
            UserError: they are missing or damaged.
        """
        files = read_json(self.checksums_file).get("files")
        if not isinstance(files, dict) or not all(isinstance(sums, list) and sums for sums in files.values()):
            raise UserError(f"{self.checksums_file} is damaged: it must hold a list of checksums for each file")
        return files

    def adopt(self, *names: str) -> None:
        """Writes the checksums anew, with those of the named files as they are, and forgets all others."""
        self._write_checksums({name: [self._sha256(name)] for name in names})

    def _settled(self) -> dict[str, list[str | None]]:
        """Returns the checksums, without the older ones of each file that has its newest contents."""
        checksums = self.checksums() if self.checksums_file.is_file() else {}
        return {name: [sums[0]] if self._sha256(name) == sums[0] else sums for name, sums in checksums.items()}

    def _write_checksums(self, checksums: dict[str, list[str | None]]) -> None:
        write_json(self.checksums_file, {"files": checksums})

    def _sha256(self, name: str) -> str | None:
        file = self.path / name
        return sha256(file) if file.is_file() else None


def _encode_json(content: dict[str, Any]) -> bytes:
    content = {key: value for key, value in content.items() if key != "checksum"} | {"checksum": "0" * 64}
    data = f"{json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode()
    # A file cannot hold its own checksum: it is computed with zeros in its place.
    return _replace_checksum(data, sha256(data))


def _replace_checksum(data: bytes, checksum: str) -> bytes:
    """Returns the file's bytes with another checksum, which is its last field."""
    return _CHECKSUM_FIELD.sub(f'"checksum": "{checksum}"\n}}\n'.encode(), data)


def _unshare_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors on the CPU, contiguous, each with memory of its own, as safetensors requires."""
    unshared: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        contiguous = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        memory = contiguous.untyped_storage().data_ptr()
        unshared[name] = contiguous.clone() if memory in taken else contiguous
        taken.add(memory)
    return unshared


def _pair_paths(stem: Path) -> tuple[Path, Path]:
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def _get_umask() -> int:
    """Returns the process's file mode mask, which can be read only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
