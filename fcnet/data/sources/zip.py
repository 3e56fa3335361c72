"""Zip archives, opened without unpacking them to disk."""

from __future__ import annotations

import contextlib
import io
import itertools
import lzma
import stat
import struct
import zipfile
import zlib
from functools import partial
from typing import TYPE_CHECKING

from fcnet.data.sources.archive_member import ArchiveMember, MemberError
from fcnet.data.sources.size_limits import check_fits_memory, expanded_limit

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from fcnet.data.sources.archive_member import MemberKind

ZIP_START_BYTES = 512
"""The first bytes of an archive, with the name of its first member."""
MAX_MEMBERS = 1_000_000
_MAX_LIST_BYTES = 1 << 28  # of the list of all members, which is read as a whole
_MEMBER_BYTES = 1000  # of memory, which `zipfile` takes for each member
_MAX_TARGET_BYTES = 4096  # of a link, as on Linux
_LOCAL_HEADER_BYTES = 30  # and the name
_ENTRY_MAGIC = b"PK\x01\x02"
_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_NO_END = "File is not a zip file"
_ENCRYPTED = 0x41  # the flags of the old and of the strong encryption
_UTF8 = 0x800
_PIECE_BYTES = 1 << 20
# For bzip2 and LZMA `zipfile` expands whatever it reads at once: 4 KiB can become 80 MiB.
_SMALL_PIECE_BYTES = 1 << 12
_CONTENT_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError)


def is_zip(start: bytes) -> bool:
    """Returns whether the first bytes of a file are those of a zip archive.

    Args:
        start: at least the first 4 bytes of the file.
    """
    return start.startswith(_MAGICS)


def holds_arrays(start: bytes) -> bool:
    """Returns whether the first bytes of a zip archive are those of an ``.npz`` file: the first member is an array.

    Args:
        start: at least the first `ZIP_START_BYTES` bytes of the file, or all of them.
    """
    length = int.from_bytes(start[26:28], "little")
    return is_zip(start) and start[_LOCAL_HEADER_BYTES : _LOCAL_HEADER_BYTES + length].endswith(b".npy")


def iter_zip(path: Path) -> Generator[ArchiveMember, None, None]:
    """Yields the members of a zip archive, in the order of its list.

    Args:
        path: the archive.

    Raises:
        zipfile.BadZipFile: the archive is broken, or expands to too much; many other errors mean the same, see
            `fcnet.data.sources.archives`.
    """
    with _ListReader(path) as file, _open_list(file) as archive:
        budget = _Budget(path)
        _check_overlaps(archive)
        for position, info in enumerate(archive.infolist()):
            read = partial(_read_content, archive, info, budget)
            name, kind = _member_name(info), _member_kind(info)
            target = _read_target(info, read) if kind == "link" else "neither"
            yield ArchiveMember(name, kind, position, info.file_size, target, read)


class _ListReader(io.BufferedReader):
    """A file that refuses to read a list of members that would take too much memory.

    `zipfile` reads the list as a whole and makes an object for each member.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._path = path

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_LIST_BYTES:
            raise zipfile.BadZipFile(f"a list of files of more than {_MAX_LIST_BYTES >> 20} MiB")
        data = super().read(size)
        if data.startswith(_ENTRY_MAGIC):
            num_members = data.count(_ENTRY_MAGIC)
            if num_members > MAX_MEMBERS:
                raise zipfile.BadZipFile(f"more than {MAX_MEMBERS:,} files; unpack it to a folder")
            check_fits_memory(num_members * _MEMBER_BYTES, self._path, "unpack it to a folder")
        return data


class _Budget:
    """Counts the expanded bytes of an archive against their limit."""

    def __init__(self, path: Path) -> None:
        self._archive_bytes = path.stat().st_size
        self._limit = self._left = expanded_limit(self._archive_bytes)

    def spend(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            limit, size = self._limit / 2**20, self._archive_bytes / 2**20
            raise zipfile.BadZipFile(f"more than {limit:,.0f} MiB of data in {size:,.1f} MiB; unpack it to a folder")


def _open_list(file: _ListReader) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        if str(error) == _NO_END:
            raise zipfile.BadZipFile("a zip archive without its end, such as an unfinished download") from error
        raise


def _check_overlaps(archive: zipfile.ZipFile) -> None:
    """Checks that no two files share bytes, by which a small archive could hold the same data again and again."""
    starts = [(info.header_offset, info.compress_size) for info in archive.infolist()]
    spans = [(start, start + _LOCAL_HEADER_BYTES + num_bytes) for start, num_bytes in starts]
    spans.append((archive.start_dir, archive.start_dir))
    for (_, end), (start, _) in itertools.pairwise(sorted(spans)):
        if end > start:
            raise zipfile.BadZipFile("overlapping files")


def _member_name(info: zipfile.ZipInfo) -> str:
    """Returns the name with ``/`` between its parts, decoded."""
    name = info.filename
    if not (name.isascii() or info.flag_bits & _UTF8):
        # Many programs write UTF-8 without saying so, and `zipfile` takes it for the code page 437.
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name if "/" in name else name.replace("\\", "/")  # as some programs on Windows write


def _member_kind(info: zipfile.ZipInfo) -> MemberKind:
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode) or _member_name(info).endswith("/"):
        return "folder"
    return "file" if stat.S_ISREG(mode) or not stat.S_IFMT(mode) else "other"


def _read_target(info: zipfile.ZipInfo, read: partial[bytes]) -> str:
    """Returns the target of a link, which is its content."""
    if info.file_size > _MAX_TARGET_BYTES:
        raise zipfile.BadZipFile(f"a link of more than {_MAX_TARGET_BYTES:,} bytes")
    try:
        return read().decode(errors="surrogateescape")
    except MemberError as error:
        raise zipfile.BadZipFile(f"{_member_name(info)} {error}") from error


def _read_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: _Budget) -> bytes:
    """Reads the content of a member; `zipfile` compares its checksum.

    Raises:
        MemberError: it is encrypted, or broken, or compressed by an unknown method.
    """
    if info.flag_bits & _ENCRYPTED:
        raise MemberError("is encrypted; unpack the archive with its password to a folder")
    budget.spend(info.file_size)
    can_expand_much = info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    piece_bytes = _SMALL_PIECE_BYTES if can_expand_much else _PIECE_BYTES
    pieces, left = [], info.file_size
    try:
        with archive.open(info) as file:
            while left:
                piece = file.read(min(left, piece_bytes))
                if not piece:
                    raise EOFError("less data than its size says")
                pieces.append(piece)
                left -= len(piece)
    except NotImplementedError as error:
        method = f"method {info.compress_type}, flags {info.flag_bits:#x}"
        raise MemberError(f"has an unknown compression ({method}); unpack the archive to a folder") from error
    except _CONTENT_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error) or "unexpected end of data"
        raise MemberError(f"must be a whole file, got: {' '.join(reason.split())}") from error
    return b"".join(pieces)
