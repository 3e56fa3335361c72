"""Problems that are hard to minimise, and their minima by Newton's method in NumPy on standardised features."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]
CS = (1e-6, 1e-3, 1.0, 1e3, 1e6)


class HardProblem(NamedTuple):
    """Features, labels or probabilities, and the keyword arguments of `logistic_path`."""

    x: Array
    y: Array
    arguments: dict[str, Any] = {}  # noqa: RUF012 - never changed


def _draw(n: int = 200, d: int = 8, c: int = 3, noise: float = 1.0) -> tuple[Array, Array]:
    """Draws normal features, and labels by a teacher whose logits have Gumbel noise."""
    r = np.random.default_rng(0)
    x, teacher = r.normal(size=(n, d)), r.normal(size=(d, c))
    return x, np.unique((x @ teacher + noise * r.gumbel(size=(n, c))).argmax(1), return_inverse=True)[1]


def _with_features(change: Callable[[Array], Array], **arguments: Any) -> HardProblem:
    x, y = _draw()
    return HardProblem(change(x), y, arguments)


def _with_labels(change: Callable[[Array], Array], **arguments: Any) -> HardProblem:
    x, y = _draw()
    return HardProblem(x, change(y), arguments)


def _separable_targets(classes: int) -> HardProblem:
    x, y = _draw(c=classes, noise=0.0)
    return HardProblem(x, np.eye(classes)[y])


def _with_rows(rows: Array) -> HardProblem:
    x, y = _draw()
    return HardProblem(x[rows], y[rows])


def _random() -> np.random.Generator:
    return np.random.default_rng(1)


def _without_class(last: int, **arguments: Any) -> HardProblem:
    x, y = _draw(c=last + 1)
    return HardProblem(x, y, {"sample_weight": np.where(y == last, 0.0, 1.0), **arguments})


PROBLEMS: dict[str, Callable[[], HardProblem]] = {
    "plain": lambda: HardProblem(*_draw()),
    "two classes": lambda: HardProblem(*_draw(c=2)),
    "separable": lambda: HardProblem(*_draw(noise=0.0)),
    "two separable classes": lambda: HardProblem(*_draw(c=2, noise=0.0)),
    "collinear": lambda: _with_features(lambda x: np.hstack([x, x[:, :3] @ np.ones((3, 2)), x[:, :1]])),
    "nearly collinear": lambda: _with_features(lambda x: np.hstack([x, x[:, :2] + 1e-7 * x[:, 2:4]])),
    "constant columns": lambda: _with_features(lambda x: np.hstack([x, np.ones((200, 1)), np.full((200, 1), 1e6)])),
    "constant columns, no intercept": lambda: _with_features(
        lambda x: np.hstack([x, np.ones((200, 1)), np.full((200, 1), -30.0)]), fit_intercept=False
    ),
    "one example a class": lambda: HardProblem(_draw(3)[0], np.arange(3)),
    "ten examples of ten classes": lambda: HardProblem(_draw(10, 20)[0], np.arange(10)),
    "weights of 0": lambda: HardProblem(*_draw(), {"sample_weight": _random().integers(0, 3, 200).astype(float)}),
    "weights of all sizes": lambda: HardProblem(*_draw(), {"sample_weight": 10.0 ** _random().uniform(-6, 6, 200)}),
    "a class without weight": lambda: _without_class(2),
    "one of two classes without weight": lambda: _without_class(1),
    "a class without weight, no intercept": lambda: _without_class(2, fit_intercept=False),
    "scale 1e-8": lambda: _with_features(lambda x: x * 1e-8),
    "scale 1e8": lambda: _with_features(lambda x: x * 1e8),
    "mixed scales": lambda: _with_features(lambda x: x * np.logspace(-8, 8, 8)),
    "mixed scales, as they are": lambda: _with_features(lambda x: x * np.logspace(-3, 3, 8), standardize=False),
    "offset": lambda: _with_features(lambda x: x + 1e4),
    "as they are": lambda: _with_features(lambda x: x, standardize=False),
    "no intercept": lambda: _with_features(lambda x: x + 0.5, fit_intercept=False),
    "balanced": lambda: _with_labels(lambda y: np.minimum(y, np.arange(200) % 7), class_weight="balanced"),
    "rare class": lambda: _with_labels(lambda _: (np.arange(200) % 67 == 0).astype(int)),
    "wider than long": lambda: HardProblem(*_draw(40, 150, 4)),
    "wider than long, two classes": lambda: HardProblem(*_draw(60, 500, 2)),
    "many classes": lambda: HardProblem(*_draw(240, 6, 24, noise=0.3)),
    "soft targets": lambda: _with_labels(lambda _: _random().dirichlet(np.ones(3), 200)),
    "hard and soft targets of two classes": lambda: _with_labels(lambda y: np.stack([y / 2.0, 1.0 - y / 2.0], 1)),
    "separable by targets of 0 and 1": lambda: _separable_targets(3),
    "two classes separable by targets of 0 and 1": lambda: _separable_targets(2),
    "heavy tails": lambda: _with_features(lambda x: np.asarray(_random().standard_cauchy(x.shape))),
    "noise": lambda: _with_labels(lambda _: _random().integers(0, 3, 200)),
    "features of 0 and 1": lambda: _with_features(lambda x: np.where(x > 0.0, 1.0, 0.0)),
    "duplicated rows": lambda: _with_rows(np.repeat(np.arange(20), 10)),
    "wide and long": lambda: HardProblem(*_draw(800, 30, 6)),
    "many examples of two classes": lambda: HardProblem(*_draw(2000, 80, 2)),
}


class Minimum(NamedTuple):
    """The objective at its minimum, or its infimum, and the weights (O, D) in the units of the penalty."""

    objective: float
    weights: Array


class Reference:
    """A problem with explicitly standardised features, in extended precision."""

    def __init__(self, problem: HardProblem) -> None:
        x, arguments = problem.x.astype(np.longdouble), problem.arguments
        self.intercept = arguments.get("fit_intercept", True)
        s = np.asarray(arguments.get("sample_weight", np.ones(len(x))), np.longdouble)
        counted = x[s > 0]
        mean = s @ x / s.sum()
        self.std = np.sqrt(s @ (x - mean) ** 2 / s.sum())
        self.std[(counted == counted[0]).all(0)] = 1.0
        # In their own units, features are only centred, which moves the intercept alone.
        self.std = self.std if arguments.get("standardize", True) else np.ones_like(self.std)
        self.mean = mean if self.intercept else np.zeros_like(mean)
        t = (
            np.eye(int(problem.y.max()) + 1)[problem.y]
            if problem.y.ndim == 1
            else problem.y / problem.y.sum(1)[:, None]
        )
        if arguments.get("class_weight") == "balanced":
            s = s * (t @ (s.sum() / (t.shape[1] * (s @ t))))
        self.x, self.t, self.s = ((x - self.mean) / self.std)[s > 0], t[s > 0].astype(np.longdouble), s[s > 0]
        # The intercept of a class without examples falls without end, and its weights go to 0.
        self.kept = (self.s @ self.t > 0.0) if self.intercept else np.ones(t.shape[1], bool)
        # Two nodes of softmax share the weight of one, which halves its square.
        self.one_node = t.shape[1] == 2

    def objective(self, weights: Array, intercepts: Array, penalty: float) -> float:
        """Computes Σ s ℓ + ½ ‖W‖² / C, with weights of one node as given."""
        logits = self.x @ weights.T.astype(np.longdouble) + intercepts
        if self.one_node:
            logits = np.hstack([0.0 * logits, logits])
        top = logits.max(1, keepdims=True)
        losses = np.log(np.exp(logits - top).sum(1)) + top[:, 0] - np.where(self.t > 0.0, self.t * logits, 0.0).sum(1)
        return float(penalty * (self.s @ losses) + 0.5 * (weights.astype(np.longdouble) ** 2).sum())

    def minima(self, penalties: tuple[float, ...]) -> list[Minimum]:
        """Minimises by Newton's method, in the space of the rows where that is smaller."""
        x, basis = self.x.astype(float), np.eye(self.x.shape[1])
        if x.shape[1] > len(x):
            basis = scipy.linalg.qr(x.T, mode="economic")[0]
            x = x @ basis
        x = np.hstack([x, np.full((len(x), 1), float(self.intercept))])
        t, s = self.t[:, self.kept].astype(float), self.s.astype(float)
        nodes = 1 if self.one_node and self.kept.all() else t.shape[1]
        found, start = [], np.zeros((nodes, x.shape[1]))
        if self.kept.sum() == 1:  # all examples are of one class
            return [Minimum(0.0, np.zeros((1, self.x.shape[1])))] * len(penalties)
        for c in penalties:
            start = _minimize(_Objective(x, t, s, c, self.intercept), start)
            weights = np.zeros((nodes if nodes == 1 else len(self.kept), self.x.shape[1]))
            weights[slice(None) if nodes == 1 else self.kept] = start[:, :-1] @ basis.T
            intercepts = np.full(len(weights), -1e4)
            intercepts[slice(None) if nodes == 1 else self.kept] = start[:, -1]
            found.append(Minimum(self.objective(weights, intercepts, c), weights))
        return found


