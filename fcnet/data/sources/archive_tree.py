"""The names in an archive, and where its links lead.

A link may stand before its target, and lead through other links. So links are followed once all members are known.
"""

from __future__ import annotations

import itertools
import posixpath
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fcnet.data.sources.archive_member import ArchiveMember

_MAX_LINKS = 40  # in a chain, as on Linux
_MAX_TARGET_PARTS = 256
_MAX_SHOWN = 200
_MIN_NAME_BYTES, _MAX_REPEATS = 1 << 26, 4  # for folders that are no members, and for what appears below links
_NAME_OVERHEAD = 150
_OUTSIDE, _MISSING = "which leads out of the archive", "which leads to nothing in the archive"
_DEEP = f"which leads through a path of more than {_MAX_TARGET_PARTS} parts"
_LOOP, _LONG = "which leads in a loop", f"which leads through more than {_MAX_LINKS} links"


class LinkedNames(NamedTuple):
    """What the links of an archive give.

    Attributes:
        files: the positions of files by the names that links give them.
        folders: all folders: members, folders of members, links to folders and the folders below these.
        broken: for each link that leads to no file and no folder in the archive, the end of the sentence that says so.
    """

    files: dict[str, int]
    folders: set[str]
    broken: dict[str, str]


class ArchiveTree:
    """The members of an archive by name; the last of several members of one name counts, as in unpacking.

    Args:
        path: the archive, for errors.

    Attributes:
        files: the positions of the files by name.
    """

    def __init__(self, path: Path) -> None:
        self.files: dict[str, int] = {}
        self._path = path
        self._folders: set[str] = set()
        self._links: dict[str, _Link] = {}
        self._ends: dict[str, _End] = {}
        self._member_bytes = self._other_bytes = 0  # of names

    def add(self, name: str, member: ArchiveMember) -> None:
        """Adds a member.

        Args:
            name: the member's name after `normalize_name`.
            member: the member.
        """
        if not name:  # the root
            return
        self._member_bytes += len(name) + _NAME_OVERHEAD
        self.files.pop(name, None)
        self._links.pop(name, None)
        self._folders.discard(name)
        match member.kind:
            case "folder":
                self._folders.add(name)
            case "link" | "hard link":
                self._links[name] = _Link(member.target, member.kind == "hard link")
            case _:
                self.files[name] = member.position

    def follow_links(self) -> LinkedNames:
        """Follows all links.

        Raises:
            UserError: a member lies below a link, or links to folders give too many names.
        """
        self._folders.update(self._iter_parents([*self.files, *self._links, *self._folders]))
        if below := self._links.keys() & self._folders:
            raise UserError(f"{min(below)} in {self._path} must be a link or a folder, got both")
        for name in self._links:
            self._follow(name)
        found = LinkedNames({}, set(self._folders), {})
        leads_to_folder = any(end.name in self._folders for end in self._ends.values())
        children = self._group_by_folder() if leads_to_folder else {}
        for name in self._links:
            self._add_linked(found, name, self._ends[name], children)
        return found

    def _iter_parents(self, names: Iterable[str]) -> Iterator[str]:
        """Yields the folders of names, each once."""
        seen: set[str] = set()
        for name in names:
            for parent in itertools.takewhile(lambda parent: parent not in seen, _parents(name)):
                self._charge(parent)
                seen.add(parent)
                yield parent

    def _charge(self, name: str) -> None:
        """Counts the memory of a name that is no member's."""
        self._other_bytes += len(name) + _NAME_OVERHEAD
        limit = max(_MIN_NAME_BYTES, _MAX_REPEATS * self._member_bytes)
        if self._other_bytes > limit:
            raise UserError(
                f"the folders and links in {self._path} must give at most {limit >> 20} MiB of names, got more; "
                "unpack it to a folder"
            )

    def _group_by_folder(self) -> dict[str, list[str]]:
        children: dict[str, list[str]] = defaultdict(list)
        for name in (*self.files, *self._links, *self._folders):
            children[posixpath.dirname(name)].append(name)
        return children

    def _follow(self, name: str) -> None:
        """Finds the end of a link, and those of the links on its way, each of them once."""
        waiting = {} if name in self._ends else {name: _Walk.start(name, self._links[name])}
        while waiting:
            name, walk = waiting.popitem()
            needed = self._advance(walk)
            if needed is None:
                self._ends[name] = _End(walk.here, walk.num_links, walk.fault)
            elif needed == name or needed in waiting:
                self._ends[name] = _End("", 0, _LOOP)  # and so, in turn, of each link that waits for it
            else:
                waiting |= {name: walk, needed: _Walk.start(needed, self._links[needed])}

    def _advance(self, walk: _Walk) -> str | None:
        """Goes along the target of a link, to its end or to a link whose own end is not known; returns that link."""
        while walk.parts and not walk.fault:
            part = walk.parts[-1]
            name = f"{walk.here}/{part}" if walk.here else part
            if walk.here and walk.here not in self._folders:
                walk.fault = _MISSING
            elif part == "..":
                walk.fault = "" if walk.here else _OUTSIDE
                walk.here = posixpath.dirname(walk.here)
            elif part in {"", "."}:
                pass
            elif name in self._links:
                if name not in self._ends:
                    return name
                walk.pass_link(self._ends[name])
            else:
                walk.here = name
                walk.fault = "" if name in self.files or name in self._folders else _MISSING
            walk.parts.pop()
        return None

    def _add_linked(self, found: LinkedNames, link: str, end: _End, children: dict[str, list[str]]) -> None:
        """Adds the file at the end of a link, or all that is in the folder there."""
        # A name, the last link on the way to it, what is there, and the folders around it on this way.
        pending = [(link, link, end, frozenset(["", *_parents(link)]))]
        while pending:
            name, via, end, around = pending.pop()
            if end.fault or (end.name not in self.files and end.name in around):
                found.broken[name] = self._describe(via, end.fault or _LOOP)
            elif end.name in self.files:
                found.files[name] = self.files[end.name]
            else:
                found.folders.add(name)
                inner = around | {end.name}
                for child in children.get(end.name, ()):
                    below = name + child[len(end.name) :]
                    self._charge(below)
                    last = child if child in self._links else via
                    pending.append((below, last, self._ends.get(child, _End(child, 0, "")), inner))

    def _describe(self, link: str, fault: str) -> str:
        target = self._links[link].target
        shown = target if len(target) <= _MAX_SHOWN else f"{target[:_MAX_SHOWN]}…"
        return f"links to {shown}, {fault}; store the file or folder itself"


