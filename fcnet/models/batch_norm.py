"""Batch normalization over the global batch, and its running statistics. B examples, n units."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from fcnet.runtime import distributed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fcnet.data.batches import Batch


class BatchNorm(nn.Module):
    """Computes γ (z − μ) / √(σ² + ε) + β with the mean μ and the variance σ² of each unit.

    During training μ and σ² are the statistics of the global batch, over all ranks, and update the running averages.
    Evaluation uses the running averages.

    Args:
        num_features: n, the number of units.
        momentum: the weight of the newest batch in the running averages.
        eps: ε. It is part of the definition: a constant unit has σ² = 0 and gives β.

    Source:
        Ioffe and Szegedy, "Batch normalization", 2015.

    Example:
        >>> normalize, z = BatchNorm(1), torch.tensor([[1.0], [3.0]])
        >>> [round(value, 4) for value in normalize(z).flatten().tolist()]
        [-1.0, 1.0]
        >>> round(normalize.running_mean.item(), 4)
        0.2
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def extra_repr(self) -> str:
        """Returns the width and the settings, as `print` shows them."""
        return f"{len(self.weight)}, momentum={self.momentum}, eps={self.eps}"

    def forward(self, z: Tensor) -> Tensor:
        """Normalizes each unit, (B, n) -> (B, n)."""
        if self.training and (distributed.world_size() > 1 or len(z) < 2):
            return self._sync_forward(z)
        return torch.nn.functional.batch_norm(
            z,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )

    def _sync_forward(self, z: Tensor) -> Tensor:
        """Normalizes by the moments of all ranks. Unlike torch's kernel it also takes a batch of one row."""
        values = z.float()  # bfloat16 would lose the digits of a sum over the batch
        count, mean, variance = _GlobalMoments.apply(values) if distributed.world_size() > 1 else _moments(values)
        with torch.no_grad():
            # torch's convention: σ² of the batch normalizes, the unbiased estimate enters the running average
            unbiased = variance * (count / (count - 1.0).clamp(min=1.0))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return ((values - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias).to(z.dtype)


def _moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns B, the mean and the variance of each unit; zeros for an empty batch."""
    count = torch.full((), float(len(values)), device=values.device)
    mean = values.sum(0) / count.clamp(min=1.0)
    return count, mean, (values - mean).square().sum(0) / count.clamp(min=1.0)


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]


class _GlobalMoments(torch.autograd.Function):
    """B, the mean μ and the variance σ² of each unit over all ranks, in one message; another in the backward pass.

    With B[r], μ[r] and σ²[r] of rank r, μ = Σ_r B[r] μ[r] / B and σ² = Σ_r B[r] (σ²[r] + (μ[r] − μ)²) / B. No digits
    cancel, as they would in a sum of squares.
    """

    @staticmethod
    def forward(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count, mean, variance = _moments(values)
        counts, means, variances = distributed.all_gather_tensor(torch.cat([count.view(1), mean, variance])).split(
            [1, len(mean), len(mean)], 1
        )
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        return count, mean, variance

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        """Saves what ∂μ/∂z = 1 / B and ∂σ²/∂z = 2 (z − μ) / B need."""
        count, mean, _ = output
        ctx.mark_non_differentiable(count)
        ctx.save_for_backward(*inputs, count, mean)

    @staticmethod
    def backward(ctx: _Context, _: Tensor, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        values, count, mean = ctx.saved_tensors
        total = distributed.all_reduce(torch.cat([grad_mean, grad_variance])) / count
        grad_mean, grad_variance = total.chunk(2)
        return grad_mean + 2.0 * grad_variance * (values - mean)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts the model in evaluation mode for the duration of the block, then restores each module's own mode."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


@torch.no_grad()
def update_bn(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Sets the running statistics of every `BatchNorm` to their mean over some batches.

    The mean weights each batch by its size. All other modules run in evaluation mode. The function restores the
    model's mode at the end.

    Args:
        model: any function of a batch's images.
        batches: this rank's slices of the global batches.
    """
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    count = 0
    with eval_mode(model):
        try:
            for batch in batches:
                count += batch.size
                for norm in norms:
                    # a momentum of 1, then n₂/(n₁+n₂), … makes the running average the exact weighted mean
                    norm.training, norm.momentum = True, batch.size / count
                model(batch.images)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.training, norm.momentum = False, momentum
