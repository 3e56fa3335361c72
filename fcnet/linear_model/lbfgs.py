"""L-BFGS for many objectives at once, with a preconditioner and a line search by slopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.linear_model.preconditioner import Curvature
from fcnet.linear_model.problem import ObjectiveValues

if TYPE_CHECKING:
    from torch import Tensor

    from fcnet.linear_model.preconditioner import Preconditioner
    from fcnet.linear_model.problem import Problem

HISTORY = 10
"""Pairs of steps and changes of the gradient that are kept for each objective."""
_FEW_NODES = 64
"""Nodes whose curvature is computed in every pass; that of more nodes in ever rarer ones."""
_MOST_HALVINGS = 12


class Search:
    """Minimises each objective until it is near its minimum, or rounding stops the search.

    Near is where the largest entry of the gradient is at most ``tol``, and the next step is expected to lower the
    objective by a share of at most ``tol``.

    Every pass over the features evaluates the next point of every objective that has not ended.

    Args:
        problem: the objectives.
        preconditioner: approximate inverses of their second derivatives; None where a subclass finds the directions.
        strength: λ of each objective, (K,).
        start: the points to start from, (K, O, D + 1).
        dtype: the dtype of the products.
        tol: the largest entry of the gradient at a minimum, and the share by which the objective may be above it.
        max_iter: the largest number of steps, int64 (K,).

    Attributes:
        result: the ends of the searches, float64 (K, O, D + 1).
        end: the objectives there.
        gradient: the largest entry of each gradient, float64 (K,); inf before the end.
        last_step: the steps that would have come next, float64 (K, O, D + 1).
        converged: whether the search ended at a minimum, bool (K,).
        iterations: the steps taken, int64 (K,).
        active: the objectives whose search has not ended, int64.

    Source:
        Nocedal and Wright, "Numerical optimization", 2nd edition, algorithm 7.4. The functions are convex, so a slope
        that is still negative at a point proves that the step to it is a descent, whatever rounding does to the values.
    """

    _MARGIN = 0.01
    """Of the slope at a minimum, relative to the tolerance: 2 where the next step is exactly that of Newton."""
    _PATIENCE = 60
    """Steps in which the gradient must have become smaller than ever before; else rounding has the last word."""
    _OF_ALL = "result", "gradient", "last_step", "converged", "iterations"
    _OF_ACTIVE = (
        *("active", "parameters", "steps_taken", "gamma", "halvings", "length", "direction", "slope"),
        *("least", "least_at"),
    )

    def __init__(
        self,
        problem: Problem,
        preconditioner: Preconditioner | None,
        strength: Tensor,
        start: Tensor,
        *,
        dtype: torch.dtype,
        tol: float,
        max_iter: Tensor,
    ) -> None:
        self._problem, self._preconditioner, self._strength = problem, preconditioner, strength
        self._dtype, self._tol, self._max_iter = dtype, tol, max_iter
        self.active = torch.arange(len(start), device=start.device)
        self.result, self.gradient = start.clone(), start.new_full((len(start),), torch.inf)
        self.last_step, self.converged = torch.zeros_like(start), torch.zeros_like(self.active, dtype=torch.bool)
        self.iterations = torch.zeros_like(self.active)
        self.parameters, self.steps_taken = start.clone(), torch.zeros_like(self.active)
        self.gamma, self.length = start.new_ones(len(start)), start.new_ones(len(start))
        self.halvings = torch.zeros_like(self.active)
        self.direction, self.slope = torch.zeros_like(start), torch.zeros_like(self.gradient)
        self.least, self.least_at = self.gradient.clone(), self.steps_taken.clone()
        self.end: ObjectiveValues | None = None
        self._point: ObjectiveValues | None = None
        self._curvature = Curvature.of(start.new_zeros(len(start), problem.num_nodes, 1))
        self.passes = 0
        self._steps: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._inverse_products: list[Tensor] = []  # 1 / (step · change); 0 leaves a pair out

    def advance(self) -> None:
        """Evaluates the next point of each search, takes the points that are good enough, and shortens other steps."""
        candidate = self.parameters + self.length[:, None, None] * self.direction
        curvature = None
        if self._needs_curvature():
            found, curvature = self._problem.evaluate_with_curvature(candidate, self._dtype, self.active)
        else:
            found = self._problem.evaluate(candidate, self._dtype, self.active)
        self.passes += 1
        if self._point is None:
            self._point, self.end = found, ObjectiveValues(*(torch.zeros_like(part) for part in found))
            accepted = torch.ones_like(self.active, dtype=torch.bool)
            self._update_curvature(curvature, accepted)
        else:
            accepted = self._accept(self._point, candidate, found, curvature)
        self._end(accepted)

    def state(self) -> dict[str, Tensor]:
        """Returns all that the search needs to resume after a pass."""
        result = {name: getattr(self, name) for name in (*self._OF_ALL, *self._OF_ACTIVE)}
        for kind, parts in (("point", self._point), ("end", self.end), ("curvature", self._curvature)):
            assert parts is not None
            result |= {f"{kind}.{name}": part for name, part in parts._asdict().items()}
        result["passes"] = torch.tensor(self.passes)
        if self._steps:
            result["steps"], result["changes"] = torch.stack(self._steps), torch.stack(self._changes)
            result["inverse_products"] = torch.stack(self._inverse_products)
        return result

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Resumes a search of the same problem, bit for bit."""
        state = {name: part.to(self.result.device) for name, part in state.items()}
        for name in (*self._OF_ALL, *self._OF_ACTIVE):
            setattr(self, name, state[name])
        self._strength, self.passes = self._strength[self.active], int(state["passes"])
        self._point = ObjectiveValues(*(state[f"point.{name}"] for name in ObjectiveValues._fields))
        self.end = ObjectiveValues(*(state[f"end.{name}"] for name in ObjectiveValues._fields))
        self._curvature = Curvature(state["curvature.values"], state["curvature.basis"])
        for name in ("steps", "changes", "inverse_products"):
            setattr(self, f"_{name}", list(state[name]) if name in state else [])

    def _accept(
        self, point: ObjectiveValues, candidate: Tensor, found: ObjectiveValues, curvature: Tensor | None
    ) -> Tensor:
        """Takes the candidates that are good enough; returns which."""
        slope = _dots(found.grad, self.direction)
        descends = found.value <= point.value + 1e-4 * self.length * self.slope
        accepted = (slope <= 0.5 * self.slope.abs()) | (descends & (slope <= 0.9 * self.slope.abs()))
        accepted &= found.value.isfinite()
        self._update_curvature(curvature, accepted)
        self._remember(point, candidate, found, accepted)
        if bool(accepted.all()):  # the usual case, without copies
            self.parameters, self._point = candidate, found
        else:
            self.parameters = torch.where(accepted[:, None, None], candidate, self.parameters)
            self._point = point.where(accepted, found)
        self.steps_taken += accepted
        # The secant through both slopes is exact for a quadratic; a wild value falls back on a tenth.
        secant = self.length * (self.slope / (self.slope - slope)).nan_to_num(nan=0.1).clamp(0.1, 0.7)
        self.length = torch.where(accepted, 1.0, secant)
        return accepted

    def _end(self, accepted: Tensor) -> None:
        """Finds directions for the searches that took a step, and ends searches."""
        assert self._point is not None
        assert self.end is not None
        self.halvings = torch.where(accepted, 0, self.halvings + 1)
        direction = self._find_direction()
        slope = _dots(self._point.grad, direction)
        self.direction = torch.where(accepted[:, None, None], direction, self.direction)
        self.slope = torch.where(accepted, slope, self.slope)
        sizes = self._point.grad.abs().amax((1, 2))
        is_less = sizes < self.least
        self.least = torch.where(is_less, sizes, self.least)
        self.least_at = torch.where(is_less, self.steps_taken, self.least_at)
        # Half the slope of a Newton step is about the excess over the minimum; the preconditioner knows Newton's step
        # roughly, hence a margin. Without a penalty there may be no minimum.
        is_low = (self.slope.abs() <= self._MARGIN * self._tol * self._point.value) | (self._strength == 0.0)
        is_minimum = (sizes <= self._tol) & is_low
        is_stuck = (
            (self.halvings > _MOST_HALVINGS) | (self.steps_taken - self.least_at > self._PATIENCE) | (self.slope >= 0.0)
        )
        ended = is_minimum | is_stuck | (self.steps_taken >= self._max_iter[self.active])
        if bool(ended.any()):
            indices = self.active[ended]
            self.result[indices], self.gradient[indices] = self.parameters[ended], sizes[ended]
            self.last_step[indices], self.converged[indices] = self.direction[ended], is_minimum[ended]
            self.iterations[indices] = self.steps_taken[ended]
            for kept, part in zip(self.end, self._point, strict=True):
                kept[indices] = part[ended]
            self._keep(~ended)

    def _keep(self, kept: Tensor) -> None:
        """Drops the searches that have ended."""
        assert self._point is not None
        for name in self._OF_ACTIVE:
            setattr(self, name, getattr(self, name)[kept])
        self._strength, self._point = self._strength[kept], self._point.select(kept)
        self._curvature = Curvature(*(part[kept] for part in self._curvature))
        for history in (self._steps, self._changes, self._inverse_products):
            history[:] = [part[kept] for part in history]

    def _needs_curvature(self) -> bool:
        """Returns whether the next pass computes the curvature of the nodes, which costs much for many nodes."""
        return self._problem.num_nodes <= _FEW_NODES or self.passes & (self.passes - 1) == 0

    def _update_curvature(self, matrices: Tensor | None, accepted: Tensor) -> None:
        if matrices is None:
            return
        found = Curvature.of(matrices)
        if not bool(accepted.all()):
            pairs = zip(found, self._curvature, strict=True)
            parts = (torch.where(accepted.view(-1, *[1] * (new.ndim - 1)), new, old) for new, old in pairs)
            found = Curvature(*parts)
        self._curvature = found

    def _remember(self, point: ObjectiveValues, candidate: Tensor, found: ObjectiveValues, accepted: Tensor) -> None:
        assert self._preconditioner is not None
        step, change = candidate - self.parameters, found.grad - point.grad
        product, lengths = _dots(step, change), _dots(step, step) * _dots(change, change)
        usable = accepted & (product > 1e-10 * lengths.sqrt())
        step, change = step.float(), change.float()
        gamma = product / _dots(change, self._preconditioner.multiply(change, self._curvature, self._strength))
        self.gamma = torch.where(usable, gamma, self.gamma)
        self._steps.append(step.masked_fill_(~usable[:, None, None], 0.0))
        self._changes.append(change.masked_fill_(~usable[:, None, None], 0.0))
        self._inverse_products.append(torch.where(usable, 1.0 / product, 0.0))
        for history in (self._steps, self._changes, self._inverse_products):
            del history[:-HISTORY]

    def _find_direction(self) -> Tensor:
        assert self._point is not None
        assert self._preconditioner is not None
        q, factors = self._point.grad.float().flatten(1), []
        pairs = list(zip(self._steps, self._changes, self._inverse_products, strict=True))
        for step, change, inverse in reversed(pairs):
            factor = (inverse * _dots(step, q)).float()[:, None]
            q.addcmul_(factor, change.flatten(1), value=-1.0)
            factors.append(factor)
        q = self._preconditioner.multiply(q.view_as(self.parameters), self._curvature, self._strength).flatten(1)
        q *= self.gamma[:, None]
        for (step, change, inverse), factor in zip(pairs, reversed(factors), strict=True):
            q.addcmul_(factor - (inverse * _dots(change, q)).float()[:, None], step.flatten(1))
        return q.neg_().view_as(self.parameters).double()


def _dots(first: Tensor, second: Tensor) -> Tensor:
    """Returns the dot product of each objective's numbers, float64 (A,)."""
    return torch.bmm(first.flatten(1)[:, None], second.flatten(1)[:, :, None])[:, 0, 0].double()
