"""Gradient descent on the empirical risk: one step, and the loop around it."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet import distributed
from fcnet.backpropagation import applies_to, backpropagate
from fcnet.data.batches import Batches
from fcnet.diagnostics import (
    Place,
    Watch,
    explained,
    first_nonfinite,
    in_the_loss,
    last_nonfinite_gradient,
    nonfinite_state,
)
from fcnet.errors import NonFiniteError, UserError
from fcnet.evaluation import evaluate
from fcnet.losses import CrossEntropy
from fcnet.models import Dropout, most_probable
from fcnet.optim import constant, parameter_groups
from fcnet.seeds import derive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fcnet.data.batches import Batch
    from fcnet.losses import Loss
    from fcnet.optim import Schedule

    Differentiate = Callable[[Batch], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class GradientDescent:
    """A learning algorithm: how the parameters follow the gradient of the loss.

    Attributes:
        optimizer: any of torch's, over the model's parameters; its rates are what ``schedule`` scales.
        epochs: how often every training image is seen.
        schedule: step -> factor of the learning rate.
        loss: the sum of the losses of a batch, whose mean over the global batch is minimised.
        clip_norm: the largest norm of the global batch's gradient, over all parameters together; a
            longer one is shortened to it. 0 is no bound.
        precision: the dtype of matrix products; ``torch.bfloat16`` runs forward and loss under autocast.
    """

    optimizer: torch.optim.Optimizer
    epochs: int
    schedule: Schedule = field(default_factory=constant)
    loss: Loss = field(default_factory=CrossEntropy)
    clip_norm: float = 0.0
    precision: torch.dtype = torch.float32


@dataclass(frozen=True)
class EpochRecord:
    """One epoch in figures. Accuracies are fractions; validation is None where none was kept aside.

    Attributes:
        epoch: how many epochs are done.
        step: how many steps are done.
        lr: the first parameter group's learning rate in the last step.
        train_loss: mean loss of the images as they were trained on, while the parameters changed.
        train_accuracy: likewise.
        validation_loss: mean cross-entropy after the epoch.
        validation_accuracy: likewise.
        seconds: spent in this epoch's training steps alone.
        images_per_second: training images over ``seconds``.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    images_per_second: float


class Tally:
    """Sums over an epoch that stay on the device until they are read: loss, hits, images."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def add(self, loss: Tensor, logits: Tensor, batch: Batch) -> None:
        """Counts one batch; no host sync."""
        self.loss += loss
        self.hits += (most_probable(logits) == batch.labels).sum()
        self.images += batch.size

    def sums(self) -> Tensor:
        """Loss and hits over all ranks, float64 (2,), on the device."""
        return distributed.sum_in_place(torch.stack([self.loss, self.hits.double()]))

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy over all ranks so far; waits for the device."""
        loss, hits = self.sums().tolist()
        return loss / max(self.images, 1), hits / max(self.images, 1)

    def restore(self, sums: Tensor, images: int) -> None:
        """Goes on from sums over all ranks, which the first rank takes over alone."""
        if distributed.rank() == 0:
            self.loss.copy_(sums[0])
            self.hits.copy_(sums[1])
        self.images = images


def train_step(training: Training, batch: Batch) -> None:
    """Moves the parameters once, against the gradient of the global batch's mean loss.

    No value is read back from the device, unless it is the processor's own.

    Args:
        training: whose model is in training mode and whose counters go on by one step.
        batch: this rank's part of the global batch.

    Raises:
        NonFiniteError: as `Training.guard` does; the parameters have not moved.
    """
    optimizer, factor = training.algorithm.optimizer, training.algorithm.schedule(training.step)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
        for parameter in group["params"]:
            parameter.grad = None
    loss, logits = training.differentiate(batch)
    seen = [distributed.sum_gradients(training.model.parameters(), loss)]
    if training.algorithm.clip_norm:
        seen.append(nn.utils.clip_grad_norm_(training.model.parameters(), training.algorithm.clip_norm))
    training.guard(batch, *seen)
    optimizer.step()
    training.tally.add(loss, logits, batch)
    training.step += 1


