"""The functions of `fcnet.functional` as modules, with the names and arguments of `torch.nn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

import fcnet.functional as F
from fcnet.functional.reductions import require_reduction

if TYPE_CHECKING:
    from torch import Tensor


class Sigmoid(nn.Module):
    """Applies `fcnet.functional.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns s(x) of each element."""
        return F.sigmoid(input)


class LogSigmoid(nn.Module):
    """Applies `fcnet.functional.logsigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns log s(x) of each element."""
        return F.logsigmoid(input)


class ReLU(nn.Module):
    """Applies `fcnet.functional.relu`; the derivative at 0 is 1."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns max(0, x) of each element."""
        return F.relu(input)


class LeakyReLU(nn.Module):
    """Applies `fcnet.functional.leaky_relu`.

    Args:
        negative_slope: the slope below 0.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """Returns x for x > 0, and ``negative_slope`` times x otherwise."""
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        """Returns the argument for `repr`."""
        return f"negative_slope={self.negative_slope}"


class ELU(nn.Module):
    """Applies `fcnet.functional.elu`.

    Args:
        alpha: α; the value tends to −α far below 0.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """Returns x for x > 0, and α (e^x − 1) otherwise."""
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        """Returns the argument for `repr`."""
        return f"alpha={self.alpha}"


class GELU(nn.Module):
    """Applies `fcnet.functional.gelu`.

    Args:
        approximate: ``"none"`` or ``"tanh"``.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Returns x Φ(x) of each element."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """Returns the argument for `repr`."""
        return f"approximate={self.approximate!r}"


class _ClassAxisModule(nn.Module):
    """Base of functions along the class axis.

    Args:
        dim: the class axis.

    Raises:
        TypeError: ``dim`` is no int.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if not isinstance(dim, int) or isinstance(dim, bool):
            raise TypeError(f"dim must be an int, got {dim!r}")
        self.dim = dim

    def extra_repr(self) -> str:
        """Returns the axis for `repr`."""
        return f"dim={self.dim}"


class Softmax(_ClassAxisModule):
    """Applies `fcnet.functional.softmax`.

    Args:
        dim: the class axis.

    Raises:
        TypeError: ``dim`` is no int.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Returns class probabilities in the shape of the logits."""
        return F.softmax(input, self.dim)


class LogSoftmax(_ClassAxisModule):
    """Applies `fcnet.functional.log_softmax`.

    Args:
        dim: the class axis.

    Raises:
        TypeError: ``dim`` is no int.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Returns logarithms of class probabilities in the shape of the logits."""
        return F.log_softmax(input, self.dim)


class _Loss(nn.Module):
    """Base of the losses.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        require_reduction(reduction)
        self.reduction = reduction

    def extra_repr(self) -> str:
        """Returns the reduction for `repr`."""
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """Computes `fcnet.functional.cross_entropy`.

    Args:
        weight: a factor for each class, (C,); a buffer, so it moves and is saved with the module.
        ignore_index: examples with this index are left out.
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

    def extra_repr(self) -> str:
        """Returns the reduction and the label smoothing for `repr`."""
        return f"{super().extra_repr()}, label_smoothing={self.label_smoothing}"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss for logits and class indices or class probabilities."""
        return F.cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class BCEWithLogitsLoss(_Loss):
    """Computes `fcnet.functional.binary_cross_entropy_with_logits`.

    Args:
        weight: a factor for each loss; a buffer.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        pos_weight: a factor for the loss of the second class; a buffer.

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
        """Returns the loss for logits and probabilities of the second class."""
        return F.binary_cross_entropy_with_logits(input, target, self.weight, self.reduction, self.pos_weight)


class LogisticLoss(_Loss):
    """Computes `fcnet.functional.logistic_loss`."""

    def forward(self, score: Tensor, target: Tensor) -> Tensor:
        """Returns the loss for scores and classes −1 and +1."""
        return F.logistic_loss(score, target, self.reduction)


class HingeLoss(_Loss):
    """Computes `fcnet.functional.hinge_loss`.

    Example:
        >>> import torch
        >>> HingeLoss()(torch.tensor([0.5, -2.0]), torch.tensor([1, -1]))
        tensor(0.2500)
    """

    def forward(self, score: Tensor, target: Tensor) -> Tensor:
        """Returns the loss for scores and classes −1 and +1."""
        return F.hinge_loss(score, target, self.reduction)


class QuadraticLoss(_Loss):
    """Computes `fcnet.functional.quadratic_loss`.

    Example:
        >>> import torch
        >>> QuadraticLoss(reduction="none")(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.5000])
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns the loss for predictions and targets, one per example."""
        return F.quadratic_loss(prediction, target, self.reduction)
