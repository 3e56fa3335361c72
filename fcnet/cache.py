"""``python -m fcnet.cache``: the stores of decoded images, and their removal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fcnet import cli
from fcnet.data.store.cleanup import list_stores, remove_store
from fcnet.data.store.store import cache_folder
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import argparse

    from fcnet.data.store.cleanup import CachedStore

_SECONDS_PER_DAY = 86_400


def main(arguments: list[str]) -> int:
    """Parses the flags, lists or removes stores, prints; returns the exit code."""
    flags = _parse_flags(arguments)
    cache = cache_folder()
    if cache.exists() and not cache.is_dir():
        raise UserError(f"the cache (FCNET_CACHE) must be a folder, got the file {cache}")
    stores = list_stores(cache)
    if flags.clean is None:
        for line in store_table(stores, time.time()):
            cli.print_status(line)
        cli.print_status(f"{_describe_stores(stores)} in {cache}")
        return 0
    chosen = _select_stores(stores, flags)
    removed = [stored for stored in chosen if remove_store(stored)]
    for stored in chosen:
        if stored not in removed:
            cli.print_status(f"{stored.name} is in use and stays")
    cli.print_status(f"removed {_describe_stores(removed)} from {cache}")
    return 0


def store_table(stores: list[CachedStore], now: float) -> list[str]:
    """The stores for a terminal, a line each under a heading; nothing where there is none."""
    width = max((len(stored.name) for stored in stores), default=0)
    lines = [f"{'store':{width}}       size      images  last used   made from"] if stores else []
    for stored in stores:
        remarks = "".join([" (unfinished)" * (not stored.finished), " (in use)" * stored.in_use])
        lines.append(
            f"{stored.name:{width}}  {_format_size(stored.size_bytes):>9}  {stored.num_images:10,}  "
            f"{_format_age(now - stored.last_used):10}  {stored.source or 'unknown'}{remarks}"
        )
    return lines


def _parse_flags(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("cache", "List the stores of decoded images, or remove some; they are made again when needed.")
    parser.add_argument("--clean", nargs="*", metavar="NAME", help="remove the stores of these names")
    parser.add_argument(
        "--older-than", type=float, metavar="DAYS", help="with --clean: those not used for so many days"
    )
    parser.add_argument("--all", action="store_true", help="with --clean: all of them")
    flags = parser.parse_args(arguments)
    ways = [bool(flags.clean), flags.older_than is not None, flags.all]
    if flags.clean is None and any(ways):
        raise UserError("--older-than and --all need --clean, which removes stores")
    if flags.clean is not None and sum(ways) != 1:
        raise UserError(
            "--clean must be followed by one of NAME…, --older-than DAYS and --all, which say what to remove"
        )
    if flags.older_than is not None and not flags.older_than >= 0:
        raise UserError(f"--older-than must be a number of days from 0 on, got {flags.older_than}")
    return flags


def _select_stores(stores: list[CachedStore], flags: argparse.Namespace) -> list[CachedStore]:
    known = {stored.name for stored in stores}
    if unknown := [name for name in flags.clean if name not in known]:
        raise UserError(f"--clean must name stores of {cache_folder()}, got {', '.join(unknown)}")
    if flags.clean:
        return [stored for stored in stores if stored.name in flags.clean]
    before = time.time() - (flags.older_than or 0.0) * _SECONDS_PER_DAY
    return [stored for stored in stores if flags.all or stored.last_used <= before]


def _describe_stores(stores: list[CachedStore]) -> str:
    size = _format_size(sum(stored.size_bytes for stored in stores))
    return f"{len(stores)} store{'s' * (len(stores) != 1)}, {size}"


def _format_size(num_bytes: float) -> str:
    units = ["B", "kB", "MB", "GB", "TB"]
    while num_bytes >= 999.5 and len(units) > 1:
        num_bytes /= 1000
        units.pop(0)
    return f"{num_bytes:.0f} {units[0]}" if units[0] == "B" else f"{num_bytes:.1f} {units[0]}"


def _format_age(seconds: float) -> str:
    for unit, length in (("day", _SECONDS_PER_DAY), ("hour", 3600), ("minute", 60)):
        if (number := int(seconds / length)) >= 1:
            return f"{number} {unit}{'s' * (number > 1)}"
    return "just now"


if __name__ == "__main__":
    cli.run_command(main)
