"""Everything random of an epoch as tensors: the order of the images, and the draws of augmentation and mixing."""

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
    """The N positions of an epoch, from which `Batches` makes its batches.

    With a mixture, the first axis has two rows: the images and their partners. Otherwise it has one.

    Attributes:
        rows: int64 (1 or 2, N), row indices, on the device of the images. All other tensors are on the batches' device.
        labels: int64 (1 or 2, N).
        draws: for each transform its random values, (1 or 2, N, …).
        mixture: the mixing of the N images; None for none.
        weights: float32 (C,), class weights; None for none.
    """

    rows: Tensor
    labels: Tensor
    draws: tuple[Tensor, ...]
    mixture: MixupParams | None
    weights: Tensor | None

    def slice(self, positions: builtins.slice) -> EpochPlan:
        """Returns a view of some positions."""
        mixture = None if self.mixture is None else self.mixture.slice(positions)
        draws = tuple(values[:, positions] for values in self.draws)
        return EpochPlan(self.rows[:, positions], self.labels[:, positions], draws, mixture, self.weights)

    def split(self, size: int) -> Iterator[EpochPlan]:
        """Yields views of ``size`` consecutive positions; the last may be smaller."""
        # One split of each tensor takes less time than a slice for each batch.
        splits = [tensor.split(size, 1) for tensor in (self.rows, self.labels, *self.draws)]
        for number, (rows, labels, *draws) in enumerate(zip(*splits, strict=True)):
            mixture = self.mixture and self.mixture.slice(slice(number * size, (number + 1) * size))
            yield EpochPlan(rows, labels, tuple(draws), mixture, self.weights)

    def clone(self) -> EpochPlan:
        """Returns a copy in new memory."""
        weights = None if self.weights is None else self.weights.clone()
        draws = tuple(values.clone() for values in self.draws)
        mixture = None if self.mixture is None else self.mixture.clone()
        return EpochPlan(self.rows.clone(), self.labels.clone(), draws, mixture, weights)

    def copy_(self, other: EpochPlan) -> None:
        """Copies the values of a plan of the same size into this one, as a CUDA graph's fixed memory needs."""
        for own, new in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(new, non_blocking=True)

    def _tensors(self) -> list[Tensor]:
        mixture = [] if self.mixture is None else self.mixture.tensors()
        weights = [] if self.weights is None else [self.weights]
        return [self.rows, self.labels, *self.draws, *mixture, *weights]
