"""The names of a split's images: UTF-8 in one flat array, and where each name ends.

A million names as Python strings take about 100 bytes each, in every process. Mapped from files, they take the bytes
of their text and 8 bytes more, which processes share and read on first use.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsIndex, overload

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

# Any string of Python has such a form, also the name of a file that is not UTF-8.
_ENCODING, _ERRORS = "utf-8", "surrogatepass"


class ImageNames(Sequence[str]):
    """Names that are decoded one at a time, when they are read.

    Args:
        text: uint8, the names in UTF-8 without separators.
        ends: int64 (N,), the end of each name in ``text``.

    Example:
        >>> names = ImageNames(*encode_names(["train/cat/1.png", "train/dog/2.png"]))
        >>> len(names), names[1], names[-2:]
        (2, 'train/dog/2.png', ['train/cat/1.png', 'train/dog/2.png'])
    """

    def __init__(self, text: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        # Plain views: each slice of a mapped array would be another one.
        self._text, self._ends = np.asarray(text), np.asarray(ends)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        """Returns the name of an image, or a list of the names of several.

        Raises:
            IndexError: the index is out of range.
        """
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"index must be less than {len(self)}, got {row}")
        row %= len(self)
        start = int(self._ends[row - 1]) if row else 0
        return self._text[start : int(self._ends[row])].tobytes().decode(_ENCODING, _ERRORS)


def encode_names(names: Sequence[str], start: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Returns the two arrays of `ImageNames`.

    Args:
        names: the names.
        start: the bytes of the text before them.
    """
    encoded = [name.encode(_ENCODING, _ERRORS) for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64) + start
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), ends
