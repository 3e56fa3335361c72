"""Tar archives that a stranger may send, each a function that writes one."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING

from tests.unit.data.sources.image_trees import SMALL_TREE, compress_zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCK = 512


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Returns one header of 512 bytes, with a size that may be a lie, or below 0."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = abs(size), kind, link
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[-BLOCK:])
    if size < 0:
        block[124:136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True)
    return with_checksum(block)


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def member(name: str, content: bytes) -> bytes:
    return header(name, len(content)) + content + bytes(-len(content) % BLOCK)


def pax_member(attributes: bytes, name: str = "train/cat/x.png", content: bytes = b"") -> bytes:
    """Returns a member after an extended header with these bytes as attributes."""
    start = header("pax", len(attributes), tarfile.XHDTYPE) + attributes + bytes(-len(attributes) % BLOCK)
    return start + member(name, content)


def pax(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = len(text) + len(str(len(text) + 2))
    return str(length).encode() + text


def gnu_sparse(size: int) -> bytes:
    """Returns a GNU sparse member that claims a file of this size and holds none of it."""
    block = bytearray(header("train/cat/x.png", 0, tarfile.GNUTYPE_SPARSE))
    block[483:495] = b"%011o\0" % size
    return with_checksum(block)


def whole_tree() -> bytes:
    return b"".join(member(name, content) for name, content in SMALL_TREE.items())


def plain(content: bytes) -> Callable[[Path], None]:
    return lambda path: _write(path, content + whole_tree() + bytes(1024))


def gzip_zeros(start: bytes, num_megabytes: int) -> Callable[[Path], None]:
    """Returns a function that writes an archive that expands to many zeros after ``start``."""

    def write(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(start)
            for _ in range(num_megabytes):
                file.write(bytes(1 << 20))

    return write


def zstd_zeros(start: bytes, num_megabytes: int) -> Callable[[Path], None]:
    return lambda path: _write(path, compress_zstandard(start + bytes(num_megabytes << 20)))


def with_hole(content: bytes, size: int) -> Callable[[Path], None]:
    """Returns a function that writes a file of this size that takes no room after its first bytes."""

    def write(path: Path) -> None:
        _write(path, content)
        with path.open("r+b") as file:
            file.truncate(size)

    return write


def links(pairs: Iterator[tuple[str, str]], kind: bytes = tarfile.SYMTYPE) -> bytes:
    return b"".join(header(name, 0, kind, target) for name, target in pairs)


def many_links(count: int) -> bytes:
    """Returns a chain of links: a naive search takes the square of their number."""
    return links((f"train/cat/{number}.png", f"{number + 1}.png") for number in range(count))


def nested_pax(depth: int) -> bytes:
    return header("pax", 0, tarfile.XHDTYPE) * depth + member("train/cat/x.png", b"")


def empty_members(count: int) -> bytes:
    file = io.BytesIO()
    for number in range(count):
        file.write(header(f"{number}.txt"))
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


MIB = 1 << 20
BROKEN = "a.tar must be a folder or a whole tar archive, got: "
HEADER = f"{BROKEN}a header of more than 1,048,576 bytes"
HOSTILE_ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a GNU sparse header of 8 GiB": (
        plain(gnu_sparse(1 << 33)),
        "train/cat/x.png in a.tar must be a file or a link to",
    ),
    "a PAX sparse file of 8 GiB": (
        plain(pax_member(pax("GNU.sparse.size", str(1 << 33)) + pax("GNU.sparse.numblocks", "0"))),
        "train/cat/x.png in a.tar must be a file or a link to a file in the archive, got a sparse file",
    ),
    "a PAX sparse map of a billion entries": (
        plain(
            pax_member(
                pax("GNU.sparse.major", "1") + pax("GNU.sparse.minor", "0") + pax("GNU.sparse.realsize", "9"),
                content=b"1000000000\n" + b"0\n" * (2 * MIB),
            )
        ),
        HEADER,
    ),
    "a PAX sparse map of letters": (
        plain(pax_member(pax("GNU.sparse.major", "1") + pax("GNU.sparse.minor", "0"), content=b"a\nb\nc\n")),
        BROKEN,
    ),
    "an image of 10 TB": (
        with_hole(header("train/cat/x.png", 10**13), 10**13 + 4096),
        "train/cat/x.png in a.tar must be an image file",
    ),
    "10 TB of zeros after the end": (
        with_hole(whole_tree(), 10**13),
        f"{BROKEN}more than 268,435,456 zeros after the last file",
    ),
    "gzip of 600 MiB in one image": (
        gzip_zeros(header("train/cat/x.png", 600 * MIB), 20),
        "train/cat/x.png in a.tar must be an image file of at most 512 MiB, got 600 MiB",
    ),
    "gzip of 300 MiB in another file": (gzip_zeros(header("notes.txt", 300 * MIB), 300), f"{BROKEN}more than 2"),
    "gzip of 300 MiB after the end": (gzip_zeros(whole_tree() + bytes(1024), 300), f"{BROKEN}more than 2"),
    "Zstandard of 300 MiB in another file": (
        zstd_zeros(header("notes.txt", 300 * MIB), 300),
        f"{BROKEN}more than 256 MiB of data in 0.",
    ),
    "gzip with a hole of 10 TB": (
        with_hole(gzip.compress(whole_tree() + bytes(1024)), 10**13),
        f"{BROKEN}a file with holes, such as an unfin",
    ),
    "a PAX header of 1 GiB": (gzip_zeros(header("pax", 1 << 30, tarfile.XHDTYPE), 20), HEADER),
    "a long name of 1 GiB": (gzip_zeros(header("name", 1 << 30, tarfile.GNUTYPE_LONGNAME), 20), HEADER),
    "headers before headers": (plain(nested_pax(1500)), BROKEN),
    "headers without end": (plain(nested_pax(10_000)), BROKEN),
    "a negative size": (plain(header("notes.txt", -1024)), f"{BROKEN}broken header"),
    "a negative PAX size": (plain(pax_member(pax("size", "-10"))), f"{BROKEN}broken header"),
    "a PAX size of 31 digits": (plain(pax_member(pax("size", str(10**30)))), ""),
    "a PAX size of letters": (plain(pax_member(pax("size", "many"))), ""),
    "a PAX length of 0": (plain(pax_member(b"0 path=x\n")), BROKEN),
    "a size beyond the file": (plain(header("notes.txt", 10**12)), f"{BROKEN}unexpected end of data"),
    "a link to itself": (
        plain(links(iter([("train/cat/x.png", "x.png")]))),
        "train/cat/x.png in a.tar must be a file or a link to an im",
    ),
    "links in a loop": (
        plain(links(iter([("train/cat/x.png", "y.png"), ("train/cat/y.png", "x.png")]))),
        "train/cat/x.png in a.tar must be a file or a link to an image in the archive, got a link to train/cat/y.png",
    ),
    "hard links in a loop": (
        plain(links(iter([("train/cat/x.png", "train/cat/y.png"), ("train/cat/y.png", "train/cat/x.png")]), b"1")),
        "train/cat/x.png in a.tar must be a file or a link to an image in the archive, got a link to train/cat/y.png",
    ),
    "a chain of 20,000 links": (
        plain(many_links(20_000)),
        "train/cat/0.png in a.tar must be a file or a link to an im",
    ),
    "a device": (
        plain(header("train/cat/x.png", 0, tarfile.CHRTYPE)),
        "train/cat/x.png in a.tar must be a file or a lin",
    ),
    "a pipe": (
        plain(header("train/cat/x.png", 0, tarfile.FIFOTYPE)),
        "train/cat/x.png in a.tar must be a file or a link",
    ),
}
"""For each kind, a function that writes the archive, and the start of the error of reading it whole as ``a.tar``."""
