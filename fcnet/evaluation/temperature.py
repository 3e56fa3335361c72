"""Temperature scaling: one number that makes a trained model's probabilities as sure as they are right.

N images, C classes, logits z_i, labels y_i, temperature T = 1 / β.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fcnet.evaluation.classification import evaluate
from fcnet.models.mlp import MLP
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import to_float64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

_MAX_ITERATIONS = 200
_VALUES_AT_ONCE = 1 << 20
_LONGEST_STEP = 8.0
_ROUNDING = 1e-12
_PROBE = 1e-6  # relative; at this distance from the minimum the sign of the derivative is beyond its rounding


@dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature.

    Attributes:
        temperature: T > 0; 1 if ``reason`` says why there is no best one.
        loss: the mean cross-entropy of the logits / T.
        loss_before: that of the logits.
        gap: a proven upper bound of ``loss`` − the minimum over all T > 0; infinite if there is no minimum.
        reason: why the temperature stays 1; None if it was fitted.
    """

    temperature: float
    loss: float
    loss_before: float
    gap: float
    reason: str | None = None


class _Derivatives(NamedTuple):
    """The mean loss L(β) and its first two derivatives."""

    loss: float
    first: float
    second: float


def fit_temperature(model: nn.Module, data: Any) -> TemperatureFit:  # noqa: ANN401 - as `evaluate`
    """Fits the temperature of a trained model on images that it was not trained on.

    It minimizes the mean cross-entropy of the logits divided by T,

        L(T) = 1/N Σ_i −log softmax(z_i / T)[y_i],

    which changes no prediction, only how sure the model is: T > 1 makes it less sure, T < 1 surer. The model stays as
    it is; `divide_logits` puts the temperature into its last layer. Collective: every rank must call it.

    Args:
        model: images -> logits (B,) for two classes, or (B, C).
        data: labelled images, of the kinds that `evaluate` takes; not those of the training.

    Returns:
        The temperature, and how far its loss is from the minimum at most.

    Raises:
        UserError: as `evaluate` raises.

    Source:
        Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017.

    Example:
        >>> from fcnet import LogisticRegression
        >>> model = LogisticRegression(1)
        >>> _ = model.layers[0].weight.data.fill_(8.0)
        >>> x, y = torch.tensor([[1.0], [1.0], [1.0], [-1.0]]), [1, 1, 0, 0]
        >>> fit = fit_temperature(model, (x, y))  # three of four are right, with log-odds of 8
        >>> round(fit.temperature, 3), round(math.exp(8 / fit.temperature), 6), fit.gap < 1e-15
        (7.282, 3.0, True)
        >>> divide_logits(model, fit.temperature)
        >>> [round(p, 3) for p in model.predict_proba(torch.tensor([[1.0]]))[0].tolist()]
        [0.25, 0.75]
    """
    batches: list[tuple[Tensor, Tensor]] = []
    evaluate(model, data, on_batch=lambda logits, labels: batches.append((logits.cpu(), labels.cpu())))
    return _fit(batches)


