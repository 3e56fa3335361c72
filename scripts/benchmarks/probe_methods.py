"""Softmax regressions with an L2 penalty, fitted by fcnet, scikit-learn, torch's L-BFGS and AdamW.

Each method has a ladder of settings, from loose to tight, and fits penalties in ascending order of C, each from where
the one before ended. All of them get the same standardised float32 features. Settings in float64 get a copy of these,
which is made beforehand.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import OURS
from fcnet import logistic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH_SIZE = 1024
LR = 1e-2
MAX_ITER = 10_000


class Solution(NamedTuple):
    """The parameters of a regression: coef (O, D) and intercept (O,), where O is 1 for two classes, else C."""

    coef: Tensor
    intercept: Tensor


@dataclass(frozen=True)
class Data:
    """Features and labels.

    Attributes:
        x: float32 (N, D), standardised.
        y: int64 (N,), class indices.
        num_classes: C.
        device: the device of fcnet and torch.
    """

    x: Tensor
    y: Tensor
    num_classes: int
    device: torch.device

    @property
    def num_nodes(self) -> int:
        """O, the output nodes of a regression."""
        return 1 if self.num_classes == 2 else self.num_classes

    @cached_property
    def on_host(self) -> dict[torch.dtype, Tensor]:
        """The features in CPU memory, in both dtypes."""
        return {torch.float32: self.x, torch.float64: self.x.double()}

    @cached_property
    def on_device(self) -> dict[torch.dtype, Tensor]:
        """The features on the device, in both dtypes."""
        return {dtype: x.to(self.device) for dtype, x in self.on_host.items()}

    @cached_property
    def labels(self) -> Tensor:
        """The labels on the device."""
        return self.y.to(self.device)


class Setting(NamedTuple):
    """A rung of a ladder: the dtype, and the tolerance or the number of epochs."""

    dtype: torch.dtype
    value: float

    def __str__(self) -> str:
        return f"{self.value:g}" + (" in float64" if self.dtype == torch.float64 else "")


class Fit(Protocol):
    """Fits some penalties."""

    def __call__(
        self, data: Data, penalties: Sequence[float], settings: Sequence[Setting], start: Solution | None
    ) -> list[Solution]:
        """Fits penalties C in ascending order, each with its setting, from ``start`` or 0."""
        ...


@dataclass(frozen=True)
class Method:
    """A way to fit penalties.

    Attributes:
        name: the name in the tables.
        quantity: what the values of its settings are.
        fit: fits penalties.
        ladder: the settings, from loose to tight.
        fits_together: whether it takes all penalties at once, with one setting.
        note: how it is used.
    """

    name: str
    quantity: str
    fit: Fit
    ladder: tuple[Setting, ...]
    fits_together: bool
    note: str = ""


def fit_ours(
    data: Data, penalties: Sequence[float], settings: Sequence[Setting], start: Solution | None = None
) -> list[Solution]:
    """Fits all penalties by `fcnet.logistic_path`, which takes no start."""
    del start
    x = data.on_device[torch.float32]
    path = logistic_path(
        x, data.y, penalties, standardize=False, tol=settings[0].value, max_iter=MAX_ITER, device=data.device
    )
    return [Solution(*parts) for parts in zip(path.coef, path.intercept, strict=True)]


def fit_sklearn(
    data: Data, penalties: Sequence[float], settings: Sequence[Setting], start: Solution | None
) -> list[Solution]:
    """Fits one penalty after another by scikit-learn's `LogisticRegression`, with ``warm_start``."""
    from sklearn.linear_model import LogisticRegression

    model, solutions = LogisticRegression(warm_start=True, max_iter=MAX_ITER), []
    if start is not None:
        model.coef_, model.intercept_ = (part.numpy().copy() for part in start)
    for penalty, setting in zip(penalties, settings, strict=True):
        model.set_params(C=penalty, tol=setting.value).fit(data.on_host[setting.dtype].numpy(), data.y.numpy())
        solutions.append(Solution(*(torch.from_numpy(part.copy()) for part in (model.coef_, model.intercept_))))
    return solutions


def fit_sklearn_cv(
    data: Data, penalties: Sequence[float], settings: Sequence[Setting], start: Solution | None = None
) -> list[Solution]:
    """Fits all penalties by scikit-learn's `LogisticRegressionCV`; the one split trains on all rows."""
    from sklearn.linear_model import LogisticRegressionCV

    del start
    (setting,) = set(settings)
    held_out = np.unique(data.y.numpy(), return_index=True)[1]  # a row of each class, to score
    split = np.arange(len(data.y)), held_out
    model = LogisticRegressionCV(Cs=list(penalties), cv=[split], refit=False, tol=setting.value, max_iter=MAX_ITER)
    paths = model.fit(data.on_host[setting.dtype].numpy(), data.y.numpy()).coefs_paths_
    # The dictionary (by class) of (folds, K, D + 1), which becomes an array (folds, 1, K, C, D + 1) in later versions.
    path = np.stack([each[0] for each in paths.values()], 1) if isinstance(paths, dict) else paths[0, 0]
    return [Solution(each[:, :-1], each[:, -1]) for each in torch.from_numpy(path)]


