"""Evaluates a classifier on a set of images: mean loss and counts of predictions, and all figures that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fcnet import metrics
from fcnet.data.conversion import to_batches
from fcnet.losses import CrossEntropy, check_loss
from fcnet.models.batch_norm import eval_mode
from fcnet.models.input_checks import check_fit, input_kind
from fcnet.models.mlp import logits_to_classes
from fcnet.runtime import distributed, memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import float64_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from fcnet.data.batches import Batch
    from fcnet.losses import Loss
    from fcnet.metrics import Confusion

_MAX_LOGITS = 1 << 21
"""Logits in memory at a time, 8 MiB of float32: a batch for a thousand classes stays whole."""


class ImageBatches(Protocol):
    """An iterable over batches of labelled images, such as `fcnet.data.batches.Batches`."""

    @property
    def device(self) -> torch.device:
        """The device of the batches."""

    def __iter__(self) -> Iterator[Batch]:
        """Iterates over all images once; each batch is this rank's part of it."""


@dataclass(frozen=True)
class Evaluation:
    """The result on one set of images.

    Attributes:
        loss: the mean loss.
        confusion: the number of images for each pair of a true and a predicted class.

    Example:
        >>> result = Evaluation(loss=0.4, confusion=metrics.Confusion.from_table([[8, 2], [1, 9]]))
        >>> result.count, result.accuracy
        (20, 0.85)
    """

    loss: float
    confusion: Confusion

    @property
    def count(self) -> int:
        """The number of images."""
        return self.confusion.count

    @property
    def num_correct(self) -> int:
        """The number of images that are classified correctly."""
        return self.confusion.num_correct

    @property
    def accuracy(self) -> float:
        """The fraction of images that are classified correctly."""
        return self.confusion.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the accuracy, Wilson's score interval."""
        return metrics.wilson_interval(self.num_correct, self.count)

    @property
    def error(self) -> float:
        """The misclassification rate, 1 − accuracy: the mean 0-1 loss."""
        return 1.0 - self.accuracy

    @property
    def error_interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the misclassification probability."""
        low, high = self.interval
        return 1.0 - high, 1.0 - low


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Any,  # noqa: ANN401 - see `fcnet.data.conversion.to_batches`
    *,
    loss: Loss | None = None,
    on_batch: Callable[[Tensor, Tensor], object] | None = None,
) -> Evaluation:
    """Evaluates a model on a set of images, in evaluation mode and over all ranks.

    Collective: every rank must call it. The mode of the model is left unchanged.

    Args:
        model: images -> logits (B,) for two classes, or (B, C).
        data: the labelled images, of the kinds that `fcnet.fit` takes: a pair (x, y) of arrays or tensors, a dataset, a
            loader, or batches such as `fcnet.data.batches.Batches`, on the device of the model. Batches give images in
            order and without augmentation.
        loss: (logits, labels) -> the sum of the losses of a batch. None for the cross-entropy, whatever the training
            loss was, so that models can be compared.
        on_batch: called with the logits and labels of each batch of this rank, in parts if the logits are many.

    Returns:
        The mean loss and the counts of predictions.

    Raises:
        UserError: there are no images, model and data do not fit, or the loss does not return the sum of a batch.

    Example:
        >>> from fcnet import MLP
        >>> x, y = torch.rand(6, 4), [0, 1, 2, 0, 1, 2]
        >>> evaluate(MLP(4, (), 3), (x, y)).count
        6
    """
    loss = CrossEntropy() if loss is None else loss
    batches = _to_batches(model, data, loss)
    total = torch.zeros((), dtype=torch.float64, device=float64_device(batches.device))
    known = getattr(model, "num_classes", None)
    cells, num_classes = list[Tensor](), known if isinstance(known, int) else 2

    def split(batch: Batch) -> list[Batch]:
        # The parts of several ranks would be out of order for `on_batch`: a rank has a slice of each batch.
        is_whole = on_batch is not None and distributed.world_size() > 1
        return batch.split(1 if is_whole else -(-len(batch.labels) * num_classes // _MAX_LOGITS))

    with memory.phase("evaluating the model"), eval_mode(model):
        for part in (part for batch in batches for part in split(batch)):
            logits = model(part.images)
            total += loss(logits, part.labels).to(total.device)
            num_classes = 2 if logits.ndim == 1 else logits.shape[1]
            # Each image's cell of the table of C × C counts. They are counted at the end: the table may be huge, and
            # counting would wait for the device.
            cells.append(part.labels * num_classes + logits_to_classes(logits))
            if on_batch is not None:
                on_batch(logits, part.labels)
        distributed.all_reduce(total)
        confusion = _count_cells(cells, num_classes)
    if not confusion.count:
        raise UserError("data must hold at least one example, got 0")
    return Evaluation(total.item() / confusion.count, confusion)


def _to_batches(model: nn.Module, data: Any, loss: Loss) -> ImageBatches:  # noqa: ANN401 - see `evaluate`
    """Returns batches as they are, and makes them of other data after the checks that `fcnet.fit` makes."""
    if hasattr(data, "device") and not (hasattr(data, "__array__") or isinstance(data, Dataset)):
        batches: ImageBatches = data
        return batches
    kind = input_kind(model)
    made = to_batches(data, device=kind.device, dtype=kind.dtype)
    check_loss(loss, check_fit(model, made, "data"), kind.device)
    return made


def _count_cells(cells: list[Tensor], num_classes: int) -> Confusion:
    """Counts the cells of all images of all ranks."""
    images = torch.cat(cells).cpu().numpy() if cells else np.empty(0, np.int64)
    return metrics.Confusion.from_cells(distributed.all_gather(images), num_classes)
