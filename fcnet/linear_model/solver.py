"""The minima of all objectives: a search in float32, one in float64, and the certificate.

The search in float64 is Newton's where second derivatives cost little, and L-BFGS elsewhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from fcnet.linear_model.certificate import objective_gaps
from fcnet.linear_model.lbfgs import Search
from fcnet.linear_model.newton import NewtonSearch, has_small_matrices
from fcnet.runtime.distributed import broadcast_tensor, rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fcnet.linear_model.preconditioner import Preconditioner
    from fcnet.linear_model.problem import Problem

_MOST_HISTORY = 1 << 31
"""Bytes of the searches that run together."""
_BYTES_PER_PARAMETER = 160
_MOST_COLUMNS = 1024
"""Nodes of the searches that run together. More share no cost of a product, and start far from their minima."""
_MIN_COLUMNS = 256
"""Nodes of all penalties from which fewer evaluations pay in spite of more passes: each costs as much alone."""
_MOST_STEP = 4
"""The largest distance between the penalties of a long path that are searched first."""
_TIGHT = 0.1
"""The gap that need not be made smaller, relative to the objective and to the tolerance."""
_SINGLE_TOL = 3e-7
"""The gradient down to which float32 leads."""
_SINGLE_SHARE = 0.8
"""The gradient to reach in float32 relative to that in float64, so that mostly one evaluation in float64 is enough."""


class SearchStopped(Exception):  # noqa: N818 - a request that was carried out, not an error
    """A search ended on request, on all ranks."""


class Progress(NamedTuple):
    """The state of the work after a pass over the features.

    Attributes:
        passes: the passes of this call.
        gradient: the largest entry of the gradient of each objective, float64 (K,); inf before the first pass.
        ended: whether the search for each minimum has ended, bool (K,).
        stopping: whether the work stops here.
        state: returns what `solve` needs to resume here.
    """

    passes: int
    gradient: Tensor
    ended: Tensor
    stopping: bool
    state: Callable[[], dict[str, Tensor]]


class Minima(NamedTuple):
    """The minima.

    Attributes:
        parameters: float64 (K, O, D + 1).
        iterations: int64 (K,), the steps taken.
        gradient: float64 (K,), the largest entry of the gradient.
        gap: float64 (K,), upper bounds of the objectives minus their minima.
        value: float64 (K,), the objectives.
        converged: bool (K,), whether the search ended at a minimum.
    """

    parameters: Tensor
    iterations: Tensor
    gradient: Tensor
    gap: Tensor
    value: Tensor
    converged: Tensor


def solve(
    problem: Problem,
    preconditioner: Preconditioner | None,
    strength: Tensor,
    start: Tensor | None = None,
    *,
    tol: float,
    max_iter: int,
    on_pass: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    state: dict[str, Tensor] | None = None,
) -> Minima:
    """Minimises the objectives in groups; the later ones start between the minima of the nearest penalties before them.

    The first rank searches; the others evaluate the objectives on their rows.

    Args:
        problem: the objectives.
        preconditioner: approximate inverses of their second derivatives; None for Newton's method from the start on.
        strength: λ of each objective, (K,), descending.
        start: the points to start from, (K, O, D + 1), but 0 where an objective is less there; None for 0.
        tol: the largest entry of the gradient at a minimum, and the share by which the objective may be above it.
        max_iter: the largest number of steps for each objective.
        on_pass: takes the progress after each pass, on the first rank.
        stop: called on each rank after each pass; if it returns True on any, the work stops.
        state: what `Progress.state` returned in an interrupted call with the same arguments.

    Raises:
        SearchStopped: the work has stopped.
    """
    if rank() == 0:
        work = _Work(problem, preconditioner, strength, start, tol, max_iter, on_pass, stop)
        result = work.run(state or {})
        problem.release_ranks()
    else:
        if problem.serve(stop or (lambda: False)):
            raise SearchStopped
        count, values = len(strength), strength.new_zeros(len(strength))
        iterations = torch.zeros(count, dtype=torch.int64, device=strength.device)
        result = Minima(problem.zeros(), iterations, values, values.clone(), values.clone(), iterations > 0)
    return Minima(*(broadcast_tensor(part) for part in result))


class _Work:
    """The searches of one call."""

    def __init__(
        self,
        problem: Problem,
        preconditioner: Preconditioner | None,
        strength: Tensor,
        start: Tensor | None,
        tol: float,
        max_iter: int,
        on_pass: Callable[[Progress], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self._on_pass, self._stop = on_pass, stop
        self._problem, self._preconditioner, self._strength = problem, preconditioner, strength
        self._tol, self._max_iter, self._start = tol, max_iter, start
        self._groups = self._make_groups()
        self._parts: list[Minima] = []
        self._passes = 0

    def run(self, state: dict[str, Tensor]) -> Minima:
        self._load(state)
        search_state = {name.removeprefix("search."): part for name, part in state.items() if "search." in name}
        double_stage = self._preconditioner is None or "single_iterations" in state
        for group in self._groups[len(self._parts) :]:
            problem = self._problem.select(group)
            start, spent = self._first_points(problem, group), torch.zeros_like(group)
            if not double_stage:
                tol = max(_SINGLE_SHARE * self._tol, _SINGLE_TOL)
                single = self._search(problem, group, start, spent, torch.float32, tol, search_state)
                # The next step of a search is good, and float64 evaluates the point after it. That of a start which was
                # a minimum is rounding.
                is_good = single.converged & (single.iterations > 0)
                start = single.result + single.last_step * is_good[:, None, None]
                spent, search_state = single.iterations, {}
            elif state:
                spent = state["single_iterations"].to(group.device)
            double = self._search(problem, group, start, spent, torch.float64, self._tol, search_state)
            state, search_state, double_stage = {}, {}, self._preconditioner is None
            self._parts.append(self._finish(problem, double, spent + double.iterations))
        order = torch.argsort(torch.cat(self._groups))
        return Minima(*(torch.cat(column)[order] for column in zip(*self._parts, strict=True)))

    def _make_groups(self) -> list[Tensor]:
        """Returns the indices of the penalties that are searched together, for one search after another.

        A few penalties come first, at most a factor of ten apart, so that the others start between two of their minima.
        """
        problem, every = self._problem, torch.arange(len(self._strength), device=self._strength.device)
        size = _BYTES_PER_PARAMETER * problem.num_nodes * (problem.features.num_features + 1)
        most = max(min(_MOST_HISTORY // size, _MOST_COLUMNS // problem.num_nodes), 1)
        step = self._coarse_step()
        is_first = (every % step == 0) | (every == every[-1])
        return [group for part in (every[is_first], every[~is_first]) for group in part.split(most) if len(group)]

    def _coarse_step(self) -> int:
        """Returns the distance of the penalties that come first; 1 where all start together."""
        count = len(self._strength)
        if count == 1 or self._preconditioner is None or self._start is not None:
            return 1
        if count * self._problem.num_nodes < _MIN_COLUMNS:
            return 1
        spacing = float((self._strength[0] / self._strength[-1]).log()) / (count - 1)
        return max(1, min(_MOST_STEP, int(math.log(10.0) / spacing * (1.0 + 1e-9)))) if spacing > 0.0 else 1

    def _search(
        self,
        problem: Problem,
        group: Tensor,
        start: Tensor,
        spent: Tensor,
        dtype: torch.dtype,
        tol: float,
        state: dict[str, Tensor],
    ) -> Search:
        strength, max_iter = self._strength[group], self._max_iter - spent
        search: Search
        if self._preconditioner is None or (dtype == torch.float64 and has_small_matrices(problem)):
            search = NewtonSearch(problem, strength, start, tol=tol, max_iter=max_iter)
        else:
            search = Search(problem, self._preconditioner, strength, start, dtype=dtype, tol=tol, max_iter=max_iter)
        if state:
            search.load_state(state)
        while len(search.active):
            search.advance()
            self._passes += 1
            stopping = self._stop is not None and problem.poll(stop=self._stop())
            if self._on_pass is not None:
                self._on_pass(self._progress(search, group, spent, dtype, stopping=stopping))
            if stopping:
                raise SearchStopped
        return search

    def _finish(self, problem: Problem, search: Search, iterations: Tensor) -> Minima:
        """Takes Newton's last step of each search that was not cut short, where it is better; bounds what is left."""
        assert search.end is not None
        parameters, found, gradient = search.result, search.end, search.gradient
        if isinstance(search, NewtonSearch):
            stepped = parameters + search.last_step
            candidate = problem.evaluate(stepped, torch.float64, torch.arange(len(stepped), device=stepped.device))
            sizes = candidate.grad.abs().amax((1, 2))
            better = (candidate.value <= found.value) & (sizes <= gradient) & (iterations < self._max_iter)
            parameters = torch.where(better[:, None, None], stepped, parameters)
            found, gradient = found.where(better, candidate), torch.where(better, sizes, gradient)
        gap = objective_gaps(problem, self._preconditioner, parameters, found, tight=_TIGHT * self._tol)
        return Minima(parameters, iterations, gradient, gap, found.value, search.converged)

    def _progress(
        self, search: Search, group: Tensor, spent: Tensor, dtype: torch.dtype, *, stopping: bool
    ) -> Progress:
        gradient = torch.full_like(self._strength, torch.inf)
        ended = torch.zeros_like(gradient, dtype=torch.bool)
        for part, indices in zip(self._parts, self._groups, strict=False):
            gradient[indices], ended[indices] = part.gradient, True
        gradient[group] = search.gradient
        gradient[group[search.active]] = search.least
        ended[group] = dtype == torch.float64
        ended[group[search.active]] = False

        def state() -> dict[str, Tensor]:
            result = {f"search.{name}": part for name, part in search.state().items()}
            if dtype == torch.float64:
                result["single_iterations"] = spent
            for index, part in enumerate(self._parts):
                result |= {f"group{index}.{name}": value for name, value in part._asdict().items()}
            return {name: part.to("cpu", copy=True) for name, part in result.items()}

        return Progress(self._passes, gradient, ended, stopping, state)

    def _load(self, state: dict[str, Tensor]) -> None:
        """Restores the groups that have ended."""
        while f"group{len(self._parts)}.value" in state:
            prefix = f"group{len(self._parts)}"
            parts = (state[f"{prefix}.{name}"].to(self._strength.device) for name in Minima._fields)
            self._parts.append(Minima(*parts))

    def _first_points(self, problem: Problem, group: Tensor) -> Tensor:
        """Returns the points to start from: between the minima of the nearest penalties that are known, or there."""
        if self._start is not None:
            return _lesser(problem, self._start[group])
        result = problem.zeros()
        if not self._parts:
            return result
        logs, pairs = self._strength.log().tolist(), zip(self._groups, self._parts, strict=False)
        known = {k: point for part, found in pairs for k, point in zip(part.tolist(), found.parameters, strict=True)}
        for point, k in zip(result, group.tolist(), strict=True):
            before = max(other for other in known if other < k)  # the first group has the strongest penalty
            after = min((other for other in known if other > k), default=before)
            point.copy_(known[before])
            if logs[before] > logs[after]:
                point.lerp_(known[after], (logs[before] - logs[k]) / (logs[before] - logs[after]))
        return result


def _lesser(problem: Problem, start: Tensor) -> Tensor:
    """Returns the points, or 0 where an objective is less there: far out, second derivatives vanish."""
    every, zeros = torch.arange(len(start), device=start.device), torch.zeros_like(start)
    there, at_zero = (problem.evaluate(points, torch.float64, every).value for points in (start, zeros))
    return torch.where((there <= at_zero)[:, None, None], start, zeros)
