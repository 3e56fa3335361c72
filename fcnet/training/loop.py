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
    NonFiniteLocation,
    NonFiniteMonitor,
    first_nonfinite,
    last_nonfinite_gradient,
    loss_location,
    nonfinite_error,
    nonfinite_state,
)
from fcnet.evaluation.classification import evaluate
from fcnet.optim.optimizers import fast_step, parameter_groups
from fcnet.optim.state import join_state, select_prefix, split_state
from fcnet.runtime import distributed
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.training.algorithm import GradientDescent
from fcnet.training.backpropagation import accumulate_gradients, autocast, make_gradient_fn
from fcnet.training.cuda_graphs import GraphedSteps, cuda_graph
from fcnet.training.dropout_seeds import DropoutRng
from fcnet.training.early_stopping import EarlyStopping
from fcnet.training.ema import WeightAverage
from fcnet.training.records import EpochRecord, MetricAccumulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.data.batches import Batch
    from fcnet.evaluation.classification import Evaluation


def train_step(training: Training, batch: Batch, step_inputs: Sequence[float | Tensor] | None = None) -> None:
    """Moves the parameters once, against the gradient of the global batch's mean loss.

    No value is read back from the device, unless it is the processor's own, or the optimizer searches along a line.

    Args:
        training: whose model is in training mode and whose counters go on by one step.
        batch: this rank's part of the global batch.
        step_inputs: as `Training.step_inputs` gives them, or as scalars on the device, by whom has seeded what is dropped out;
            None: those of the step at hand.

    Raises:
        NonFiniteError: as `Training.raise_if_nonfinite` does; the parameters have not moved.
    """
    if step_inputs is None:
        training.dropout_rng.reseed(training.step)
        step_inputs = training.step_inputs(training.step)
    *lrs, ema_weight = step_inputs
    optimizer = training.algorithm.optimizer
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr
    if isinstance(optimizer, torch.optim.LBFGS):
        loss, logits = _lbfgs_step(training, batch, optimizer)
    else:
        loss, logits, _ = training.backward(batch)
        fast_step(optimizer)
    training.metrics.update(loss, logits, batch, deferred=training.reads_losses)
    training.step += 1
    if training.average is not None:
        training.average.update(ema_weight)


