"""What a worker process does, and how it is spoken to.

It imports this and what is below it at each start, so nothing here may take long to import.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from typing import IO, TYPE_CHECKING, Any

from fcnet.data.decoding.decode_batch import DecodeOptions, ImageFile, decode_images, detect_grey
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORK = {work.__name__: work for work in (decode_images, detect_grey)}


def serve() -> None:
    """What a worker does: answers until nobody asks."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a decoder prints must not get among the answers
    gc.freeze()
    gc.set_threshold(100_000)  # the many small objects of an image go by themselves
    while asked := receive(sys.stdin.buffer):
        question, contents = asked
        unsent = iter(contents)
        files = [
            ImageFile(name, next(unsent) if path is None else path, stamp and tuple(stamp))
            for name, path, stamp in question["files"]
        ]
        try:
            rows = _WORK[question["work"]](files, DecodeOptions(**question["how"]))
        except (UserError, MemoryError):
            send(answers, {"done": False})
        else:
            send(answers, {"done": True, "skipped": rows.skipped}, [rows.data])


def send(stream: IO[bytes], facts: dict[str, Any], contents: Sequence[bytes] = ()) -> None:
    """Writes a line of JSON, which says how long the contents are, and the contents."""
    facts = facts | {"lengths": [len(content) for content in contents]}
    stream.write(json.dumps(facts).encode() + b"\n")
    stream.writelines(contents)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """What `send` wrote; None where nothing more comes.

    Raises:
        ValueError: it is cut short.
    """
    line = stream.readline()
    if not line:
        return None
    facts = json.loads(line)
    contents = [stream.read(length) for length in facts["lengths"]]
    if [len(content) for content in contents] != facts["lengths"]:
        raise ValueError("cut short")
    return facts, contents
