"""Training images that are made of two, and their targets.

Like the changes of `fcnet.data.transforms.augment`, what is mixed with what is drawn once an epoch. An image's
partner is the image at another place of the epoch's order, a second permutation of it, with the
changes that are drawn for that place: it depends on no batch and no rank. B images of C channels,
H rows and W columns, N places in an epoch.
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


@dataclass(frozen=True, eq=False, slots=True)
class MixupParams:
    """How images are mixed with their partners; a row an image.

    Attributes:
        partner: int64 (N,), the partner's place.
        lam: float32 (N,), λ, the image's own share of the target; the rest is its partner's.
        blend: float32 (N,), the factor of the image's own pixels, where mixup may be; else None.
        box: int64 (N, 2, 2), first row and column, and those after the last, of the partner's
            pixels, where cutmix may be; else None.
    """

    partner: Tensor
    lam: Tensor
    blend: Tensor | None
    box: Tensor | None

    def slice(self, rows: builtins.slice) -> MixupParams:
        """Some of the rows."""
        return self._map(lambda values: values[rows])

    def to(self, device: torch.device) -> MixupParams:
        """The same on a device."""
        return self._map(lambda values: values.to(device))

    def clone(self) -> MixupParams:
        """The same in memory of its own."""
        return self._map(Tensor.clone)

    def _map(self, change: Callable[[Tensor], Tensor]) -> MixupParams:
        blend, box = (None if values is None else change(values) for values in (self.blend, self.box))
        return MixupParams(change(self.partner), change(self.lam), blend, box)

    def tensors(self) -> list[Tensor]:
        """All that is there."""
        return [values for values in (self.partner, self.lam, self.blend, self.box) if values is not None]

    def apply_cutmix(self, images: Tensor, partners: Tensor) -> Tensor:
        """Cutmix: the images (B, C, H, W) with their partners' pixels in the boxes."""
        if self.box is None:
            return images
        return where_uint8(inside_box(images, self.box[:, 0], self.box[:, 1]), partners, images)

    def apply_mixup_(self, values: Tensor, partners: Tensor) -> None:
        """Mixup: x becomes λ x + (1 − λ) x', for values x, float32 (B, D), and their partners x', (B, …)."""
        if self.blend is not None:
            own = self.blend[:, None]
            values.mul_(own).add_(partners.flatten(1) * (1.0 - own))


@dataclass(frozen=True)
class MixupCutmix:
    """Mixup, cutmix, or for each image one of the two, each with probability ½; 0 leaves one out.

    With λ of the distribution Beta(α, α), mixup is the sum λ x + (1 − λ) x' of an image and its
    partner. Cutmix pastes a box of the partner's pixels, at the same place, into the image: its
    sides are √(1 − λ) of the image's, rounded, and its middle is any pixel; what hangs over the edge is cut off, and
    λ is then the share of the pixels that are the image's own. The target is λ of the image's label
    and 1 − λ of its partner's.

    Attributes:
        mixup: α of mixup.
        cutmix: α of cutmix.

    Source:
        Zhang et al., "mixup: beyond empirical risk minimization", 2018; Yun et al., "CutMix", 2019.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def draw(self, num_images: int, size: tuple[int, int], generator: torch.Generator) -> MixupParams:
        """What happens to the images of an epoch, on the CPU.

        Args:
            num_images: N.
            size: H and W.
            generator: from which numpy's, who has Beta numbers, gets its seed.
        """
        partner = torch.randperm(num_images, generator=generator)
        pasting = torch.rand(num_images, generator=generator) < self._cutmix_probability
        alpha = torch.where(pasting, self.cutmix, self.mixup).double().numpy()
        numbers = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
        lam = torch.from_numpy(numbers.beta(alpha, alpha))
        middle = torch.rand(num_images, 2, generator=generator)
        if not self.cutmix:
            return MixupParams(partner, lam.float(), lam.float(), None)
        extent = torch.tensor(size)
        sides = (extent * (1.0 - lam).sqrt()[:, None]).round().long() * pasting[:, None]
        first = (middle * extent).long() - sides // 2
        box = torch.stack([first, first + sides], dim=1).clamp(min=torch.tensor(0), max=extent)
        kept = 1.0 - (box[:, 1] - box[:, 0]).prod(1) / extent.prod().double()
        blend = torch.where(pasting, 1.0, lam).float() if self.mixup else None
        return MixupParams(partner, torch.where(pasting, kept, lam).float(), blend, box)

    @property
    def _cutmix_probability(self) -> float:
        """The probability of cutmix."""
        return 0.5 if self.mixup and self.cutmix else float(self.cutmix > 0)


def soft_target(labels: Tensor, lam: Tensor | None, weights: Tensor | None, num_classes: int) -> Tensor:
    """What the loss is told of images that have two labels, or a weight.

    A label adds its share, times its class's weight, to its class, so that a row adds up to the
    row's weight and the loss is λ w_y · cost(y) + (1 − λ) w_y' · cost(y').

    Args:
        labels: int64 (1, B), or (2, B) with the partners' in the second row.
        lam: λ, float32 (B,), of the first row; None where there is but one.
        weights: w, float32 (C,), or None for 1.
        num_classes: C.

    Returns:
        float32 (B, C).

    Example:
        >>> soft_target(torch.tensor([[0], [2]]), torch.tensor([0.75]), None, 3)
        tensor([[0.7500, 0.0000, 0.2500]])
    """
    shares = labels.new_ones(labels.shape, dtype=torch.float32) if lam is None else torch.stack([lam, 1.0 - lam])
    if weights is not None:
        shares = shares * weights[labels]
    return shares.new_zeros(labels.shape[1], num_classes).scatter_add_(1, labels.T, shares.T)
