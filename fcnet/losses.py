"""What training minimises: a loss of logits and class indices, for one output node or for C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import fcnet.functional as F
from fcnet.functional import binary, surprisal

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B,) or (B, C), labels int64 (B,)) -> the sum of the B losses, a scalar.

A sum and not a mean, because only who knows the global batch can divide by its size.
"""


@dataclass(frozen=True)
class CrossEntropy:
    """−Σ_b log p̂_b(label_b), with p̂ the sigmoid of one output node or the softmax of C.

    Attributes:
        label_smoothing: ε; the target is (1 − ε) · one-hot + ε / C, with C = 2 for one node.

    Example:
        >>> import torch
        >>> CrossEntropy()(torch.zeros(4), torch.tensor([0, 1, 1, 0])).item() / 4  # log 2
        0.6931471824645996
    """

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over the batch, a scalar, of logits (B,) or (B, C) and labels int64 (B,)."""
        if logits.ndim == 1:
            return F.binary_cross_entropy_with_logits(logits, self._target(logits, labels), reduction="sum")
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)

    def with_slope(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and its derivative in the logits, p̂ − target, in the shape of the logits.

        Where the true class is sure it keeps its digits; see the functions that give it.
        """
        if logits.ndim == 1:
            return binary.cost_and_slope(logits, self._target(logits, labels))
        return surprisal.cost_and_slope(logits, labels, self.label_smoothing)

    def _target(self, logits: Tensor, labels: Tensor) -> Tensor:
        target = labels.to(logits.dtype)
        return target * (1.0 - self.label_smoothing) + self.label_smoothing / 2 if self.label_smoothing else target
