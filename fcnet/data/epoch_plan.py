"""All that is drawn for an epoch, as tensors: which images, in which order, changed and mixed how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from fcnet.data.transforms.mixup import Mixture


@dataclass(frozen=True, eq=False, slots=True)
class Order:
    """What an epoch's batches are made of: a column for each of N places; with a mixture a second row, the partners'.

    Attributes:
        rows: int64 (1 or 2, N), on the device of the images; all else is on the batches' device.
        labels: int64 (1 or 2, N).
        drawn: for each change of images its numbers, (1 or 2, N, …).
        mixture: of N images, or None.
        weights: of the classes, float32 (C,), or None.
    """

    rows: Tensor
    labels: Tensor
    drawn: tuple[Tensor, ...]
    mixture: Mixture | None
    weights: Tensor | None

    def part(self, places: slice) -> Order:
        """Some of the places; a view."""
        mixture = None if self.mixture is None else self.mixture.rows(places)
        drawn = tuple(numbers[:, places] for numbers in self.drawn)
        return Order(self.rows[:, places], self.labels[:, places], drawn, mixture, self.weights)

    def split(self, size: int) -> Iterator[Order]:
        """Parts of ``size`` places, the last of what is left; views."""
        splits = [tensor.split(size, 1) for tensor in (self.rows, self.labels, *self.drawn)]
        for number, (rows, labels, *drawn) in enumerate(zip(*splits, strict=True)):
            mixture = self.mixture and self.mixture.rows(slice(number * size, (number + 1) * size))
            yield Order(rows, labels, tuple(drawn), mixture, self.weights)

    def clone(self) -> Order:
        """The same in memory of its own."""
        weights = None if self.weights is None else self.weights.clone()
        drawn = tuple(numbers.clone() for numbers in self.drawn)
        mixture = None if self.mixture is None else self.mixture.clone()
        return Order(self.rows.clone(), self.labels.clone(), drawn, mixture, weights)

    def copy_(self, other: Order) -> None:
        """Takes over the values of as many places."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine.copy_(theirs, non_blocking=True)

    def _tensors(self) -> list[Tensor]:
        mixed = [] if self.mixture is None else self.mixture.tensors()
        weights = [] if self.weights is None else [self.weights]
        return [self.rows, self.labels, *self.drawn, *mixed, *weights]
