"""The training step, and the loop over steps and epochs."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.config.selection import CRITERIA
from fcnet.data.batches import Batches
from fcnet.data.epoch_plan import EpochPlan
from fcnet.evaluation.selection import evaluate_by
from fcnet.optim.optimizers import fast_step
from fcnet.runtime import distributed
from fcnet.training.backpropagation import accumulate_gradients
from fcnet.training.gradient_sums import GradientSums
from fcnet.training.records import EpochRecord
from fcnet.training.state import BatchesT, TrainingState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.data.batches import Batch
    from fcnet.evaluation.classification import Evaluation


def train_step(training: TrainingState[Any], batch: Batch, step_inputs: Sequence[float | Tensor] | None = None) -> None:
    """Makes one step of gradient descent on the mean loss of the global batch.

    All training takes this step: on a CPU, in a CUDA graph, on several ranks, and along the line search of L-BFGS. The
    host never waits for the device here, except to evaluate a line search or to check a loss that is on the CPU.

    Args:
        training: the state to advance by one step. Its model is in training mode.
        batch: this rank's slice of the global batch.
        step_inputs: the learning rate of each parameter group, then the weight of the new parameters in the average.
            A CUDA graph passes device scalars and seeds dropout itself. None takes the values of the current step.

    Raises:
        NonFiniteError: the loss or the gradient is NaN or inf. The parameters are unchanged.
    """
    algorithm, optimizer = training.algorithm, training.algorithm.optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    seeds_dropout = step_inputs is None
    *lrs, ema_weight = training.step_inputs(training.step) if step_inputs is None else step_inputs

    def compute_gradient() -> tuple[Tensor, Tensor, list[Tensor]]:
        # Dropout. The seed depends on the step alone, so a resumed run and every point of a line search drop the same
        # units.
        if seeds_dropout:
            training.dropout_rng.reseed(training.step)

        # Forward and backward: `grad` of each parameter becomes this rank's part of the global batch's mean gradient.
        sums = GradientSums(parameters)
        loss, outputs = accumulate_gradients(
            training.compute_gradients,
            batch.split(algorithm.accumulate),
            parameters,
            sums.add if distributed.world_size() > 1 else None,
        )

        # All-reduce: sum the gradients and the losses of all ranks. Some are on their way already.
        scalars = [sums.finish(loss)]

        # Clip. The norm is that of the global gradient, so clipping follows the all-reduce.
        if algorithm.clip_norm:
            scalars.append(nn.utils.clip_grad_norm_(parameters, algorithm.clip_norm))
        return loss, outputs, scalars

    loss, outputs, scalars = compute_gradient()

    # Finite check, before the parameters can take up a NaN.
    training.check_step(batch, *scalars)

    # Learning rate.
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr

    # Optimizer step.
    if isinstance(optimizer, torch.optim.LBFGS):
        # A line search compares the loss at several points. The first is the current one, which is known by now.
        known = [scalars[0]]
        optimizer.step(lambda: (known.pop() if known else compute_gradient()[2][0]) / batch.size)
    else:
        fast_step(optimizer)

    # Weight average.
    if training.average is not None:
        training.average.update(ema_weight)

    # Metrics: the loss and the predictions before the step. On a CPU they are cheaper to add up several at a time.
    training.metrics.update(loss, outputs, batch, deferred=training.reads_losses)
    training.step += 1


class Training(TrainingState[BatchesT]):
    """A training run: the state that `train_step` advances, and the loop over steps and epochs.

    Args:
        model: computes logits from images, on the device of the batches.
        batches: the training set.
        algorithm: the learning algorithm.
        validation: the held-out set, or None.
        seed: the seed of everything random: order, augmentation and dropout.

    Raises:
        UserError: the training set is empty or has a label that is not a class of the model, or ``patience`` or
            ``select`` is set without a validation set.
    """

    def advance(self) -> Iterator[EpochRecord | None]:
        """Trains to the end and then leaves the best weights in the model.

        It yields None after each step, or after each CUDA graph of several steps, and a record after each epoch. The
        state is complete at each yield, so the caller may save it there.
        """
        drawn: dict[int, Iterator[Batch] | EpochPlan] = {}  # by the first step
        while not self.ended:
            self.model.train()
            self.stopwatch.start()
            for _ in self._run_epoch(drawn.pop(self.step) if self.step in drawn else self._draw_epoch(self.epoch)):
                if self.reads_losses:  # the step is finished; elsewhere it is queued, and only a wait tells its time
                    self.stopwatch.stop()
                yield None
                self.stopwatch.start()
            if not self.reads_losses and self.epoch + 1 < self.algorithm.epochs:
                drawn = {self.step: self._draw_epoch(self.epoch + 1)}  # while the device works
            yield self._finish_epoch()
        if self.early_stopping is not None:
            self.early_stopping.restore_best(self.model)
        elif self.average is not None:
            self.average.copy_to(self.batches, self.seed)

    def _draw_epoch(self, epoch: int) -> Iterator[Batch] | EpochPlan:
        """Draws everything random of an epoch but dropout, for its remaining steps: as a plan if graphs replay them."""
        if self.graphed_steps is None or self.graphed_steps.unsupported_reason or self.reads_losses:
            start = self.step - epoch * len(self.batches)
            return self.batches.epoch(self.seed, epoch, start=start, reuse_buffer=True)
        assert isinstance(self.batches, Batches)  # graphs index into its tensors
        return self.batches.plan_epoch(self.seed, epoch)

    def _run_epoch(self, drawn: Iterator[Batch] | EpochPlan) -> Iterator[None]:
        """Makes the remaining steps of the epoch. It yields after each step, or after each CUDA graph."""
        if not isinstance(drawn, EpochPlan):
            for batch in drawn:
                train_step(self, batch)
                yield
            return
        assert isinstance(self.batches, Batches)
        assert self.graphed_steps is not None
        first = self.epoch * len(self.batches)
        step_inputs = [self.step_inputs(step) for step in range(first, first + len(self.batches))]
        for done in self.graphed_steps.epoch(drawn, step_inputs, first, self.step - first, partial(train_step, self)):
            # A replay does not run the Python code that counts steps, and a capture runs it without making a step.
            self.step = first + done
            self.metrics.num_images = min(done * self.batches.batch_size, self.batches.num_images)
            yield

    def _finish_epoch(self) -> EpochRecord:
        train_loss, train_accuracy = self.metrics.compute()
        self.stopwatch.stop()
        self.check_finite()
        self.epoch += 1
        validation, value = (None, None) if self.validation is None else self._validate(self.validation)
        record = EpochRecord(
            epoch=self.epoch,
            step=self.step,
            lr=self.algorithm.optimizer.param_groups[0]["lr"],
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=None if validation is None else validation.loss,
            validation_accuracy=None if validation is None else validation.accuracy,
            seconds=self.seconds,
            images_per_second=self.metrics.num_images / max(self.seconds, 1e-9),
            validation_score=value if CRITERIA[self.algorithm.select].column == "validation_score" else None,
        )
        self.metrics.reset()
        self.previous_seconds += self.seconds
        self.stopwatch.reset()
        return record

    def _validate(self, held_out: BatchesT) -> tuple[Evaluation, float]:
        """Evaluates the weights that training would keep if it ended now: the average, or the current weights."""
        averaged = self.average.average_parameters(self.batches, self.seed) if self.average else None
        with averaged or contextlib.nullcontext():
            evaluation, value = evaluate_by(self.model, held_out, self.algorithm.select)
            if self.early_stopping is not None:
                self.early_stopping.update(self.epoch, value, self.model)
        return evaluation, value
