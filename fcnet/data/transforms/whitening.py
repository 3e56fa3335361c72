"""Whitening of images: their principal components, each scaled to about unit variance.

Neighbouring pixels are strongly correlated. A network learns faster from components, because no direction of its input
has a much larger variance than another. B images of D values, k components.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import float64_device

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIANCE_FLOOR = 0.1
"""Added to each component's variance, so that components of almost no variance are not scaled up to noise."""


class Whitening(nn.Module):
    """The map z = W x + b from D values to k components.

    Args:
        num_components: k.
        num_features: D.

    Attributes:
        weight: W, float32 (k, D), one component in each row.
        bias: b, float32 (k,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, num_components: int, num_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_components, num_features))
        self.register_buffer("bias", torch.zeros(num_components))

    def extra_repr(self) -> str:
        """Returns k and D, as `print` shows them."""
        return f"num_components={self.weight.shape[0]}, num_features={self.weight.shape[1]}"

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, …), with D values for each image, to (B, k)."""
        return torch.addmm(self.bias, x.flatten(1), self.weight.T)


@torch.no_grad()
def fit_whitening(images: Iterable[Tensor], num_components: int) -> Whitening:
    """Computes W = (Λ + ρ)^−½ Uᵀ and b = −W m from the images' mean m and covariance U Λ Uᵀ.

    Λ holds the k largest eigenvalues, ρ is `VARIANCE_FLOOR`, and the sign of an eigenvector makes its entry of largest
    magnitude positive.

    Args:
        images: batches of all training images, normalized, float32 (B, …) each.
        num_components: k, from 1 to D.

    Returns:
        The whitening, on the device of the images. It is computed on the CPU if the device has no float64.

    Raises:
        UserError: an image has fewer than k values, or there is no image.

    Source:
        Pearson, "On lines and planes of closest fit to systems of points in space", 1901.

    Example:
        >>> x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 3.0, 1.0])
        >>> whitening = fit_whitening([x], 2)
        >>> [round(variance, 1) for variance in whitening(x).var(0).tolist()]
        [1.0, 1.0]
    """
    count, total, squares = 0, None, None
    for batch in images:
        x = batch.to(float64_device(batch.device)).flatten(1)
        if total is None or squares is None:
            if not 1 <= num_components <= x.shape[1]:
                raise UserError(
                    f"data.whiten must be at most the {x.shape[1]} values of an image, got {num_components}"
                )
            total = x.new_zeros(x.shape[1], dtype=torch.float64)
            squares = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        count += len(x)
        total += x.sum(0, dtype=torch.float64)
        squares += x.T @ x
    if total is None or squares is None or not count:
        raise UserError("whitening needs at least one training image, got none")
    mean = total / count
    # `eigh` sorts by ascending eigenvalue.
    variances, directions = torch.linalg.eigh((squares / count - mean.outer(mean)).float())
    variances, directions = variances[-num_components:].flip(0), directions[:, -num_components:].flip(1).T
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    whitening = Whitening(num_components, len(total)).to(total.device)
    scale = (variances.clamp(min=0.0) + VARIANCE_FLOOR).rsqrt().unsqueeze(1)
    whitening.weight.copy_(directions * largest.sign() * scale)
    whitening.bias.copy_(-(whitening.weight.double() @ mean))
    return whitening.to(batch.device)
