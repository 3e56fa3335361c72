"""What training minimises: a loss of logits and a target, for one output node or for C.

A target is class indices, int64 (B,), or shares of the classes, floating (B, C), with C = 2 for one
node, that add up to each image's weight and not always to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import fcnet.functional as F
from fcnet.functional import binary, surprisal

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B,) or (B, C), target int64 (B,) or floating (B, C)) -> the sum of the B losses, a scalar.

A sum and not a mean, because only who knows the global batch can divide by its size.
"""


@dataclass(frozen=True)
class CrossEntropy:
    """−Σ_b log p̂_b(label_b), with p̂ the sigmoid of one output node or the softmax of C.

    Of shares t it is −Σ_b Σ_j t_bj log p̂_b(j). An image's weight is that of its whole cost, smoothing
    included, where torch's `cross_entropy` weights the classes of the smoothed target.

    Attributes:
        label_smoothing: ε; the target is (1 − ε) t + ε / C · Σ_j t_j, with t one-hot for an index.

    Example:
        >>> CrossEntropy()(torch.zeros(4), torch.tensor([0, 1, 1, 0])).item() / 4  # log 2
        0.6931471824645996
    """

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The sum over the batch, a scalar, of logits (B,) or (B, C) and a target."""
        if logits.ndim == 1:
            second, weight = self._of_second(logits, target)
            return F.binary_cross_entropy_with_logits(logits, second, weight, reduction="sum")
        if target.is_floating_point():
            return F.cross_entropy(logits, self._smoothed(target), reduction="sum")
        return F.cross_entropy(logits, target, reduction="sum", label_smoothing=self.label_smoothing)

    def with_slope(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and its derivative in the logits, p̂ · Σ_j t_j − t, in the shape of the logits.

        Where the true class is sure it keeps its digits; see the functions that give it.
        """
        if logits.ndim == 1:
            return binary.cost_and_slope(logits, *self._of_second(logits, target))
        if target.is_floating_point():
            return surprisal.cost_and_slope(logits, self._smoothed(target.to(logits.dtype)))
        return surprisal.cost_and_slope(logits, target, self.label_smoothing)

    def _of_second(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """The second class's share of one, and the weights of the images, None for 1."""
        second, weight = target.to(logits.dtype), None
        if target.is_floating_point():
            weight = second.sum(1)
            second = second[:, 1] / weight
        if self.label_smoothing:
            second = second * (1.0 - self.label_smoothing) + self.label_smoothing / 2
        return second, weight

    def _smoothed(self, target: Tensor) -> Tensor:
        """(1 − ε) t + ε / C · Σ_j t_j."""
        if not self.label_smoothing:
            return target
        even = target.sum(1, keepdim=True) / target.shape[1]
        return torch.lerp(target, even, self.label_smoothing)
