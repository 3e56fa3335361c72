"""Journals: files of JSON lines, each with its checksum, from which an interrupted work resumes.

A kill or a loss of power may cut off or garble the last lines: what does not match its checksum was never written.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from fcnet.runtime.files import sha256

if TYPE_CHECKING:
    from pathlib import Path


def encode_line(content: dict[str, Any]) -> bytes:
    """Returns the line of a journal with some content: its checksum, then the content as JSON."""
    text = json.dumps(content).encode()
    return b"%s %s\n" % (sha256(text).encode(), text)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Returns the content of each line before the first one that does not match its checksum.

    Args:
        file: the journal; a missing one has no lines.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Path(folder) / "journal"
        ...     _ = journal.write_bytes(encode_line({"count": 3}) + encode_line({"count": 4})[:-3])
        ...     read_lines(journal)
        [{'count': 3}]
    """
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_bytes().splitlines():
            checksum, _, text = line.partition(b" ")
            if sha256(text).encode() != checksum:
                break
            lines.append(json.loads(text))
    return lines
