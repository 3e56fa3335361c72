"""Tar archives, read in one pass without unpacking them to disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import posixpath
import sys
import tarfile
import zlib
from typing import IO, TYPE_CHECKING, cast

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

_MAGIC = slice(257, 262)
"""The bytes of the first member's header that identify a tar archive."""
_READ_ERRORS = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)


def read_archive(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, bytes], set[str]]:
    """Reads selected files of a tar archive into memory.

    As in unpacking, the last of several members with one name counts, and a link has the content of its target.

    Args:
        path: the archive: plain, or compressed by gzip, xz, bzip2 or Zstandard.
        wanted: returns whether to read a file, given its name.

    Returns:
        The contents of the files by name, and the names of the folders that are members. Names have ``/`` between
        their parts and no leading ``./`` or ``/``.

    Raises:
        UserError: ``path`` is not a tar archive, or is broken or truncated, or the target of a link is not among the
            selected files.
    """
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    links: dict[str, str] = {}
    try:
        with _open_decompressed(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = _normalize_name(member.name)
                if member.isdir():
                    folders.add(name)
                elif wanted(name):
                    if content := archive.extractfile(member) if member.isreg() else None:
                        files[name] = content.read()
                    else:
                        links[name] = _link_target(member)
            _check_end(stream)
    except _READ_ERRORS as error:
        raise UserError(f"{path} must be a folder or a whole tar archive, got: {error}") from error
    for name, target in links.items():
        if target not in files:
            raise UserError(
                f"{name} in {path} must be a file or a link to an image in the archive, got a link to {target}"
            )
        files[name] = files[target]
    return files, folders


def iter_archive(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
    """Reads selected files of a tar archive one at a time, with only one in memory.

    Args:
        path: the archive; see `read_archive`.
        wanted: returns whether to read a file, given its name.

    Yields:
        The name and the content of each file, both of two members with one name. A link has the content of its
        target, or None if that is not in the archive.

    Raises:
        UserError: ``path`` is not a tar archive, or is broken or truncated. The files before the fault are yielded
            first.
    """
    try:
        with _open_decompressed(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if not member.isdir() and wanted(found := _normalize_name(member.name)):
                    yield found, _read_member(archive, member)
            if stream.tell() < archive.offset:  # reading a link's target moved the stream back
                stream.seek(archive.offset)
            _check_end(stream)
    except _READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} must be a folder or a whole tar archive, got: {reason}") from error


def is_archive(path: Path) -> bool:
    """Returns whether a file starts like a tar archive or like compressed data, which may be one.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     tarfile.open(file.name, "w:gz").close()
        ...     is_archive(Path(file.name)), is_archive(Path(__file__))
        (True, False)
    """
    with path.open("rb") as file:
        start = file.read(_MAGIC.stop)
    return _detect_compression(start) != "" or start[_MAGIC] == b"ustar"


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    try:
        file = archive.extractfile(member)
    except (KeyError, RecursionError):  # a link to a missing file, or to itself
        return None
    return None if file is None else file.read()


def _link_target(member: tarfile.TarInfo) -> str:
    """Returns the target of a link, relative to the root for a hard link and to its folder for a symbolic link."""
    start = "" if member.islnk() else posixpath.dirname(member.name)
    return _normalize_name(posixpath.join(start, member.linkname))


def _normalize_name(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _open_decompressed(path: Path) -> AbstractContextManager[IO[bytes]]:
    with path.open("rb") as file:
        start = file.read(5)
    # Unlike tarfile's own streams, these detect a truncated or changed end.
    match _detect_compression(start):
        case "xz":
            return cast("IO[bytes]", lzma.open(path))
        case "gzip":
            return cast("IO[bytes]", gzip.open(path))
        case "bzip2":
            return cast("IO[bytes]", bz2.open(path))
        case "zstandard":
            return _open_zstandard(path)
    return path.open("rb")


def _detect_compression(start: bytes) -> str:
    """Returns the compression of a file from its first bytes; empty for none."""
    if start.startswith(b"\x28\xb5\x2f\xfd") or start[1:4] == b"\x2a\x4d\x18":  # or a skippable frame
        return "zstandard"
    magics = {b"\xfd7zXZ": "xz", b"\x1f\x8b": "gzip", b"BZh": "bzip2"}
    return next((name for magic, name in magics.items() if start.startswith(magic)), "")


@contextlib.contextmanager
def _open_zstandard(path: Path) -> Iterator[IO[bytes]]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    try:
        with zstd.open(path) as stream:
            yield cast("IO[bytes]", stream)
    except zstd.ZstdError as error:
        raise tarfile.ReadError(str(error)) from error


def _check_end(stream: IO[bytes]) -> None:
    """Checks that only zeros follow the last member, since tarfile ends at a truncated or broken header as well.

    Reading them all lets the decompressor verify its checksum.
    """
    rest = stream.read(512)
    if not rest:
        raise tarfile.ReadError("unexpected end of data")
    while rest:
        if any(rest):
            raise tarfile.ReadError("broken header")
        rest = stream.read(1 << 16)
