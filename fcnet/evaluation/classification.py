"""How good a network is on a set of images: counts first, every figure from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from fcnet import metrics
from fcnet.losses import CrossEntropy
from fcnet.models.batch_norm import eval_mode
from fcnet.models.mlp import logits_to_classes
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from fcnet.data.batches import Batch
    from fcnet.losses import Loss


class ImageBatches(Protocol):
    """A set of labelled images that can be gone through, as `fcnet.data.batches.Batches` is."""

    @property
    def num_images(self) -> int:
        """How many there are."""

    @property
    def device(self) -> torch.device:
        """Where its batches are."""

    def __iter__(self) -> Iterator[Batch]:
        """Every image once, this rank's part of each batch."""


@dataclass(frozen=True)
class Evaluation:
    """What was seen on one set of images.

    Attributes:
        loss: the mean loss.
        confusion: counts, ``confusion[truth][prediction]``, (C, C).

    Example:
        >>> seen = Evaluation(loss=0.4, confusion=((8, 2), (1, 9)))
        >>> seen.count, seen.accuracy
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
        """The number of images whose most probable class is theirs."""
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        """Hits as a fraction of all."""
        return metrics.accuracy(self.confusion)

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95 % interval, by Wilson's score."""
        return metrics.wilson_interval(self.num_correct, self.count)

    @property
    def error(self) -> float:
        """The misclassification rate, 1 − accuracy: the mean of a loss that is 1 for a wrong class and else 0."""
        return 1.0 - self.accuracy

    @property
    def error_interval(self) -> tuple[float, float]:
        """The misclassification probability's 95 % interval: the accuracy's, from its other end."""
        low, high = self.interval
        return 1.0 - high, 1.0 - low


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: ImageBatches,
    *,
    loss: Loss | None = None,
    on_batch: Callable[[Tensor, Tensor], object] | None = None,
) -> Evaluation:
    """Runs a network over a set of images once, in evaluation mode, over all ranks.

    Args:
        model: images -> logits (B,) for two classes, or (B, C); its mode, and that of each of its
            parts, is left as it was.
        batches: the set, in order and unchanged; the model's device.
        loss: the sum of the losses of a batch; None is the cross-entropy, whatever was trained with: figures
            of different networks can then be compared.
        on_batch: told the logits and the labels of each batch, as far as they are this rank's.

    Returns:
        The mean loss and the counts.

    Raises:
        UserError: the set is empty.

    Example:
        >>> from fcnet import MLP
        >>> from fcnet.data.batches import Batches
        >>> batches = Batches(torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> evaluate(MLP(4, (), 3), batches).count
        6
    """
    if not batches.num_images:
        raise UserError("the set to evaluate on must hold at least one image, got 0")
    loss = loss or CrossEntropy()
    total = torch.zeros((), dtype=torch.float64, device=batches.device)
    confusion = torch.zeros((), dtype=torch.int64, device=batches.device)
    with eval_mode(model):
        for batch in batches:
            logits = model(batch.images)
            total += loss(logits, batch.labels)
            confusion = confusion + _counts(logits, batch.labels)
            if on_batch is not None:
                on_batch(logits, batch.labels)
    distributed.all_reduce(total)
    distributed.all_reduce(confusion)
    return Evaluation(total.item() / batches.num_images, tuple(map(tuple, confusion.tolist())))


def _counts(logits: Tensor, labels: Tensor) -> Tensor:
    """``counts[truth][prediction]``, int64 (C, C), without a host sync."""
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    cells = labels * classes + logits_to_classes(logits)
    return cells.new_zeros(classes * classes).scatter_add_(0, cells, torch.ones_like(cells)).view(classes, classes)
