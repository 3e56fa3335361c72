"""The choice of a penalty on held-out examples. K penalties, N held-out examples of D features, C classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fcnet.metrics import holm_adjust, mcnemar_test, wilson_interval
from fcnet.metrics.intervals import NORMAL_QUANTILE_95
from fcnet.runtime.distributed import all_gather, rank_slice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fcnet.data.features.joined_rows import JoinedRows
    from fcnet.linear_model import LogisticPath

ALPHA = 0.05
"""The significance level of the comparisons."""
_VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What K regressions make of N examples.

    Attributes:
        is_correct: bool (K, N).
        log_loss: float64 (K,), the mean of −log p̂ of the true class.
        log_loss_squares: float64 (K,), Σ (−log p̂ − log_loss)².
    """

    is_correct: Tensor
    log_loss: Tensor
    log_loss_squares: Tensor

    @property
    def count(self) -> int:
        """N."""
        return self.is_correct.shape[1]

    @property
    def num_correct(self) -> list[int]:
        """The number of correct predictions of each regression."""
        counts: list[int] = self.is_correct.sum(1).tolist()
        return counts

    def accuracy(self, k: int) -> float:
        """Returns the accuracy of one regression."""
        return self.num_correct[k] / self.count

    def accuracy_interval(self, k: int) -> tuple[float, float]:
        """Returns Wilson's 95% interval of the accuracy."""
        return wilson_interval(self.num_correct[k], self.count)

    def log_loss_interval(self, k: int) -> tuple[float, float] | None:
        """Returns the normal 95% interval of the log loss; None for a single example."""
        if self.count < 2:
            return None
        mean = float(self.log_loss[k])
        error = math.sqrt(float(self.log_loss_squares[k]) / (self.count - 1) / self.count)
        return max(mean - NORMAL_QUANTILE_95 * error, 0.0), mean + NORMAL_QUANTILE_95 * error


@torch.no_grad()
def evaluate_path(path: LogisticPath, x: Tensor | JoinedRows, y: Tensor, rows: Tensor, device: torch.device) -> HeldOut:
    """Evaluates all regressions of a path on some examples, in float64, block by block; collective.

    Args:
        path: the regressions.
        x: (N, D), the features, on the CPU.
        y: int64 (N,), class indices.
        rows: int64, the examples to take, at least one.
        device: the device to compute on.

    Example:
        >>> from fcnet.linear_model import logistic_path
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0, 1])
        >>> held_out = evaluate_path(logistic_path(x, y, [1.0]), x, y, torch.arange(4), torch.device("cpu"))
        >>> held_out.is_correct.tolist()
        [[True, False, False, True]]
    """
    own = rows[rank_slice(len(rows))]
    parts = all_gather(_evaluate_rows(path, x, y, own, device) if len(own) else None)
    return merge([part for part in parts if part is not None])


def _evaluate_rows(
    path: LogisticPath, x: Tensor | JoinedRows, y: Tensor, rows: Tensor, device: torch.device
) -> HeldOut:
    coef, intercept = path.coef.to(device), path.intercept.to(device)
    num_penalties, num_nodes, _ = coef.shape
    place = torch.full((max(int(y.max()), int(path.classes.max())) + 1,), -1, dtype=torch.int64)
    place[torch.from_numpy(path.classes)] = torch.arange(len(path.classes))
    corrects, losses = [], []
    for block in rows.split(max(1, _VALUES_AT_ONCE // (num_penalties * max(num_nodes, 2)))):
        logits = x[block].to(device, torch.float64) @ coef.mT + intercept[:, None]
        if num_nodes == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 2)
        labels = place[y[block]].to(device)
        corrects.append((logits.argmax(2) == labels).cpu())
        own = logits.gather(2, labels[None, :, None].expand(num_penalties, -1, 1)).squeeze(2)
        losses.append((logits.logsumexp(2) - own).cpu())
    loss = torch.cat(losses, 1)
    mean = loss.mean(1)
    return HeldOut(torch.cat(corrects, 1), mean, (loss - mean[:, None]).square().sum(1))


def merge(parts: Sequence[HeldOut]) -> HeldOut:
    """Returns the results on several sets of examples as those on one.

    Source:
        Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    count, mean, squares = 0, torch.zeros_like(parts[0].log_loss), torch.zeros_like(parts[0].log_loss)
    for part in parts:
        total = count + part.count
        difference = part.log_loss - mean
        squares = squares + part.log_loss_squares + difference**2 * (count * part.count / total)
        mean, count = mean + difference * (part.count / total), total
    return HeldOut(torch.cat([part.is_correct for part in parts], 1), mean, squares)


def choose(held_out: HeldOut) -> int:
    """Returns the index of the penalty with the most correct predictions.

    Of several, the one with the lowest log loss is chosen; of these, the strongest penalty, which is the first.

    Example:
        >>> is_correct = torch.tensor([[True, False], [True, True], [True, True]])
        >>> choose(HeldOut(is_correct, torch.tensor([0.3, 0.2, 0.1]), torch.zeros(3)))
        2
    """
    counts, losses = held_out.num_correct, held_out.log_loss.tolist()
    return min(range(len(counts)), key=lambda k: (-counts[k], losses[k], k))


def compare(held_out: HeldOut, chosen: int) -> list[float]:
    """Computes McNemar's p-value of each penalty against the chosen one, Holm-adjusted; 1 for itself.

    Example:
        >>> is_correct = torch.tensor([[False] * 20, [True] * 20])
        >>> [round(p, 6) for p in compare(HeldOut(is_correct, torch.zeros(2), torch.zeros(2)), 1)]
        [1e-06, 1.0]
    """
    best = held_out.is_correct[chosen]
    others = [k for k in range(len(held_out.is_correct)) if k != chosen]
    p_values = [
        mcnemar_test(int((best & ~held_out.is_correct[k]).sum()), int((~best & held_out.is_correct[k]).sum()))
        for k in others
    ]
    adjusted = dict(zip(others, holm_adjust(p_values), strict=True)) if others else {}
    return [adjusted.get(k, 1.0) for k in range(len(held_out.is_correct))]


def equal_range(p_values: Sequence[float], chosen: int) -> tuple[int, int]:
    """Returns the first and the last penalty around the chosen one that do not differ from it beyond chance.

    Example:
        >>> equal_range([0.5, 0.01, 0.3, 1.0, 0.2, 0.04], 3)
        (2, 4)
    """
    first = last = chosen
    while first > 0 and p_values[first - 1] >= ALPHA:
        first -= 1
    while last < len(p_values) - 1 and p_values[last + 1] >= ALPHA:
        last += 1
    return first, last
