"""Training losses: functions of logits and a target, for one output node or for C.

The risk of a network with the parameters w is the expected loss of an unseen image. It is unknown. The empirical risk
R_n(w), the mean loss over n images, is known, and training minimizes it.

A target is class indices, int64 (B,), or class probabilities times image weights, floating (B, C), with C = 2 for one
node: the row of an image adds up to its weight, which need not be 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import fcnet.functional as F
from fcnet.functional import binary_cross_entropy, softmax_loss
from fcnet.functional.reductions import apply_weight
from fcnet.runtime.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B,) or (B, C), target int64 (B,) or floating (B, C)) -> the sum of the B losses, a scalar.

A sum, not a mean, since a process sees only its part of the global batch.
"""


@dataclass(frozen=True)
class CrossEntropy:
    """The sum −Σ_b log p̂_b(label_b), with p̂ the sigmoid of one output node or the softmax of C.

    For a floating target t it is −Σ_b Σ_j t_bj log p̂_b(j). An image's weight multiplies its whole loss, smoothing
    included, whereas torch's `cross_entropy` weights each class of the smoothed target.

    Attributes:
        label_smoothing: ε; the target becomes (1 − ε) t + ε / C · Σ_j t_j, with t one-hot for an index.

    Example:
        >>> CrossEntropy()(torch.zeros(4), torch.tensor([0, 1, 1, 0])).item() / 4  # log 2
        0.6931471824645996
    """

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the sum over the batch, a scalar, for logits (B,) or (B, C)."""
        if logits.ndim == 1:
            second, weight = self._second_class_target(logits, target)
            return F.binary_cross_entropy_with_logits(logits, second, weight, reduction="sum")
        if target.is_floating_point():
            return F.cross_entropy(logits, _smooth_labels(target, self.label_smoothing), reduction="sum")
        return F.cross_entropy(logits, target, reduction="sum", label_smoothing=self.label_smoothing)

    def loss_and_grad(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the sum, and its gradient p̂ · Σ_j t_j − t in the logits, in their shape.

        The gradient keeps its digits for confident examples; see `fcnet.functional.softmax_loss.loss_and_grad`.
        """
        if logits.ndim == 1:
            if not (target.is_floating_point() or self.label_smoothing):
                return binary_cross_entropy.loss_and_grad(logits, target)  # integer labels take the fastest form
            return binary_cross_entropy.loss_and_grad(logits, *self._second_class_target(logits, target))
        if target.is_floating_point():
            return softmax_loss.loss_and_grad(logits, _smooth_labels(target.to(logits.dtype), self.label_smoothing))
        return softmax_loss.loss_and_grad(logits, target, self.label_smoothing)

    def _second_class_target(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the probability of the second class, and the weights of the images, None for 1."""
        second, weight = target.to(logits.dtype), None
        if target.is_floating_point():
            # A row t is its sum, the weight, times a distribution.
            weight = second.sum(1)
            second = second[:, 1] / weight
        if self.label_smoothing:
            second = second * (1.0 - self.label_smoothing) + self.label_smoothing / 2
        return second, weight


@dataclass(frozen=True)
class ScoreLoss:
    """The sum Σ_b ℓ(y_b, h_b) over one output node's scores h, with the classes y = 2 · label − 1, −1 and +1.

    For a floating target t it is Σ_b t_b0 ℓ(−1, h_b) + t_b1 ℓ(+1, h_b). The logistic loss is the cross-entropy. With
    the other losses sgn(h) predicts a class, but s(h) is not a probability.

    Attributes:
        name: ``"logistic"``, ``"hinge"`` or ``"quadratic"``, as in `fcnet.functional`.
        label_smoothing: ε; the target becomes (1 − ε) t + ε / 2 · (t_0 + t_1), with t one-hot for an index.

    Raises:
        UserError: ``name`` is unknown; or, when called, the logits come from more than one node.

    Source:
        The lecture's losses for f(x) = sgn(xᵀw).

    Example:
        >>> ScoreLoss("hinge")(torch.tensor([0.5, 0.5]), torch.tensor([1, 0]))  # 0.5 + 1.5
        tensor(2.)
    """

    name: str
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Checks the name."""
        if self.name not in _SCORE_LOSSES:
            raise UserError(f"name must be one of {', '.join(_SCORE_LOSSES)}, got {self.name!r}")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the sum over the batch, a scalar, for scores (B,)."""
        if logits.ndim != 1:
            raise UserError(
                f"expected scores (B,) of one output node for the {self.name} loss, got {tuple(logits.shape)}"
            )
        losses = _SCORE_LOSSES[self.name]
        if not target.is_floating_point():
            if not self.label_smoothing:
                return losses(logits, 2 * target - 1).sum()
            target = torch.stack([1 - target, target], 1).to(logits.dtype)  # one-hot
        first, second = _smooth_labels(target, self.label_smoothing).unbind(1)
        ones = torch.ones_like(logits)
        return (apply_weight(losses(logits, -ones), first) + apply_weight(losses(logits, ones), second)).sum()


_SCORE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logistic": partial(F.logistic_loss, reduction="none"),
    "hinge": partial(F.hinge_loss, reduction="none"),
    "quadratic": lambda scores, y: F.quadratic_loss(scores[:, None], y[:, None], "none"),
}


def empirical_risk(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """Computes R_n(w) = 1/n Σ_b ℓ(y_b, f(x_b; w)), differentiable in the model's parameters w.

    Args:
        model: images -> logits (n,) or (n, C); its mode, training or evaluation, stays as it is.
        images: x (n, …), preprocessed for the model.
        target: class indices int64 (n,), or class probabilities, floating (n, C).
        loss: the sum of the losses.

    Returns:
        A scalar.

    Raises:
        UserError: there are no examples.

    Source:
        The lecture's empirical risk.

    Example:
        >>> model, images, labels = nn.Linear(4, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
        >>> risk = empirical_risk(model, images, labels, CrossEntropy())
        >>> gradient = torch.autograd.grad(risk, model.weight)
    """
    if not len(images):
        raise UserError("images must hold at least one example, got 0")
    logits: Tensor = model(images)
    return loss(logits, target) / len(images)


def _smooth_labels(target: Tensor, label_smoothing: float) -> Tensor:
    """Returns (1 − ε) t + ε / C · Σ_j t_j."""
    if not label_smoothing:
        return target
    even = target.sum(1, keepdim=True) / target.shape[1]
    return torch.lerp(target, even, label_smoothing)
