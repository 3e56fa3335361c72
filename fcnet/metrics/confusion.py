"""The confusion matrix without its zeros: its work and memory grow with the images and classes, not with C².

N images, C classes, P pairs of a true and a predicted class that occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fcnet.metrics.checks import to_counts, to_labels
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

MAX_TABLE_CLASSES = 300
"""The largest number of classes of which `Confusion.table` makes a square table."""

_MAX_CELLS = 1 << 20


@dataclass(frozen=True)
class ConfusedPair:
    """A class that is mistaken for another.

    Attributes:
        label: the true class.
        prediction: the predicted class, another one.
        count: the number of images.
        fraction: the fraction of the images of the true class.
    """

    label: int
    prediction: int
    count: int
    fraction: float


@dataclass(frozen=True, eq=False)
class Confusion:
    """The number of images for each pair of a true and a predicted class that occurs.

    Pairs are sorted by true class, then by prediction. `from_labels` and `from_table` make them.

    Attributes:
        num_classes: C.
        labels: int64 (P,), the true class of each pair.
        predictions: int64 (P,), its predicted class.
        counts: int64 (P,), its number of images, at least 1.

    Example:
        >>> confusion = Confusion.from_labels([0, 0, 1, 1], [0, 1, 1, 1], num_classes=2)
        >>> confusion.table(), confusion.accuracy
        (((1, 1), (0, 2)), 0.75)
        >>> confusion.most_confused(3)
        [ConfusedPair(label=0, prediction=1, count=1, fraction=0.5)]
    """

    num_classes: int
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def from_labels(cls, labels: Any, predictions: Any, num_classes: int) -> Confusion:  # noqa: ANN401 - array-likes
        """Counts pairs of labels.

        Args:
            labels: the true classes, integers (N,): a sequence, an array or a tensor.
            predictions: the predicted classes, integers (N,).
            num_classes: C.

        Raises:
            UserError: the two are not (N,), or a label is not from 0 to C − 1.
        """
        truth, predicted = to_labels(labels, num_classes, "labels"), to_labels(predictions, num_classes, "predictions")
        if len(truth) != len(predicted):
            raise UserError(f"labels and predictions must have one length, got {len(truth):,} and {len(predicted):,}")
        return cls.from_cells([truth * num_classes + predicted], num_classes)

    @classmethod
    def from_table(cls, table: Sequence[Sequence[int]]) -> Confusion:
        """Takes the pairs from a square table.

        Args:
            table: counts, ``table[truth][prediction]``, (C, C).

        Raises:
            UserError: it is no square table of counts, or their sum is beyond int64.
        """
        rows = to_counts(table)
        if (total := sum(map(sum, rows))) >= 2**63:
            raise UserError(f"confusion must count fewer than 2⁶³ images, got {total}")
        return cls._from_counts(np.array(rows, dtype=np.int64).reshape(-1), len(rows))

    @classmethod
    def from_cells(cls, cells: Iterable[npt.NDArray[np.int64]], num_classes: int) -> Confusion:
        """Counts cells of the square table, numbered row by row: truth · C + prediction.

        Args:
            cells: int64 (n,) each; one cell for each image, in any order.
            num_classes: C.
        """
        images = np.concatenate([np.empty(0, np.int64), *cells])
        # Counted in place where the whole table is small, else by sorting.
        if num_classes**2 <= _MAX_CELLS:
            return cls._from_counts(np.bincount(images, minlength=num_classes**2), num_classes)
        found, counts = np.unique(images, return_counts=True)
        return cls(num_classes, found // num_classes, found % num_classes, counts.astype(np.int64))

    @classmethod
    def _from_counts(cls, counts: npt.NDArray[np.int64], num_classes: int) -> Confusion:
        """Takes the pairs from a whole table, (C²,)."""
        found = counts.nonzero()[0]
        labels, predictions = found // max(num_classes, 1), found % max(num_classes, 1)
        return cls(num_classes, labels, predictions, counts[found].astype(np.int64))

    def __eq__(self, other: object) -> bool:
        """Returns whether both have the same classes and the same counts."""
        if not isinstance(other, Confusion):
            return NotImplemented
        columns = ("labels", "predictions", "counts")
        return self.num_classes == other.num_classes and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in columns
        )

    def __hash__(self) -> int:
        """Returns a hash of the counts."""
        return hash((self.num_classes, self.labels.tobytes(), self.predictions.tobytes(), self.counts.tobytes()))

    @cached_property
    def count(self) -> int:
        """The number of images."""
        return int(self.counts.sum())

    @cached_property
    def num_correct(self) -> int:
        """The number of images that are classified correctly."""
        return int(self.correct_counts.sum())

    @property
    def accuracy(self) -> float:
        """The fraction of images that are classified correctly; NaN without images."""
        return self.num_correct / self.count if self.count else float("nan")

    @cached_property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """The number of images of each class, int64 (C,)."""
        return self._sums(self.labels, self.counts)

    @cached_property
    def predicted_counts(self) -> npt.NDArray[np.int64]:
        """The number of images that are predicted as each class, int64 (C,)."""
        return self._sums(self.predictions, self.counts)

    @cached_property
    def correct_counts(self) -> npt.NDArray[np.int64]:
        """The number of images of each class that are classified correctly, int64 (C,)."""
        is_correct = self.labels == self.predictions
        return self._sums(self.labels[is_correct], self.counts[is_correct])

    def _sums(self, classes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        # bincount adds weights in float64, which rounds beyond 2⁵³.
        sums = np.zeros(self.num_classes, dtype=np.int64)
        np.add.at(sums, classes, counts)
        return sums

    def most_confused(self, k: int | None = None) -> list[ConfusedPair]:
        """Returns the pairs of different classes with the most images; ties by the fraction of the true class.

        Args:
            k: the maximum number of pairs; None for all.
        """
        wrong = (self.labels != self.predictions).nonzero()[0]
        labels, predictions, counts = self.labels[wrong], self.predictions[wrong], self.counts[wrong]
        fractions = counts / self.class_counts[labels]
        order = np.lexsort((predictions, labels, -fractions, -counts))[:k]
        columns = (labels, predictions, counts, fractions)
        return [ConfusedPair(*row) for row in zip(*(column[order].tolist() for column in columns), strict=True)]

    def table(self) -> tuple[tuple[int, ...], ...]:
        """Returns the square table, ``table[truth][prediction]``, (C, C).

        Raises:
            UserError: there are more than `MAX_TABLE_CLASSES` classes.
        """
        if self.num_classes > MAX_TABLE_CLASSES:
            raise UserError(
                f"num_classes must be at most {MAX_TABLE_CLASSES} for a square table, got {self.num_classes:,}; "
                "use most_confused"
            )
        table = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        table[self.labels, self.predictions] = self.counts
        return tuple(map(tuple, table.tolist()))
