"""The objectives of softmax regressions with K penalties, evaluated together.

N examples of weight s_i, S = Σ_i s_i; D features, standardised; K penalties; O output nodes: 1 for two classes, else
C. Parameters are float64 (K, O, D + 1), the intercept last. The objective of penalty k is

    F_k(W, b) = 1/S Σ_i s_i ℓ_i + ½ Σ_d ρ_kd ‖W[:, d]‖²,

scikit-learn's divided by C_k S. One product over the features serves all K.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fcnet.functional.binary_cross_entropy import losses_and_grad as binary_losses_and_grad
from fcnet.functional.softmax_loss import Labels, Probabilities, losses_and_grad
from fcnet.linear_model.second_derivatives import product_sums, second_derivative_sums
from fcnet.runtime.distributed import all_reduce, any_rank, broadcast_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.functional.softmax_loss import Targets
    from fcnet.linear_model.feature_blocks import Features


_DTYPES = torch.float32, torch.float64
_MATRICES, _PRODUCTS, _DUAL, _POLL, _RELEASE, _WITH_CURVATURE = 2, 3, 4, 5, 6, 8
"""What `serve` is asked for, in place of the index of a dtype; the last is added to it."""
_MOST_CHANGED = 6.0
_MOST_COUPLED = 2048
"""Nodes whose second derivatives are a matrix."""
_FEWEST_ROWS = 1 << 12
"""Examples that represent all in the curvature, or 4 C if that is more."""


class ObjectiveValues(NamedTuple):
    """The objectives at a point.

    Attributes:
        value: F, (K,).
        grad: its gradient, (K, O, D + 1).
        mean_loss: 1/S Σ_i s_i ℓ_i, (K,).
    """

    value: Tensor
    grad: Tensor
    mean_loss: Tensor

    def select(self, kept: Tensor) -> ObjectiveValues:
        """Returns some of the penalties."""
        return ObjectiveValues(*(part[kept] for part in self))

    def where(self, taken: Tensor, other: ObjectiveValues) -> ObjectiveValues:
        """Returns ``other`` for the penalties that are taken, bool (K,), and this for the rest."""
        pairs = zip(other, self, strict=True)
        return ObjectiveValues(*(torch.where(taken.view(-1, *[1] * (new.ndim - 1)), new, old) for new, old in pairs))


class Problem:
    """The objectives F_k on one set of features.

    Args:
        features: the features.
        target: int64 (N,), class indices; or float64 (N, C), probabilities that add up to 1.
        num_classes: C.
        weight: s, float64 (N,).
        penalty: ρ, float64 (K, D).
        intercept: whether there is an intercept; otherwise b stays 0.

    Attributes:
        num_nodes: O.
        num_rows: N, of all ranks.
        num_values: the features that are not 0 because a sparse matrix leaves them out, of all ranks; else N D.
        total: S.
        frequencies: the weighted frequency of each class, 1/S Σ_i s_i t_i, (C,).
        class_means: 1/S Σ_i s_i t_i x_iᵀ, (C, D).
        feature_means: 1/S Σ_i s_i x_iᵀ, (D,).
    """

    def __init__(
        self,
        features: Features,
        target: Tensor,
        num_classes: int,
        weight: Tensor,
        penalty: Tensor,
        *,
        intercept: bool,
    ) -> None:
        self.features, self.num_classes, self.intercept = features, num_classes, intercept
        self.target, self.weight, self.penalty = target, weight, penalty
        self.num_nodes = 1 if num_classes == 2 else num_classes
        sizes = torch.tensor([features.num_rows, features.num_values], device=weight.device)
        self.num_rows, self.num_values = (int(size) for size in all_reduce(sizes))
        self.total = float(all_reduce(weight.sum()))
        self.frequencies, self.class_means = self._class_sums()
        self.feature_means = self.class_means.sum(0)
        self._stride = max(features.num_rows // max(_FEWEST_ROWS, 4 * num_classes), 1)

    def select(self, penalties: Tensor) -> Problem:
        """Returns the objectives of some penalties, int64 indices."""
        result = copy.copy(self)
        result.penalty = self.penalty[penalties]
        return result

    def zeros(self) -> Tensor:
        """Returns parameters of 0."""
        shape = len(self.penalty), self.num_nodes, self.features.num_features + 1
        return torch.zeros(shape, dtype=torch.float64, device=self.weight.device)

    def evaluate(self, parameters: Tensor, dtype: torch.dtype, penalties: Tensor) -> ObjectiveValues:
        """Evaluates the objectives of some penalties, on the first rank; the others must be in `serve`.

        Products and probabilities are computed in ``dtype`` for a block of rows, and added up in float64.

        Args:
            parameters: float64 (A, O, D + 1), a point for each.
            dtype: float32 or float64.
            penalties: int64 (A,), indices into the K penalties.
        """
        self._announce(_DTYPES.index(dtype), parameters)
        sums, loss, _ = self._sums(parameters, dtype, with_curvature=False)
        return self._values(parameters, penalties, sums, loss)

    def evaluate_with_curvature(
        self, parameters: Tensor, dtype: torch.dtype, penalties: Tensor
    ) -> tuple[ObjectiveValues, Tensor]:
        """Evaluates the objectives like `evaluate`, and the mean second derivatives of the losses in the logits.

        Returns:
            The objectives, and 1/S Σ_i s_i (diag p_i − p_i p_iᵀ), (A, O, O), or its diagonal, (A, O, 1), for very many
            nodes. Some of the examples represent all.
        """
        self._announce(_WITH_CURVATURE + _DTYPES.index(dtype), parameters)
        sums, loss, curvature = self._sums(parameters, dtype, with_curvature=True)
        return self._values(parameters, penalties, sums, loss), curvature

    def _values(self, parameters: Tensor, penalties: Tensor, sums: Tensor, loss: Tensor) -> ObjectiveValues:
        grad = sums.view_as(parameters).div_(self.total)
        if parameters.shape[1] > 1:
            grad -= grad.mean(1, keepdim=True)  # 0 but for rounding
        if not self.intercept:
            grad[..., -1] = 0.0
        penalty = self.penalty[penalties][:, None]
        weights = parameters[..., :-1]
        grad[..., :-1].addcmul_(penalty, weights)
        norms = torch.linalg.vector_norm(weights, dim=1).square()
        mean_loss = loss / self.total
        return ObjectiveValues(mean_loss + 0.5 * (penalty[:, 0] * norms).sum(1), grad, mean_loss)

    def second_derivatives(self, parameters: Tensor, penalties: Tensor) -> Tensor:
        """Computes the second derivatives of some objectives, on the first rank; the others must be in `serve`.

        Args:
            parameters: float64 (A, O, D + 1), a point for each.
            penalties: int64 (A,), indices into the K penalties.

        Returns:
            float64 (A, P, P), in the order of the P = O (D + 1) flattened parameters.
        """
        self._announce(_MATRICES, parameters)
        result = all_reduce(second_derivative_sums(self.features, self.weight, parameters)) / self.total
        by_node = result.view(-1, self.num_nodes, parameters.shape[2], self.num_nodes, parameters.shape[2])
        if not self.intercept:
            by_node[:, :, -1] = 0.0
            by_node[..., -1] = 0.0
        for node in range(self.num_nodes):
            weights = by_node[:, node, :-1, node, :-1].diagonal(dim1=1, dim2=2)
            weights += self.penalty[penalties]
        return result

    def multiply(self, parameters: Tensor, directions: Tensor, penalties: Tensor) -> Tensor:
        """Multiplies such second derivatives by a direction each, (A, O, D + 1), like `second_derivatives`."""
        self._announce(_PRODUCTS, parameters, directions)
        result = all_reduce(product_sums(self.features, self.weight, parameters, directions)) / self.total
        if not self.intercept:
            result[..., -1] = 0.0
        result[..., :-1] += self.penalty[penalties][:, None] * directions[..., :-1]
        return result

    def evaluate_dual(self, parameters: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates probabilities q near p in the dual, in float64; on the first rank, the others must be in `serve`.

        q_i is p_i − A x_i − a, held between p_i / 6 and 6 p_i, and divided by its sum. With an intercept it is 0 for
        classes without examples.

        Args:
            parameters: float64 (A, O, D + 1), the points whose probabilities are p.
            shifts: float64 (A, O, D + 1), A and a.

        Returns:
            The mean entropy 1/S Σ_i s_i H(q_i), (A,), and 1/S Σ_i s_i (q_i − t_i) (x_i, 1)ᵀ, (A, O, D + 1).
        """
        self._announce(_DUAL, parameters, shifts)
        sums, entropy = self._dual_sums(parameters, shifts)
        return entropy / self.total, sums.view_as(parameters) / self.total

    def _announce(self, work: int, *points: Tensor) -> None:
        """Tells the other ranks what to compute, and for which points."""
        count = len(points[0]) if points else 0
        broadcast_tensor(torch.tensor([count, work], device=self.weight.device))
        for point in points:
            broadcast_tensor(point)

    def poll(self, *, stop: bool) -> bool:
        """Returns whether any rank wants to stop; on the first rank, the others must be in `serve`."""
        self._announce(_POLL)
        return any_rank(stop)

    def serve(self, stop: Callable[[], bool]) -> bool:
        """Adds this rank's rows to all that the first rank computes, until `release_ranks`.

        Args:
            stop: whether this rank wants to stop; called whenever the first rank polls.

        Returns:
            Whether a poll has found that a rank wants to stop.
        """
        while True:
            count, work = broadcast_tensor(torch.zeros(2, dtype=torch.int64, device=self.weight.device)).tolist()
            if work == _RELEASE:
                return False
            if work == _POLL:
                if any_rank(stop()):
                    return True
            else:
                self._add_rows(count, work)

    def _add_rows(self, count: int, work: int) -> None:
        """Adds this rank's rows to something that the first rank computes for some penalties."""
        shape = count, self.num_nodes, self.features.num_features + 1
        parameters = broadcast_tensor(self.weight.new_empty(shape))
        if work in (_PRODUCTS, _DUAL):
            second = broadcast_tensor(self.weight.new_empty(shape))
        if work == _MATRICES:
            all_reduce(second_derivative_sums(self.features, self.weight, parameters))
        elif work == _PRODUCTS:
            all_reduce(product_sums(self.features, self.weight, parameters, second))
        elif work == _DUAL:
            self._dual_sums(parameters, second)
        else:
            self._sums(parameters, _DTYPES[work % _WITH_CURVATURE], with_curvature=work >= _WITH_CURVATURE)

    def release_ranks(self) -> None:
        """Ends `serve` on the other ranks."""
        self._announce(_RELEASE)

    def _sums(self, parameters: Tensor, dtype: torch.dtype, *, with_curvature: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Adds up the examples of all ranks.

        Returns:
            Σ_i s_i (p_i − t_i) (x_i, 1)ᵀ, (A O, D + 1); Σ_i s_i ℓ_i, (A,); and the curvature.
        """
        count, nodes, width = parameters.shape
        points = parameters.view(-1, width).to(dtype)
        weights, intercepts = points[:, :-1], points[:, -1]
        sums = parameters.new_zeros(count * nodes, width)
        loss, represented = parameters.new_zeros(count), parameters.new_zeros(())
        is_matrix = nodes <= _MOST_COUPLED
        curvature = parameters.new_zeros(count, nodes, nodes if is_matrix else 1)
        for rows, block in self.features.blocks(dtype, num_columns=count * nodes):
            logits = block.forward(weights, intercepts).view(count, nodes, -1)
            s = self.weight[rows].to(dtype)
            losses, residuals = self._losses_and_residuals(logits, rows)
            loss += losses.double() @ s.double()
            if with_curvature:
                few = slice(rows.start, rows.stop, self._stride)
                curvature += self._curvature(residuals[..., :: self._stride], few, matrix=is_matrix)
                represented += self.weight[few].sum()
            residuals = residuals.view(count * nodes, -1).mul_(s)
            sums[:, :-1] += block.adjoint(residuals)
            sums[:, -1] += residuals.sum(1)
        for part in (sums, loss, curvature, represented) if with_curvature else (sums, loss):
            all_reduce(part)
        return sums, loss, curvature / represented.clamp_min(torch.finfo(torch.float64).tiny)

    def _dual_sums(self, parameters: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns Σ_i s_i (q_i − t_i) (x_i, 1)ᵀ, (A O, D + 1), and Σ_i s_i H(q_i), (A,), of all ranks."""
        count, nodes, width = parameters.shape
        points = [point.view(-1, width) for point in (parameters, shifts)]
        sums, entropy = parameters.new_zeros(count * nodes, width), parameters.new_zeros(count)
        for rows, block in self.features.blocks(torch.float64, num_columns=2 * count * nodes):
            s = self.weight[rows]
            logits, change = (block.forward(x[:, :-1], x[:, -1]).view(count, nodes, -1) for x in points)
            if nodes == 1:  # as two classes, the first with logit 0
                logits, change = torch.cat([torch.zeros_like(logits), logits], 1), torch.cat([-change, change], 1)
            p = logits.softmax(1)
            q = change.neg_().add_(p).clamp_(p / _MOST_CHANGED, p * _MOST_CHANGED)
            if self.intercept:
                q *= (self.frequencies > 0.0)[:, None]
            q /= q.sum(1, keepdim=True)
            # Confident examples keep the digits of 1 − q only as the sum of the others.
            best = q.argmax(1, keepdim=True)
            others = q.scatter(1, best, 0.0).sum(1, keepdim=True)
            entropy += torch.special.entr(q).scatter_(1, best, (others - 1.0) * (-others).log1p()).sum(1) @ s
            residuals = _complete(q - self._probabilities(rows, torch.float64), best)
            residuals = residuals[:, -nodes:].mul_(s).reshape(count * nodes, -1)
            sums[:, :-1] += block.adjoint(residuals)
            sums[:, -1] += residuals.sum(1)
        for part in (sums, entropy):
            all_reduce(part)
        return sums, entropy

    def _probabilities(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Returns the targets of rows as probabilities, (C, rows)."""
        target = self.target[rows]
        if target.ndim == 1:
            target = torch.nn.functional.one_hot(target, self.num_classes)
        return target.to(dtype).T

    def _curvature(self, residuals: Tensor, rows: slice, *, matrix: bool) -> Tensor:
        """Computes Σ_i s_i (diag p_i − p_i p_iᵀ) from p_i − t_i, (A, O, rows) -> (A, O, O), or (A, O, 1)."""
        s = self.weight[rows].to(residuals.dtype)
        p = residuals + self._probabilities(rows, residuals.dtype)[-self.num_nodes :]  # one node has the second class
        if self.num_nodes == 1 or not matrix:
            return ((p - p * p) @ s)[..., None].double()
        weighted = p * s
        return torch.diag_embed(weighted.sum(2)).sub_(weighted @ p.mT).double()

    def _losses_and_residuals(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Computes ℓ, (A, rows), and its gradient in the logits, p − t, (A, O, rows)."""
        target = self.target[rows]
        if self.num_nodes == 1:
            second = target if target.ndim == 1 else target[:, 1]
            losses, residuals = binary_losses_and_grad(logits, second.to(logits.dtype).expand_as(logits))
            return losses[:, 0], residuals
        if target.ndim == 1:
            targets: Targets = Labels(target.expand(len(logits), 1, -1), None, None, 0.0, 1)
        else:
            targets = Probabilities(self._probabilities(rows, logits.dtype).expand_as(logits), None, 0.0, 1)
        losses, scale = losses_and_grad(logits, targets, logits)
        return losses[:, 0], logits.mul_(scale)

    def _class_sums(self) -> tuple[Tensor, Tensor]:
        """Returns 1/S Σ_i s_i t_i, (C,), and 1/S Σ_i s_i t_i x_iᵀ, (C, D)."""
        frequencies = self.weight.new_zeros(self.num_classes)
        sums = self.weight.new_zeros(self.num_classes, self.features.num_features)
        for rows, block in self.features.blocks(torch.float64, num_columns=self.num_classes):
            weighted = self._probabilities(rows, torch.float64) * self.weight[rows]
            frequencies += weighted.sum(1)
            sums += block.adjoint(weighted)
        return all_reduce(frequencies) / self.total, all_reduce(sums) / self.total


def _complete(residuals: Tensor, best: Tensor) -> Tensor:
    """Computes q − t of the most probable class as minus that of the others, (A, C, rows): 1 − q loses digits."""
    residuals.scatter_(1, best, 0.0)
    return residuals.scatter_(1, best, -residuals.sum(1, keepdim=True))