def _lbfgs_step(training: Training, batch: Batch, optimizer: torch.optim.LBFGS) -> tuple[Tensor, Tensor]:
    """Moves the parameters to where the line search ends; losses and logits are those before the step."""
    found: list[tuple[Tensor, Tensor]] = []

    def closure() -> float:
        training.dropout_rng.reseed(training.step)
        loss, logits, whole = training.backward(batch, check_finite=not found)
        if not found:
            found.append((loss, logits))
        return (whole / batch.size).item()

    optimizer.step(closure)
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
        graphed_steps: what records and replays steps, on a GPU; None elsewhere.

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
        self.seconds = self.previous_seconds = 0.0
        self.metrics = MetricAccumulator(batches.device)
        self.average = WeightAverage(model, algorithm.ema_decay) if algorithm.ema_decay else None
        self.early_stopping = EarlyStopping(algorithm.patience) if algorithm.patience else None
        self.reads_losses = batches.device.type == "cpu"
        self._monitor, self._monitor_start = NonFiniteMonitor(batches.device), 0
        for group in algorithm.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.compute_gradients = make_gradient_fn(model, algorithm.loss, algorithm.precision)
        self.dropout_rng = DropoutRng(model, batches.device, seed)
        record = partial(cuda_graph, batches.device) if batches.device.type == "cuda" else None
        self.graphed_steps = GraphedSteps(record, model, batches, algorithm, self.dropout_rng) if record else None

    @property
    def num_steps(self) -> int:
        """The number of steps from beginning to end."""
        return self.algorithm.epochs * len(self.batches)

    @property
    def train_seconds(self) -> float:
        """Seconds spent in training steps since the beginning."""
        return self.previous_seconds + self.seconds

    @property
    def ended(self) -> bool:
        """Whether the last epoch is done, or patience was lost."""
        out_of_patience = self.early_stopping is not None and self.early_stopping.should_stop(self.epoch)
        return out_of_patience or self.epoch >= self.algorithm.epochs

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights are kept, 1 for the first."""
        return self.epoch if self.early_stopping is None else self.early_stopping.epoch

    def step_inputs(self, step: int) -> list[float]:
        """Of a step: the learning rate of each of the optimizer's groups, and the new weights' share in the average."""
        algorithm = self.algorithm
        factor = algorithm.schedule(step)
        ema_weight = 0.0 if self.average is None else self.average.weight(step + 1)
        return [*(group["initial_lr"] * factor for group in algorithm.optimizer.param_groups), ema_weight]

    def backward(self, batch: Batch, *, check_finite: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Sets every parameter's ``grad`` to the derivative of the global batch's mean loss.

        Args:
            batch: this rank's part of the global batch.
            check_finite: whether a loss or gradient that is no number is refused; see `raise_if_nonfinite`.

        Returns:
            The sum of this rank's losses, its logits, and the sum of all ranks' losses.
        """
        parameters = [p for group in self.algorithm.optimizer.param_groups for p in group["params"]]
        loss, logits = accumulate_gradients(self.compute_gradients, batch.split(self.algorithm.accumulate), parameters)
        seen = [distributed.all_reduce_gradients(parameters, loss)]
        if self.algorithm.clip_norm:
            seen.append(nn.utils.clip_grad_norm_(parameters, self.algorithm.clip_norm))
        if check_finite:
            self.raise_if_nonfinite(batch, *seen)
        return loss, logits, seen[0]

    def advance(self) -> Iterator[EpochRecord | None]:
        """Trains to the end. Pauses after each step with None and after each epoch with its record.

        Where steps are replayed it pauses after a run of them; see `fcnet.training.cuda_graphs`. Whenever it pauses,
        `state` is whole and may be saved. At the end the model has the weights that are kept.
        """
        while not self.ended:
            self.model.train()
            since = time.perf_counter()
            for _ in self._run_epoch():
                self.seconds += time.perf_counter() - since
                yield None
                since = time.perf_counter()
            yield self._finish_epoch()
        if self.early_stopping is not None:
            self.early_stopping.restore_best(self.model)
        elif self.average is not None:
            self.average.copy_to(self.batches, self.seed)

    def raise_if_nonfinite(self, batch: Batch, *seen: Tensor) -> None:
        """Refuses a step whose loss, or whose gradient's norm, is not finite, where reading them is free.

        Args:
            batch: what the step is made of, for the search where it began.
            *seen: scalars, the same on all ranks.

        Raises:
            NonFiniteError: one of them is NaN or inf.
        """
        if not self.reads_losses:
            self._monitor.update(seen[0])
        elif not all(math.isfinite(value.item()) for value in seen):
            self.dropout_rng.reseed(self.step)
            with autocast(self.algorithm.precision, batch.images.device):
                place = first_nonfinite(self.model, batch.images, batch.target, self.algorithm.loss)
            place = place or last_nonfinite_gradient(self.model) or NonFiniteLocation(None, "the loss")
            raise self._nonfinite_error(place, self.step + (not place.stored))

    def check(self) -> None:
        """Looks at the losses and at the network where the host waits anyway.

        Raises:
            NonFiniteError: NaN or inf has come up; what a checkpoint would hold is of no use.
        """
        sound, spoilt = self._monitor.read(), nonfinite_state(self.model)
        if sound is not None:
            raise self._nonfinite_error(loss_location(spoilt), self._monitor_start + sound + 1)
        if spoilt:
            raise self._nonfinite_error(spoilt[0], self.step)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a step has changed: tensors by name, and metadata that JSON can hold.

        All ranks must ask for it at the same step.

        Raises:
            NonFiniteError: as `check` does.
        """
        self.check()
        moments, optimizer = split_state(self.algorithm.optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
        tensors["metrics"] = self.metrics.sums()
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        if self.early_stopping is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.early_stopping.weights.items()}
        metadata = {
            "epoch": self.epoch,
            "step": self.step,
            "images": self.metrics.num_images,
            "seconds": self.seconds,
            "previous_seconds": self.previous_seconds,
            "optimizer": optimizer,
            "best": self.early_stopping and [self.early_stopping.epoch, self.early_stopping.accuracy],
        }
        return tensors, metadata

    def restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Takes back what `state` gave; the training goes on as if it had never stopped."""
        self.model.load_state_dict(select_prefix(tensors, "model"))
        join_state(self.algorithm.optimizer, select_prefix(tensors, "optimizer"), metadata["optimizer"])
        if self.average is not None:
            self.average.restore(select_prefix(tensors, "average"))
        if self.early_stopping is not None:
            self.early_stopping.epoch, self.early_stopping.accuracy = metadata["best"]
            self.early_stopping.weights = select_prefix(tensors, "best")
        self.metrics.restore(tensors["metrics"], metadata["images"])
        self.epoch, self.step = metadata["epoch"], metadata["step"]
        self.seconds, self.previous_seconds = metadata["seconds"], metadata["previous_seconds"]
        self._monitor, self._monitor_start = NonFiniteMonitor(self.batches.device), self.step
        if self.graphed_steps is not None:
            self.graphed_steps.reset()

    def _run_epoch(self) -> Iterator[None]:
        """Makes the rest of the epoch's steps, with a pause after each, or after each run of replayed ones."""
        first = self.epoch * len(self.batches)
        if self.graphed_steps is None or self.graphed_steps.unsupported_reason or self.reads_losses:
            for batch in self.batches.epoch(self.seed, self.epoch, start=self.step - first, reuse_buffer=True):
                train_step(self, batch)
                yield
            return
        order = self.batches.plan_epoch(self.seed, self.epoch)
        step_inputs = [self.step_inputs(step) for step in range(first, first + len(self.batches))]
        for made in self.graphed_steps.epoch(order, step_inputs, first, self.step - first, partial(train_step, self)):
            # a replay does not run the step's Python, and recording runs it without a step
            self.step, self.metrics.num_images = (
                first + made,
                min(made * self.batches.batch_size, self.batches.num_images),
            )
            yield

    def _nonfinite_error(self, place: NonFiniteLocation, step: int) -> NonFiniteError:
        algorithm = self.algorithm
        return nonfinite_error(
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
        train_loss, train_accuracy = self.metrics.compute()
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
            images_per_second=self.metrics.num_images / max(self.seconds, 1e-9),
        )
        self.metrics.reset()
        self.previous_seconds += self.seconds
        self.seconds = 0.0
        return record

    def _validate(self, held_out: Batches) -> Evaluation:
        """What the weights that would be kept if training ended now are worth."""
        averaged = (
            self.average.average_parameters(self.batches, self.seed) if self.average else contextlib.nullcontext()
        )
        with averaged:
            seen = evaluate(self.model, held_out)
            if self.early_stopping is not None:
                self.early_stopping.update(self.epoch, seen.accuracy, self.model)
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
    kept = None if validation is None else _to_batches(validation)
    training = Training(model, _to_batches(data), algorithm, validation=kept, seed=seed)
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


def _to_batches(data: Batches | tuple[Tensor, Tensor]) -> Batches:
    return data if isinstance(data, Batches) else Batches(*data, device=data[0].device)
