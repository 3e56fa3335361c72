"""The objective of softmax regression on dense or sparse features: value, gradient and second derivatives.

B examples, D features, C classes. K is the number of outputs: 1 for two classes, else C. The parameters are one array
(K, D + 1), whose last column is the intercept, or (K, D) without one.

A search on columns of very different sizes is slow and inexact. So the search runs on the features (x − mean) / std,
whatever features the penalty is for; for a sparse matrix the mean and the standard deviation go into the parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch

import fcnet.functional as F
from fcnet.losses import CrossEntropy

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


_BLOCK_VALUES = 1 << 22


class DenseFeatures:
    """The features (x − mean) / std of an array, with a column of ones for an intercept.

    Args:
        x: (B, D).
        mean: float64 (D,).
        std: float64 (D,).
        intercept: whether to append the column of ones.
    """

    def __init__(self, x: npt.NDArray[Any], mean: Floats, std: Floats, *, intercept: bool) -> None:
        self._x = np.ones((x.shape[0], x.shape[1] + intercept))
        np.subtract(x, mean, out=self._x[:, : x.shape[1]])
        self._x[:, : x.shape[1]] /= std

    def forward(self, parameters: Floats) -> Floats:
        """Computes logits, (K, D + 1) -> (B, K)."""
        return self._x @ parameters.T

    def adjoint(self, residuals: Floats) -> Floats:
        """Computes Σ_b residual_b x_b, (B, K) -> (K, D + 1)."""
        sums: Floats = residuals.T @ self._x
        return sums

    def gram(self, weight: Floats) -> Floats:
        """Computes Σ_b weight_b x_b x_bᵀ, (B,) -> (D + 1, D + 1)."""
        return self._x.T @ (self._x * weight[:, None])

    def gram_diagonals(self, weights: Floats) -> Floats:
        """Computes the diagonals of K such matrices, (B, K) -> (K, D + 1)."""
        result = np.zeros((weights.shape[1], self._x.shape[1]))
        rows = max(1, _BLOCK_VALUES // self._x.shape[1])  # squares of all features would double their memory
        for start in range(0, len(weights), rows):
            result += weights[start : start + rows].T @ self._x[start : start + rows] ** 2
        return result


class SparseFeatures:
    """The features (x − mean) / std of a sparse matrix that stays sparse, with a column of ones for an intercept.

    Args:
        x: CSR (B, D).
        mean: float64 (D,).
        std: float64 (D,).
        intercept: whether to append the column of ones.
    """

    def __init__(self, x: Any, mean: Floats, std: Floats, *, intercept: bool) -> None:
        x = x.astype(np.float64)
        ones = [scipy.sparse.csr_array(np.ones((x.shape[0], 1)))] if intercept else []
        self._x = scipy.sparse.csr_array(scipy.sparse.hstack([x, *ones], format="csr"))
        self._mean = np.append(mean, np.zeros(len(ones)))
        self._std = np.append(std, np.ones(len(ones)))

    def forward(self, parameters: Floats) -> Floats:
        """Computes logits, (K, D + 1) -> (B, K)."""
        raw = parameters / self._std
        logits: Floats = self._x @ raw.T - raw @ self._mean
        return logits

    def adjoint(self, residuals: Floats) -> Floats:
        """Computes Σ_b residual_b x_b, (B, K) -> (K, D + 1)."""
        products: Floats = (self._x.T @ residuals).T
        sums: Floats = (products - residuals.sum(0)[:, None] * self._mean) / self._std
        return sums

    def gram(self, weight: Floats) -> Floats:
        """Computes Σ_b weight_b x_b x_bᵀ, (B,) -> (D + 1, D + 1)."""
        weighted = scipy.sparse.diags_array(weight) @ self._x
        products: Floats = (self._x.T @ weighted).toarray()
        cross = np.outer(weighted.sum(0), self._mean)
        products += weight.sum() * np.outer(self._mean, self._mean) - cross - cross.T
        return products / np.outer(self._std, self._std)

    def gram_diagonals(self, weights: Floats) -> Floats:
        """Computes the diagonals of K such matrices, (B, K) -> (K, D + 1)."""
        squares: Floats = (self._x.power(2).T @ weights).T
        products: Floats = (self._x.T @ weights).T
        squares += weights.sum(0)[:, None] * self._mean**2 - 2.0 * products * self._mean
        return np.maximum(squares, 0.0) / self._std**2


class Objective:
    """The mean objective F(V) = 1/B Σ_b s_b ℓ_b + ½ Σ_kd penalty_d V_kd², with weights s of mean 1.

    Args:
        features: the features x of the search.
        labels: class indices, (B,).
        num_classes: C.
        weight: the weights of the examples, (B,); their mean does not matter.
        penalty: the penalty of each column of the parameters, (D + 1,); 0 for the intercept.
    """

    def __init__(
        self,
        features: DenseFeatures | SparseFeatures,
        labels: npt.NDArray[np.int64],
        num_classes: int,
        weight: Floats,
        penalty: Floats,
    ) -> None:
        self.features, self.penalty = features, penalty
        self.shape = (1 if num_classes == 2 else num_classes, len(penalty))
        self.num_examples = len(labels)
        self._share = weight / weight.sum()
        self._target = torch.from_numpy(np.eye(num_classes)[labels] * (self.num_examples * self._share)[:, None])

    def value_and_grad(self, parameters: Floats) -> tuple[float, Floats, Floats]:
        """Computes F, its gradient (K, D + 1), and the logits (B, K)."""
        logits = self.features.forward(parameters)
        scores = torch.from_numpy(logits[:, 0] if self.shape[0] == 1 else logits)
        loss, residuals = CrossEntropy().loss_and_grad(scores, self._target)
        grad = self.features.adjoint(residuals.numpy().reshape(logits.shape) / self.num_examples)
        value = loss.item() / self.num_examples + 0.5 * float((self.penalty * parameters**2).sum())
        return value, grad + self.penalty * parameters, logits

    def curvature(self, logits: Floats) -> Curvature:
        """Returns the second derivative at a point, given its logits."""
        return Curvature(self, logits, self._share)


class Curvature:
    """The second derivative of an objective at a point, as products and as a matrix.

    Args:
        objective: the objective.
        logits: the logits of the point, (B, K).
        share: the weights of the examples divided by their sum, (B,).
    """

    def __init__(self, objective: Objective, logits: Floats, share: Floats) -> None:
        self._objective, self._share = objective, share
        scores = torch.from_numpy(logits)
        if logits.shape[1] == 1:
            # p (1 − p) from both tails, because 1 − p loses the digits of a confident example
            self._p, self._weights = None, (F.sigmoid(scores) * F.sigmoid(-scores)).numpy() * share[:, None]
        else:
            self._p = F.softmax(scores, 1).numpy()
            self._weights = self._p * _one_minus(self._p) * share[:, None]

    def multiply(self, direction: Floats) -> Floats:
        """Multiplies the second derivative by a direction, (K, D + 1) -> (K, D + 1)."""
        changes = self._objective.features.forward(direction)
        if self._p is None:
            changes *= self._weights
        else:
            # diag(p) − p pᵀ applied to each example
            changes = self._p * (changes - (self._p * changes).sum(1, keepdims=True)) * self._share[:, None]
        return self._objective.features.adjoint(changes) + self._objective.penalty * direction

    def diagonal(self) -> Floats:
        """Computes the diagonal, (K, D + 1)."""
        return self._objective.features.gram_diagonals(self._weights) + self._objective.penalty

    def matrix(self) -> Floats:
        """Computes the whole matrix, (K (D + 1), K (D + 1)), in the order of a flattened (K, D + 1)."""
        outputs, columns = self._objective.shape
        result = np.zeros((outputs, columns, outputs, columns))
        for k in range(outputs):
            result[k, :, k] = self._objective.features.gram(self._weights[:, k])
            for j in range(k):
                assert self._p is not None
                block = -self._objective.features.gram(self._p[:, j] * self._p[:, k] * self._share)
                result[j, :, k] = result[k, :, j] = block
        flat = result.reshape(outputs * columns, outputs * columns)
        flat[np.diag_indices_from(flat)] += np.tile(self._objective.penalty, outputs)
        return flat


def _one_minus(p: Floats) -> Floats:
    """Returns 1 − p of each class as the sum of the others where p is near 1, so that it keeps its digits."""
    rest = 1.0 - p
    best = p.argmax(1)
    rows = np.arange(len(p))
    others = p.copy()
    others[rows, best] = 0.0
    rest[rows, best] = others.sum(1)
    return rest
