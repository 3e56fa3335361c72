"""Tar archives, read in one pass without unpacking them to disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import posixpath
import sys
import tarfile
import zlib
from typing import IO, TYPE_CHECKING, cast

from fcnet.data.decoding.image_decoding import MAX_FILE_BYTES, describe_file_limit
from fcnet.data.sources.size_limits import check_fits_memory, expanded_limit
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

_MAGIC = slice(257, 262)
"""The bytes of the first member's header that identify a tar archive."""
_READ_ERRORS = (
    *(tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError),
    *(ValueError, LookupError, OverflowError, RecursionError),  # tarfile raises them for strange headers
)
_MAX_HEADER_BYTES = 1 << 20  # of one member, with its long names and its attributes
_MAX_END_BYTES = 1 << 28  # of zeros after the last member
_MAX_LINKS = 40  # in a chain, as on Linux
_PIECE_BYTES = 1 << 20
_MEMORY_CHECK_BYTES = 1 << 26


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
        UserError: ``path`` is not a tar archive, or is broken or truncated, or expands to too much, or does not fit in
            memory; or the target of a link is not among the selected files.
    """
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    links: dict[str, str] = {}
    unchecked_bytes = 0
    with _open_archive(path) as (stream, archive):
        for member in _iter_members(stream, archive):
            name = _normalize_name(member.name)
            if member.isdir():
                folders.add(name)
            elif _is_link(member):
                files.pop(name, None)
                links[name] = _link_target(member)
            elif wanted(name):
                unchecked_bytes += min(member.size, MAX_FILE_BYTES)
                if unchecked_bytes >= _MEMORY_CHECK_BYTES:
                    check_fits_memory(unchecked_bytes, path, "unpack it to a folder, of which nothing stays in memory")
                    unchecked_bytes = 0
                links.pop(name, None)
                files[name] = _read_member(stream, member, path)
    for name in filter(wanted, links):
        target = _follow_links(links, name)
        if target not in files:
            raise UserError(
                f"{name} in {path} must be a file or a link to an image in the archive, got a link to {links[name]}"
            )
        files[name] = files[target]
    return files, folders


def iter_archive(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | UserError]]:
    """Reads selected files of a tar archive one at a time, with only one in memory.

    Args:
        path: the archive; see `read_archive`.
        wanted: returns whether to read a file, given its name.

    Yields:
        The name and the content of each file, both of two members with one name, then those of the links, which have
        the content of their target. Instead of the content of a file that cannot be read, its error.

    Raises:
        UserError: ``path`` is not a tar archive, or is broken or truncated. The files before the fault are yielded
            first.
    """
    offsets: dict[str, int] = {}
    links: dict[str, str] = {}
    with _open_archive(path) as (stream, archive):
        for member in _iter_members(stream, archive):
            name = _normalize_name(member.name)
            if _is_link(member):
                links[name] = _link_target(member)
                continue
            offsets[name] = member.offset
            if not member.isdir() and wanted(name):
                yield name, _read_or_error(stream, member, path)
    targets = {name: offsets.get(_follow_links(links, name)) for name in filter(wanted, links)}
    yield from _iter_links(path, targets)


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


class _Stream:
    """The expanded bytes of an archive, as `tarfile` reads them: with a limit on all of them, and on headers.

    Args:
        file: the expanded bytes.
        limit: the number of bytes that may be read.
        message: the error beyond that.

    Attributes:
        header_bytes: the number of bytes that headers may still take.
    """

    def __init__(self, file: IO[bytes], limit: int, message: str) -> None:
        self._file, self._limit, self._message = file, limit, message
        self.header_bytes = _MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """Reads a header."""
        self.header_bytes -= size
        if self.header_bytes < 0:
            raise tarfile.ReadError(f"a header of more than {_MAX_HEADER_BYTES:,} bytes")
        return self.read_content(size)

    def read_content(self, size: int) -> bytes:
        if self._file.tell() + size > self._limit + _PIECE_BYTES:  # the last piece may go past the end
            raise tarfile.ReadError(self._message)
        return self._file.read(size)

    def seek(self, position: int) -> None:
        if position > self._limit:
            raise tarfile.ReadError(self._message)
        self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


def _iter_links(path: Path, targets: Mapping[str, int | None]) -> Iterator[tuple[str, bytes | UserError]]:
    """Yields the contents of links, given the offsets of their targets; None for a target that is missing.

    This is a second pass, because going back to each target would expand a compressed archive again and again.
    """
    names_by_offset: dict[int, list[str]] = {}
    for name, offset in targets.items():
        if offset is None:
            yield name, UserError(f"{path}/{name} must be a file or a link to a file in the archive, got neither")
        else:
            names_by_offset.setdefault(offset, []).append(name)
    if names_by_offset:
        with _open_archive(path) as (stream, archive):
            for member in _iter_members(stream, archive):
                if names := names_by_offset.get(member.offset):
                    content = _read_or_error(stream, member, path)
                    yield from ((name, content) for name in names)


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[tuple[_Stream, tarfile.TarFile]]:
    """Opens an archive for one pass over its members; turns all errors of the block into `UserError`."""
    try:
        with path.open("rb") as file:
            compression = _detect_compression(file.read(5))
            size = os.fstat(file.fileno()).st_size
            if compression and hasattr(os, "SEEK_HOLE") and os.lseek(file.fileno(), 0, os.SEEK_HOLE) < size:
                raise tarfile.ReadError("a file with holes, such as an unfinished download")
        limit = expanded_limit(size) if compression else size
        message = (
            f"more than {limit / 2**20:,.0f} MiB of data in {size / 2**20:,.1f} MiB; unpack it to a folder"
            if compression
            else "unexpected end of data"
        )
        with _open_expanded(path, compression) as expanded:
            stream = _Stream(expanded, limit, message)
            with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as archive:
                yield stream, archive
    except UserError:
        raise
    except _READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} must be a folder or a whole tar archive, got: {_one_line(str(reason))}") from error


def _iter_members(stream: _Stream, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields the members, and checks the end of the archive."""
    while member := archive.next():
        archive.members.clear()  # type: ignore[attr-defined] # else they stay in memory
        # A size below 0 leads back to an earlier header, for ever.
        if member.size < 0 or archive.offset <= member.offset:
            raise tarfile.ReadError("broken header")
        yield member
        stream.header_bytes = _MAX_HEADER_BYTES
    _check_end(stream)


