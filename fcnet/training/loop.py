"""Gradient descent on the empirical risk: one step, and the loop around it."""

from __future__ import annotations

import contextlib
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.data.batches import Batches
from fcnet.diagnostics.nonfinite import (
    Place,
    Watch,
    explained,
    first_nonfinite,
    in_the_loss,
    last_nonfinite_gradient,
    nonfinite_state,
)
from fcnet.evaluation.classification import evaluate
from fcnet.optim.optimizers import move, parameter_groups
from fcnet.optim.state import put_together, taken_apart, within
from fcnet.runtime import distributed
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.training.algorithm import GradientDescent
from fcnet.training.backpropagation import add_up, autocast, differentiation
from fcnet.training.cuda_graphs import Runs, cuda_graph
from fcnet.training.dropout_seeds import Drops
from fcnet.training.early_stopping import EarlyStopping
from fcnet.training.ema import WeightAverage
from fcnet.training.records import EpochRecord, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.data.batches import Batch
    from fcnet.evaluation.classification import Evaluation


def train_step(training: Training, batch: Batch, numbers: Sequence[float | Tensor] | None = None) -> None:
    """Moves the parameters once, against the gradient of the global batch's mean loss.

    No value is read back from the device, unless it is the processor's own, or the optimizer searches along a line.

    Args:
        training: whose model is in training mode and whose counters go on by one step.
        batch: this rank's part of the global batch.
        numbers: as `Training.numbers` gives them, or as scalars on the device, by whom has seeded what is dropped out;
            None: those of the step at hand.

    Raises:
        NonFiniteError: as `Training.guard` does; the parameters have not moved.
    """
    if numbers is None:
        training.drops.reseed(training.step)
        numbers = training.numbers(training.step)
    *rates, share = numbers
    optimizer = training.algorithm.optimizer
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    if isinstance(optimizer, torch.optim.LBFGS):
        loss, logits = _search_line(training, batch, optimizer)
    else:
        loss, logits, _ = training.gradient(batch)
        move(optimizer)
    training.tally.add(loss, logits, batch, later=training.reads_losses)
    training.step += 1
    if training.average is not None:
        training.average.add(share)


