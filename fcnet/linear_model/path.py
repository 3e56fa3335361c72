"""Softmax regressions with many penalties on one set of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fcnet.data.arrays import to_tensor
from fcnet.linear_model.arguments import (
    check_agreement,
    check_features,
    check_penalties,
    check_target,
    check_weight,
    class_factors,
    number_classes,
)
from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.newton import is_fast_from_the_start
from fcnet.linear_model.preconditioner import Preconditioner
from fcnet.linear_model.problem import Problem
from fcnet.linear_model.solver import Minima, solve
from fcnet.models.mlp import LogisticRegression, logits_to_probabilities
from fcnet.runtime.distributed import all_reduce, long_work
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from fcnet.linear_model.solver import Progress

DEFAULT_CS = tuple(float(f"{10.0 ** (k / 4 - 6):.4g}") for k in range(45))
"""45 values from 1e-6 to 1e5, evenly spaced in the logarithm."""

_ROWS_AT_ONCE = 1 << 12


@dataclass(frozen=True, eq=False)
class LogisticPath:
    """Softmax regressions with K penalties; for two classes logistic regressions with one node.

    Attributes:
        Cs: float64 (K,), the inverse strengths of the penalties.
        classes: the C labels, sorted; class indices for soft targets.
        coef: float64 (K, C, D), or (K, 1, D) for two classes, in the units of ``x``.
        intercept: float64 (K, C) or (K, 1).
        objective: float64 (K,), C Σ_i s_i ℓ_i + ½ ‖W‖².
        gap: float64 (K,), a proven upper bound of the objective minus its minimum, rounding included.
        iterations: int64 (K,), the steps of the search.
        converged: bool (K,), whether the search ended near the minimum, by ``tol``. It is an estimate, ``gap`` a proof.
    """

    Cs: Tensor
    classes: np.ndarray[Any, Any]
    coef: Tensor
    intercept: Tensor
    objective: Tensor
    gap: Tensor
    iterations: Tensor
    converged: Tensor

    def predict_proba(self, x: Any) -> Tensor:  # noqa: ANN401 - a tensor or an array
        """Computes probabilities, (N, D) -> float64 (K, N, C)."""
        parts = [torch.stack([logits_to_probabilities(z) for z in logits]) for logits in self._logits(x)]
        return torch.cat(parts, 1) if parts else torch.zeros(len(self.Cs), 0, len(self.classes)).double()

    def predict(self, x: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401 - a tensor or an array
        """Returns the most probable labels, (N, D) -> (K, N)."""
        labels: np.ndarray[Any, Any] = self.classes[self._indices(x).cpu().numpy()]
        return labels

    def score(self, x: Any, y: Any) -> Tensor:  # noqa: ANN401 - tensors or arrays
        """Computes the accuracy of each regression on (N, D) features and (N,) labels, float64 (K,)."""
        y = np.asarray(y)
        if y.shape != (len(x),):
            raise UserError(f"y must hold one label for each row of x, ({len(x)},), got {y.shape}")
        return torch.from_numpy((self.predict(x) == y).mean(1))

    def model(self, k: int) -> LogisticRegression:
        """Returns the regression of the penalty ``Cs[k]`` as a network on the features as they are, in float32."""
        return LogisticRegression.from_weights(self.coef[k].float(), self.intercept[k].float())

    def _indices(self, x: Any) -> Tensor:  # noqa: ANN401 - a tensor or an array
        parts = [(z > 0).long() if z.ndim == 2 else z.argmax(2) for z in self._logits(x)]
        return torch.cat(parts, 1) if parts else torch.zeros(len(self.Cs), 0, dtype=torch.int64)

    def _logits(self, x: Any) -> Iterator[Tensor]:  # noqa: ANN401 - a tensor or an array
        """Yields the logits of blocks of rows, (K, n) for two classes, else (K, n, C)."""
        if getattr(x, "ndim", 0) != 2 or x.shape[1] != self.coef.shape[2]:
            shape = tuple(getattr(x, "shape", ()))
            raise UserError(f"x must hold {self.coef.shape[2]} features a row, got the shape {shape}")
        for start in range(0, len(x), _ROWS_AT_ONCE):
            block = to_tensor(x[start : start + _ROWS_AT_ONCE], "x").to(self.coef.device, torch.float64)
            logits = block @ self.coef.mT + self.intercept[:, None]
            yield logits[..., 0] if logits.shape[2] == 1 else logits


def logistic_path(
    x: Any,  # noqa: ANN401 - a tensor or an array
    y: Any,  # noqa: ANN401 - labels or probabilities
    Cs: Sequence[float] | None = None,  # noqa: N803 - scikit-learn's name
    *,
    sample_weight: Any = None,  # noqa: ANN401 - an array
    class_weight: Mapping[Any, float] | str | None = None,
    fit_intercept: bool = True,
    standardize: bool = True,
    tol: float = 1e-6,
    max_iter: int = 1000,
    device: str | torch.device | None = None,
) -> LogisticPath:
    """Minimises C Σ_i s_i ℓ_i + ½ ‖W‖² for every C at once; ℓ is the cross-entropy, and b is not penalised.

    One product over the features serves all penalties, and those that have converged drop out. On a long path a few
    penalties come first, and the others start between two of their minima. With more than 1,024 nodes in all, groups of
    penalties follow one another. The search runs in float32 and ends in float64, where ``gap`` is computed. In a
    process group, each rank passes its own rows, and all ranks return the regressions of all rows.

    Args:
        x: (N, D), float16, bfloat16, float32 or float64; a memory map stays on the disk.
        y: N labels, numbers or text; or probabilities, floating (N, C), rows that add up to 1.
        Cs: the K inverse strengths of the penalty; None for 45 from 1e-6 to 1e5.
        sample_weight: s, (N,), not negative; None for 1.
        class_weight: factors of s by label, 1 for those left out; ``"balanced"`` for the same weight of all classes
            together; None for 1.
        fit_intercept: whether there is b.
        standardize: whether W in the penalty is that of the standardised features, or that of ``x``.
        tol: the largest entry of the gradient of the mean objective in the standardised features at a minimum. The
            next step must also be expected to lower the objective by less than this share of it, with a margin.
        max_iter: the largest number of steps for each C.
        device: the device to compute on; None for that of ``x``.

    Raises:
        UserError: an argument does not fit, on this rank or on another.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), ["no", "yes", "no", "yes"]
        >>> path = logistic_path(x, y, [0.1, 10.0])
        >>> path.coef.shape, path.converged.tolist(), path.predict(x)[1].tolist()
        (torch.Size([2, 1, 1]), [True, True], ['no', 'no', 'yes', 'yes'])
    """
    return fit_path(
        x,
        y,
        Cs,
        sample_weight=sample_weight,
        class_weight=class_weight,
        fit_intercept=fit_intercept,
        standardize=standardize,
        tol=tol,
        max_iter=max_iter,
        device=device,
    )


def fit_path(
    x: Any,  # noqa: ANN401 - a tensor or an array
    y: Any,  # noqa: ANN401 - labels or probabilities
    Cs: Sequence[float] | None = None,  # noqa: N803 - scikit-learn's name
    *,
    rows: Tensor | None = None,
    start: LogisticPath | None = None,
    on_pass: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    state: dict[str, Tensor] | None = None,
    sample_weight: Any = None,  # noqa: ANN401 - an array
    class_weight: Mapping[Any, float] | str | None = None,
    fit_intercept: bool = True,
    standardize: bool = True,
    tol: float = 1e-6,
    max_iter: int = 1000,
    device: str | torch.device | None = None,
) -> LogisticPath:
    """Computes `logistic_path`, from given points, on some of the rows, and so that an interrupted call resumes.

    Args:
        x: as for `logistic_path`.
        y: as for `logistic_path`, one for each row of ``x``.
        Cs: as for `logistic_path`.
        rows: int64, ascending, the rows to fit; None for all.
        start: a path with the same Cs, classes and features, at which the search starts; None for 0.
        on_pass: takes the progress after each pass over the features, on the first rank. Its objectives are in
            ascending order of Cs.
        stop: called on each rank after each pass; if it returns True on any, all ranks raise `SearchStopped`, the first
            one after ``on_pass``.
        state: what `Progress.state` returned in an interrupted call with the same arguments; the result is the same,
            bit for bit, as without the interruption.
        sample_weight: as for `logistic_path`, one for each row of ``x``.
        class_weight: as for `logistic_path`.
        fit_intercept: as for `logistic_path`.
        standardize: as for `logistic_path`.
        tol: as for `logistic_path`.
        max_iter: as for `logistic_path`.
        device: as for `logistic_path`.
    """
    with long_work():  # a refusal on one rank ends all
        values = check_penalties(DEFAULT_CS if Cs is None else Cs)
        x, place = check_features(x, device)
        weight = check_weight(sample_weight, len(x))
        classes, y = check_target(y, len(x))
    check_agreement(
        Cs=values.tolist(),
        number_of_features=x.shape[1],
        dtype_of_x=str(x.dtype),
        kind_of_y=f"probabilities of {len(classes)} classes" if y.ndim == 2 else f"labels ({y.dtype.kind})",
        class_weight=class_weight,
        options=(fit_intercept, standardize, tol, max_iter),
    )
    classes, target = number_classes(classes, y)
    if rows is not None:
        target, weight = target[rows], weight[rows]
    scale_weight = weight.to(place)
    weight = (weight * class_factors(class_weight, classes, target, weight)).to(place)
    total = float(all_reduce(weight.sum()))
    if total <= 0.0:
        raise UserError("sample_weight must have a positive entry")
    features = FeatureBlocks(x, scale_weight, center=fit_intercept, device=place, rows=rows)
    order = torch.argsort(values)
    strength = 1.0 / (values[order].to(place) * total)
    column_penalty = torch.ones_like(features.std) if standardize else features.std**-2
    penalty = strength[:, None] * column_penalty
    problem = Problem(features, target.to(place), len(classes), weight, penalty, intercept=fit_intercept)
    by_newton = is_fast_from_the_start(problem)
    preconditioner = None if by_newton else Preconditioner(features, weight, column_penalty.sqrt())
    points = None if start is None else _to_parameters(start, features)[order.to(place)]
    found = solve(
        problem, preconditioner, strength, points, tol=tol, max_iter=max_iter, on_pass=on_pass, stop=stop, state=state
    )
    found = Minima(*(part[torch.argsort(order).to(place)] for part in found))
    coef = found.parameters[..., :-1] / features.std
    unit = values.to(place) * total  # the objectives were divided by it
    return LogisticPath(
        Cs=values,
        classes=classes,
        coef=coef.cpu(),
        intercept=(found.parameters[..., -1] - coef @ features.mean).cpu(),
        objective=(found.value * unit).cpu(),
        gap=(found.gap * unit).cpu(),
        iterations=found.iterations.cpu(),
        converged=found.converged.cpu(),
    )


def _to_parameters(path: LogisticPath, features: FeatureBlocks) -> Tensor:
    """Returns the coefficients of the standardised features, the intercept last."""
    coef, intercept = path.coef.to(features.mean.device), path.intercept.to(features.mean.device)
    return torch.cat([coef * features.std, (intercept + coef @ features.mean)[..., None]], 2)
