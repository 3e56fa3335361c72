"""Evaluates a classifier on a set of images: mean loss and confusion matrix, and all figures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import Dataset

from fcnet import metrics
from fcnet.data.conversion import to_batches
from fcnet.losses import CrossEntropy, check_loss
from fcnet.models.batch_norm import eval_mode
from fcnet.models.input_checks import check_fit, input_kind
from fcnet.models.mlp import logits_to_classes
from fcnet.runtime import distributed, memory
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from fcnet.data.batches import Batch
    from fcnet.losses import Loss


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
        confusion: counts ``confusion[truth][prediction]``, (C, C).

    Example:
        >>> result = Evaluation(loss=0.4, confusion=((8, 2), (1, 9)))
        >>> result.count, result.accuracy
        (20, 0.85)
    """

    loss: float
    confusion: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """The number of images."""
        return sum(map(sum, self.confusion))

    @property
    def num_correct(self) -> int:
        """The number of images that are classified correctly."""
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        """The fraction of images that are classified correctly."""
        return metrics.accuracy(self.confusion)

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
        on_batch: called with the logits and labels of each batch of this rank.

    Returns:
        The mean loss and the confusion matrix.

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
    total = torch.zeros((), dtype=torch.float64, device=batches.device)
    confusion = torch.zeros((), dtype=torch.int64, device=batches.device)
    with memory.phase("evaluating the model"), eval_mode(model):
        for batch in batches:
            logits = model(batch.images)
            total += loss(logits, batch.labels)
            confusion = confusion + _counts(logits, batch.labels)
            if on_batch is not None:
                on_batch(logits, batch.labels)
    distributed.all_reduce(total)
    distributed.all_reduce(confusion)
    count = int(confusion.sum())
    if not count:
        raise UserError("data must hold at least one example, got 0")
    return Evaluation(total.item() / count, tuple(map(tuple, confusion.tolist())))


def _to_batches(model: nn.Module, data: Any, loss: Loss) -> ImageBatches:  # noqa: ANN401 - see `evaluate`
    """Returns batches as they are, and makes them of other data after the checks that `fcnet.fit` makes."""
    if hasattr(data, "device") and not (hasattr(data, "__array__") or isinstance(data, Dataset)):
        batches: ImageBatches = data
        return batches
    kind = input_kind(model)
    made = to_batches(data, device=kind.device, dtype=kind.dtype)
    check_loss(loss, check_fit(model, made, "data"), kind.device)
    return made


def _counts(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts a batch as ``counts[truth][prediction]``, int64 (C, C), without a host sync."""
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    cells = labels * classes + logits_to_classes(logits)
    return cells.new_zeros(classes * classes).scatter_add_(0, cells, torch.ones_like(cells)).view(classes, classes)
