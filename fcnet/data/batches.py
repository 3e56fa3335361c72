"""Batches as device tensors: an index into images that stay uint8 until the step.

B images of C channels, H rows and W columns in a batch, N in the set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.data.class_balance import class_weights, sample_balanced
from fcnet.data.epoch_plan import EpochPlan
from fcnet.data.transforms.mixup import soft_target
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.data.transforms.augment import Transform
    from fcnet.data.transforms.mixup import MixupCutmix, MixupParams
    from fcnet.data.transforms.whitening import Whitening

BALANCE_MODES = ("none", "weights", "sampling")


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's part of a global batch.

    Attributes:
        images: float (B, …), normalised, on the device; (B, k) where they are whitened.
        labels: int64 (B,), class indices, on the device; of a mixed image the one of the larger share.
        target: what the loss is told: the labels, or where images are mixed or weighted float32
            (B, C), the share of each class, times its weight.
        size: the number of images in the global batch.
    """

    images: Tensor
    labels: Tensor
    target: Tensor
    size: int

    def split(self, num_parts: int) -> list[Batch]:
        """The images in ``num_parts`` runs of about one length, or in fewer where there are fewer images."""
        if num_parts == 1 or len(self.labels) < 2:
            return [self]
        columns = (column.tensor_split(num_parts) for column in (self.images, self.labels, self.target))
        return [Batch(x, y, t, self.size) for x, y, t in zip(*columns, strict=True) if len(y)]


def normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(pixels / 255 − mean) / std, as float32.

    Computed as scale · pixels + shift in one pass; what that rounds away is at most 2⁻¹⁴ of the step
    from one grey level to the next.

    Args:
        pixels: uint8 (B, C, H, W).
        mean: float32 (C,), of pixels / 255.
        std: float32 (C,), of pixels / 255.

    Returns:
        float32 (B, C, H, W).
    """
    scale, shift = _scale_and_shift(mean, std)
    return torch.addcmul(shift[:, None, None], pixels.to(torch.float32), scale[:, None, None])


def _scale_and_shift(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) that normalise pixels of 0 to 255."""
    return 1.0 / (255.0 * std), -mean / std