def find_temperature(logits: Tensor, labels: Tensor) -> TemperatureFit:
    """Finds the temperature that minimizes the mean cross-entropy of given logits; see `fit_temperature`.

    In β = 1 / T the loss is convex: L'(β) = 1/N Σ_i E_i[z] − z_i[y_i] rises with L''(β) = 1/N Σ_i Var_i[z], where
    expectation and variance are over the classes with probabilities softmax(β z_i). Newton's method finds the zero of
    L', and the signs of L' on both sides of it prove how near it is.

    There is no best T > 0 if every label has the largest logit, where the loss falls as T → 0; or if the logits are no
    better than equal ones, L'(0) ≥ 0, where it falls as T → ∞.

    Args:
        logits: (N,) for two classes, or (N, C), on any device.
        labels: int64 (N,).

    Raises:
        UserError: they do not fit, or there are none.

    Example:
        >>> fit = find_temperature(torch.tensor([4.0, 4.0, -4.0, -4.0, 4.0]), torch.tensor([1, 1, 0, 0, 0]))
        >>> round(fit.temperature * math.log(4), 6)  # four of five are right: log-odds of log 4
        4.0
        >>> find_temperature(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).reason
        'every image is classified correctly, and the loss falls as T → 0'
    """
    if logits.ndim not in (1, 2) or labels.shape != logits.shape[:1] or not len(labels):
        raise UserError(
            f"expected logits (N,) or (N, C) and labels (N,), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    num_classes = 2 if logits.ndim == 1 else logits.shape[1]
    if labels.is_floating_point() or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise UserError(f"labels must be whole numbers from 0 to {num_classes - 1}")
    return _fit([(logits.cpu(), labels.cpu())], gathered=True)


@torch.no_grad()
def divide_logits(model: nn.Module, temperature: float) -> None:
    """Divides the logits of a network by a temperature: the weight and the bias of its last layer.

    Predicted classes stay the same, up to logits that are equal in all but the last digits.

    Args:
        model: an `fcnet.MLP`, or a module that holds one as ``model``, such as an image classifier.
        temperature: T > 0.

    Raises:
        UserError: the model is another one, or the temperature is not a positive number.
    """
    network = getattr(model, "model", model)
    if not isinstance(network, MLP):
        raise UserError(f"model must be an fcnet.MLP or an image classifier, got a {type(model).__name__}")
    if not 0.0 < temperature < math.inf:
        raise UserError(f"temperature must be greater than 0 and finite, got {temperature}")
    for parameter in network.dense_layers()[-1].parameters():
        parameter.copy_(to_float64(parameter) / temperature)


def _fit(batches: Sequence[tuple[Tensor, Tensor]], *, gathered: bool = False) -> TemperatureFit:
    """Fits the temperature to the logits of all ranks; with ``gathered`` this process has all of them."""

    def add(*values: float) -> list[float]:
        """Adds values over all ranks. Each rank adds them in the same order, so that all get the same sums."""
        ranks = [values] if gathered else distributed.all_gather(values)
        return [math.fsum(column) for column in zip(*ranks, strict=True)]

    chunks = [chunk for batch in batches for chunk in _chunks(*batch)]
    count, not_finite, wrong = add(
        sum(len(labels) for _, labels in chunks),
        sum(not bool(logits.isfinite().all()) for logits, _ in chunks),
        sum(int(_differences(*chunk).gt(0).any(1).sum()) for chunk in chunks),
    )

    def derivatives(beta: float) -> _Derivatives:
        return _Derivatives(*(total / count for total in add(*_sums(chunks, beta))))

    now, flat = derivatives(1.0), derivatives(0.0)
    reason = None
    if not_finite:
        reason = "a logit is not finite"
    elif flat.first >= -_ROUNDING * math.sqrt(flat.second):
        reason = "the logits are no better than equal ones, and the loss falls as T → ∞"
    elif not wrong:
        reason = "every image is classified correctly, and the loss falls as T → 0"
    if reason is not None:
        return TemperatureFit(1.0, now.loss, now.loss, math.inf, reason)
    beta, best = _minimize(derivatives)
    return TemperatureFit(1.0 / beta, best.loss, now.loss, _bound_gap(derivatives, beta, best.first))


def _minimize(derivatives: Callable[[float], _Derivatives]) -> tuple[float, _Derivatives]:
    """Finds the β > 0 with L'(β) = 0 by Newton's method, within what is known to be below and above it."""
    beta, low, high = 1.0, 0.0, math.inf
    for _ in range(_MAX_ITERATIONS):
        here = derivatives(beta)
        if here.first < 0.0:
            low = beta
        else:
            high = beta
        step = beta - here.first / here.second if here.second else math.nan
        if abs(step - beta) <= _ROUNDING * beta:
            break
        # A step from afar may be far too long, where L' is nearly flat.
        step = min(max(step, beta / _LONGEST_STEP), beta * _LONGEST_STEP) if math.isfinite(step) else math.nan
        if not low < step < high:
            step = (
                math.sqrt(low * high)
                if 0.0 < low < high < math.inf
                else (beta * _LONGEST_STEP if here.first < 0.0 else beta / _LONGEST_STEP)
            )
        beta = step
    return beta, here


def _bound_gap(derivatives: Callable[[float], _Derivatives], beta: float, first: float) -> float:
    """Returns an upper bound of L(β) − L(β*).

    L is convex, so the gap is at most |L'(β)| · |β − β*|, and β* is between two points where L' has different signs.
    """
    width = _PROBE
    while not derivatives(beta * (1.0 - width)).first <= 0.0 <= derivatives(beta * (1.0 + width)).first:
        width *= 10.0
        if width >= 1.0:
            return math.inf
    return abs(first) * width * beta


def _chunks(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Splits a batch into parts whose float64 copies are small."""
    logits = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
    at_once = max(_VALUES_AT_ONCE // logits.shape[1], 1)
    return zip(logits.split(at_once), labels.split(at_once), strict=True)


def _differences(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns z_c − z_y for each class c, float64 (n, C)."""
    x = logits.double()
    return x - x.gather(1, labels[:, None])


def _sums(chunks: Sequence[tuple[Tensor, Tensor]], beta: float) -> tuple[float, float, float]:
    """Returns the sums of the loss and of its derivatives over this rank's images."""
    totals = torch.zeros(3, dtype=torch.float64)
    for chunk in chunks:
        d = _differences(*chunk)
        top, k = (beta * d).max(1, keepdim=True)
        # The largest power, 1, is left out of the sum to keep the digits of the others.
        powers = (beta * d - top).exp_().scatter_(1, k, 0.0)
        others = powers.sum(1, keepdim=True)
        p = powers.scatter_(1, k, 1.0).div_(1.0 + others)
        mean = (p * d).sum(1, keepdim=True)
        totals += torch.stack([(top + others.log1p()).sum(), mean.sum(), (p * (d - mean).square_()).sum()])
    loss, first, second = totals.tolist()
    return loss, first, second
