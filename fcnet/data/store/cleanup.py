"""Lists the stores of a cache and removes those that are not in use."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.data.store.build import finished_folder, read_progress, unfinished_folder
from fcnet.runtime.locks import file_lock, is_in_use

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class CachedStore:
    """A finished or unfinished store in a cache.

    Attributes:
        folder: the folder of the finished store.
        finished: whether the store is finished, according to its metadata.
        source: the path of the data, or the kind of a source without one; empty if unknown.
        num_images: the number of decoded images in all splits.
        size_bytes: the size of all its files.
        last_used: the time it was last opened or written to, in seconds since 1970.
        in_use: whether a process has it open or builds it.
    """

    folder: Path
    finished: bool
    source: str
    num_images: int
    size_bytes: int
    last_used: float
    in_use: bool

    @property
    def name(self) -> str:
        """The name of the store's folder."""
        return self.folder.name


def list_stores(cache: Path) -> list[CachedStore]:
    """Lists the stores of a cache, the most recently used first. Other files are ignored.

    Args:
        cache: the folder of all stores; it need not exist.
    """
    stores = [_finished_store(file.parent) for file in cache.glob("[!.]*/store.json")]
    stores += [_unfinished_store(finished_folder(folder)) for folder in cache.glob(unfinished_folder(cache / "*").name)]
    return sorted(stores, key=lambda stored: (-stored.last_used, stored.name, stored.finished))


def remove_store(stored: CachedStore) -> bool:
    """Removes a store from its cache unless a process has it open or builds it.

    Returns:
        Whether the store was removed.
    """
    with contextlib.ExitStack() as stack:
        try:
            _lock_exclusively(stored.folder, stack)
        except BlockingIOError:
            return False
        shutil.rmtree(stored.folder if stored.finished else unfinished_folder(stored.folder), ignore_errors=True)
    return True


def _finished_store(folder: Path) -> CachedStore:
    metadata: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        metadata = json.loads((folder / "store.json").read_bytes())
    num_images = sum(metadata.get("counts", {}).values())
    return _cached_store(folder, folder, "store.json", metadata.get("source", {}), num_images)


def _unfinished_store(folder: Path) -> CachedStore:
    head = read_progress(unfinished_folder(folder))
    return _cached_store(folder, unfinished_folder(folder), "journal", head["source"], head["done"])


def _cached_store(
    folder: Path, location: Path, metadata_name: str, source: dict[str, Any], num_images: int
) -> CachedStore:
    entries = {entry.name: entry.stat() for entry in location.iterdir()}
    return CachedStore(
        folder,
        finished=location == folder,
        source=str(source.get("path") or source.get("kind", "")),
        num_images=num_images,
        size_bytes=sum(entry.st_size for entry in entries.values()),
        last_used=(entries.get(metadata_name) or location.stat()).st_mtime,
        in_use=_in_use(folder),
    )


def _in_use(folder: Path) -> bool:
    with contextlib.ExitStack() as stack:
        try:
            _lock_exclusively(folder, stack)
        except BlockingIOError:
            return True
        except PermissionError:  # a read-only cache
            return False
    return False


def _lock_exclusively(folder: Path, stack: contextlib.ExitStack) -> None:
    """Locks a store against opening and building until the stack is closed.

    Raises:
        BlockingIOError: a process has it open or builds it.
    """
    stack.enter_context(file_lock(folder, wait=False))
    if is_in_use(folder):
        raise BlockingIOError
