"""Sentences on what a source leaves out or lacks."""

from __future__ import annotations

import bisect
import copy
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from fcnet.runtime.formatting import format_count, format_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MAX_NAMED = 3
_MAX_LISTED = 5


class Reason(Enum):
    """Kinds of unused items, in the order of the sentence: a noun in the singular, and what the items have in common.

    The sentence ends with the kinds whose items are larger than one file.
    """

    NO_IMAGE_SUFFIX = "file", "without an image suffix"
    OUTSIDE_CLASSES = "image", "outside the class folders"
    BROKEN_LINK = "broken link", ""
    INNER_LINK = "link", "to a folder inside a class folder"
    DEEP_LINK = "link", "to a folder more than one level down"
    OUTSIDE_SPLITS = "folder", "beside the splits"
    OTHER_SPLIT = "split", "not judged"
    EMPTY_SPLIT = "split", "without an image"
    EMPTY_CLASS = "class folder", "without an image"
    UNKNOWN_ARRAY = "array", "of another name"
    NO_ARRAY = "file", "other than arrays"
    UNUSED_NAME = "class name", "without an image"


@dataclass(slots=True)
class UnusedItems:
    """Counts unused items by reason and keeps the first three names of each, so that memory does not grow.

    Example:
        >>> unused = UnusedItems()
        >>> for name in ("d.txt", "c.txt", "a.txt", "b.txt"):
        ...     unused.add(Reason.NO_IMAGE_SUFFIX, name)
        >>> unused.add(Reason.EMPTY_CLASS, "train/cow")
        >>> print(*unused.notes())
        not used: 4 files without an image suffix (a.txt, b.txt, c.txt, …), 1 class folder without an image (train/cow)
    """

    _counts: dict[Reason, int] = field(default_factory=dict)
    _first: dict[Reason, list[str]] = field(default_factory=dict)

    def add(self, reason: Reason, name: str) -> None:
        """Counts one item.

        Args:
            reason: why it is not used.
            name: its name, relative to the folder or archive of the data.
        """
        self._add(reason, 1, [name])

    def update(self, others: UnusedItems) -> None:
        """Counts other items, too."""
        for reason, count in others._counts.items():
            self._add(reason, count, others._first[reason])

    def _add(self, reason: Reason, count: int, names: Iterable[str]) -> None:
        self._counts[reason] = self._counts.get(reason, 0) + count
        first = self._first.setdefault(reason, [])
        for name in names:
            if len(first) < _MAX_NAMED or name < first[-1]:
                bisect.insort(first, name)
                del first[_MAX_NAMED:]

    def first(self, reason: Reason) -> list[str]:
        """Returns the first names of a reason."""
        return self._first.get(reason, [])

    def copy(self) -> UnusedItems:
        """Returns a copy that counts on by itself."""
        return copy.deepcopy(self)

    def notes(self) -> tuple[str, ...]:
        """Returns a sentence with all counts; none if nothing was left out."""
        return (f"not used: {self.describe()}",) if self._counts else ()

    def describe(self) -> str:
        """Returns all counts with the first names; empty if nothing was left out."""
        parts = []
        for reason in Reason:
            if count := self._counts.get(reason, 0):
                noun, common = reason.value
                names = format_names(self._first[reason], _MAX_NAMED, count)
                parts.append(" ".join(filter(None, [format_count(count, noun), common, f"({names})"])))
        return ", ".join(parts)


def missing_class_notes(
    split: str, classes: Sequence[str], present: Iterable[str], noun: str = "image"
) -> Iterator[str]:
    """Yields a sentence if some classes have no image in a split.

    Args:
        split: the name of the split.
        classes: all class names.
        present: the classes with images in the split.
        noun: what an example is called.

    Example:
        >>> list(missing_class_notes("test", ["cat", "cow", "dog"], {"cat"}))
        ['2 of 3 classes have no test image: cow, dog']
    """
    if missing := set(classes) - set(present):
        verb = "has" if len(missing) == 1 else "have"
        yield f"{len(missing):,} of {len(classes):,} classes {verb} no {split} {noun}: {list_names(missing)}"


def conversion_notes(count: int, *, channels: int, size: int, shape: Sequence[int]) -> Iterator[str]:
    """Yields a sentence for each way in which some images are converted.

    Args:
        count: the number of all images.
        channels: the number of those with another number of channels than ``shape``.
        size: the number of those of another size.
        shape: (C, H, W) of all images after the conversion.

    Example:
        >>> list(conversion_notes(20, channels=20, size=1, shape=(1, 8, 9)))
        ['20 of 20 images are converted to grey', '1 of 20 images is scaled and cropped to 9×8 pixels']
    """
    for number, change in (
        (channels, "converted to grey" if shape[0] == 1 else "converted from grey to three equal channels"),
        (size, f"scaled and cropped to {shape[2]}×{shape[1]} pixels"),
    ):
        if number:
            yield f"{number:,} of {count:,} images {'is' if number == 1 else 'are'} {change}"


def list_names(names: Iterable[str]) -> str:
    """Returns the first few names in order.

    Example:
        >>> list_names("gfedcba")
        'a, b, c, d, e, …'
    """
    return format_names(sorted(names), _MAX_LISTED)