def fit_lbfgs(
    data: Data, penalties: Sequence[float], settings: Sequence[Setting], start: Solution | None
) -> list[Solution]:
    """Fits one penalty after another by `torch.optim.LBFGS`."""
    solutions = []
    for penalty, (dtype, tolerance) in zip(penalties, settings, strict=True):
        x, parameters = data.on_device[dtype], _first_parameters(data, dtype, start)
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=MAX_ITER,
            max_eval=2 * MAX_ITER,
            tolerance_grad=tolerance,
            tolerance_change=1e-12,  # ends where float32 shows no more progress
            history_size=10,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(_closure(optimizer, parameters, x, data.labels, penalty))
        start = _solution(parameters)
        solutions.append(start)
    return solutions


def fit_adamw(
    data: Data, penalties: Sequence[float], settings: Sequence[Setting], start: Solution | None
) -> list[Solution]:
    """Trains one head after another by `torch.optim.AdamW`, with a cosine schedule over a number of epochs."""
    count = len(data.y)
    solutions = []
    for penalty, (dtype, epochs) in zip(penalties, settings, strict=True):
        x, parameters = data.on_device[dtype], _first_parameters(data, dtype, start)
        optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)
        steps = math.ceil(count / BATCH_SIZE) * int(epochs)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        draws = torch.Generator().manual_seed(0)
        orders = (torch.randperm(count, generator=draws).split(BATCH_SIZE) for _ in range(int(epochs)))
        for rows in itertools.chain.from_iterable(orders):
            rows = rows.to(data.device)
            optimizer.step(_closure(optimizer, parameters, x[rows], data.labels[rows], penalty, count))
            schedule.step()
        start = _solution(parameters)
        solutions.append(start)
    return solutions


def _first_parameters(data: Data, dtype: torch.dtype, start: Solution | None) -> list[Tensor]:
    """Returns the weight and the bias to start from: those of the last penalty, or 0."""
    shapes = (data.num_nodes, data.x.shape[1]), (data.num_nodes,)
    parts = start if start is not None else (torch.zeros(shape) for shape in shapes)
    return [nn.Parameter(part.to(data.device, dtype, copy=True)) for part in parts]


def _closure(
    optimizer: torch.optim.Optimizer,
    parameters: list[Tensor],
    x: Tensor,
    labels: Tensor,
    penalty: float,
    count: int | None = None,
) -> Callable[[], float]:
    """Returns what computes the mean loss with the penalty, ½ ‖W‖² / (C N), and its gradient."""
    weight, bias = parameters
    strength = 1.0 / (penalty * (count or len(labels)))

    @torch.enable_grad()
    def closure() -> float:
        optimizer.zero_grad()
        logits = nn.functional.linear(x, weight, bias)
        loss = cross_entropy(logits, labels) + 0.5 * strength * weight.square().sum()
        loss.backward()
        return float(loss)

    return closure


def cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Computes torch's cross-entropy of logits (N, O)."""
    if logits.shape[1] == 1:
        return nn.functional.binary_cross_entropy_with_logits(
            logits[:, 0], labels.to(logits.dtype), reduction=reduction
        )
    return nn.functional.cross_entropy(logits, labels, reduction=reduction)


def _solution(parameters: list[Tensor]) -> Solution:
    return Solution(*(part.detach().cpu().double() for part in parameters))


def _ladder(single: Sequence[float], double: Sequence[float] = ()) -> tuple[Setting, ...]:
    return (
        *(Setting(torch.float32, value) for value in single),
        *(Setting(torch.float64, value) for value in double),
    )


_TOLERANCES = _ladder((1e-4, 1e-5, 1e-6), (1e-6, 1e-7))
METHODS = (
    Method(OURS, "tol", fit_ours, _ladder((1e-4, 1e-5, 1e-6, 1e-7, 1e-8)), fits_together=True),
    Method(
        "LogisticRegression",
        "tol",
        fit_sklearn,
        _TOLERANCES,
        fits_together=False,
        note="L-BFGS, a loop over the penalties with warm_start",
    ),
    Method(
        "LogisticRegressionCV",
        "tol",
        fit_sklearn_cv,
        _TOLERANCES,
        fits_together=True,
        note="L-BFGS, one split that trains on all rows, no refit",
    ),
    Method(
        "torch.optim.LBFGS",
        "tolerance_grad",
        fit_lbfgs,
        _TOLERANCES,
        fits_together=False,
        note="strong Wolfe line search, one penalty after another, each from the end of the one before",
    ),
    Method(
        "AdamW heads",
        "epochs",
        fit_adamw,
        _ladder((10, 30, 100)),
        fits_together=False,
        note=f"batches of {BATCH_SIZE:,}, learning rate {LR:g} with a cosine schedule, the penalty in the loss (the "
        "decay of AdamW's own has another minimum), one head after another, each from the end of the one before",
    ),
)