class _Objective(NamedTuple):
    """C Σ s ℓ + ½ ‖W‖², with the intercept in the last column of x and of the parameters (O, D + 1)."""

    x: Array
    t: Array
    s: Array
    c: float
    intercept: bool

    def evaluate(self, w: Array) -> tuple[float, Array, Array]:
        """Returns value, gradient and probabilities."""
        nodes, ridge = len(w), self._ridge()
        logits = self.x @ w.T
        if nodes == 1:
            logits = np.hstack([0.0 * logits, logits])
        logits -= logits.max(1, keepdims=True)
        sums = np.exp(logits).sum(1)
        p = np.exp(logits) / sums[:, None]
        value = self.c * (self.s @ (np.log(sums) - (self.t * logits).sum(1))) + 0.5 * (ridge * w * w).sum()
        grad = self.c * ((p - self.t)[:, -nodes:] * self.s[:, None]).T @ self.x + ridge * w
        if nodes > 1:  # of all intercepts that differ by a constant, those of sum 0
            value += 0.5 * w[:, -1].sum() ** 2
            grad[:, -1] += w[:, -1].sum()
        return value, grad, p

    def second_derivatives(self, p: Array, nodes: int) -> Array:
        """Returns them at some probabilities, (O (D + 1), O (D + 1))."""
        width = self.x.shape[1]
        result = np.zeros((nodes, width, nodes, width))
        for i in range(nodes):
            for j in range(nodes):
                bend = p[:, i - nodes] * (float(i == j) - p[:, j - nodes])
                result[i, :, j] = self.c * (self.x.T * (self.s * bend)) @ self.x
            result[i, :, i] += np.diag(self._ridge())
        if nodes > 1:
            result[:, -1, :, -1] += 1.0
        if not self.intercept:
            result[:, -1, :, -1] += np.eye(nodes)
        return result.reshape(nodes * width, -1)

    def _ridge(self) -> Array:
        return np.append(np.ones(self.x.shape[1] - 1), 0.0)


