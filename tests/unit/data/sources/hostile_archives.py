"""Tar and zip archives that a stranger may send, each a function that writes one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tests.unit.data.sources.image_trees import SMALL_TREE, compress_zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    HostileArchives: TypeAlias = dict[str, tuple[Callable[[Path], None], str]]

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


class ZipEntry(NamedTuple):
    """One file of a zip archive, of which the list may say anything.

    Attributes:
        name: its name in the list.
        data: its content, compressed.
        method: how ``data`` is compressed; 0 for not at all.
        size: the size of the content; by default that of ``data``.
        crc: the checksum of the content; by default that of ``data``.
        flags: the flags of the list and of the file's own header.
        mode: the mode of the file on Unix, which makes it a link, say.
        offset: where the list says that the file is; by default where it is.
        extra: the extra field of the list.
        compressed: the compressed size in the list; by default that of ``data``.
        own_name: the name in the file's own header; by default ``name``.
        version: the version that is needed to read it, times 10.
    """

    name: bytes
    data: bytes = b""
    method: int = 0
    size: int | None = None
    crc: int | None = None
    flags: int = 0
    mode: int = stat.S_IFREG | 0o644
    offset: int | None = None
    extra: bytes = b""
    compressed: int | None = None
    own_name: bytes | None = None
    version: int = 20


def zip_bytes(*entries: ZipEntry, comment: bytes = b"") -> bytes:
    """Returns a zip archive with these files."""
    files, index = b"", b""
    for entry in entries:
        offset = len(files) if entry.offset is None else entry.offset
        size = len(entry.data) if entry.size is None else entry.size
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        compressed = len(entry.data) if entry.compressed is None else entry.compressed
        own = entry.name if entry.own_name is None else entry.own_name
        common = (entry.flags, entry.method, 0, 0, crc, compressed, size)
        files += struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, *common, len(own), 0) + own + entry.data
        index += struct.pack("<4s2B5H3L5H2L", b"PK\x01\x02", 20, 3, entry.version, *common, len(entry.name),
                             len(entry.extra), 0, 0, 0, entry.mode << 16, offset)  # fmt: skip
        index += entry.name + entry.extra
    return files + index + zip_end(len(entries), len(index), len(files), comment)


def zip_end(count: int, index_bytes: int, offset: int, comment: bytes = b"") -> bytes:
    count = min(count, 0xFFFF)
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, index_bytes, offset, len(comment)) + comment


def zipped(*entries: ZipEntry | Callable[[], ZipEntry]) -> Callable[[Path], None]:
    """Returns a function that writes a zip archive with these files, some of them not made before, and a whole tree."""

    def write(path: Path) -> None:
        tree = [ZipEntry(name.encode(), content) for name, content in SMALL_TREE.items()]
        made = [entry if isinstance(entry, ZipEntry) else entry() for entry in entries]
        _write(path, zip_bytes(*made, *tree))

    return write


def zip_link(name: str, target: str, **fields: int) -> ZipEntry:
    return ZipEntry(name.encode(), target.encode(), mode=stat.S_IFLNK | 0o777, **fields)  # type: ignore[arg-type]


def deflated(num_megabytes: int, size: int) -> ZipEntry:
    """Returns an image of zeros that says that it has another size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = b"".join(packer.compress(bytes(MIB)) for _ in range(num_megabytes)) + packer.flush()
    return ZipEntry(IMAGE, data, zipfile.ZIP_DEFLATED, size)


def lzma_zeros(num_megabytes: int, size: int) -> ZipEntry:
    packer = lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0)
    data = b"".join(packer.compress(bytes(MIB)) for _ in range(num_megabytes)) + packer.flush()
    # The header of a zip archive has a version and the length of the properties, and no size.
    return ZipEntry(IMAGE, b"\x09\x04\x05\x00" + data[:5] + data[13:], zipfile.ZIP_LZMA, size)


def many_entries(count: int) -> Callable[[Path], None]:
    entry = zip_bytes(ZipEntry(b"x"))[31:-22]  # without the file, and without the end
    return lambda path: _write(path, b"PK\x03\x04" + entry * count + zip_end(count, len(entry) * count, 4))


def with_long_list(path: Path) -> None:
    """Writes 1 TB of nothing, and an end that says that all of it is the list of files, in the form for large ones."""
    size = 10**12
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, size - 4, 4)
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(size)
        file.write(end64 + struct.pack("<4sLQL", b"PK\x06\x07", 0, size, 1) + zip_end(1, 0xFFFFFFFF, 0xFFFFFFFF))


