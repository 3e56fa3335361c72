"""The minima of logistic regressions with several penalties, on an array or a sparse matrix, for the estimators.

B examples, D features, C classes, K penalties; O output nodes: 1 for two classes, else C.

A search on columns of very different sizes is slow and inexact. So it runs on the features (x − center) / scale,
whatever features the penalty is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse
import torch

from fcnet.data.arrays import to_tensor
from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.newton import is_fast_from_the_start
from fcnet.linear_model.preconditioner import Preconditioner
from fcnet.linear_model.problem import Problem
from fcnet.linear_model.solver import Minima, solve
from fcnet.linear_model.sparse_blocks import SparseBlocks
from fcnet.sklearn.scaler import compute_statistics, search_scales

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from torch import Tensor

    from fcnet.linear_model.feature_blocks import Features
    from fcnet.linear_model.solver import Progress

    Floats = npt.NDArray[np.float64]

_LARGE_CHANGE, _SMALL_BEND, _GROWTH = 0.5, 1e-3, 30.0
_MOST_REFINEMENTS = 20


@dataclass(frozen=True, eq=False)
class Task:
    """What is minimised: C Σ_i s_i ℓ_i + ½ ‖W‖² for each C.

    Attributes:
        x: float32 or float64 (B, D), an array or a CSR matrix without duplicates.
        labels: class indices, (B,).
        num_classes: C.
        weight: s, float64 (B,).
        standardize: whether W is that of the standardised features.
        fit_intercept: whether there is an intercept.
        tol: the largest entry at an end of the gradient of the mean objective, in the features whose W is penalised.
        max_iter: the largest number of steps for each C.
    """

    x: Any
    labels: npt.NDArray[np.int64]
    num_classes: int
    weight: Floats
    standardize: bool
    fit_intercept: bool
    tol: float
    max_iter: int


class LinearMinima(NamedTuple):
    """The ends of the searches, in the units of the features.

    Attributes:
        coef: float64 (K, O, D).
        intercept: float64 (K, O).
        iterations: int64 (K,), the steps taken.
        gradient: float64 (K,), the largest entry of the gradient, as ``tol`` has it.
        is_growing: bool (K,), whether there is no penalty and, as far as can be seen, no minimum either.
        mean: float64 (D,), what standardisation subtracts; 0 without it.
        std: float64 (D,), what it divides by; 1 without it.
    """

    coef: Floats
    intercept: Floats
    iterations: npt.NDArray[np.int64]
    gradient: Floats
    is_growing: npt.NDArray[Any]
    mean: Floats
    std: Floats


def find_minima(
    task: Task,
    Cs: Floats,
    *,
    rows: npt.NDArray[np.int64] | None = None,
    start: tuple[Floats, Floats] | None = None,
    on_pass: Callable[[Progress], None] | None = None,
) -> LinearMinima:
    """Minimises the objectives of all penalties together.

    Args:
        task: the examples, and what to minimise.
        Cs: the inverse strengths of the penalties, (K,); infinity for none.
        rows: the examples to take, ascending; None for all. Those of weight 0 are left out.
        start: coefficients and intercepts at which the search starts, as in the result.
        on_pass: takes the progress after each pass over the examples, in ascending order of ``Cs``.
    """
    counted = task.weight > 0.0 if rows is None else rows[task.weight[rows] > 0.0]
    taken = None if rows is None and counted.all() else np.arange(len(task.weight))[counted]
    work = _Work(task, np.sort(Cs), taken, on_pass)
    order = np.argsort(Cs)
    found, is_growing = work.run(None if start is None else (start[0][order], start[1][order]))
    back = np.argsort(order)
    parameters = found.parameters.numpy()[back]
    coef = parameters[..., :-1] / work.scale
    return LinearMinima(
        coef,
        parameters[..., -1] - coef @ work.center,
        found.iterations.numpy()[back],
        found.gradient.numpy()[back],
        is_growing[back],
        work.mean,
        work.std,
    )


class _Work:
    """One problem on the features of a search; the penalties are ascending in C."""

    def __init__(
        self,
        task: Task,
        Cs: Floats,
        rows: npt.NDArray[np.int64] | None,
        on_pass: Callable[[Progress], None] | None,
    ) -> None:
        self._task, self._on_pass = task, on_pass
        weight = task.weight if rows is None else task.weight[rows]
        labels = task.labels if rows is None else task.labels[rows]
        self._set_scales(rows, weight)
        features = self._features(rows, torch.from_numpy(weight))
        # A penalty that float64 cannot tell from none is none.
        self._strength = torch.from_numpy(1.0 / np.maximum(Cs * weight.sum(), 1e-300))
        self._is_free = torch.from_numpy(np.isinf(Cs))
        self._strength[self._is_free] = 0.0
        column_penalty = torch.from_numpy((self.std / self.scale) ** 2)
        self._problem = Problem(
            features,
            torch.from_numpy(labels),
            task.num_classes,
            torch.from_numpy(weight),
            self._strength[:, None] * column_penalty,
            intercept=task.fit_intercept,
        )
        self._preconditioner = None
        if not is_fast_from_the_start(self._problem):
            self._preconditioner = Preconditioner(features, torch.from_numpy(weight), column_penalty.sqrt())

    def run(self, start: tuple[Floats, Floats] | None) -> tuple[Minima, npt.NDArray[np.bool_]]:
        """Returns the minima, and which objectives decrease for ever."""
        points = None
        if start is not None:
            coef, intercept = start
            intercept = intercept + coef @ self.center if self._task.fit_intercept else 0.0 * intercept
            points = torch.from_numpy(np.concatenate([coef * self.scale, intercept[..., None]], 2))
        tol = self._task.tol
        if not bool(self._is_free.any()):
            return self._refine(self._solve(points, tol)), np.zeros(len(self._strength), bool)
        early = self._solve(points, max(_GROWTH * tol, 1e-9))
        found = self._refine(early if self._reached(early, tol) else self._resume(early, tol))
        return found, self._find_growth(early.parameters, found.parameters).numpy()

    def _set_scales(self, rows: npt.NDArray[np.int64] | None, weight: Floats) -> None:
        """Finds the scales of the search, and those of the features whose W is penalised."""
        statistics = compute_statistics(self._task.x, weight, rows)
        zeros, ones = np.zeros_like(statistics.mean), np.ones_like(statistics.mean)
        if self._task.standardize:
            self.mean = statistics.mean if self._task.fit_intercept else zeros
            self.std = statistics.std
            self.center, self.scale = self.mean, self.std
        else:
            self.mean, self.std = zeros, ones
            self.center, self.scale = search_scales(
                self._task.x, statistics, centred=self._task.fit_intercept, rows=rows
            )

    def _features(self, rows: npt.NDArray[np.int64] | None, weight: Tensor) -> Features:
        scales = torch.from_numpy(self.center), torch.from_numpy(self.scale)
        indices = None if rows is None else torch.from_numpy(rows)
        if scipy.sparse.issparse(self._task.x):
            return SparseBlocks(self._task.x, *scales, rows=indices)
        x = to_tensor(self._task.x, "X")
        return FeatureBlocks(x, weight, center=True, device=torch.device("cpu"), rows=indices, scales=scales)

    def _solve(self, points: Tensor | None, tol: float, spent: int = 0) -> Minima:
        return solve(
            self._problem,
            self._preconditioner,
            self._strength,
            points,
            tol=tol,
            max_iter=self._task.max_iter - spent,
            on_pass=self._on_pass,
        )

    def _resume(self, found: Minima, tol: float) -> Minima:
        """Resumes where a search ended."""
        further = self._solve(found.parameters, tol, int(found.iterations.max()))
        return further._replace(iterations=found.iterations + further.iterations)

    def _reached(self, found: Minima, tol: float) -> bool:
        return bool((found.gradient <= tol).all()) or int(found.iterations.max()) >= self._task.max_iter

    def _refine(self, found: Minima) -> Minima:
        """Resumes until the gradient in the features whose W is penalised is at most ``tol``, or does not fall."""
        tol = self._task.tol
        measured = self._measure(found)
        for _ in range(_MOST_REFINEMENTS):
            if self._task.standardize or self._reached(measured, tol):
                break
            above = measured.gradient > tol
            # The gradient of the search that belongs to half the tolerance, or half of what is reached.
            needed = 0.5 * (found.gradient * (tol / measured.gradient).clamp_max(1.0))[above].min()
            found, before = self._resume(found, float(needed)), measured
            measured = self._measure(found)
            if bool((measured.gradient > 0.5 * before.gradient)[above].all()):
                break
        return measured

    def _measure(self, found: Minima) -> Minima:
        """Returns minima with the gradient in the features whose W is penalised."""
        if self._task.standardize:
            return found
        every = torch.arange(len(found.parameters))
        grad = self._problem.evaluate(found.parameters, torch.float64, every).grad
        raw = grad[..., :-1] * torch.from_numpy(self.scale) + grad[..., -1:] * torch.from_numpy(self.center)
        largest = torch.maximum(raw.abs().amax((1, 2)), grad[..., -1].abs().amax(1))
        return found._replace(gradient=largest)

    def _find_growth(self, early: Tensor, late: Tensor) -> Tensor:
        """Returns which objectives without a penalty are flat on a way along which logits still change, bool (K,)."""
        every = torch.arange(len(early))
        step = late - early
        grads = [self._problem.evaluate(points, torch.float64, every).grad for points in (early, late)]
        change = torch.zeros(len(every), dtype=torch.float64)
        weights, intercepts = step[..., :-1].flatten(0, 1), step[..., -1].flatten()
        for _, block in self._problem.features.blocks(torch.float64, num_columns=len(weights)):
            logits = block.forward(weights, intercepts).view(*step.shape[:2], -1)
            change = torch.maximum(change, logits.abs().amax((1, 2)))
        # An example of weight 1 and probability p would bend the objective by p (1 − p) change² / B.
        bend = (step * (grads[1] - grads[0])).sum((1, 2)) * self._problem.num_rows / change.clamp_min(1e-300) ** 2
        return self._is_free & (change > _LARGE_CHANGE) & (bend < _SMALL_BEND)
