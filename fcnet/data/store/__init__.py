"""Decoded images in memory-mapped files, built once and shared by processes."""

from fcnet.data.store.store import Split, Store, cache_folder, open_store

__all__ = ["Split", "Store", "cache_folder", "open_store"]
