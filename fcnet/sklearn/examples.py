"""Training batches of arrays and sparse matrices: standardized, weighted, and dense only one batch at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import scipy.sparse
import torch
from torch import Tensor

from fcnet.data.batches import Batch, Batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from fcnet.data.epoch_plan import EpochPlan
    from fcnet.data.transforms.mixup import MixupParams

    Floats = npt.NDArray[np.float64]


def standardize(x: Any, mean: Floats, std: Floats, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns (x − mean) / std as a tensor (B, D), for an array or a sparse matrix. It computes in float64."""
    dense = x.toarray() if scipy.sparse.issparse(x) else x
    return torch.from_numpy((dense - mean) / std).to(dtype)


class Examples(Batches):
    """Batches of standardized features, with a weight for each example.

    Args:
        x: (N, D), an array, or a CSR matrix whose rows become dense in their batch alone.
        labels: class indices, (N,).
        mean: float64 (D,).
        std: float64 (D,).
        num_classes: C.
        weight: float64 (N,), divided by their mean here; None for 1.
        batch_size: the number of examples in a batch.
    """

    def __init__(
        self,
        x: Any,
        labels: npt.NDArray[np.int64],
        mean: Floats,
        std: Floats,
        *,
        num_classes: int,
        weight: Floats | None = None,
        batch_size: int,
    ) -> None:
        self._x, self._mean, self._std = x, mean, std
        self._is_sparse = scipy.sparse.issparse(x)
        # `Batches` needs only the shape of images that `get_images` makes
        images = torch.zeros(()).expand(x.shape) if self._is_sparse else standardize(x, mean, std)
        super().__init__(images, torch.from_numpy(labels), batch_size=batch_size, num_classes=num_classes)
        is_even = weight is None or bool((weight == weight[0]).all())
        self._weight = None if weight is None or is_even else torch.from_numpy(weight / weight.mean()).float()

    def make_batch(
        self, plan: EpochPlan, size: int, buffer: Tensor | None = None, pixels: Tensor | None = None
    ) -> Batch:
        """Makes a batch, with class probabilities times weights for targets."""
        batch = super().make_batch(plan, size, buffer, pixels)
        if self._weight is None:
            return batch
        target = torch.zeros(len(batch.labels), self.num_classes)
        target.scatter_(1, batch.labels[:, None], self._weight[plan.rows[0]][:, None])
        return Batch(batch.images, batch.labels, target, batch.size)

    def get_images(
        self,
        rows: Tensor,
        draws: Sequence[Tensor] = (),
        mixture: MixupParams | None = None,
        buffer: Tensor | None = None,
    ) -> Tensor:
        """Returns the features of some rows, float32 (B, D)."""
        if self._is_sparse:
            return standardize(self._x[rows.numpy()], self._mean, self._std)
        return super().get_images(rows, draws, mixture, buffer)