def _read_or_error(stream: _Stream, member: tarfile.TarInfo, path: Path) -> bytes | UserError:
    try:
        return _read_member(stream, member, path)
    except UserError as error:
        return error


def _read_member(stream: _Stream, member: tarfile.TarInfo, path: Path) -> bytes:
    """Reads the content of a file.

    Raises:
        UserError: the member is no file, or a sparse file, or larger than an image.
    """
    name = f"{_normalize_name(member.name)} in {path}"
    if not member.isreg() or member.issparse():
        kind = "a sparse file" if member.issparse() else "neither"
        raise UserError(f"{name} must be a file or a link to a file in the archive, got {kind}")
    if member.size > MAX_FILE_BYTES:
        raise UserError(f"{name} {describe_file_limit(member.size)}")
    stream.seek(member.offset_data)
    pieces, left = [], member.size
    while left:
        piece = stream.read_content(min(left, _PIECE_BYTES))
        if not piece:
            raise tarfile.ReadError("unexpected end of data")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _is_link(member: tarfile.TarInfo) -> bool:
    return member.issym() or member.islnk()


def _follow_links(links: Mapping[str, str], name: str) -> str:
    """Returns the name at the end of a chain of links; of a loop or of a long chain, one of its names."""
    for _ in range(_MAX_LINKS):
        name = links.get(name, name)
    return name


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _link_target(member: tarfile.TarInfo) -> str:
    """Returns the target of a link, relative to the root for a hard link and to its folder for a symbolic link."""
    start = "" if member.islnk() else posixpath.dirname(member.name)
    return _normalize_name(posixpath.join(start, member.linkname))


def _normalize_name(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _open_expanded(path: Path, compression: str) -> AbstractContextManager[IO[bytes]]:
    # Unlike tarfile's own streams, these detect a truncated or changed end.
    match compression:
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


def _check_end(stream: _Stream) -> None:
    """Checks that only zeros follow the last member, since tarfile ends at a truncated or broken header as well.

    Reading them all lets the decompressor verify its checksum.
    """
    start = stream.tell()
    rest = stream.read_content(512)
    if not rest:
        raise tarfile.ReadError("unexpected end of data")
    while rest:
        if rest.strip(b"\0"):
            raise tarfile.ReadError("broken header")
        if stream.tell() - start > _MAX_END_BYTES:
            raise tarfile.ReadError(f"more than {_MAX_END_BYTES:,} zeros after the last file")
        rest = stream.read_content(1 << 16)
