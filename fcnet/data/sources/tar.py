"""Tar archives, read in one pass without unpacking them to disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import sys
import tarfile
from functools import partial
from typing import IO, TYPE_CHECKING, cast

from fcnet.data.sources.archive_member import ArchiveMember
from fcnet.data.sources.size_limits import expanded_limit

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from fcnet.data.sources.archive_member import MemberKind

_MAGIC = slice(257, 262)
"""The bytes of the first member's header that identify a tar archive."""
_MAX_HEADER_BYTES = 1 << 20  # of one member, with its long names and its attributes
_MAX_END_BYTES = 1 << 28  # of zeros after the last member
_PIECE_BYTES = 1 << 20


def is_tar(start: bytes) -> bool:
    """Returns whether the first bytes of a file are those of a tar archive, or of compressed data, which may be one.

    Args:
        start: at least the first 262 bytes of the file, or all of them.
    """
    return _detect_compression(start) != "" or start[_MAGIC] == b"ustar"


def iter_tar(path: Path) -> Generator[ArchiveMember, None, None]:
    """Yields the members of a tar archive, in their order, and checks its end.

    Args:
        path: the archive: plain, or compressed by gzip, xz, bzip2 or Zstandard.

    Raises:
        tarfile.TarError: the archive is broken or truncated, or expands to too much; many other errors mean the same,
            see `fcnet.data.sources.archives`.
    """
    with _open_tar(path) as (stream, archive):
        while member := archive.next():
            archive.members.clear()  # type: ignore[attr-defined] # else they stay in memory
            # A size below 0 leads back to an earlier header, for ever.
            if member.size < 0 or archive.offset <= member.offset:
                raise tarfile.ReadError("broken header")
            kind = _member_kind(member)
            target = member.linkname
            if kind == "other":
                target = "a sparse file" if member.issparse() else "neither"
            read = partial(_read_content, stream, member)
            yield ArchiveMember(member.name, kind, member.offset, member.size, target, read)
            stream.header_bytes = _MAX_HEADER_BYTES
        _check_end(stream)


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


@contextlib.contextmanager
def _open_tar(path: Path) -> Iterator[tuple[_Stream, tarfile.TarFile]]:
    """Opens an archive for one pass over its members."""
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


def _member_kind(member: tarfile.TarInfo) -> MemberKind:
    if member.isdir():
        return "folder"
    if member.issym() or member.islnk():
        return "link" if member.issym() else "hard link"
    return "file" if member.isreg() and not member.issparse() else "other"


def _read_content(stream: _Stream, member: tarfile.TarInfo) -> bytes:
    stream.seek(member.offset_data)
    pieces, left = [], member.size
    while left:
        piece = stream.read_content(min(left, _PIECE_BYTES))
        if not piece:
            raise tarfile.ReadError("unexpected end of data")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


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
