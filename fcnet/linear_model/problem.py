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
from fcnet.functional.softmax_loss import label_losses
from fcnet.linear_model.second_derivatives import product_sums, second_derivative_sums
from fcnet.runtime.distributed import all_reduce, broadcast_tensor

if TYPE_CHECKING:
    from fcnet.linear_model.feature_blocks import Features


_DTYPES = torch.float32, torch.float64
_MATRICES, _PRODUCTS = 2, 3
"""What `serve` is asked for, in place of the index of a dtype."""


class ObjectiveValues(NamedTuple):
    """The objectives at a point.

    Attributes:
        value: F, (K,).
        grad: its gradient, (K, O, D + 1).
        mean_loss: 1/S Σ_i s_i ℓ_i, (K,).
        curvature: 1/S Σ_i s_i p (1 − p) of each node, (K, O).
    """

    value: Tensor
    grad: Tensor
    mean_loss: Tensor
    curvature: Tensor

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
        command = torch.tensor([len(penalties), _DTYPES.index(dtype)], device=penalties.device)
        broadcast_tensor(command)
        broadcast_tensor(parameters)
        sums, loss, sizes = self._sums(parameters, dtype)
        count, nodes, width = parameters.shape
        grad = sums.T.reshape(nodes, count, width).transpose(0, 1).contiguous() / self.total
        if not self.intercept:
            grad[..., -1] = 0.0
        penalty = self.penalty[penalties][:, None]
        weights = parameters[..., :-1]
        grad[..., :-1] += penalty * weights
        mean_loss = loss / self.total
        value = mean_loss + 0.5 * (penalty * weights**2).sum((1, 2))
        curvature = (sizes / self.total).view(nodes, count).T.clamp_min(0.0)
        return ObjectiveValues(value, grad, mean_loss, curvature)

    def second_derivatives(self, parameters: Tensor, penalties: Tensor) -> Tensor:
        """Computes the second derivatives of some objectives, on the first rank; the others must be in `serve`.

        Args:
            parameters: float64 (A, O, D + 1), a point for each.
            penalties: int64 (A,), indices into the K penalties.

        Returns:
            float64 (A, P, P), in the order of the P = O (D + 1) flattened parameters.
        """
        broadcast_tensor(torch.tensor([len(penalties), _MATRICES], device=penalties.device))
        broadcast_tensor(parameters)
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
        broadcast_tensor(torch.tensor([len(penalties), _PRODUCTS], device=penalties.device))
        broadcast_tensor(parameters)
        broadcast_tensor(directions)
        result = all_reduce(product_sums(self.features, self.weight, parameters, directions)) / self.total
        if not self.intercept:
            result[..., -1] = 0.0
        result[..., :-1] += self.penalty[penalties][:, None] * directions[..., :-1]
        return result

    def serve(self) -> None:
        """Adds this rank's rows to all that the first rank computes, until `release_ranks`."""
        while True:
            count, work = broadcast_tensor(torch.zeros(2, dtype=torch.int64, device=self.weight.device)).tolist()
            if not count:
                return
            width = self.features.num_features + 1
            parameters = broadcast_tensor(self.weight.new_empty(count, self.num_nodes, width))
            if work == _MATRICES:
                all_reduce(second_derivative_sums(self.features, self.weight, parameters))
            elif work == _PRODUCTS:
                directions = broadcast_tensor(torch.empty_like(parameters))
                all_reduce(product_sums(self.features, self.weight, parameters, directions))
            else:
                self._sums(parameters, _DTYPES[work])

    def release_ranks(self) -> None:
        """Ends `serve` on the other ranks."""
        broadcast_tensor(torch.zeros(2, dtype=torch.int64, device=self.weight.device))

    def _sums(self, parameters: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Adds up the examples of all ranks.

        Returns:
            Σ_i s_i (p_i − t_i) (x_i, 1)ᵀ, (D + 1, O A); Σ_i s_i ℓ_i, (A,); and Σ_i s_i p (1 − p), (O A,).
        """
        count, nodes, width = parameters.shape
        # Nodes before penalties: reductions over the nodes of a row then run over contiguous penalties.
        columns = parameters.transpose(0, 1).reshape(nodes * count, width).T.to(dtype).contiguous()
        weights, intercepts = columns[:-1], columns[-1]
        sums = parameters.new_zeros(width, nodes * count)
        sizes, loss = parameters.new_zeros(nodes * count), parameters.new_zeros(count)
        for rows, block in self.features.blocks(dtype, num_columns=nodes * count):
            logits = block.forward(weights, intercepts).view(-1, nodes, count)
            s = self.weight[rows].to(dtype)
            losses, residuals = self._losses_and_residuals(logits, rows)
            loss += s.double() @ losses.double()
            residuals = residuals.view(-1, nodes * count)
            # p (1 − p) is |r| (1 − |r|) for the residual r = p − t of a label, whichever class it is.
            sizes += s @ residuals.abs().sub_(residuals.square())
            residuals *= s[:, None]
            sums[:-1] += block.adjoint(residuals)
            sums[-1] += residuals.sum(0)
        for part in (sums, loss, sizes):
            all_reduce(part)
        return sums, loss, sizes

    def _losses_and_residuals(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Computes ℓ, (rows, A), and its gradient in the logits, p − t, (rows, O, A)."""
        target = self.target[rows]
        if self.num_nodes == 1:
            second = target if target.ndim == 1 else target[:, 1]
            t = second.to(logits.dtype)[:, None, None].expand_as(logits)
            losses, residuals = binary_losses_and_grad(logits, t)
            return losses[:, 0], residuals
        if target.ndim == 1:
            index = target[:, None, None].expand(-1, 1, logits.shape[2])
            losses, scale = label_losses(logits, index, 1, logits)
            return losses[:, 0], logits.mul_(scale)
        t = target.to(logits.dtype)[:, :, None]
        top = logits.amax(1, keepdim=True)
        differences = logits.sub_(top)
        powers = differences.exp()
        sums = powers.sum(1, keepdim=True)
        losses = sums.log() - (t * differences).sum(1, keepdim=True)
        return losses[:, 0], powers.div_(sums).sub_(t)

    def _class_sums(self) -> tuple[Tensor, Tensor]:
        """Returns 1/S Σ_i s_i t_i, (C,), and 1/S Σ_i s_i t_i x_iᵀ, (C, D)."""
        frequencies = self.weight.new_zeros(self.num_classes)
        sums = self.weight.new_zeros(self.num_classes, self.features.num_features)
        for rows, block in self.features.blocks(torch.float64, num_columns=self.num_classes):
            target, s = self.target[rows], self.weight[rows]
            if target.ndim == 1:
                target = torch.nn.functional.one_hot(target, self.num_classes).double()
            frequencies += s @ target
            sums += block.adjoint(target * s[:, None]).T
        return all_reduce(frequencies) / self.total, all_reduce(sums) / self.total
