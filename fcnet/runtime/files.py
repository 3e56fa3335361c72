"""Files that change whole or not at all, and that are not believed before their checksum is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
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

_SEAL = re.compile(rb'"checksum": "([0-9a-f]{64})"\n}\n\Z')
_OURS = {"tensors", "checksum"}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of ``path`` that takes its place when the block ends well.

    The sibling is flushed to the disk before it is renamed and removed when the block fails, so
    that ``path`` holds its old bytes or its new ones at every moment, and nothing else is left.

    Args:
        path: the file to create or replace; its folder must exist.

    Yields:
        The sibling's path, an empty file to be written.

    Raises:
        UserError: there is no room for it.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "notes.txt"
        ...     write_text(file, "old")
        ...     try:
        ...         with replacing(file) as sibling:
        ...             _ = sibling.write_text("half of")
        ...             raise KeyboardInterrupt
        ...     except KeyboardInterrupt:
        ...         print([entry.name for entry in Path(folder).iterdir()], file.read_text())
        ['notes.txt'] old
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    sibling = Path(name)
    try:
        with room_for(path):
            yield sibling
            sibling.chmod(0o666 & ~_umask())
            flush(sibling)
            sibling.replace(path)
            flush(path.parent)
    finally:
        sibling.unlink(missing_ok=True)


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Makes a `UserError` of a disk's refusal to take more, while ``path`` is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(f"{path} must have room on its disk, got: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` whole or not at all, as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` whole or not at all."""
    with replacing(path) as sibling:
        sibling.write_bytes(data)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Waits until no other process makes or removes ``path``, and keeps others waiting meanwhile.

    The lock goes with the process that holds it, however that ends. Its file, ``.NAME.lock`` beside
    ``path``, stays: removing it could part two processes that wait for it.

    Raises:
        BlockingIOError: another process has it, and ``wait`` is false.
    """
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def flush(path: Path) -> None:
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


def write_sealed(stem: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes ``STEM.safetensors`` and then ``STEM.json``, which holds the checksums of both.

    The tensors are complete on the disk before the facts name them, so a pair that was cut off
    has no facts, or facts that do not fit.

    Args:
        stem: the path without an ending; its folder must exist.
        tensors: by name, on any device; they may be views and share memory.
        facts: what JSON can hold; the names ``tensors`` and ``checksum`` are taken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights, description = _pair(stem)
    with replacing(weights) as sibling:
        try:
            save_file(_apart(tensors), sibling)
        except SafetensorError as error:
            raise UserError(f"{weights} must be on a disk that takes it, got: {error}") from error
        content = {name: fact for name, fact in facts.items() if name not in _OURS}
        content |= {"tensors": {"file": weights.name, "sha256": sha256(sibling)}, "checksum": "0" * 64}
        data = f"{json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode()
    write_bytes(description, _resealed(data, hashlib.sha256(data).hexdigest()))


def read_sealed(stem: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write_sealed` wrote, or refuses it: every byte of both files is covered.

    Args:
        stem: the path without an ending.

    Returns:
        The tensors, on the CPU, and the facts.

    Raises:
        UserError: a file is missing or is not, to the bit, what was written; the file is named.

    Example:
        >>> import torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_sealed(Path(folder) / "x", {"weight": torch.ones(2)}, {"epoch": 3})
        ...     tensors, facts = read_sealed(Path(folder) / "x")
        >>> tensors["weight"].tolist(), facts["epoch"]
        ([1.0, 1.0], 3)
    """
    from safetensors.torch import load_file

    facts, weights = read_sealed_facts(stem), _pair(stem)[0]
    if not weights.is_file():
        raise UserError(f"{weights} is missing")
    if sha256(weights) != facts["tensors"]["sha256"]:
        raise UserError(f"{weights} is damaged: its bytes do not have the checksum written in {_pair(stem)[1].name}")
    return load_file(weights), facts


def read_sealed_facts(stem: Path) -> dict[str, Any]:
    """The facts alone, of a pair whose tensors are not looked at; refuses them as `read_sealed` does."""
    description = _pair(stem)[1]
    if not description.is_file():
        raise UserError(f"{description} is missing")
    data = description.read_bytes()
    seal = _SEAL.search(data)
    if seal is None or hashlib.sha256(_resealed(data, "0" * 64)).hexdigest().encode() != seal[1]:
        raise UserError(f"{description} is damaged: its bytes do not have the checksum written in it")
    facts: dict[str, Any] = json.loads(data)
    return facts


def _resealed(data: bytes, checksum: str) -> bytes:
    """A description with another checksum, which is the last of its facts."""
    return _SEAL.sub(f'"checksum": "{checksum}"\n}}\n'.encode(), data)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own as safetensors wants it; copied where it is not."""
    apart: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        memory = held.untyped_storage().data_ptr()
        apart[name] = held.clone() if memory in taken else held
        taken.add(memory)
    return apart


def _pair(stem: Path) -> tuple[Path, Path]:
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