def cut_zip(path: Path) -> None:
    zipped()(path)
    _write(path, path.read_bytes()[:-30])


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


MIB = 1 << 20
BROKEN = "a.tar must be a folder or a whole tar or zip archive, got: "
HEADER = f"{BROKEN}a header of more than 1,048,576 bytes"
HOSTILE_ARCHIVES: HostileArchives = {
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
        "train/cat/x.png in a.tar links to x.png, which leads in a loop",
    ),
    "links in a loop": (
        plain(links(iter([("train/cat/x.png", "y.png"), ("train/cat/y.png", "x.png")]))),
        "train/cat/x.png in a.tar links to y.png, which leads in a loop",
    ),
    "hard links in a loop": (
        plain(links(iter([("train/cat/x.png", "train/cat/y.png"), ("train/cat/y.png", "train/cat/x.png")]), b"1")),
        "train/cat/x.png in a.tar links to train/cat/y.png, which leads in a loop",
    ),
    "a chain of 20,000 links": (
        plain(many_links(20_000)),
        "train/cat/0.png in a.tar links to 1.png, which leads to nothing in the archive",
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

IMAGE = b"train/cat/x.png"
ZIP_BROKEN = "a.zip must be a folder or a whole tar or zip archive, got: "
ZIP_IMAGE = "train/cat/x.png in a.zip"
OVERLAP = f"{ZIP_BROKEN}overlapping files"
METHOD = f"{ZIP_IMAGE} has an unknown compression (method"
HOSTILE_ZIPS: HostileArchives = {
    "deflate of 600 MiB": (
        zipped(lambda: deflated(1, 600 * MIB)),
        f"{ZIP_IMAGE} must be an image file of at most 512 MiB, got",
    ),
    "deflate of 300 MiB": (zipped(lambda: deflated(300, 300 * MIB)), f"{ZIP_BROKEN}more than 256 MiB of data in 0."),
    "deflate that says 9 bytes": (
        zipped(lambda: deflated(300, 9)),
        f"{ZIP_IMAGE} must be a whole file, got: Bad CRC-32",
    ),
    "deflate that says more": (zipped(lambda: deflated(1, 2 * MIB)), f"{ZIP_IMAGE} must be a whole file, got: "),
    "bzip2 that says 9 bytes": (
        zipped(lambda: ZipEntry(IMAGE, bz2.compress(bytes(80 * MIB)), zipfile.ZIP_BZIP2, 9)),
        f"{ZIP_IMAGE} must be a whole file, got: Bad CRC-32",
    ),
    "LZMA that says 9 bytes": (zipped(lambda: lzma_zeros(80, 9)), f"{ZIP_IMAGE} must be a whole file, got: Bad CRC"),
    "bzip2 of letters": (
        zipped(ZipEntry(IMAGE, b"BZh9letters", zipfile.ZIP_BZIP2, 9)),
        f"{ZIP_IMAGE} must be a whole file, got: ",
    ),
    "LZMA of letters": (
        zipped(ZipEntry(IMAGE, b"letters", zipfile.ZIP_LZMA, 9)),
        f"{ZIP_IMAGE} must be a whole f",
    ),
    "a size of 4 GiB": (zipped(ZipEntry(IMAGE, b"x", size=2**32 - 2)), f"{ZIP_IMAGE} must be an image file of at most"),
    "a size beyond its data": (zipped(ZipEntry(IMAGE, b"x", size=99)), f"{ZIP_IMAGE} must be a whole file, got: "),
    "another checksum": (zipped(ZipEntry(IMAGE, b"x", crc=1)), f"{ZIP_IMAGE} must be a whole file, got: Bad CRC"),
    "another name in the header": (
        zipped(ZipEntry(IMAGE, b"x", own_name=b"a")),
        f"{ZIP_IMAGE} must be a whole file, got: File name in directory",
    ),
    "one file listed twice": (zipped(ZipEntry(IMAGE, b"x"), ZipEntry(IMAGE, b"x", offset=0)), OVERLAP),
    "a file within a file": (zipped(ZipEntry(b"a", bytes(99)), ZipEntry(IMAGE, b"x", offset=50)), OVERLAP),
    "a file over the list": (zipped(ZipEntry(IMAGE, b"x", compressed=10**6, size=10**6)), OVERLAP),
    "a file beyond the end": (zipped(ZipEntry(IMAGE, b"x", offset=2**31)), f"{ZIP_IMAGE} must be a whole file, got: "),
    "names that lead out": (
        zipped(*(ZipEntry(name, b"x") for name in (b"../x.png", b"/etc/x.png", b"..\\x.png"))),
        "read",
    ),
    "a name of dots": (zipped(*(ZipEntry(name) for name in (b"..", b"/", b".", b"../", b""))), "read"),
    "a zero in a name": (zipped(ZipEntry(b"train/cat/x.png\0.txt", b"x")), "read"),
    "a name of a long path": (zipped(ZipEntry(b"a/" * 32_000, b"x")), ""),
    "many long paths": (
        zipped(*(ZipEntry(b"%02d/" % number + b"a/" * 3000 + b"x.txt") for number in range(40))),
        "the folders and links in a.zip must give at most 64 MiB of names, got more",
    ),
    "a name that is not UTF-8": (zipped(ZipEntry(b"\xff.png", b"x", flags=0x800)), f"{ZIP_BROKEN}'utf-8' codec can't"),
    "an encrypted image": (
        zipped(ZipEntry(IMAGE, bytes(13), flags=1, size=1)),
        f"{ZIP_IMAGE} is encrypted; unpack the",
    ),
    "strong encryption": (
        zipped(ZipEntry(IMAGE, bytes(13), flags=0x41)),
        f"{ZIP_IMAGE} is encrypted; unpack the",
    ),
    "patched data": (zipped(ZipEntry(IMAGE, b"x", flags=0x20)), METHOD),
    "an unknown compression": (zipped(ZipEntry(IMAGE, b"x", method=9)), METHOD),
    "an unknown version": (zipped(ZipEntry(IMAGE, b"x", version=255)), f"{ZIP_BROKEN}zip file version 25.5"),
    "a broken extra field": (
        zipped(ZipEntry(IMAGE, b"x", size=2**32 - 1, extra=b"\1\0\2\0xx")),
        f"{ZIP_BROKEN}Corrupt zip64 extra field",
    ),
    "a link out": (
        zipped(zip_link("train/cow", "../../etc")),
        "train/cow in a.zip links to ../../etc, which leads out",
    ),
    "an absolute link": (zipped(zip_link("train/cow", "/etc")), "train/cow in a.zip links to /etc, which leads out"),
    "links in a loop": (
        zipped(zip_link("train/cow", "hen"), zip_link("train/hen", "cow")),
        "train/cow in a.zip links to hen, which leads in a loop",
    ),
    "a chain of 2,000 links": (
        zipped(*(zip_link(f"train/cat/{number}.png", f"{number + 1}.png") for number in range(2000))),
        "train/cat/0.png in a.zip links to 1.png, which leads to nothing in the archive",
    ),
    "folders that double 30 times": (
        zipped(
            *(zip_link(f"f{level}/{side}", f"../f{level - 1}") for level in range(1, 31) for side in "ab"),
            ZipEntry(b"f0/x.png", b"x"),
        ),
        "the folders and links in a.zip must give at most 64 MiB of names, got more",
    ),
    "a link of 5,000 bytes": (zipped(zip_link("x.png", "a" * 5000)), f"{ZIP_BROKEN}a link of more than 4,096 bytes"),
    "an encrypted link": (zipped(zip_link("train/cow", "cat", flags=1)), f"{ZIP_BROKEN}train/cow is encrypted; unpack"),
    "a pipe": (
        zipped(ZipEntry(IMAGE, mode=stat.S_IFIFO)),
        f"{ZIP_IMAGE} must be a file or a link to a file in the archive, got neither",
    ),
    "more than a million files": (many_entries(1_000_001), f"{ZIP_BROKEN}more than 1,000,000 files; unpack it to a"),
    "a list of 1 TB": (with_long_list, f"{ZIP_BROKEN}a list of files of more than 256 MiB"),
    "no end": (cut_zip, f"{ZIP_BROKEN}a zip archive without its end, such as an unfinished download"),
    "a beginning alone": (lambda path: _write(path, b"PK\x03\x04" + bytes(2000)), f"{ZIP_BROKEN}a zip archive without"),
}
"""The same for zip archives, read as ``a.zip``."""