class _Link(NamedTuple):
    target: str
    is_hard: bool


class _End(NamedTuple):
    """The name at the end of a link, after a number of links in a chain; or the fault that makes the link broken."""

    name: str
    num_links: int
    fault: str


class _Walk:
    """The way along the target of a link.

    Attributes:
        here: the name of the file or folder reached so far; empty for the root.
        parts: the parts of the target to go, the next one last.
        num_links: the length of the longest chain of links so far, this link among them.
        fault: what makes the link broken, if anything.
    """

    def __init__(self, here: str, parts: list[str], fault: str) -> None:
        self.here, self.parts, self.num_links, self.fault = here, parts, 1, fault

    @classmethod
    def start(cls, name: str, link: _Link) -> _Walk:
        target = normalize_name(link.target) if link.is_hard else link.target
        here = "" if link.is_hard else posixpath.dirname(name)
        parts = target.split("/")
        if len(parts) > _MAX_TARGET_PARTS:
            return cls(here, [], _DEEP)
        fault = _OUTSIDE if target.startswith("/") else "" if target else _MISSING
        return cls(here, parts[::-1], fault)

    def pass_link(self, end: _End) -> None:
        self.here, self.fault = end.name, end.fault
        self.num_links = max(self.num_links, end.num_links + 1)
        if self.num_links > _MAX_LINKS and not self.fault:
            self.fault = _LONG


def _parents(name: str) -> Iterator[str]:
    """Yields the folders around a name, without the root."""
    while name := posixpath.dirname(name):
        yield name


def normalize_name(name: str) -> str:
    """Returns a name below the folder to unpack to: without ``.`` and ``..``, and without a leading ``/``.

    Args:
        name: the name of a member.

    Example:
        >>> [normalize_name(name) for name in ("./a//b/", "/etc/x", "../../x", "a/../b", "./")]
        ['a/b', 'etc/x', 'x', 'b', '']
    """
    name = posixpath.normpath(name).lstrip("/")
    while name.startswith("../"):
        name = name[3:]
    return "" if name in {".", ".."} else name