def _minimize(objective: _Objective, start: Array) -> Array:
    """Minimises by Newton's method to the last digit."""
    w = start
    value, grad, p = objective.evaluate(w)
    best, at_best, waited = np.inf, w, 0
    for _ in range(300):
        matrix = objective.second_derivatives(p, len(w))
        scale = 1.0 / np.sqrt(np.diag(matrix))
        step = -scale * scipy.linalg.solve(matrix * scale[:, None] * scale, scale * grad.ravel(), assume_a="pos")
        decrement = float(-step @ grad.ravel())
        waited = 0 if decrement < 0.5 * best else waited + 1
        if decrement < best:
            best, at_best = decrement, w
        if decrement <= 0.0 or (waited > 4 and decrement <= 1e-10 * value):
            break
        length = 1.0
        found = objective.evaluate(w + step.reshape(w.shape))
        while found[0] > value - 1e-4 * length * decrement + 1e-13 * abs(value) and length > 1e-8:
            length *= 0.5
            found = objective.evaluate(w + length * step.reshape(w.shape))
        w, (value, grad, p) = w + length * step.reshape(w.shape), found
    assert best <= 1e-13 * value, (objective.c, best, value)  # twice the excess over the minimum
    return at_best


@cache
def minima(name: str, dtype: str) -> tuple[HardProblem, Reference, list[Minimum]]:
    """Returns a problem whose features have a dtype, and its minima for `CS`."""
    problem = PROBLEMS[name]()
    problem = problem._replace(x=problem.x.astype(dtype))
    reference = Reference(problem)
    return problem, reference, reference.minima(CS)
