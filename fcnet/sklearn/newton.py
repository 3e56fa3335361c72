"""Newton's method for a convex objective with a line search, by a matrix of second derivatives or by their products.

K outputs, D features: the parameters are (K, D + 1), or (K, D) without an intercept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fcnet.sklearn.objective import Curvature, Objective

    Floats = npt.NDArray[np.float64]

_EPSILON = float(np.finfo(np.float64).eps)
_LARGEST_MATRIX = 1000
_MOST_MATRIX_FLOPS = 2e10
_MOST_PRODUCTS = 500
_MOST_HALVINGS = 40
_LARGEST_CHANGE = 20.0  # of a logit, in a step after the whole Newton step has failed
_LARGE_LAST_CHANGE, _SMALL_BEND = 0.5, 1e-3


class Point(NamedTuple):
    """A point of the search.

    Attributes:
        parameters: (K, D + 1).
        value: the objective.
        grad: its gradient, (K, D + 1).
        logits: the logits, (B, K).
    """

    parameters: Floats
    value: float
    grad: Floats
    logits: Floats


class Minimum(NamedTuple):
    """The end of a search.

    Attributes:
        parameters: the best point, (K, D + 1).
        logits: the logits of the point, (B, K).
        gradient: the largest entry of the gradient there, as ``measure`` has it.
        iterations: the number of Newton steps.
        is_growing: whether the last step still changed logits where the objective is flat: without a penalty, the
            parameters of separable classes grow without limit.
    """

    parameters: Floats
    logits: Floats
    gradient: float
    iterations: int
    is_growing: bool


def minimize(
    objective: Objective,
    start: Floats,
    *,
    tol: float,
    max_iter: int,
    measure: Callable[[Floats], Floats] = np.asarray,
    report: Callable[[int, float, float], None] | None = None,
) -> Minimum:
    """Minimizes an objective until its gradient is small.

    The search ends early where rounding hides every further decrease, so compare ``gradient`` of the result with
    ``tol``.

    Args:
        objective: the objective.
        start: the point where the search starts, (K, D + 1); it starts at 0 if the objective is less there.
        tol: the largest entry of the gradient at which the search ends.
        max_iter: the largest number of steps.
        measure: converts the gradient to the parameters for which ``tol`` is meant.
        report: takes the number of steps so far, the value and the largest entry of the gradient before each step.

    Source:
        Nocedal and Wright, "Numerical optimization", 2nd edition, algorithms 3.2 and 7.1.
    """

    def size(point: Point) -> float:
        return float(np.abs(measure(point.grad)).max(initial=0.0))

    point, is_growing, iteration = _choose_start(objective, start), False, 0
    while True:
        if report is not None:
            report(iteration, point.value, size(point))
        if size(point) <= tol or iteration == max_iter:
            break
        direction = _center_outputs(_newton_direction(objective, objective.curvature(point.logits), point.grad))
        found = _line_search(objective, point, direction, size)
        if found is None:
            break
        change = float(np.abs(found.logits - point.logits).max())
        # An example of the weight 1 and the probability p would bend the objective by p (1 − p) change² / B.
        bend = -float((point.grad * direction).sum()) * objective.num_examples / max(change, 1e-300) ** 2
        is_growing = change > _LARGE_LAST_CHANGE and bend < _SMALL_BEND
        point, iteration = found, iteration + 1
    return Minimum(point.parameters, point.logits, size(point), iteration, is_growing)


def _evaluate(objective: Objective, parameters: Floats) -> Point:
    with np.errstate(over="ignore", invalid="ignore"):  # of a step far too long, which is not taken
        return Point(parameters, *objective.value_and_grad(parameters))


def _choose_start(objective: Objective, start: Floats) -> Point:
    """Returns the start, or 0 if the objective is less there: far out it is linear, and Newton's steps are wild."""
    point = _evaluate(objective, _center_outputs(start))
    if not start.any():
        return point
    zero = _evaluate(objective, np.zeros_like(start))
    return point if point.value <= zero.value else zero


