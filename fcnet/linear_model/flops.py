"""The cost of a pass over the features, which evaluates the objectives of all penalties; counted, not measured."""

from __future__ import annotations

from typing import NamedTuple

_LOGIT_BYTES = 4  # float32


class PassCost(NamedTuple):
    """The cost of one pass over the features.

    Attributes:
        flops: operations of its matrix products, counting a multiplication and an addition as two.
        bytes_moved: bytes through the memory, as far as no cache holds them.
    """

    flops: int
    bytes_moved: int

    def seconds(self, flops: float, memory_bandwidth: float) -> float:
        """Returns the least seconds on a device.

        Args:
            flops: the operations that it computes in a second.
            memory_bandwidth: the bytes that it moves in a second, reads and writes together.
        """
        return max(self.flops / flops, self.bytes_moved / memory_bandwidth)


def pass_cost(
    num_rows: int, num_features: int, num_classes: int, num_penalties: int, *, feature_bytes: int = 4
) -> PassCost:
    """Counts a pass over N rows of D features for K penalties and O output nodes: C, or 1 for two classes.

    The products are the logits X W and the gradient Xᵀ (P − T), 2·N·D·K·O operations each. The features are read once.
    The logits and the residuals, N·K·O values of float32 each, are written and read once.

    Args:
        num_rows: N.
        num_features: D.
        num_classes: C.
        num_penalties: K, those that have not converged.
        feature_bytes: bytes of a feature, 2 for float16.

    Example:
        >>> pass_cost(50_000, 768, 10, 45)
        PassCost(flops=69120000000, bytes_moved=513600000)
    """
    columns = num_penalties * (1 if num_classes == 2 else num_classes)
    flops = 4 * num_rows * num_features * columns
    return PassCost(flops, num_rows * (num_features * feature_bytes + 4 * columns * _LOGIT_BYTES))
