"""``python -m fcnet.cache``: lists the cached stores of decoded images and removes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.data.store.cleanup import list_stores, remove_store
from fcnet.data.store.store import cache_folder
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count

if TYPE_CHECKING:
    import argparse

    from fcnet.data.store.cleanup import CachedStore

_SECONDS_PER_DAY = 86_400


def main(arguments: list[str]) -> int:
    """Parses the arguments, lists or removes stores and prints; returns the exit code."""
    flags = _parse_flags(arguments)
    cache = cache_folder()
    if cache.exists() and not cache.is_dir():
        raise UserError(f"FCNET_CACHE must be a folder, got the file {cache}")
    stores = list_stores(cache)
    if flags.clean is None:
        for line in store_table(stores, time.time()):
            cli.print_result(line)
        cli.print_result(f"{_summarize(stores)} in {cache}")
        return 0
    chosen = _select_stores(stores, flags)
    removed = [store for store in chosen if remove_store(store)]
    for store in chosen:
        if store not in removed:
            cli.print_status(f"{store.name} is in use and was not removed")
    cli.print_status(f"removed {_summarize(removed)} from {cache}")
    return 0


def store_table(stores: list[CachedStore], now: float) -> list[str]:
    """Returns a heading and a line for each store, or nothing without stores.

    Args:
        stores: stores to list.
        now: current time, in seconds since 1970.
    """
    width = max((len(store.name) for store in stores), default=0)
    lines = [f"{'store':{width}}       size      images  last used   source"] if stores else []
    for store in stores:
        notes = "".join([" (unfinished)" * (not store.finished), " (in use)" * store.in_use])
        lines.append(
            f"{store.name:{width}}  {_format_size(store.size_bytes):>9}  {store.num_images:10,}  "
            f"{_format_age(now - store.last_used):10}  {store.source or 'unknown'}{notes}"
        )
    return lines


def _parse_flags(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        "cache",
        "List or remove cached images. Removed images are decoded again when needed.",
        ["", "--clean --older-than 30"],
    )
    parser.add_argument("--clean", nargs="*", metavar="NAME", help="remove the stores with these names")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="with --clean: remove stores unused for DAYS")
    parser.add_argument("--all", action="store_true", help="with --clean: remove all stores")
    flags = parser.parse(arguments)
    ways = [bool(flags.clean), flags.older_than is not None, flags.all]
    if flags.clean is None and any(ways):
        raise UserError("--older-than and --all need --clean")
    if flags.clean is not None and sum(ways) != 1:
        raise UserError("--clean needs exactly one of NAME…, --older-than DAYS and --all")
    if flags.older_than is not None and not flags.older_than >= 0:
        raise UserError(f"--older-than must be at least 0 days, got {flags.older_than:g}")
    return flags


def _select_stores(stores: list[CachedStore], flags: argparse.Namespace) -> list[CachedStore]:
    known = {store.name for store in stores}
    if unknown := [name for name in flags.clean if name not in known]:
        raise UserError(f"--clean must name stores in {cache_folder()}, got {', '.join(unknown)}")
    if flags.clean:
        return [store for store in stores if store.name in flags.clean]
    before = time.time() - (flags.older_than or 0.0) * _SECONDS_PER_DAY
    return [store for store in stores if flags.all or store.last_used <= before]


def _summarize(stores: list[CachedStore]) -> str:
    return f"{format_count(len(stores), 'store')}, {_format_size(sum(store.size_bytes for store in stores))}"


def _format_size(num_bytes: float) -> str:
    units = ["B", "kB", "MB", "GB", "TB"]
    while num_bytes >= 999.5 and len(units) > 1:  # 999.5 would be rounded to 1000
        num_bytes /= 1000
        units.pop(0)
    return f"{num_bytes:.0f} {units[0]}" if units[0] == "B" else f"{num_bytes:.1f} {units[0]}"


def _format_age(seconds: float) -> str:
    for unit, length in (("day", _SECONDS_PER_DAY), ("hour", 3600), ("minute", 60)):
        if (number := int(seconds / length)) >= 1:
            return format_count(number, unit)
    return "just now"


if __name__ == "__main__":
    cli.run_command(main)
