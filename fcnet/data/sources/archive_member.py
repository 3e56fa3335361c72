"""One member of an archive, as the readers of tar and zip archives yield it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

MemberKind: TypeAlias = Literal["file", "folder", "link", "hard link", "other"]


class ArchiveMember(NamedTuple):
    """A file, a folder or a link in an archive, which is not read yet.

    Attributes:
        name: the name as the archive states it, with ``/`` between its parts.
        kind: what it is; "other" cannot be read.
        position: a number that no other member of the archive has, the same in each pass.
        size: the number of bytes of a file.
        target: the target of a link as the archive states it: relative to the folder of the link, or to the root for a
            hard link; for "other", what it is.
        read: returns the content of a file, before the next member is asked for.
    """

    name: str
    kind: MemberKind
    position: int
    size: int
    target: str
    read: Callable[[], bytes]


class MemberError(Exception):
    """One file of an archive cannot be read, but others can; the text goes on from the name of the file."""