def _search_line(training: Training, batch: Batch, optimizer: torch.optim.LBFGS) -> tuple[Tensor, Tensor]:
    """Moves the parameters to where the line search ends; losses and logits are those before the step."""
    found: list[tuple[Tensor, Tensor]] = []

    def risk() -> float:
        training.drops.reseed(training.step)
        loss, logits, whole = training.gradient(batch, guarded=not found)
        if not found:
            found.append((loss, logits))
        return (whole / batch.size).item()

    optimizer.step(risk)
    return found[0]


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
        runs: what records and replays steps, on a GPU; None elsewhere.

    Raises:
        UserError: the training set is empty, or holds a label that is no class of the model; or nothing
            is kept aside by which to end early.
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
        if algorithm.patience and validation is None:
            raise UserError(f"patience must be 0 where nothing is kept aside for validation, got {algorithm.patience}")
        self.model, self.batches, self.algorithm = model, batches, algorithm
        self.validation, self.seed = validation, seed
        self.epoch = self.step = 0
        self.seconds = self.seconds_before = 0.0
        self.tally = Tally(batches.device)
        self.average = WeightAverage(model, algorithm.ema_decay) if algorithm.ema_decay else None
        self.stopping = EarlyStopping(algorithm.patience) if algorithm.patience else None
        self.reads_losses = batches.device.type == "cpu"
        self._watch, self._watched_from = Watch(batches.device), 0
        for group in algorithm.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.differentiate = differentiation(model, algorithm.loss, algorithm.precision)
        self.drops = Drops(model, batches.device, seed)
        record = partial(cuda_graph, batches.device) if batches.device.type == "cuda" else None
        self.runs = Runs(record, model, batches, algorithm, self.drops) if record else None

    @property
    def num_steps(self) -> int:
        """The number of steps from beginning to end."""
        return self.algorithm.epochs * len(self.batches)

    @property
    def train_seconds(self) -> float:
        """Seconds spent in training steps since the beginning."""
        return self.seconds_before + self.seconds

    @property
    def ended(self) -> bool:
        """Whether the last epoch is done, or patience was lost."""
        lost = self.stopping is not None and self.stopping.lost(self.epoch)
        return lost or self.epoch >= self.algorithm.epochs

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights are kept, 1 for the first."""
        return self.epoch if self.stopping is None else self.stopping.epoch

    def numbers(self, step: int) -> list[float]:
        """Of a step: the learning rate of each of the optimizer's groups, and the new weights' share in the average."""
        algorithm = self.algorithm
        factor = algorithm.schedule(step)
        share = 0.0 if self.average is None else self.average.share(step + 1)
        return [*(group["initial_lr"] * factor for group in algorithm.optimizer.param_groups), share]

    def gradient(self, batch: Batch, *, guarded: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Sets every parameter's ``grad`` to the derivative of the global batch's mean loss.

        Args:
            batch: this rank's part of the global batch.
            guarded: whether a loss or gradient that is no number is refused; see `guard`.

        Returns:
            The sum of this rank's losses, its logits, and the sum of all ranks' losses.
        """
        parameters = [p for group in self.algorithm.optimizer.param_groups for p in group["params"]]
        loss, logits = add_up(self.differentiate, batch.split(self.algorithm.accumulate), parameters)
        seen = [distributed.sum_gradients(parameters, loss)]
        if self.algorithm.clip_norm:
            seen.append(nn.utils.clip_grad_norm_(parameters, self.algorithm.clip_norm))
        if guarded:
            self.guard(batch, *seen)
        return loss, logits, seen[0]

    def advance(self) -> Iterator[EpochRecord | None]:
        """Trains to the end. Pauses after each step with None and after each epoch with its record.

        Where steps are replayed it pauses after a run of them; see `fcnet.training.cuda_graphs`. Whenever it pauses,
        `state` is whole and may be saved. At the end the model has the weights that are kept.
        """
        while not self.ended:
            self.model.train()
            since = time.perf_counter()
            for _ in self._steps():
                self.seconds += time.perf_counter() - since
                yield None
                since = time.perf_counter()
            yield self._finish_epoch()
        if self.stopping is not None:
            self.stopping.take(self.model)
        elif self.average is not None:
            self.average.take(self.batches, self.seed)

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
            self.drops.reseed(self.step)
            with autocast(self.algorithm.precision, batch.images.device):
                place = first_nonfinite(self.model, batch.images, batch.target, self.algorithm.loss)
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
        moments, optimizer = taken_apart(self.algorithm.optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
        tensors["tally"] = self.tally.sums()
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        if self.stopping is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.stopping.weights.items()}
        facts = {
            "epoch": self.epoch,
            "step": self.step,
            "images": self.tally.images,
            "seconds": self.seconds,
            "seconds_before": self.seconds_before,
            "optimizer": optimizer,
            "best": self.stopping and [self.stopping.epoch, self.stopping.accuracy],
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes back what `state` gave; the training goes on as if it had never stopped."""
        self.model.load_state_dict(within(tensors, "model"))
        put_together(self.algorithm.optimizer, within(tensors, "optimizer"), facts["optimizer"])
        if self.average is not None:
            self.average.restore(within(tensors, "average"))
        if self.stopping is not None:
            self.stopping.epoch, self.stopping.accuracy = facts["best"]
            self.stopping.weights = within(tensors, "best")
        self.tally.restore(tensors["tally"], facts["images"])
        self.epoch, self.step = facts["epoch"], facts["step"]
        self.seconds, self.seconds_before = facts["seconds"], facts["seconds_before"]
        self._watch, self._watched_from = Watch(self.batches.device), self.step
        if self.runs is not None:
            self.runs.forget()

    def _steps(self) -> Iterator[None]:
        """Makes the rest of the epoch's steps, with a pause after each, or after each run of replayed ones."""
        first = self.epoch * len(self.batches)
        if self.runs is None or self.runs.obstacle or self.reads_losses:
            for batch in self.batches.epoch(self.seed, self.epoch, start=self.step - first, recycle=True):
                train_step(self, batch)
                yield
            return
        order = self.batches.order(self.seed, self.epoch)
        numbers = [self.numbers(step) for step in range(first, first + len(self.batches))]
        for made in self.runs.epoch(order, numbers, first, self.step - first, partial(train_step, self)):
            # a replay does not run the step's Python, and recording runs it without a step
            self.step, self.tally.images = first + made, min(made * self.batches.batch_size, self.batches.num_images)
            yield

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
        self.epoch += 1
        seen = None if self.validation is None else self._validate(self.validation)
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
        self.tally.clear()
        self.seconds_before += self.seconds
        self.seconds = 0.0
        return record

    def _validate(self, kept_aside: Batches) -> Evaluation:
        """What the weights that would be kept if training ended now are worth."""
        averaged = self.average.in_place(self.batches, self.seed) if self.average else contextlib.nullcontext()
        with averaged:
            seen = evaluate(self.model, kept_aside)
            if self.stopping is not None:
                self.stopping.see(self.epoch, seen.accuracy, self.model)
        return seen


def fit(
    model: nn.Module,
    data: Batches | tuple[Tensor, Tensor],
    algorithm: GradientDescent | None = None,
    *,
    validation: Batches | tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Iterator[EpochRecord]:
    """Trains ``model`` on ``data`` by ``algorithm``, a record an epoch.

    Learning is these three: a dataset, a model, whose parameters are the hypotheses to choose from, and a learning
    algorithm, which looks for the one of least empirical risk. Nothing happens until the records are asked for.

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
