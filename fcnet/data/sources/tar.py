"""Tar archives, read from beginning to end without unpacking them to disk."""

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
"""Where the first member's header says that this is a tar archive."""
_READ_ERRORS = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)


def read_archive(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, bytes], set[str]]:
    """Reads the files that are wanted from a tar archive, which may be compressed.

    Of two members with one name the later counts, and a link counts as the file it leads to, as
    when unpacking.

    Args:
        path: the archive; plain, or compressed by gzip, xz, bzip2 or Zstandard.
        wanted: whether the file of this name is wanted.

    Returns:
        The files by name, and the names of the folders that have an entry of their own. Names have
        ``/`` between their parts, and no ``./`` or ``/`` in front.

    Raises:
        UserError: ``path`` is no tar archive, is broken or cut short, or a link leads elsewhere.
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
            raise UserError(f"{name} in {path} must be a file, or a link to an image there, got {target}")
        files[name] = files[target]
    return files, folders


def iter_archive(path: Path, wanted: Callable[[str], bool], name: str = "") -> Iterator[tuple[str, bytes | None]]:
    """Reads the files that are wanted one after another, so that of all of them only one is held in memory.

    Args:
        path: the archive; see `read_archive`.
        wanted: whether the file of this name is wanted.
        name: what errors call the archive; empty: its path.

    Yields:
        The name of each and what is in it, as `read_archive` names them; a link has the content of the file that
        it leads to, None where it leads elsewhere, and where two members have one name both come.

    Raises:
        UserError: ``path`` is no tar archive, is broken or cut short; what was whole before has come by then.
    """
    try:
        with _open_decompressed(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if not member.isdir() and wanted(found := _normalize_name(member.name)):
                    yield found, _read_member(archive, member)
            if stream.tell() < archive.offset:  # a link led back
                stream.seek(archive.offset)
            _check_end(stream)
    except _READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name or path} must be a folder or a whole tar archive, got: {reason}") from error


def is_archive(path: Path) -> bool:
    """Whether a file starts as a tar archive does, or as what is compressed; only then is it worth reading as one.

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
    except (KeyError, RecursionError):  # a link to nothing, or to itself
        return None
    return None if file is None else file.read()


def _link_target(member: tarfile.TarInfo) -> str:
    """Where a link leads: a hard link from the archive's root, a symbolic one from its own folder."""
    start = "" if member.islnk() else posixpath.dirname(member.name)
    return _normalize_name(posixpath.join(start, member.linkname))


def _normalize_name(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _open_decompressed(path: Path) -> AbstractContextManager[IO[bytes]]:
    with path.open("rb") as file:
        start = file.read(5)
    # These read like a file and notice a cut or changed end; tarfile's own streams do not.
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
    """How a file is compressed that starts so; empty: not at all."""
    if start.startswith(b"\x28\xb5\x2f\xfd") or start[1:4] == b"\x2a\x4d\x18":  # or a frame that is to be skipped
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
    """Reads what follows the last member: tarfile takes a cut or a broken header for the end.

    An archive ends with zeros; reading all of them lets the decompressor check its sum as well.
    """
    rest = stream.read(512)
    if not rest:
        raise tarfile.ReadError("unexpected end of data")
    while rest:
        if any(rest):
            raise tarfile.ReadError("broken header")
        rest = stream.read(1 << 16)