class Batches:
    """Images and labels, cut into batches that are made on the device.

    Iterating gives every image once, in order and as it is. `epoch` gives every image once, in an
    order and with changes that follow from a seed and the epoch's number. The last batch holds
    what is left. A batch is made in this order: changed, cutmix, mixup, normalised, whitened.

    Args:
        images: uint8 (N, C, H, W), or a floating dtype (N, …), which is used as it is.
        labels: int64 (N,).
        batch_size: images in a global batch.
        rows: int64, which of the N images count; None: all.
        statistics: mean and std, float32 (C,) each, of uint8 images; None divides by 255 alone.
        augment: changes for the images of an epoch, one after another; uint8 images only.
        mixing: what makes an epoch's images of two; uint8 images only.
        balance: what makes classes of different sizes count the same in an epoch: ``"weights"`` in
            the target, or ``"sampling"``, by which an epoch is as many images, drawn with
            replacement from classes that are equally likely; or ``"none"``.
        num_classes: C, of mixed or weighted targets; None: as many as the labels need, two at least.
        whitening: what becomes of normalised images, on ``device``; uint8 images only.
        device: where batches are wanted. Images move there whole when they take up at most half
            of its free memory; otherwise they stay where they are and each batch moves.

    Raises:
        UserError: a ValueError; shapes or dtypes do not fit.

    Example:
        >>> images, labels = torch.rand(10, 4), torch.arange(10)
        >>> batches = Batches(images, labels, batch_size=4)
        >>> [len(batch.labels) for batch in batches]
        [4, 4, 2]
        >>> torch.cat([batch.labels for batch in batches.epoch(seed=0, epoch=0)]).sort().values.tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int = 128,
        rows: Tensor | None = None,
        statistics: tuple[Tensor, Tensor] | None = None,
        augment: Sequence[Transform] = (),
        mixing: MixupCutmix | None = None,
        balance: str = "none",
        num_classes: int | None = None,
        whitening: Whitening | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        needs_uint8 = bool(augment) or mixing is not None or whitening is not None
        _check_arguments(images, labels, batch_size, balance, needs_uint8=needs_uint8)
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.augment = tuple(augment)
        self.mixing = mixing
        self.balance = balance
        self.whitening = whitening
        self.images = _move_if_fits(images, self.device)
        self.labels = labels.to(self.device)
        self.rows = torch.arange(len(labels)) if rows is None else rows
        self.num_classes = num_classes or max(2, int(labels.max()) + 1 if len(labels) else 0)
        self._flat_images = self.images.view(len(images), -1)
        if images.dtype == torch.uint8:
            mean, std = statistics or (torch.zeros(images.shape[1]), torch.ones(images.shape[1]))
            scale, shift = _scale_and_shift(mean.to(self.device), std.to(self.device))
            self._scale, self._shift = _expand_to_pixels(scale, images), _expand_to_pixels(shift, images)

    @property
    def num_images(self) -> int:
        """How many images an epoch goes through."""
        return len(self.rows)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Every image once, in order, unchanged."""
        return self._iter_batches(self._make_plan(self.rows, ()), start=0)

    def epoch(
        self, seed: int, epoch: int, *, start: int = 0, reuse_buffer: bool = False, shuffle: bool = True
    ) -> Iterator[Batch]:
        """Every image once, or as many as `balance` samples, in the order and with the changes of this epoch.

        Args:
            seed: the run's seed.
            epoch: the epoch's number, from 0.
            start: the number of batches to leave out at the beginning.
            reuse_buffer: whether a batch's images may take the memory of the batch before, which is
                still in the processor's cache; for a loop that keeps none.
            shuffle: whether to leave the rows' own order, and to sample.

        Yields:
            The batches from ``start`` on, the same whatever ``start`` and the number of ranks.
        """
        plan = self.plan_epoch(seed, epoch, shuffle=shuffle)
        largest = min(self.batch_size, self.num_images)
        buffer = torch.empty(largest, self._flat_images.shape[1], device=self.device) if reuse_buffer else None
        return self._iter_batches(plan, start=start, buffer=buffer)

    def plan_epoch(self, seed: int, epoch: int, *, shuffle: bool = True) -> EpochPlan:
        """What `epoch` makes its batches of."""
        rows = self._epoch_rows(seed, epoch) if shuffle else self.rows
        draws = [
            transform.draw(self.num_images, generator(seed, "augment", place, epoch))
            for place, transform in enumerate(self.augment)
        ]
        mixture = None
        if self.mixing is not None:
            height, width = self.images.shape[2:]
            mixture = self.mixing.draw(self.num_images, (height, width), generator(seed, "mixing", epoch))
        weights = class_weights(self._selected_labels(), self.num_classes) if self.balance == "weights" else None
        return self._make_plan(rows, draws, mixture, weights)

    def batch_size_at(self, number: int) -> int:
        """The number of images in the global batch of a number, from 0."""
        return min(self.batch_size, self.num_images - number * self.batch_size)

    def make_batch(self, plan: EpochPlan, size: int, buffer: Tensor | None = None) -> Batch:
        """The images of a part of an order, as this rank's part of a global batch.

        Args:
            plan: a slice of what `plan_epoch` returns.
            size: the number of images in the global batch.
            buffer: as in `get_images`.
        """
        images = self.get_images(
            plan.rows.flatten(), [numbers.flatten(0, 1) for numbers in plan.draws], plan.mixture, buffer
        )
        own = plan.labels[0]
        if plan.mixture is None and plan.weights is None:
            return Batch(images, own, own, size)
        lam = None if plan.mixture is None else plan.mixture.lam
        target = soft_target(plan.labels, lam, plan.weights, self.num_classes)
        return Batch(images, own if lam is None else torch.where(lam >= 0.5, own, plan.labels[1]), target, size)

    def get_images(
        self,
        rows: Tensor,
        draws: Sequence[Tensor] = (),
        mixture: MixupParams | None = None,
        buffer: Tensor | None = None,
    ) -> Tensor:
        """The images of some rows, changed as drawn, mixed and normalised, on the device.

        Args:
            rows: int64 (B,), on the device of ``images``; with a mixture (2B,), the partners' last.
            draws: for each of the changes its numbers, a row an image, on the batches' device.
            mixture: of B images, on the batches' device; None mixes none.
            buffer: float32 (B or more, C · H · W), where uint8 images are to be made; None: new memory.

        Returns:
            float32 (B, C, H, W) of uint8 images, or (B, k) whitened; others as they are.
        """
        shape = self.images.shape[1:]
        pixels = self._flat_images.index_select(0, rows).to(self.device, non_blocking=True)
        if pixels.dtype != torch.uint8:
            return pixels.view(-1, *shape)
        if draws:
            images = pixels.view(-1, *shape)
            for transform, numbers in zip(self.augment, draws, strict=True):
                images = transform.apply(images, numbers)
            pixels = images.reshape(pixels.shape)
        size = pixels.shape[0] if mixture is None else pixels.shape[0] // 2
        values = torch.empty(size, pixels.shape[1], device=self.device) if buffer is None else buffer[:size]
        if mixture is None:
            values.copy_(pixels)
        else:
            own, partners = pixels[:size].view(-1, *shape), pixels[size:].view(-1, *shape)
            values.copy_(mixture.apply_cutmix(own, partners).flatten(1))
            mixture.apply_mixup_(values, partners)
        values = torch.addcmul(self._shift, values, self._scale, out=values)
        return values.view(-1, *shape) if self.whitening is None else self.whitening(values)

    def _selected_labels(self) -> Tensor:
        """Those of the rows, on the device."""
        return self.labels.index_select(0, self.rows.to(self.device))

    def _epoch_rows(self, seed: int, epoch: int) -> Tensor:
        """The rows of an epoch."""
        if self.balance == "sampling":
            return self.rows[sample_balanced(self._selected_labels().cpu(), generator(seed, "sample", epoch))]
        return self.rows[torch.randperm(self.num_images, generator=generator(seed, "order", epoch))]

    def _make_plan(
        self,
        rows: Tensor,
        draws: Sequence[Tensor],
        mixture: MixupParams | None = None,
        weights: Tensor | None = None,
    ) -> EpochPlan:
        rows = _stack_partners(rows, mixture)
        return EpochPlan(
            rows.to(self.images.device),
            self.labels[rows.to(self.device)],
            tuple(_stack_partners(numbers, mixture).to(self.device) for numbers in draws),
            None if mixture is None else mixture.to(self.device),
            weights,
        )

    def _iter_batches(self, plan: EpochPlan, *, start: int, buffer: Tensor | None = None) -> Iterator[Batch]:
        rest = plan.slice(slice(start * self.batch_size, None))
        for number, plan in zip(range(start, len(self)), rest.split(self.batch_size), strict=False):
            size = self.batch_size_at(number)
            yield self.make_batch(
                plan if distributed.world_size() == 1 else plan.slice(distributed.rank_slice(size)), size, buffer
            )


