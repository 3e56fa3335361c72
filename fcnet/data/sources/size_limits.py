"""Limits on what a compressed file may expand to, so that a small file cannot take all memory or time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.runtime.errors import UserError
from fcnet.runtime.memory import free_bytes

if TYPE_CHECKING:
    from pathlib import Path

MIN_EXPANSION_BYTES = 1 << 28
MAX_EXPANSION = 100
"""Images hardly compress: even drawings as bitmaps, compressed by xz, take more than a hundredth of their size."""


def expanded_limit(compressed_bytes: int) -> int:
    """Returns the number of bytes that a compressed file may expand to: 100 times its size, or 256 MiB if that is more.

    Example:
        >>> expanded_limit(10) == 2**28, expanded_limit(10**7)
        (True, 1000000000)
    """
    return max(MIN_EXPANSION_BYTES, MAX_EXPANSION * compressed_bytes)


def check_fits_memory(num_bytes: int, path: Path, remedy: str) -> None:
    """Checks that some data fits in the memory of this process, before it is read.

    Args:
        num_bytes: the size of the data.
        path: the file of the data, for the error.
        remedy: what to do if it does not fit.

    Raises:
        UserError: less memory is free.
    """
    free = free_bytes(torch.device("cpu"))
    if free is not None and num_bytes > free:
        raise UserError(
            f"out of memory: {path} needs {num_bytes / 2**30:.1f} GiB more and {free / 2**30:.1f} GiB are free; "
            f"{remedy}"
        )
