"""Batches of images as tensors on a device.

The images stay uint8 in one tensor, and a batch is an index into it. Conversion, augmentation and normalization run on
the device. B images of C channels, H rows and W columns in a batch, N in the set.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.data.class_balance import class_weights, sample_balanced
from fcnet.data.epoch_plan import EpochPlan
from fcnet.data.read_ahead import RowUploader, read_ahead
from fcnet.data.transforms.mixup import soft_target
from fcnet.data.transforms.pipeline import (
    Augmentation,
    Preprocessing,
    l2_normalize,
    scale_and_offset,
    standardize,
)
from fcnet.runtime import distributed, memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.data.transforms.mixup import MixupParams

__all__ = [
    "Augmentation",
    "Batch",
    "Batches",
    "Preprocessing",
    "fits_on_device",
    "normalize",
    "smallest_part",
    "split_validation",
]

BALANCE_MODES = ("none", "weights", "sampling")


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's slice of a global batch.

    Attributes:
        images: floating (B, …), preprocessed, on the device; (B, k) if whitened.
        labels: int64 (B,), class indices, on the device; for a mixed image, the class with the larger weight.
        target: the target of the loss: the labels, or for mixed or weighted images float32 (B, C) with the weight of
            each class.
        size: the number of images in the global batch.
    """

    images: Tensor
    labels: Tensor
    target: Tensor
    size: int

    def split(self, num_parts: int) -> list[Batch]:
        """Splits the images into ``num_parts`` batches of about equal length, or fewer if a rank has fewer images.

        All ranks make the same number of parts, because batch normalization exchanges sums in each.
        """
        num_parts = min(num_parts, len(self.labels), self.size // distributed.world_size())
        if num_parts <= 1:
            return [self]
        columns = (column.tensor_split(num_parts) for column in (self.images, self.labels, self.target))
        return [Batch(x, y, t, self.size) for x, y, t in zip(*columns, strict=True)]


class Batches:
    """Batches of a labelled set of images, made on a device.

    Iterating yields every image once, in order and without augmentation. `epoch` yields every image once, in an order
    and with an augmentation that depend only on a seed and the epoch's number. The last batch may be smaller.

    Args:
        images: uint8 (N, C, H, W); or floating (N, …), used without changes unless there is a preprocessing.
        labels: int64 (N,), class indices.
        batch_size: the number of images in a global batch.
        rows: int64, the rows of ``images`` to use; None for all.
        preprocessing: normalization and whitening of uint8 images, None divides by 255; or standardization of features
            (N, D).
        augmentation: random changes of uint8 images in `epoch`; None for none.
        balance: how `epoch` compensates for classes of different sizes. ``"weights"`` weights the targets.
            ``"sampling"`` draws as many images with replacement, every class with the same probability. ``"none"``
            does neither.
        num_classes: C, for mixed or weighted targets; None for the largest label plus one, at least two.
        names: the name of each of ``images``, such as its path; None if they have no names.
        device: the device of the batches. The images move there if they take at most half of its free memory.
            Otherwise each batch moves, on a CUDA device while the one before is used.

    Raises:
        UserError: shapes or dtypes do not fit, or a value is outside its range; a ValueError.

    Example:
        >>> images, labels = torch.rand(10, 4), torch.arange(10)
        >>> batches = Batches(images, labels, batch_size=4)
        >>> [len(batch.labels) for batch in batches]
        [4, 4, 2]
        >>> torch.cat([batch.labels for batch in batches.epoch(seed=0, epoch=0)]).sort().values.tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

        Training batches of CIFAR-10 are made like this:

        >>> from fcnet.data.transforms.augment import Flip, Shift
        >>> pixels = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
        >>> preprocessing = Preprocessing(mean=torch.tensor([0.49, 0.48, 0.45]), std=torch.tensor([0.25, 0.24, 0.26]))
        >>> augmentation = Augmentation(transforms=(Flip(), Shift(2)))
        >>> batches = Batches(pixels, labels, preprocessing=preprocessing, augmentation=augmentation)
        >>> next(batches.epoch(seed=0, epoch=0)).images.shape
        torch.Size([10, 3, 8, 8])
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int = 128,
        rows: Tensor | None = None,
        preprocessing: Preprocessing | None = None,
        augmentation: Augmentation | None = None,
        balance: str = "none",
        num_classes: int | None = None,
        names: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_arguments(images, labels)
        if names is not None and len(names) != len(images):
            raise UserError(f"names must be one for each of the {len(images):,} images, got {len(names):,}")
        self.device = torch.device(device)
        self.names = names
        self.images = _move_if_fits(images, self.device)
        self.labels = labels.to(self.device)
        self.num_classes = num_classes or max(2, int(labels.max()) + 1 if len(labels) else 0)
        self._flat_images = self.images.view(len(images), -1)
        self._configure(
            torch.arange(len(labels)) if rows is None else rows, batch_size, preprocessing, augmentation, balance
        )

    def _configure(
        self,
        rows: Tensor,
        batch_size: int,
        preprocessing: Preprocessing | None,
        augmentation: Augmentation | None,
        balance: str,
    ) -> None:
        """Sets everything but the images, the labels and their device."""
        self.rows, self.batch_size, self.balance = rows, batch_size, balance
        self.preprocessing = preprocessing or Preprocessing()
        self.augmentation = augmentation or Augmentation()
        needs_uint8 = self.augmentation != Augmentation() or self.preprocessing.whitening is not None
        _check_settings(self.images, batch_size, balance, needs_uint8=needs_uint8)
        self._statistics: tuple[Tensor, Tensor] | None = None
        mean, std = self.preprocessing.mean, self.preprocessing.std
        if self.images.dtype != torch.uint8 and mean is not None and std is not None:
            self._statistics = mean.to(self.device), std.to(self.device)
        if self.images.dtype == torch.uint8:
            # One value for each pixel, as the flat images have them.
            self._scale, self._offset = (
                values[:, None, None].expand(self.images.shape[1:]).reshape(-1)
                for values in self.preprocessing.scale_and_offset(self.images.shape[1], self.device)
            )

    @property
    def num_images(self) -> int:
        """The number of images in an epoch."""
        return len(self.rows)

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return -(-self.num_images // self.batch_size)

    @property
    def _reads_ahead(self) -> bool:
        """Whether images are on the way to a GPU, which has streams for that, before their batch is asked for."""
        return self.device.type == "cuda" and self.images.device.type == "cpu"

    @property
    def selected_labels(self) -> Tensor:
        """The labels of the images in ``rows``, int64, on the device."""
        return self.labels.index_select(0, self.rows.to(self.device))

    def select(self, rows: Tensor) -> Batches:
        """Returns batches of some of the images, by their positions in ``rows``, int64. They share the tensors."""
        selected = copy.copy(self)
        selected.rows = self.rows[rows]
        return selected

    def derive(
        self,
        *,
        rows: Tensor,
        batch_size: int,
        preprocessing: Preprocessing | None = None,
        augmentation: Augmentation | None = None,
        balance: str = "none",
    ) -> Batches:
        """Returns batches of the same images with other settings; see the class. They share the tensors."""
        derived = copy.copy(self)
        derived._configure(rows, batch_size, preprocessing, augmentation, balance)
        return derived

    def example(self) -> Tensor:
        """Returns the first image as a batch of one, preprocessed, on the device."""
        return self.get_images(self.rows[:1].to(self.images.device))

    def __iter__(self) -> Iterator[Batch]:
        """Yields every image once, in order and without augmentation."""
        return self._iter_batches(self._make_plan(self.rows, ()), start=0)

    def epoch(
        self, seed: int, epoch: int, *, start: int = 0, reuse_buffer: bool = False, shuffle: bool = True
    ) -> Iterator[Batch]:
        """Yields the batches of a training epoch.

        Args:
            seed: the run's seed.
            epoch: the epoch's number, from 0.
            start: the number of batches to skip.
            reuse_buffer: whether the images of each batch overwrite those of the batch before, which the processor's
                cache still holds. Only for loops that keep no batch.
            shuffle: whether to shuffle the images, or to sample them if ``balance`` is ``"sampling"``.

        Yields:
            The batches from ``start`` on. They do not depend on ``start`` or on the number of ranks.
        """
        plan = self.plan_epoch(seed, epoch, shuffle=shuffle)
        largest = min(self.batch_size, self.num_images)
        buffer = torch.empty(largest, self._flat_images.shape[1], device=self.device) if reuse_buffer else None
        return self._iter_batches(plan, start=start, buffer=buffer)

    def plan_epoch(self, seed: int, epoch: int, *, shuffle: bool = True) -> EpochPlan:
        """Draws everything random of an epoch; see `epoch` for the arguments."""
        rows = self._draw_rows(seed, epoch) if shuffle else self.rows
        draws, mixture = self.augmentation.draw(self.num_images, self.images.shape[1:], seed, epoch)
        weights = class_weights(self.selected_labels, self.num_classes) if self.balance == "weights" else None
        return self._make_plan(rows, draws, mixture, weights)

    def batch_size_at(self, number: int) -> int:
        """Returns the number of images in a global batch, given its number from 0."""
        return min(self.batch_size, self.num_images - number * self.batch_size)

    def make_batch(
        self, plan: EpochPlan, size: int, buffer: Tensor | None = None, pixels: Tensor | None = None
    ) -> Batch:
        """Makes this rank's slice of a global batch.

        Args:
            plan: the batch's slice of an epoch plan.
            size: the number of images in the global batch.
            buffer: see `get_images`.
            pixels: the flattened images of the plan's rows, if they are on the device already.
        """
        draws = [values.flatten(0, 1) for values in plan.draws]
        if pixels is None:
            images = self.get_images(plan.rows.flatten(), draws, plan.mixture, buffer)
        else:
            images = self._preprocess(pixels, draws, plan.mixture, buffer)
        labels = plan.labels[0]
        if plan.mixture is None and plan.weights is None:
            return Batch(images, labels, labels, size)
        lam = None if plan.mixture is None else plan.mixture.lam
        target = soft_target(plan.labels, lam, plan.weights, self.num_classes)
        return Batch(images, labels if lam is None else torch.where(lam >= 0.5, labels, plan.labels[1]), target, size)

    def get_images(
        self,
        rows: Tensor,
        draws: Sequence[Tensor] = (),
        mixture: MixupParams | None = None,
        buffer: Tensor | None = None,
    ) -> Tensor:
        """Augments, mixes and preprocesses the images of some rows, on the device.

        Args:
            rows: int64 (B,), on the device of ``images``; with a mixture (2B,), the partners in the second half.
            draws: for each transform its random values, one row for each of ``rows``, on the device of the batches.
            mixture: the mixing of B images, on the device of the batches; None for none.
            buffer: float32 (B or more, C · H · W), overwritten with the result for uint8 images; None allocates.

        Returns:
            float32 (B, C, H, W), or (B, k) if whitened; floating images unchanged, or standardized float32 (B, D).
        """
        pixels = self._flat_images.index_select(0, rows).to(self.device, non_blocking=True)
        return self._preprocess(pixels, draws, mixture, buffer)

    def _preprocess(
        self, pixels: Tensor, draws: Sequence[Tensor], mixture: MixupParams | None, buffer: Tensor | None
    ) -> Tensor:
        """Augments, mixes and preprocesses flattened images (B, C · H · W) or features (B, D); see `get_images`."""
        shape = self.images.shape[1:]
        if pixels.dtype != torch.uint8:
            x = l2_normalize(pixels) if self.preprocessing.l2_normalize else pixels
            return x.view(-1, *shape) if self._statistics is None else standardize(x, *self._statistics)
        if draws:
            images = pixels.view(-1, *shape)
            for transform, values in zip(self.augmentation.transforms, draws, strict=True):
                images = transform.apply(images, values)
            pixels = images.reshape(pixels.shape)
        size = pixels.shape[0] if mixture is None else pixels.shape[0] // 2
        values = torch.empty(size, pixels.shape[1], device=self.device) if buffer is None else buffer[:size]
        if mixture is None:
            values.copy_(pixels)
        else:
            own, partners = pixels[:size].view(-1, *shape), pixels[size:].view(-1, *shape)
            values.copy_(mixture.apply_cutmix(own, partners).flatten(1))
            mixture.apply_mixup_(values, partners)
        values = torch.addcmul(self._offset, values, self._scale, out=values)
        whitening = self.preprocessing.whitening
        return values.view(-1, *shape) if whitening is None else whitening(values)

    def _draw_rows(self, seed: int, epoch: int) -> Tensor:
        if self.balance == "sampling":
            return self.rows[sample_balanced(self.selected_labels.cpu(), generator(seed, "sample", epoch))]
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
            tuple(_stack_partners(values, mixture).to(self.device) for values in draws),
            None if mixture is None else mixture.to(self.device),
            weights,
        )

    def _iter_batches(self, plan: EpochPlan, *, start: int, buffer: Tensor | None = None) -> Iterator[Batch]:
        slices = self._iter_slices(plan, start)
        if not self._reads_ahead:
            for batch_plan, size in slices:
                yield self.make_batch(batch_plan, size, buffer)
            return
        uploader = RowUploader(self._flat_images, self.device)
        for (batch_plan, size), sent in read_ahead(lambda part: uploader.send(part[0].rows.flatten()), slices):
            yield self.make_batch(batch_plan, size, buffer, uploader.receive(*sent))

    def _iter_slices(self, plan: EpochPlan, start: int) -> Iterator[tuple[EpochPlan, int]]:
        """Yields this rank's slice of the plan for each batch, and the size of the global batch."""
        rest = plan.slice(slice(start * self.batch_size, None))
        for number, batch_plan in zip(range(start, len(self)), rest.split(self.batch_size), strict=False):
            size = self.batch_size_at(number)
            if distributed.world_size() > 1:
                batch_plan = batch_plan.slice(distributed.rank_slice(size))
            yield batch_plan, size


def fits_on_device(num_bytes: int, free_bytes: int | None) -> bool:
    """Returns whether images move to a device: if they take at most half of its free memory.

    Args:
        num_bytes: bytes of the images.
        free_bytes: bytes that are free on the device; None if unknown.
    """
    return free_bytes is not None and num_bytes <= free_bytes // 2


def smallest_part(size: int, num_parts: int) -> int:
    """Returns the number of images, over all ranks, in the smallest part of a global batch; see `Batch.split`.

    Args:
        size: the number of images in the batch.
        num_parts: the number of parts to split it into.

    Example:
        >>> smallest_part(64, 1), smallest_part(64, 24), smallest_part(64, 128)
        (64, 2, 1)
    """
    ranks = distributed.world_size()
    of_rank = size // ranks
    return size if of_rank == 0 else max(1, of_rank // min(num_parts, of_rank)) * ranks


def normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns (pixels / 255 − mean) / std as float32; for features, (x − mean) / std.

    For pixels it is computed as scale · pixels + offset in one pass. Rounding changes it by at most 2⁻¹⁴ of the
    difference between two neighbouring grey levels.

    Args:
        pixels: uint8 (B, C, H, W), or floating features (B, D).
        mean: float32 (C,), of pixels / 255; or (D,), of features.
        std: float32 (C,), of pixels / 255; or (D,), of features.

    Returns:
        float32 (B, C, H, W) or (B, D).
    """
    if pixels.dtype != torch.uint8:
        return standardize(pixels, mean, std)
    scale, offset = scale_and_offset(mean, std)
    return torch.addcmul(offset[:, None, None], pixels.to(torch.float32), scale[:, None, None])


def split_validation(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits the rows of a training set into training and validation rows, with the same share of every class.

    Args:
        labels: int64 (N,).
        share: the fraction of validation rows, in [0, 1).
        seed: the run's seed.

    Returns:
        The training rows and the validation rows, both int64 and sorted. Each class keeps at least one training row.

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


def _stack_partners(values: Tensor, mixture: MixupParams | None) -> Tensor:
    """Turns (N, …) into (1, N, …), or into (2, N, …) with the values of the partners in the second row."""
    return values[None] if mixture is None else torch.stack([values, values[mixture.partner]])


def _move_if_fits(images: Tensor, device: torch.device) -> Tensor:
    if device.type == "cpu" or images.device == device:
        return images
    return images.to(device) if fits_on_device(images.nbytes, memory.free_bytes(device)) else images


def _check_arguments(images: Tensor, labels: Tensor) -> None:
    if labels.ndim != 1 or len(images) != len(labels):
        raise UserError(f"expected images (N, …) and labels (N,), got {tuple(images.shape)} and {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise UserError(f"labels must be int64, got {labels.dtype}")
    if images.dtype == torch.uint8 and images.ndim != 4:
        raise UserError(f"uint8 images must be (N, C, H, W), got {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"images must be uint8 or of a floating dtype, got {images.dtype}")


def _check_settings(images: Tensor, batch_size: int, balance: str, *, needs_uint8: bool) -> None:
    if needs_uint8 and images.dtype != torch.uint8:
        raise UserError(f"images must be uint8 to be augmented or whitened, got {images.dtype}")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    if balance not in BALANCE_MODES:
        raise UserError(f"balance must be one of {', '.join(BALANCE_MODES)}, got {balance!r}")
