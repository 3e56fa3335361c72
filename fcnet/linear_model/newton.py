"""Newton's method for many objectives at once, where the matrices of their second derivatives are small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.linear_model.lbfgs import Search

if TYPE_CHECKING:
    from torch import Tensor

    from fcnet.linear_model.problem import Problem

_MOST_PARAMETERS = 2048
_MOST_FLOPS = 2e10
"""Multiplications for the matrices of all objectives once."""
_CHEAP_FLOPS = 1e8
"""As cheap as some steps of L-BFGS, which takes many more."""
_MOST_VALUES = 1 << 25
"""In matrices that are held together: 256 MiB."""
_EPSILON = torch.finfo(torch.float64).eps


def has_small_matrices(problem: Problem) -> bool:
    """Returns whether steps of Newton's method pay near a minimum."""
    return _num_parameters(problem) <= _MOST_PARAMETERS and _flops(problem) <= _MOST_FLOPS


def has_cheap_matrices(problem: Problem) -> bool:
    """Returns whether steps of Newton's method pay from the start on."""
    return _num_parameters(problem) <= _MOST_PARAMETERS and _flops(problem) <= _CHEAP_FLOPS


class NewtonSearch(Search):
    """Minimises each objective by steps that solve (second derivative) · step = −gradient, in float64.

    The arguments are those of `Search`. Without a penalty, several points may be minima; the steps have no part along
    which the objective stays the same.
    """

    def __init__(self, problem: Problem, strength: Tensor, start: Tensor, *, tol: float, max_iter: Tensor) -> None:
        super().__init__(problem, None, strength, start, dtype=torch.float64, tol=tol, max_iter=max_iter)
        self.parameters = _center_nodes(self.parameters)

    def _remember(self, *_: object) -> None:
        """Keeps no history."""

    def _find_direction(self) -> Tensor:
        assert self._point is not None
        result = torch.zeros_like(self.parameters)
        fresh = (self.halvings == 0).nonzero()[:, 0]  # the others still shorten their steps
        for some in fresh.split(max(1, _MOST_VALUES // _num_parameters(self._problem) ** 2)):
            matrices = self._problem.second_derivatives(self.parameters[some], self.active[some])
            grad = self._point.grad[some]
            if grad.shape[1] > 1:
                _fill_null_space(matrices, grad.shape[1])
            for k, matrix, right in zip(some, matrices, grad, strict=True):
                result[k] = -_solve(matrix, right.flatten()).view_as(right)
        return _center_nodes(result)


def _center_nodes(parameters: Tensor) -> Tensor:
    """Subtracts the mean over the nodes, which changes no probability and lowers the penalty."""
    return parameters - parameters.mean(1, keepdim=True) if parameters.shape[1] > 1 else parameters


def _num_parameters(problem: Problem) -> int:
    return problem.num_nodes * (problem.features.num_features + 1)


def _flops(problem: Problem) -> float:
    size = _num_parameters(problem)
    return float(len(problem.penalty)) * (problem.num_rows + size) * size**2


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
