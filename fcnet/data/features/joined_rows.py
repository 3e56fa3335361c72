"""The features of several splits in one matrix that is never built. N examples of D features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.data.transforms.pipeline import l2_normalize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class JoinedRows:
    """Arrays one below the other, whose rows are copied when they are read.

    Args:
        parts: floating (n, D) each, on one device. All are finite, as `fcnet.data.features.open_features` makes sure:
            readers do not check it again.
        normalize: whether to scale each row to unit norm; rows are then float32, or float64 for float64.

    Attributes:
        parts: the arrays.
        shape: (N, D).
        dtype: the dtype of the rows, which holds those of all parts.
        device: the device of the rows.

    Example:
        >>> x = JoinedRows([torch.zeros(2, 3), torch.ones(4, 3)])
        >>> x.shape, x[1:3], x[torch.tensor([0, 5])]
        (torch.Size([6, 3]), tensor([[0., 0., 0.],
                [1., 1., 1.]]), tensor([[0., 0., 0.],
                [1., 1., 1.]]))
    """

    ndim = 2

    def __init__(self, parts: Sequence[Tensor], *, normalize: bool = False) -> None:
        self.parts, self._normalize = tuple(parts), normalize
        dtype = self.parts[0].dtype
        for part in self.parts[1:]:
            dtype = torch.promote_types(dtype, part.dtype)
        if normalize and dtype != torch.float64:
            dtype = torch.float32
        self.dtype, self.device = dtype, self.parts[0].device
        self.shape = torch.Size((sum(map(len, self.parts)), self.parts[0].shape[1]))

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Returns some rows: a slice of them, or int64 numbers from 0 to N − 1, in their order."""
        if isinstance(rows, slice):
            return self._slice(rows)
        if len(self.parts) == 1:
            return self._convert(self.parts[0][rows])
        result = torch.empty(len(rows), self.shape[1], dtype=self.dtype, device=self.device)
        start = 0
        for part in self.parts:
            is_within = (rows >= start) & (rows < start + len(part))
            result[is_within] = self._convert(part[rows[is_within] - start])
            start += len(part)
        return result

    def _slice(self, rows: slice) -> Tensor:
        first, last, step = rows.indices(len(self))
        if step != 1:
            return self[torch.arange(first, last, step, device=self.device)]
        found, start = [], 0
        for part in self.parts:
            here = slice(max(first - start, 0), max(last - start, 0))
            if here.start < min(here.stop, len(part)):
                found.append(self._convert(part[here]))
            start += len(part)
        return torch.cat(found) if len(found) > 1 else found[0] if found else self._convert(self.parts[0][:0])

    def _convert(self, rows: Tensor) -> Tensor:
        return (l2_normalize(rows) if self._normalize else rows).to(self.dtype)
