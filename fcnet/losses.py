"""Training losses: functions of logits and a target, for one output node or for C.

The risk of a network with the parameters w is the expected loss of an unseen image. It is unknown. The empirical risk
R_n(w), the mean loss over n images, is known, and training minimizes it.

A target is class indices, int64 (B,), or class probabilities times image weights, floating (B, C), with C = 2 for one
node: the row of an image adds up to its weight, which need not be 1.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import fcnet.functional as F
from fcnet.functional import binary_cross_entropy, softmax_loss
from fcnet.functional.reductions import apply_weight
from fcnet.functional.softmax_loss import Labels, Probabilities, Targets
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

    Raises:
        UserError: ``label_smoothing`` is outside its range.

    Example:
        >>> CrossEntropy()(torch.zeros(4), torch.tensor([0, 1, 1, 0])).item() / 4  # log 2
        0.6931471824645996
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Checks ε."""
        _check_label_smoothing(self.label_smoothing)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the sum over the batch, a scalar, for logits (B,) or (B, C).

        Raises:
            UserError: logits and target have other shapes.
        """
        _check_shapes(logits, target)
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

    def chunkable_target(self, target: Tensor, dtype: torch.dtype) -> Targets:
        """Returns a target of C classes, smoothed, as `fcnet.functional.linear_cross_entropy` takes it.

        Args:
            target: class indices int64 (B,), or class probabilities, floating (B, C).
            dtype: the dtype to compute in.
        """
        if target.is_floating_point():
            return Probabilities(_smooth_labels(target.to(dtype), self.label_smoothing), None, 0.0, 1)
        return Labels(target.unsqueeze(1), None, None, self.label_smoothing, 1)

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
        UserError: ``name`` is unknown, or ``label_smoothing`` is outside its range; or, when called, the logits come
            from more than one node.

    Source:
        The lecture's losses for f(x) = sgn(xᵀw).

    Example:
        >>> ScoreLoss("hinge")(torch.tensor([0.5, 0.5]), torch.tensor([1, 0]))  # 0.5 + 1.5
        tensor(2.)
    """

    name: str
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Checks the name and ε."""
        _check_label_smoothing(self.label_smoothing)
        if self.name not in _SCORE_LOSSES:
            raise UserError(f"name must be one of {', '.join(_SCORE_LOSSES)}, got {self.name!r}")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the sum over the batch, a scalar, for scores (B,)."""
        _check_tensors(logits, target)
        if logits.ndim != 1:
            raise UserError(
                f"expected scores (B,) of one output node for the {self.name} loss, got {tuple(logits.shape)}"
            )
        _check_shapes(logits, target)
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


def check_loss(loss: Loss, num_classes: int | None, device: torch.device) -> None:
    """Checks that a loss from outside fcnet sums over the batch. On two equal rows, a mean is as large as on one.

    Args:
        loss: (logits, labels) -> the sum of the losses.
        num_classes: C; None if unknown, which checks nothing.
        device: the device of the logits.

    Raises:
        UserError: it returns a mean, or one value for each example, or does not take logits and class indices.
    """
    if num_classes is None or isinstance(loss, CrossEntropy | ScoreLoss):
        return
    advice = "fcnet.losses.CrossEntropy() is such a loss"
    function: object = loss
    if not callable(function):
        raise UserError(f"loss must be a function of logits and labels, got {function!r}; {advice}")
    shape = () if num_classes == 2 else (num_classes,)
    logits, labels = torch.ones(2, *shape, device=device), torch.zeros(2, dtype=torch.int64, device=device)
    if shape:
        logits *= torch.linspace(-1.0, 1.0, num_classes, device=device)
    try:
        one, two = loss(logits[:1], labels[:1]), loss(logits, labels)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"loss must take logits {tuple(logits.shape)} and int64 labels (2,), got the error: {reason}; {advice}"
        ) from None
    if not isinstance(two, Tensor) or two.ndim:
        found = f"the shape {tuple(two.shape)}" if isinstance(two, Tensor) else f"a {type(two).__name__}"
        raise UserError(f"loss must return the sum of a batch as a scalar tensor, got {found}; {advice}")
    if one == two != 0.0:
        raise UserError(f"loss must return the sum of a batch, got the mean; set reduction='sum' ({advice})")


def _check_label_smoothing(value: object) -> None:
    if not isinstance(value, numbers.Real) or not 0.0 <= float(value) <= 1.0:
        raise UserError(f"label_smoothing must be from 0 to 1, got {value!r}")


def _check_tensors(logits: object, target: object) -> None:
    for name, value in (("logits", logits), ("target", target)):
        if not isinstance(value, Tensor):
            raise UserError(f"{name} must be a tensor, got a {type(value).__name__}; pass torch.as_tensor({name})")


def _check_shapes(logits: Tensor, target: Tensor) -> None:
    """Raises a sentence for shapes that fail with an error about something else. It reads no values."""
    _check_tensors(logits, target)
    if logits.ndim == 2 and logits.shape[1] == 1:
        raise UserError(f"logits must be (B,) for two classes, got {tuple(logits.shape)}; pass logits.squeeze(1)")
    if not target.is_floating_point():
        return
    if target.ndim == 1:
        raise UserError(
            "target must be class indices, int64 (B,), or the probability of each class, (B, C), got "
            f"{target.dtype} {tuple(target.shape)}; for indices pass target.long()"
        )
    if logits.ndim == 1 and target.shape[1] != 2:
        raise UserError(f"target must be (B, 2) for logits (B,) of one output node, got {tuple(target.shape)}")


def _smooth_labels(target: Tensor, label_smoothing: float) -> Tensor:
    """Returns (1 − ε) t + ε / C · Σ_j t_j."""
    if not label_smoothing:
        return target
    even = target.sum(1, keepdim=True) / target.shape[1]
    return torch.lerp(target, even, label_smoothing)
