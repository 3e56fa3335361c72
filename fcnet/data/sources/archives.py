"""Tar and zip archives, read without unpacking them to disk.

What is read is what unpacking would give: links to files and to folders are followed within the archive, in whatever
order the members come.
"""

from __future__ import annotations

import contextlib
import lzma
import posixpath
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING

from fcnet.data.decoding.decode_batch import CHANGED_MESSAGE
from fcnet.data.decoding.image_decoding import MAX_FILE_BYTES, describe_file_limit
from fcnet.data.sources.archive_member import MemberError
from fcnet.data.sources.archive_tree import ArchiveTree, normalize_name
from fcnet.data.sources.file_listing import is_system_path
from fcnet.data.sources.size_limits import check_fits_memory
from fcnet.data.sources.tar import is_tar, iter_tar
from fcnet.data.sources.zip import holds_arrays, is_zip, iter_zip
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from fcnet.data.sources.archive_member import ArchiveMember

# zipfile and tarfile raise the last ones for strange headers.
_READ_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, LookupError, OverflowError, RecursionError, NotImplementedError),
)
_START_BYTES = 512
_NAME_OVERHEAD = 250
_MEMORY_CHECK_BYTES = 1 << 26


def read_archive(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, bytes], set[str]]:
    """Reads selected files of an archive into memory.

    As in unpacking, the last of several members with one name counts. A link has the content of its target: a link to
    a folder is a folder with the same files.

    Args:
        path: a tar archive, plain or compressed by gzip, xz, bzip2 or Zstandard; or a zip archive.
        wanted: returns whether to read a file, given its name. It is also asked for broken links that are named like
            files.

    Returns:
        The contents of the files by name, and the names of the folders. Names have ``/`` between their parts and no
        leading ``./``, ``../`` or ``/``.

    Raises:
        UserError: ``path`` is not an archive, or is broken or truncated, or expands to too much, or does not fit in
            memory; or a selected file is encrypted; or a link that may be an image or a folder leads to no file and no
            folder in the archive.
    """
    tree = ArchiveTree(path)
    contents: dict[int, bytes] = {}
    memory = _MemoryCheck(path)
    with _open_archive(path) as members:
        for member in members:
            name = normalize_name(member.name)
            replaced = tree.files.get(name)
            tree.add(name, member)
            memory.count(len(name) + _NAME_OVERHEAD)
            if _is_file(member) and (wanted(name) if replaced is None else replaced in contents):
                memory.count(min(member.size, MAX_FILE_BYTES))
                contents[member.position] = _read_member(member, name, path)
            contents.pop(-1 if replaced is None else replaced, None)
    linked = tree.follow_links()
    for name, fault in linked.broken.items():
        if _may_be_folder(name) or wanted(name):
            raise UserError(f"{name} in {path} {fault}")
    direct = {name: position for name, position in tree.files.items() if position in contents}
    through_links = {name: position for name, position in linked.files.items() if wanted(name)}
    # A tar archive cannot go back to a target that was passed over, such as a hidden file.
    for position, content in _iter_contents(path, set(through_links.values()) - contents.keys()):
        if isinstance(content, UserError):
            raise content
        memory.count(len(content))
        contents[position] = content
    if not contents and holds_arrays(_read_start(path)):
        raise UserError(f'{path} must be a folder or an archive of images, got arrays (use data.source = "arrays")')
    return {name: contents[position] for name, position in (direct | through_links).items()}, linked.folders


def iter_archive(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | UserError]]:
    """Reads selected files of an archive one at a time, with only one in memory.

    Args:
        path: the archive; see `read_archive`.
        wanted: returns whether to read a file, given its name; see `read_archive`.

    Yields:
        The name and the content of each file, both of two members with one name, then those that links give, which have
        the content of their targets. Instead of the content of a file that cannot be read, its error.

    Raises:
        UserError: ``path`` is not an archive, or is broken or truncated. The files before the fault are yielded first.
    """
    tree = ArchiveTree(path)
    with _open_archive(path) as members:
        for member in members:
            name = normalize_name(member.name)
            tree.add(name, member)
            if _is_file(member) and wanted(name):
                yield name, _read_or_error(member, name, path)
    linked = tree.follow_links()
    for name, fault in linked.broken.items():
        if _may_be_folder(name) or wanted(name):
            yield name, UserError(f"{name} in {path} {fault}")
    names_by_position: dict[int, list[str]] = {}
    for name, position in linked.files.items():
        if wanted(name):
            names_by_position.setdefault(position, []).append(name)
    # A second pass, because going back to each target would expand a compressed archive again and again.
    for position, content in _iter_contents(path, names_by_position.keys()):
        yield from ((name, content) for name in names_by_position[position])


def is_archive(path: Path) -> bool:
    """Returns whether a file starts like a tar or zip archive, or like compressed data, which may be one.

    A NumPy archive (``.npz``) is none, although its format is that of a zip archive.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     tarfile.open(file.name, "w:gz").close()
        ...     is_archive(Path(file.name)), is_archive(Path(__file__))
        (True, False)
    """
    start = _read_start(path)
    return is_tar(start) or (is_zip(start) and not holds_arrays(start))


class _MemoryCheck:
    """Checks now and then that what an archive holds still fits in memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._unchecked_bytes = path, 0

    def count(self, num_bytes: int) -> None:
        """Counts bytes that will be taken."""
        self._unchecked_bytes += num_bytes
        if self._unchecked_bytes >= _MEMORY_CHECK_BYTES:
            remedy = "unpack it to a folder, of which nothing stays in memory"
            check_fits_memory(self._unchecked_bytes, self._path, remedy)
            self._unchecked_bytes = 0


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[Iterator[ArchiveMember]]:
    """Opens an archive for one pass over its members; turns all errors of the block into `UserError`."""
    try:
        with contextlib.closing(iter_zip(path) if is_zip(_read_start(path)) else iter_tar(path)) as members:
            yield members
    except UserError:
        raise
    except _READ_ERRORS as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{path} must be a folder or a whole tar or zip archive, got: {reason}") from error


def _iter_contents(path: Path, positions: Collection[int]) -> Iterator[tuple[int, bytes | UserError]]:
    """Yields the positions and the contents of some members, or their errors, in one pass over an archive."""
    left = set(positions)
    if not left:
        return
    with _open_archive(path) as members:
        for member in members:
            if member.position in left:
                left.remove(member.position)
                yield member.position, _read_or_error(member, normalize_name(member.name), path)
    if left:
        raise UserError(f"{path} {CHANGED_MESSAGE}")


def _read_or_error(member: ArchiveMember, name: str, path: Path) -> bytes | UserError:
    try:
        return _read_member(member, name, path)
    except UserError as error:
        return error


def _read_member(member: ArchiveMember, name: str, path: Path) -> bytes:
    """Reads the content of a file.

    Raises:
        UserError: the member is no file, or larger than an image, or cannot be read.
    """
    if member.kind == "other":
        raise UserError(f"{name} in {path} must be a file or a link to a file in the archive, got {member.target}")
    if member.size > MAX_FILE_BYTES:
        raise UserError(f"{name} in {path} {describe_file_limit(member.size)}")
    try:
        return member.read()
    except MemberError as error:
        raise UserError(f"{name} in {path} {error}") from error


def _is_file(member: ArchiveMember) -> bool:
    return member.kind in {"file", "other"}


def _may_be_folder(name: str) -> bool:
    """Returns whether a link that leads nowhere may stand for a folder of images."""
    return not (is_system_path(name) or posixpath.splitext(name)[1])


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_START_BYTES)
