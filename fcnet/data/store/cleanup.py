"""The stores of a cache: which there are, and the removal of those that are not in use."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.data.sources.image_folder import SPLITS
from fcnet.data.store.build import finished_name, part_file, read_head, unfinished
from fcnet.runtime.files import locked

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stored:
    """A store in a cache, or what there is of one.

    Attributes:
        folder: the store's folder, which is not there while it is unfinished.
        finished: whether it is whole, as far as its description says.
        made_from: the path of the data, or the kind of source that has none; empty where that is not known.
        num_images: how many are decoded, both splits together.
        size_bytes: of all its files.
        used: when it was last opened or built on, in seconds since 1970.
        in_use: whether a process has it open or builds it.
    """

    folder: Path
    finished: bool
    made_from: str
    num_images: int
    size_bytes: int
    used: float
    in_use: bool

    @property
    def name(self) -> str:
        """What the store is called."""
        return self.folder.name


def list_stores(cache: Path) -> list[Stored]:
    """The stores of a cache, the one that was used last first; what is no store is left out.

    Args:
        cache: the folder of all stores; it need not be there.
    """
    stores = [_finished(file.parent) for file in cache.glob("[!.]*/store.json")]
    stores += [_growing(finished_name(folder)) for folder in cache.glob(unfinished(cache / "*").name)]
    return sorted(stores, key=lambda stored: (-stored.used, stored.name, stored.finished))


def remove_store(stored: Stored) -> bool:
    """Removes a store from its cache, unless a process has it open or builds it.

    Returns:
        Whether it was removed.
    """
    with contextlib.ExitStack() as stack:
        try:
            _hold(stored.folder, stack)
        except BlockingIOError:
            return False
        shutil.rmtree(stored.folder if stored.finished else unfinished(stored.folder), ignore_errors=True)
    return True


def _finished(folder: Path) -> Stored:
    about: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        about = json.loads((folder / "store.json").read_bytes())
    num_images = sum(about.get("counts", {}).values())
    return _stored(folder, folder, "store.json", about.get("source", {}), num_images)


def _growing(folder: Path) -> Stored:
    head = read_head(unfinished(folder))
    return _stored(folder, unfinished(folder), "journal", head["source"], head["done"])


def _stored(folder: Path, place: Path, said_in: str, source: dict[str, Any], num_images: int) -> Stored:
    entries = {entry.name: entry.stat() for entry in place.iterdir()}
    return Stored(
        folder,
        finished=place == folder,
        made_from=str(source.get("path") or source.get("kind", "")),
        num_images=num_images,
        size_bytes=sum(entry.st_size for entry in entries.values()),
        used=(entries.get(said_in) or place.stat()).st_mtime,
        in_use=_in_use(folder),
    )


def _in_use(folder: Path) -> bool:
    with contextlib.ExitStack() as stack:
        try:
            _hold(folder, stack)
        except BlockingIOError:
            return True
        except PermissionError:  # a cache that may only be read
            return False
    return False


def _hold(folder: Path, stack: contextlib.ExitStack) -> None:
    """Keeps others from opening or building a store until the stack is closed.

    Raises:
        BlockingIOError: a process does one or the other.
    """
    stack.enter_context(locked(folder, wait=False))
    for split in SPLITS:
        with contextlib.suppress(FileNotFoundError):
            file = stack.enter_context(part_file(folder, split, "pixels").open("rb"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
