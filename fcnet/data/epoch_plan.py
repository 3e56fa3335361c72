"""All that is drawn for an epoch, as tensors: which images, in which order, changed and mixed how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterator

    from torch import Tensor

    from fcnet.data.transforms.mixup import MixupParams


@dataclass(frozen=True, eq=False, slots=True)
class EpochPlan:
    """What an epoch's batches are made of: a column for each of N positions; with a mixture a second row, the partners'.

    Attributes:
        rows: int64 (1 or 2, N), on the device of the images; all else is on the batches' device.
        labels: int64 (1 or 2, N).
        draws: for each change of images its numbers, (1 or 2, N, …).
        mixture: of N images, or None.
        weights: of the classes, float32 (C,), or None.
    """

    rows: Tensor
    labels: Tensor
    draws: tuple[Tensor, ...]
    mixture: MixupParams | None
    weights: Tensor | None

    def slice(self, positions: builtins.slice) -> EpochPlan:
        """Some of the positions; a view."""
        mixture = None if self.mixture is None else self.mixture.slice(positions)
        draws = tuple(numbers[:, positions] for numbers in self.draws)
        return EpochPlan(self.rows[:, positions], self.labels[:, positions], draws, mixture, self.weights)

    def split(self, size: int) -> Iterator[EpochPlan]:
        """Parts of ``size`` positions, the last of what is left; views."""
        splits = [tensor.split(size, 1) for tensor in (self.rows, self.labels, *self.draws)]
        for number, (rows, labels, *draws) in enumerate(zip(*splits, strict=True)):
            mixture = self.mixture and self.mixture.slice(slice(number * size, (number + 1) * size))
            yield EpochPlan(rows, labels, tuple(draws), mixture, self.weights)

    def clone(self) -> EpochPlan:
        """The same in memory of its own."""
        weights = None if self.weights is None else self.weights.clone()
        draws = tuple(numbers.clone() for numbers in self.draws)
        mixture = None if self.mixture is None else self.mixture.clone()
        return EpochPlan(self.rows.clone(), self.labels.clone(), draws, mixture, weights)

    def copy_(self, other: EpochPlan) -> None:
        """Takes over the values of as many positions."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine.copy_(theirs, non_blocking=True)

    def _tensors(self) -> list[Tensor]:
        mixed = [] if self.mixture is None else self.mixture.tensors()
        weights = [] if self.weights is None else [self.weights]
        return [self.rows, self.labels, *self.draws, *mixed, *weights]