def _line_search(objective: Objective, point: Point, direction: Floats, size: Callable[[Point], float]) -> Point | None:
    """Returns the first point along a direction that is enough of an improvement, or None if rounding hides all."""
    slope, step = float((point.grad * direction).sum()), 1.0
    rounding = _EPSILON * abs(point.value)
    for attempt in range(_MOST_HALVINGS):
        candidate = _evaluate(objective, point.parameters + step * direction)
        needed = -1e-4 * step * slope
        if needed > 2.0 * rounding:
            accepted = candidate.value <= point.value - needed
        else:
            # The decrease is lost in the rounding of the value. The gradient still tells how near the minimum is.
            accepted = candidate.value <= point.value + 8.0 * rounding and size(candidate) < 0.9 * size(point)
        if accepted:
            return candidate
        if attempt == 0:
            # Where the curvature nearly vanishes, a step can be too long to be halved to a useful length.
            change = float(np.abs(objective.features.forward(direction)).max())
            step = min(step, _LARGEST_CHANGE / max(change, 1e-300))
        step *= 0.5
    return None


def _newton_direction(objective: Objective, curvature: Curvature, grad: Floats) -> Floats:
    """Returns an approximate solution of (second derivative) · direction = −gradient."""
    size = grad.size
    if size <= _LARGEST_MATRIX and objective.num_examples * size**2 <= _MOST_MATRIX_FLOPS:
        matrix = curvature.matrix()
        outputs, columns = grad.shape
        if outputs > 1:
            # The same change of all classes changes no probability: the null space of the intercepts. The gradient has
            # no part in it, so bending it up does not change the solution, and makes the matrix positive definite.
            view = matrix.reshape(outputs, columns, outputs, columns)
            every = np.arange(columns)
            view[:, every, :, every] += (view.diagonal(axis1=0, axis2=2).diagonal().mean(0) / outputs)[:, None, None]
        return _solve(matrix, -grad.ravel()).reshape(grad.shape)
    return _conjugate_gradients(curvature, -grad)


def _solve(matrix: Floats, right: Floats) -> Floats:
    """Solves a positive semi-definite system; of several solutions it returns one without the null space's part."""
    diagonal = np.diag(matrix)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    scaled = matrix * np.outer(scale, scale)
    try:
        factor = scipy.linalg.cho_factor(scaled, check_finite=False)
        if np.abs(np.diag(factor[0])).min() > 1e-6:  # otherwise the null space may drown the solution
            solution: Floats = scale * scipy.linalg.cho_solve(factor, scale * right, check_finite=False)
            return solution
    except scipy.linalg.LinAlgError:
        pass
    eigenvalues, vectors = scipy.linalg.eigh(scaled, check_finite=False)
    kept = eigenvalues > len(right) * _EPSILON * max(eigenvalues[-1], 0.0)
    vectors = vectors[:, kept]
    projected: Floats = vectors.T @ (scale * right) / eigenvalues[kept]
    least: Floats = scale * (vectors @ projected)
    return least


def _conjugate_gradients(curvature: Curvature, right: Floats) -> Floats:
    """Solves the system by conjugate gradients, more exactly the nearer the minimum is."""
    diagonal = curvature.diagonal()
    inverse = 1.0 / np.where(diagonal > 0.0, diagonal, 1.0)
    solution, residual = np.zeros_like(right), right.copy()
    scaled = inverse * residual
    direction, product = scaled, float((residual * scaled).sum())
    norm = float(np.sqrt(product))
    target = min(0.1, np.sqrt(norm)) * norm
    for _ in range(_MOST_PRODUCTS):
        image = curvature.multiply(direction)
        bend = float((direction * image).sum())
        if bend <= 0.0:  # rounding, or a direction in which the objective is flat
            break
        length = product / bend
        solution = solution + length * direction
        residual = residual - length * image
        scaled = inverse * residual
        previous, product = product, float((residual * scaled).sum())
        if np.sqrt(product) <= target:
            break
        direction = scaled + (product / previous) * direction
    return solution if solution.any() else scaled


def _center_outputs(parameters: Floats) -> Floats:
    """Subtracts the mean over the classes, which changes no probability and lowers the penalty."""
    return parameters if len(parameters) == 1 else parameters - parameters.mean(0)