def differentiation(model: nn.Module, algorithm: GradientDescent) -> Differentiate:
    """How gradients are found: by hand for a network of plain dense layers, else by autograd.

    Returns:
        A function of a batch that sets ``grad`` of every parameter to the derivative of this rank's
        part of the global batch's mean loss, and gives the sum of the losses and the logits.
    """
    loss = algorithm.loss
    if algorithm.precision == torch.float32 and isinstance(loss, CrossEntropy) and applies_to(model):
        return lambda batch: backpropagate(model, batch.images, batch.labels, loss, scale=1.0 / batch.size)

    def by_autograd(batch: Batch) -> tuple[Tensor, Tensor]:
        with _precision(algorithm.precision, batch.images.device):
            logits: Tensor = model(batch.images)
            total = loss(logits, batch.labels)
        total.backward(total.new_full((), 1.0 / batch.size))
        return total.detach(), logits.detach()

    return by_autograd


class Training:
    """A training under way: all that a step changes, so all that must be saved.

    Everything else (order, augmentation, dropout) follows from the seed and the two counters.

    Args:
        model: images -> logits, on the device of the batches.
        batches: the training set.
        algorithm: how to learn.
        validation: the set kept aside, or None.
        seed: from which everything random is derived.

    Attributes:
        epoch: epochs done.
        step: steps done.
        reads_losses: whether each step's loss is looked at before the parameters move, which waits for
            the device; otherwise it is looked at where the host waits anyway.

    Raises:
        UserError: the training set is empty, or holds a label that is no class of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        algorithm: GradientDescent,
        *,
        validation: Batches | None = None,
        seed: int = 0,
    ) -> None:
        if not batches.num_images:
            raise UserError("the training set must hold at least one image, got 0")
        _check_labels(model, batches)
        self.model, self.batches, self.algorithm = model, batches, algorithm
        self.validation, self.seed = validation, seed
        self.epoch = self.step = 0
        self.seconds = self.seconds_before = 0.0
        self.tally = Tally(batches.device)
        self.reads_losses = batches.device.type == "cpu"
        self._watch, self._watched_from = Watch(batches.device), 0
        for group in algorithm.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.differentiate = differentiation(model, algorithm)
        self._dropout = None
        for module in model.modules():
            if isinstance(module, Dropout):
                self._dropout = module.generator = self._dropout or torch.Generator(batches.device)

    @property
    def num_steps(self) -> int:
        """The number of steps from beginning to end."""
        return self.algorithm.epochs * len(self.batches)

    @property
    def train_seconds(self) -> float:
        """Seconds spent in training steps since the beginning."""
        return self.seconds_before + self.seconds

    def advance(self) -> Iterator[EpochRecord | None]:
        """Trains to the end. Pauses after each step with None and after each epoch with its record.

        Whenever it pauses, `state` is whole and may be saved.
        """
        while self.epoch < self.algorithm.epochs:
            self.model.train()
            start = self.step - self.epoch * len(self.batches)
            since = time.perf_counter()
            for batch in self.batches.epoch(self.seed, self.epoch, start=start, recycle=True):
                self._reseed_dropout()
                train_step(self, batch)
                self.seconds += time.perf_counter() - since
                yield None
                since = time.perf_counter()
            yield self._finish_epoch()

    def guard(self, batch: Batch, *seen: Tensor) -> None:
        """Refuses a step whose loss, or whose gradient's norm, is not finite, where reading them is free.

        Args:
            batch: what the step is made of, for the search where it began.
            *seen: scalars, the same on all ranks.

        Raises:
            NonFiniteError: one of them is NaN or inf.
        """
        if not self.reads_losses:
            self._watch.note(seen[0])
        elif not all(math.isfinite(value.item()) for value in seen):
            self._reseed_dropout()
            with _precision(self.algorithm.precision, batch.images.device):
                place = first_nonfinite(self.model, batch.images, batch.labels, self.algorithm.loss)
            place = place or last_nonfinite_gradient(self.model) or Place(None, "the loss")
            raise self._stopped(place, self.step + (not place.stored))

    def check(self) -> None:
        """Looks at the losses and at the network where the host waits anyway.

        Raises:
            NonFiniteError: NaN or inf has come up; what a checkpoint would hold is of no use.
        """
        sound, spoilt = self._watch.read(), nonfinite_state(self.model)
        if sound is not None:
            raise self._stopped(in_the_loss(spoilt), self._watched_from + sound + 1)
        if spoilt:
            raise self._stopped(spoilt[0], self.step)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a step has changed: tensors by name, and facts that JSON can hold.

        All ranks must ask for it at the same step.

        Raises:
            NonFiniteError: as `check` does.
        """
        self.check()
        optimizer = self.algorithm.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors["tally"] = self.tally.sums()
        scalars: dict[str, dict[str, Any]] = {}
        for index, entries in optimizer["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    scalars.setdefault(str(index), {})[name] = value
        facts = {
            "epoch": self.epoch,
            "step": self.step,
            "images": self.tally.images,
            "seconds": self.seconds,
            "seconds_before": self.seconds_before,
            "optimizer": {"scalars": scalars, "param_groups": optimizer["param_groups"]},
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes back what `state` gave; the training goes on as if it had never stopped."""
        entries: dict[int, dict[str, Any]] = {
            int(index): dict(values) for index, values in facts["optimizer"]["scalars"].items()
        }
        weights: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            owner, _, rest = name.partition(".")
            if owner == "model":
                weights[rest] = tensor
            elif owner == "optimizer":
                index, _, key = rest.partition(".")
                entries.setdefault(int(index), {})[key] = tensor
        self.model.load_state_dict(weights)
        self.algorithm.optimizer.load_state_dict({"state": entries, "param_groups": facts["optimizer"]["param_groups"]})
        self.tally.restore(tensors["tally"], facts["images"])
        self.epoch, self.step = facts["epoch"], facts["step"]
        self.seconds, self.seconds_before = facts["seconds"], facts["seconds_before"]
        self._watch, self._watched_from = Watch(self.batches.device), self.step

    def _reseed_dropout(self) -> None:
        if self._dropout is not None:
            self._dropout.manual_seed(derive(self.seed, "dropout", self.step, distributed.rank()))

    def _stopped(self, place: Place, step: int) -> NonFiniteError:
        algorithm = self.algorithm
        return explained(
            place,
            step,
            self.num_steps,
            lr=algorithm.optimizer.param_groups[0]["initial_lr"],
            clip_norm=algorithm.clip_norm,
            warmed=algorithm.schedule(0) < 1.0,
            precision=algorithm.precision,
        )

    def _finish_epoch(self) -> EpochRecord:
        self.check()
        since = time.perf_counter()
        train_loss, train_accuracy = self.tally.read()
        self.seconds += time.perf_counter() - since
        seen = None if self.validation is None else evaluate(self.model, self.validation)
        self.epoch += 1
        record = EpochRecord(
            epoch=self.epoch,
            step=self.step,
            lr=self.algorithm.optimizer.param_groups[0]["lr"],
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=None if seen is None else seen.loss,
            validation_accuracy=None if seen is None else seen.accuracy,
            seconds=self.seconds,
            images_per_second=self.tally.images / max(self.seconds, 1e-9),
        )
        self.tally = Tally(self.batches.device)
        self.seconds_before += self.seconds
        self.seconds = 0.0
        return record


def fit(
    model: nn.Module,
    data: Batches | tuple[Tensor, Tensor],
    algorithm: GradientDescent | None = None,
    *,
    validation: Batches | tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Iterator[EpochRecord]:
    """Trains ``model`` on ``data`` by ``algorithm``, a record an epoch.

    Nothing happens until the records are asked for.

    Args:
        model: images -> logits (B,) for two classes, or (B, C); trained in place.
        data: batches, or images (N, …) and labels int64 (N,), cut into batches of 128.
        algorithm: None is AdamW with learning rate 1e-3, 10 epochs.
        validation: a set kept aside to look at after each epoch.
        seed: from which order, augmentation and dropout are derived; torch's own seed is not touched.

    Yields:
        One `EpochRecord` after each epoch.

    Example:
        >>> images = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> labels = (images[:, 0] > images[:, 1]).long()
        >>> import fcnet
        >>> records = list(fcnet.fit(fcnet.MLP(2, (16,), 2), (images, labels)))
        >>> records[-1].train_loss < records[0].train_loss
        True
    """
    if algorithm is None:
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-3)
        algorithm = GradientDescent(optimizer, epochs=10)
    kept = None if validation is None else _as_batches(validation)
    training = Training(model, _as_batches(data), algorithm, validation=kept, seed=seed)
    for record in training.advance():
        if record is not None:
            yield record


def _check_labels(model: nn.Module, batches: Batches) -> None:
    """Refuses labels that are no class of a model that knows its classes; one output node takes any number."""
    labels = batches.labels[batches.rows.to(batches.device)]
    last = getattr(model, "num_classes", int(labels.max()) + 1) - 1
    outside = labels[(labels < 0) | (labels > last)]
    if len(outside):
        raise UserError(f"labels must be 0 to {last}, got {int(outside[0])}")


def _as_batches(data: Batches | tuple[Tensor, Tensor]) -> Batches:
    return data if isinstance(data, Batches) else Batches(*data, device=data[0].device)


def _precision(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[object]:
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
