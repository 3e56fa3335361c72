"""Newton's method for many objectives at once, by matrices of second derivatives or by conjugate gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.linear_model.lbfgs import Search

if TYPE_CHECKING:
    from torch import Tensor

    from fcnet.linear_model.problem import Problem

_MOST_PARAMETERS = 2048
_MOST_FLOPS = 2e9
"""Multiplications for the matrices of all objectives once."""
_CHEAP_FLOPS = 1e8
"""As cheap as some steps of L-BFGS, which takes many more."""
_FEW_VALUES = 64
"""In a column of sparse features: products with them cost less than a step of L-BFGS without them."""
_MOST_PRODUCTS = 500
_MOST_VALUES = 1 << 25
"""In matrices that are held together: 256 MiB."""
_EPSILON = torch.finfo(torch.float64).eps


def has_small_matrices(problem: Problem) -> bool:
    """Returns whether steps of Newton's method by matrices pay near a minimum."""
    return _num_parameters(problem) <= _MOST_PARAMETERS and _flops(problem) <= _MOST_FLOPS


def is_fast_from_the_start(problem: Problem) -> bool:
    """Returns whether steps of Newton's method pay from the start on, on all ranks the same."""
    is_small = _num_parameters(problem) <= _MOST_PARAMETERS and _flops(problem) <= _CHEAP_FLOPS
    return is_small or problem.num_values <= _FEW_VALUES * problem.features.num_features


class NewtonSearch(Search):
    """Minimises each objective by steps that solve (second derivative) · step = −gradient, in float64.

    The arguments are those of `Search`. Without a penalty, several points may be minima; the steps have no part along
    which the objective stays the same.
    """

    _MARGIN = 2.0
    _PATIENCE = 10

    def __init__(self, problem: Problem, strength: Tensor, start: Tensor, *, tol: float, max_iter: Tensor) -> None:
        super().__init__(problem, None, strength, start, dtype=torch.float64, tol=tol, max_iter=max_iter)
        self.parameters = _center_nodes(self.parameters)

    def _needs_curvature(self) -> bool:
        return not has_small_matrices(self._problem)

    def _update_curvature(self, matrices: Tensor | None, accepted: Tensor) -> None:
        """Keeps the diagonal alone."""
        if matrices is not None and matrices.shape[2] > 1:
            matrices = matrices.diagonal(dim1=1, dim2=2)[..., None]
        super()._update_curvature(matrices, accepted)

    def _remember(self, *_: object) -> None:
        """Keeps no history."""

    def _find_direction(self) -> Tensor:
        assert self._point is not None
        result = torch.zeros_like(self.parameters)
        fresh = (self.halvings == 0).nonzero()[:, 0]  # the others still shorten their steps
        if not len(fresh):
            return result
        if not has_small_matrices(self._problem):
            result[fresh] = -self._conjugate_gradients(fresh)
            return _center_nodes(result)
        for some in fresh.split(max(1, _MOST_VALUES // _num_parameters(self._problem) ** 2)):
            matrices = self._problem.second_derivatives(self.parameters[some], self.active[some])
            grad = self._point.grad[some]
            if grad.shape[1] > 1:
                _fill_null_space(matrices, grad.shape[1])
            for k, matrix, right in zip(some, matrices, grad, strict=True):
                result[k] = -_solve(matrix, right.flatten()).view_as(right)
        return _center_nodes(result)

    def _conjugate_gradients(self, some: Tensor) -> Tensor:
        """Solves (second derivative) · solution = gradient, more exactly the nearer the minimum is."""
        assert self._point is not None
        points, penalties = self.parameters[some], self.active[some]
        inverse = 1.0 / self._diagonal(some)
        residual = self._point.grad[some].clone()
        solution = torch.zeros_like(residual)
        scaled = inverse * residual
        direction, product = scaled, _dots(residual, scaled)
        goal = product * product.sqrt().clamp_max(0.01)  # (min(0.1, √norm) · norm)², for norm = √product
        working = torch.arange(len(some), device=some.device)
        for _ in range(_MOST_PRODUCTS):
            image = self._problem.multiply(points[working], direction, penalties[working])
            bend = _dots(direction, image)
            # Rounding, or a direction in which the objective is flat, ends the solution.
            length = torch.where(bend > 0.0, product / bend, 0.0)
            solution[working] += length[:, None, None] * direction
            residual = residual - length[:, None, None] * image
            scaled = inverse[working] * residual
            last, product = product, _dots(residual, scaled)
            goes_on = (product > goal[working]) & (bend > 0.0)
            if not bool(goes_on.any()):
                break
            direction = (scaled + (product / last)[:, None, None] * direction)[goes_on]
            working, residual, product = working[goes_on], residual[goes_on], product[goes_on]
        is_empty = (solution == 0.0).all(2, keepdim=True).all(1, keepdim=True)
        return torch.where(is_empty, inverse * self._point.grad[some], solution)

    def _diagonal(self, some: Tensor) -> Tensor:
        """Returns about the diagonal of the second derivative, (A, O, D + 1)."""
        assert self._point is not None
        curvature = self._curvature.values[some][..., None]
        moments = 1.0 + self._problem.feature_means.square()  # of features whose variance is 1
        weights = curvature * moments + self._problem.penalty[self.active[some]][:, None]
        return torch.cat([weights, curvature], 2).clamp_min(1e-300)


def _dots(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((1, 2))


def _center_nodes(parameters: Tensor) -> Tensor:
    """Subtracts the mean over the nodes, which changes no probability and lowers the penalty."""
    return parameters - parameters.mean(1, keepdim=True) if parameters.shape[1] > 1 else parameters


def _num_parameters(problem: Problem) -> int:
    return problem.num_nodes * (problem.features.num_features + 1)


def _flops(problem: Problem) -> int:
    size = _num_parameters(problem)
    return len(problem.penalty) * (problem.num_rows + size) * size * size


def _fill_null_space(matrices: Tensor, nodes: int) -> None:
    """Bends objectives up along equal changes of all nodes, (A, P, P).

    Such a change of intercepts, or of weights without a penalty, changes no probability. The gradient has no part in
    it, so the solution stays the same, and the matrix becomes positive definite.
    """
    width = matrices.shape[1] // nodes
    by_column = matrices.view(-1, nodes, width, nodes, width).diagonal(dim1=2, dim2=4)  # (A, O, O, D + 1), a view
    means = by_column.diagonal(dim1=1, dim2=2).mean(2)
    by_column += means[:, None, None] / nodes


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solves a positive semi-definite system; of several solutions it returns one without the null space's part."""
    diagonal = matrix.diagonal()
    diagonal += diagonal <= 0.0  # of parameters without effect, whose gradient is 0
    scale = diagonal.rsqrt()
    scaled = matrix * scale[:, None] * scale
    factor, info = torch.linalg.cholesky_ex(scaled)
    if not int(info) and float(factor.diagonal().min()) > 1e-6:  # otherwise the null space may drown the solution
        solution: Tensor = scale * torch.cholesky_solve((scale * right)[:, None], factor)[:, 0]
        return solution
    values, vectors = torch.linalg.eigh(scaled)
    kept = values > len(right) * _EPSILON * values[-1].clamp_min(0.0)
    vectors = vectors[:, kept]
    least: Tensor = scale * (vectors @ (vectors.T @ (scale * right) / values[kept]))
    return least
