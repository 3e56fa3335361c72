"""Whitening: the principal components of the training images, each of about unit variance.

B images of D values, k components. Neighbouring pixels say nearly the same; a network that sees
components instead of pixels learns faster, since no direction of its input is much longer than another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIANCE_FLOOR = 0.1
"""Added to each component's variance, so that those that hardly vary are not blown up to noise."""


class Whitening(nn.Module):
    """z = W x + b: k components of D values.

    Args:
        num_components: k.
        num_features: D.

    Attributes:
        weight: W, float32 (k, D), a component in each row.
        bias: b, float32 (k,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, num_components: int, num_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_components, num_features))
        self.register_buffer("bias", torch.zeros(num_components))

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) with D values each -> (B, k)."""
        return torch.addmm(self.bias, x.flatten(1), self.weight.T)


@torch.no_grad()
def fit_whitening(images: Iterable[Tensor], num_components: int) -> Whitening:
    """W = (Λ + ρ)^−½ Uᵀ and b = −W m, with the images' mean m and the largest eigenvalues Λ of their covariance U Λ Uᵀ.

    ρ is `VARIANCE_FLOOR`. Of the two directions that an eigenvector has, the one counts in which its
    largest entry is positive.

    Args:
        images: float32 (B, …) each, all of the training images, normalised.
        num_components: k, from 1 to D.

    Returns:
        The whitening, on the images' device.

    Raises:
        UserError: there are fewer than k values in an image, or no images.

    Source:
        Pearson, "On lines and planes of closest fit to systems of points in space", 1901.

    Example:
        >>> x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 3.0, 1.0])
        >>> whitening = fit_whitening([x], 2)
        >>> [round(variance, 1) for variance in whitening(x).var(0).tolist()]
        [1.0, 1.0]
    """
    count, total, squares = 0, None, None
    for part in images:
        x = part.flatten(1)
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
        raise UserError("whitening must be of at least one image, got none")
    mean = total / count
    variances, directions = torch.linalg.eigh((squares / count - mean.outer(mean)).float())
    variances, directions = variances[-num_components:].flip(0), directions[:, -num_components:].flip(1).T
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    whitening = Whitening(num_components, len(total)).to(total.device)
    scale = (variances.clamp(min=0.0) + VARIANCE_FLOOR).rsqrt().unsqueeze(1)
    whitening.weight.copy_(directions * largest.sign() * scale)
    whitening.bias.copy_(-(whitening.weight.double() @ mean))
    return whitening
