"""The functions of `fcnet.functional` as modules, with the names and arguments of `torch.nn`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

import fcnet.functional as F
from fcnet.functional.reductions import require_reduction

if TYPE_CHECKING:
    from torch import Tensor


class Sigmoid(nn.Module):
    """`fcnet.functional.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        """s(x) of each element."""
        return F.sigmoid(input)


class LogSigmoid(nn.Module):
    """`fcnet.functional.logsigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        """log s(x) of each element."""
        return F.logsigmoid(input)


class ReLU(nn.Module):
    """`fcnet.functional.relu`."""

    def forward(self, input: Tensor) -> Tensor:
        """max(0, x) of each element."""
        return F.relu(input)


class LeakyReLU(nn.Module):
    """`fcnet.functional.leaky_relu`.

    Args:
        negative_slope: the slope below 0.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """x, or below 0 its share."""
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        """The argument, as `print` shows it."""
        return f"negative_slope={self.negative_slope}"


class ELU(nn.Module):
    """`fcnet.functional.elu`.

    Args:
        alpha: far below 0 the value is −α.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """x, or below 0 α (e^x − 1)."""
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        """The argument, as `print` shows it."""
        return f"alpha={self.alpha}"


class GELU(nn.Module):
    """`fcnet.functional.gelu`.

    Args:
        approximate: ``"none"`` or ``"tanh"``.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """x Φ(x) of each element."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """The argument, as `print` shows it."""
        return f"approximate={self.approximate!r}"


class _ClassAxisModule(nn.Module):
    """A function along the axis of the classes.

    Args:
        dim: the axis.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        """The axis, as `print` shows it."""
        return f"dim={self.dim}"


class Softmax(_ClassAxisModule):
    """`fcnet.functional.softmax`.

    Args:
        dim: the axis of the classes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Class probabilities in the shape of the logits."""
        return F.softmax(input, self.dim)


class LogSoftmax(_ClassAxisModule):
    """`fcnet.functional.log_softmax`.

    Args:
        dim: the axis of the classes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Logarithms of class probabilities in the shape of the logits."""
        return F.log_softmax(input, self.dim)


class _Loss(nn.Module):
    """A loss of a batch.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        require_reduction(reduction)
        self.reduction = reduction

    def extra_repr(self) -> str:
        """The reduction, as `print` shows it."""
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """`fcnet.functional.cross_entropy`.

    Args:
        weight: a factor for each class, (C,); a buffer, so that it moves and is saved with the module.
        ignore_index: an index that marks examples to leave out.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: ε in [0, 1].

    Raises:
        ValueError: ``reduction`` is unknown.

    Example:
        >>> import torch
        >>> CrossEntropyLoss()(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
        tensor(2.0612e-09)
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits and class indices or class probabilities."""
        return F.cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class BCEWithLogitsLoss(_Loss):
    """`fcnet.functional.binary_cross_entropy_with_logits`.

    Args:
        weight: a factor for each loss; a buffer.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        pos_weight: a factor for the losses of the second class; a buffer.

    Raises:
        ValueError: ``reduction`` is unknown.
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean", pos_weight: Tensor | None = None) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits and probabilities of the second class."""
        return F.binary_cross_entropy_with_logits(input, target, self.weight, self.reduction, self.pos_weight)


class LogisticLoss(_Loss):
    """`fcnet.functional.logistic_loss`."""

    def forward(self, score: Tensor, target: Tensor) -> Tensor:
        """The loss of scores and classes −1 and +1."""
        return F.logistic_loss(score, target, self.reduction)


class HingeLoss(_Loss):
    """`fcnet.functional.hinge_loss`.

    Example:
        >>> import torch
        >>> HingeLoss()(torch.tensor([0.5, -2.0]), torch.tensor([1, -1]))
        tensor(0.2500)
    """

    def forward(self, score: Tensor, target: Tensor) -> Tensor:
        """The loss of scores and classes −1 and +1."""
        return F.hinge_loss(score, target, self.reduction)


class QuadraticLoss(_Loss):
    """`fcnet.functional.quadratic_loss`.

    Example:
        >>> import torch
        >>> QuadraticLoss(reduction="none")(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.5000])
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of predictions and targets, one a sample."""
        return F.quadratic_loss(prediction, target, self.reduction)