def _stack_partners(values: Tensor, mixture: MixupParams | None) -> Tensor:
    """(N, …) -> (1, N, …), or (2, N, …) with those of the partners."""
    return values[None] if mixture is None else torch.stack([values, values[mixture.partner]])


def _expand_to_pixels(values: Tensor, images: Tensor) -> Tensor:
    """Values of channels (C,) as a row (C · H · W,)."""
    return values[:, None, None].expand(images.shape[1:]).reshape(-1)


def split_validation(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to keep aside, the same share of every class.

    Args:
        labels: int64 (N,).
        share: the share kept aside, in [0, 1).
        seed: the run's seed.

    Returns:
        Two int64 tensors of rows, in order, that together are 0 … N − 1. A class with few rows
        keeps at least one to train on.

    Example:
        >>> train, validation = split_validation(torch.tensor([0] * 10 + [1] * 10), 0.1, seed=0)
        >>> len(train), len(validation)
        (18, 2)
    """
    shuffled = torch.randperm(len(labels), generator=generator(seed, "validation"))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = shuffled[labels[shuffled] == label]
        held_out[rows[: min(round(share * len(rows)), len(rows) - 1)]] = True
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


def _move_if_fits(images: Tensor, device: torch.device) -> Tensor:
    """The images on the device when they fit, else where they are."""
    if device.type != "cuda" or images.device == device:
        return images
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return images.to(device) if images.nbytes <= free_bytes // 2 else images


def _check_arguments(images: Tensor, labels: Tensor, batch_size: int, balance: str, *, needs_uint8: bool) -> None:
    if labels.ndim != 1 or len(images) != len(labels):
        raise UserError(f"expected images (N, …) and labels (N,), got {tuple(images.shape)} and {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise UserError(f"labels must be int64, got {labels.dtype}")
    if images.dtype == torch.uint8 and images.ndim != 4:
        raise UserError(f"uint8 images must be (N, C, H, W), got {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"images must be uint8 or of a floating dtype, got {images.dtype}")
    if needs_uint8 and images.dtype != torch.uint8:
        raise UserError(f"images must be uint8 to be augmented or whitened, got {images.dtype}")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    if balance not in BALANCE_MODES:
        raise UserError(f"balance must be one of {', '.join(BALANCE_MODES)}, got {balance!r}")
