"""Mixup and cutmix: training images made of two images, and their targets.

As in `fcnet.data.transforms.augment`, all random values of an epoch are drawn before its first batch. The partner of an
image is the image at another position of the epoch, by a random permutation, with that position's augmentation. It
therefore does not depend on batches or ranks. B images of C channels, H rows and W columns, N positions in an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fcnet.data.transforms.augment import inside_box, where_uint8

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable

_MIN_ALPHA = 1e-30


@dataclass(frozen=True, eq=False, slots=True)
class MixupParams:
    """Parameters of the mixing of images with their partners, one row for each image.

    Attributes:
        partner: int64 (N,), the position of the partner.
        lam: float32 (N,), λ, the weight of the image's label in the target; the partner's is 1 − λ.
        blend: float32 (N,), the weight of the image's pixels in mixup; None without mixup.
        box: int64 (N, 2, 2), the box of the partner's pixels in cutmix: its first row and column, and one past its
            last. None without cutmix.
    """

    partner: Tensor
    lam: Tensor
    blend: Tensor | None
    box: Tensor | None

    def slice(self, rows: builtins.slice) -> MixupParams:
        """Returns a view of some rows."""
        return self._map(lambda values: values[rows])

    def to(self, device: torch.device) -> MixupParams:
        """Returns the parameters on a device."""
        return self._map(lambda values: values.to(device))

    def clone(self) -> MixupParams:
        """Returns a copy in new memory."""
        return self._map(Tensor.clone)

    def _map(self, function: Callable[[Tensor], Tensor]) -> MixupParams:
        blend, box = (None if values is None else function(values) for values in (self.blend, self.box))
        return MixupParams(function(self.partner), function(self.lam), blend, box)

    def tensors(self) -> list[Tensor]:
        """Returns all tensors that are not None."""
        return [values for values in (self.partner, self.lam, self.blend, self.box) if values is not None]

    def apply_cutmix(self, images: Tensor, partners: Tensor) -> Tensor:
        """Applies cutmix: replaces the boxes of images (B, C, H, W) by their partners' pixels."""
        if self.box is None:
            return images
        return where_uint8(inside_box(images, self.box[:, 0], self.box[:, 1]), partners, images)

    def apply_mixup_(self, values: Tensor, partners: Tensor) -> None:
        """Applies mixup in place: x becomes λ x + (1 − λ) x' for values x, float32 (B, D), and partners x', (B, …)."""
        if self.blend is not None:
            lam = self.blend[:, None]
            values.mul_(lam).add_(partners.flatten(1) * (1.0 - lam))


@dataclass(frozen=True)
class MixupCutmix:
    """Mixup, cutmix, or one of the two for each image with probability ½.

    With λ drawn from Beta(α, α), mixup computes λ x + (1 − λ) x' for an image x and its partner x'. Cutmix replaces a
    box of the image by the same box of its partner. The box has √(1 − λ) of the image's sides, rounded, and a uniform
    centre. It is cropped at the image's edge, and λ becomes the fraction of pixels outside the box. The target has
    weight λ on the image's label and 1 − λ on its partner's.

    Attributes:
        mixup: α of mixup; 0 disables it.
        cutmix: α of cutmix; 0 disables it.

    Source:
        Zhang et al., "mixup: beyond empirical risk minimization", 2018; Yun et al., "CutMix", 2019.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def draw(self, num_images: int, size: tuple[int, int], generator: torch.Generator) -> MixupParams:
        """Draws the parameters of an epoch, on the CPU.

        Args:
            num_images: N.
            size: (H, W).
            generator: a generator on the CPU.
        """
        partner = torch.randperm(num_images, generator=generator)
        cutmix_probability = 0.5 if self.mixup and self.cutmix else float(self.cutmix > 0)
        is_cutmix = torch.rand(num_images, generator=generator) < cutmix_probability
        # A tiny α rounds to 0 in float32, which Beta refuses. At the bound too, λ is 0 or 1 with probability ½ each.
        alpha = torch.where(is_cutmix, self.cutmix, self.mixup).double().clamp(min=_MIN_ALPHA).numpy()
        # torch's Beta distribution takes no generator, so NumPy draws from it, seeded by this one.
        beta_rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
        lam = torch.from_numpy(beta_rng.beta(alpha, alpha))
        centre = torch.rand(num_images, 2, generator=generator)
        if not self.cutmix:
            return MixupParams(partner, lam.float(), lam.float(), None)
        extent = torch.tensor(size)
        sides = (extent * (1.0 - lam).sqrt()[:, None]).round().long() * is_cutmix[:, None]  # an empty box for mixup
        first = (centre * extent).long() - sides // 2
        box = torch.stack([first, first + sides], dim=1).clamp(min=torch.tensor(0), max=extent)
        fraction_outside = 1.0 - (box[:, 1] - box[:, 0]).prod(1) / extent.prod().double()
        blend = torch.where(is_cutmix, 1.0, lam).float() if self.mixup else None
        return MixupParams(partner, torch.where(is_cutmix, fraction_outside, lam).float(), blend, box)


def soft_target(labels: Tensor, lam: Tensor | None, weights: Tensor | None, num_classes: int) -> Tensor:
    """Computes the targets of images with two labels or with class weights.

    With labels y and y', the target is λ w_y at y plus (1 − λ) w_y' at y'. The cross-entropy of such a target is
    λ w_y · loss(y) + (1 − λ) w_y' · loss(y').

    Args:
        labels: int64 (1, B), or (2, B) with the partners' labels in the second row.
        lam: λ, float32 (B,); None if there is one label.
        weights: class weights w, float32 (C,); None for 1.
        num_classes: C.

    Returns:
        float32 (B, C). A row sums to the weight of its image.

    Example:
        >>> soft_target(torch.tensor([[0], [2]]), torch.tensor([0.75]), None, 3)
        tensor([[0.7500, 0.0000, 0.2500]])
    """
    values = labels.new_ones(labels.shape, dtype=torch.float32) if lam is None else torch.stack([lam, 1.0 - lam])
    if weights is not None:
        values = values * weights[labels]
    return values.new_zeros(labels.shape[1], num_classes).scatter_add_(1, labels.T, values.T)
