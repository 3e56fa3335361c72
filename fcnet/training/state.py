"""The state of a training: everything that a step changes, how to save and restore it, and whether it is finite."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import torch
from typing_extensions import TypeVar

from fcnet.config.selection import DEFAULT_SELECTION
from fcnet.data.batches import Batches, smallest_part
from fcnet.data.loaders import TrainingBatches
from fcnet.diagnostics.nonfinite import (
    NonFiniteLocation,
    NonFiniteMonitor,
    first_nonfinite,
    first_nonfinite_tensor,
    last_nonfinite_gradient,
    loss_location,
    nonfinite_error,
    nonfinite_state,
)
from fcnet.models.batch_norm import BatchNorm
from fcnet.optim.state import join_state, select_prefix, split_state
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.runtime.tensor_checks import check_tensors
from fcnet.training.backpropagation import autocast, make_gradient_fn
from fcnet.training.cuda_graphs import GraphedSteps, cuda_graph
from fcnet.training.dropout_seeds import DropoutRng
from fcnet.training.early_stopping import EarlyStopping
from fcnet.training.ema import WeightAverage
from fcnet.training.records import MetricAccumulator
from fcnet.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from fcnet.config.json_schema import TrainingMetadata
    from fcnet.data.batches import Batch
    from fcnet.training.algorithm import GradientDescent

BatchesT = TypeVar("BatchesT", bound=TrainingBatches, default=Batches)


class TrainingState(Generic[BatchesT]):
    """Everything that a training step changes, and so everything that a checkpoint holds.

    The seed and the two counters determine the rest: the order of the images, augmentation and dropout.

    Args:
        model: computes logits from images, on the device of the batches.
        batches: the training set.
        algorithm: the learning algorithm.
        validation: the held-out set, or None.
        seed: the seed of everything random.

    Attributes:
        epoch: finished epochs.
        step: finished steps.
        stopwatch: measures the steps of the current epoch. It runs while steps are queued, on a CPU during each step.
        previous_seconds: seconds spent in steps of all earlier epochs.
        reads_losses: whether each step reads its loss before the parameters change, as on a CPU. Elsewhere that would
            wait for the device, so the check happens at the end of an epoch and at each save.
        graphed_steps: captures and replays steps of `Batches` on a GPU; None elsewhere.

    Raises:
        UserError: the training set is empty or has a label that is not a class of the model, ``patience`` or
            ``select`` is set without a validation set, or batch normalization sees one image at a time, from which it
            learns nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: BatchesT,
        algorithm: GradientDescent,
        *,
        validation: BatchesT | None = None,
        seed: int = 0,
    ) -> None:
        if not len(batches):
            raise UserError("the training set must hold at least one image, got 0")
        if isinstance(batches, Batches):
            _check_labels(model, batches)
            _check_batch_norm(model, batches, algorithm.accumulate)
        if algorithm.patience and validation is None:
            raise UserError(f"patience must be 0 without a validation set, got {algorithm.patience}")
        if algorithm.select != DEFAULT_SELECTION and validation is None:
            raise UserError(f"select must be {DEFAULT_SELECTION} without a validation set, got {algorithm.select}")
        self.model, self.batches, self.algorithm = model, batches, algorithm
        self.validation, self.seed = validation, seed
        self.epoch = self.step = 0
        self.stopwatch, self.previous_seconds = Stopwatch(batches.device), 0.0
        self.metrics = MetricAccumulator(batches.device)
        self.average = WeightAverage(model, algorithm.ema_decay) if algorithm.ema_decay else None
        self.early_stopping = EarlyStopping(algorithm.patience, algorithm.select) if algorithm.patience else None
        self.reads_losses = batches.device.type == "cpu"
        self._monitor, self._monitor_start = NonFiniteMonitor(batches.device), 0
        for group in algorithm.optimizer.param_groups:
            # `step_inputs` scales this and not "lr", which holds the previous step's rate
            group.setdefault("initial_lr", group["lr"])
        self.compute_gradients = make_gradient_fn(model, algorithm.loss, algorithm.precision)
        self.dropout_rng = DropoutRng(model, batches.device, seed)
        self.graphed_steps: GraphedSteps | None = None
        if isinstance(batches, Batches) and batches.device.type == "cuda":
            capture = partial(cuda_graph, batches.device)
            self.graphed_steps = GraphedSteps(capture, model, batches, algorithm, self.dropout_rng)

    @property
    def num_steps(self) -> int:
        """The number of steps of the whole training."""
        return self.algorithm.epochs * len(self.batches)

    @property
    def seconds(self) -> float:
        """Seconds spent in steps of the current epoch."""
        return self.stopwatch.seconds

    @property
    def train_seconds(self) -> float:
        """Seconds spent in training steps so far."""
        return self.previous_seconds + self.seconds

    @property
    def ended(self) -> bool:
        """Whether the last epoch is finished or early stopping has ended the training."""
        out_of_patience = self.early_stopping is not None and self.early_stopping.should_stop(self.epoch)
        return out_of_patience or self.epoch >= self.algorithm.epochs

    @property
    def best_epoch(self) -> int:
        """The epoch with the weights to keep, counted from 1."""
        return self.epoch if self.early_stopping is None else self.early_stopping.epoch

    def step_inputs(self, step: int) -> list[float]:
        """Returns each parameter group's learning rate in a step, then the weight of the new weights in the average."""
        algorithm = self.algorithm
        factor = algorithm.schedule(step)
        ema_weight = 0.0 if self.average is None else self.average.weight(step + 1)
        return [*(group["initial_lr"] * factor for group in algorithm.optimizer.param_groups), ema_weight]

    def check_step(self, batch: Batch, *scalars: Tensor) -> None:
        """Raises if the loss or the gradient of a step is not finite.

        Where reading a value would wait for the device, it marks a bad loss for `check_finite` instead.

        Args:
            batch: the batch of the step, to find the layer where NaN or inf begins.
            *scalars: the loss of the global batch, and the norm of its gradient if it was computed.

        Raises:
            NonFiniteError: one of the scalars is NaN or inf.
        """
        if not self.reads_losses:
            self._monitor.update(scalars[0])
        elif not all(math.isfinite(scalar.item()) for scalar in scalars):
            self.dropout_rng.reseed(self.step)  # the search repeats the forward pass, with the same units dropped
            with autocast(self.algorithm.precision, batch.images.device):
                place = first_nonfinite(self.model, batch.images, batch.target, self.algorithm.loss)
            place = place or last_nonfinite_gradient(self.model) or NonFiniteLocation(None, "the loss")
            # a bad weight comes from the previous step, anything else from this one
            raise self._nonfinite_error(place, self.step + (not place.stored))

    def check_finite(self) -> None:
        """Raises if a loss since the last check or a weight is not finite. It waits for the device.

        Raises:
            NonFiniteError: NaN or inf has appeared, and a checkpoint would be useless.
        """
        finite_steps, bad_tensors = self._monitor.read(), nonfinite_state(self.model)
        if finite_steps is not None:
            raise self._nonfinite_error(loss_location(bad_tensors), self._monitor_start + finite_steps + 1)
        if bad_tensors:
            raise self._nonfinite_error(bad_tensors[0], self.step)

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

    def state(self, others: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the state as tensors by name, and metadata in JSON types.

        It waits for the device to finish the steps, which counts as training; what the caller does with the state does
        not. All ranks must call it at the same step, because it sums the metrics over them.

        Args:
            others: more tensors, to check and to save with the state.

        Raises:
            NonFiniteError: as `check_finite` does, and if the optimizer's state or the average is not finite.
        """
        self.stopwatch.stop()
        self.check_finite()
        moments, optimizer = split_state(self.algorithm.optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
        tensors["metrics"] = self.metrics.sums()
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        tensors |= others or {}
        added = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
        if (place := first_nonfinite_tensor(added)) is not None:
            raise self._nonfinite_error(place, self.step)
        if self.early_stopping is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.early_stopping.weights.items()}
        metadata = {
            "epoch": self.epoch,
            "step": self.step,
            "images": self.metrics.num_images,
            "seconds": self.seconds,
            "previous_seconds": self.previous_seconds,
            "optimizer": optimizer,
            "best": self.early_stopping and [self.early_stopping.epoch, self.early_stopping.value],
            "select": self.algorithm.select,
        }
        return tensors, metadata

    def restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Restores the result of `state`. Training then continues bit for bit as if it had never stopped.

        Raises:
            UserError: it is not the state of such a training.
        """
        from fcnet.config.json_schema import TrainingMetadata, parse_object  # pydantic takes long to import

        checked = parse_object(TrainingMetadata, metadata, "the checkpoint does not fit the configuration")
        try:
            self._check_state(tensors, checked)
            self._restore(tensors, metadata)
        except (LookupError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"the checkpoint does not fit the configuration: {reason}") from None

    def _check_state(self, tensors: dict[str, Tensor], metadata: TrainingMetadata) -> None:
        """Raises if the tensors or the counters cannot be those of this training."""
        model = self.model.state_dict()
        expected = {f"model.{name}": tensor for name, tensor in model.items()}
        expected["metrics"] = torch.empty(2, dtype=torch.float64)
        if self.average is not None:
            expected |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        if self.early_stopping is not None and metadata.best and metadata.best[0]:
            expected |= {f"best.{name}": tensor for name, tensor in model.items()}
        if bool(metadata.best) != (self.early_stopping is not None):
            raise UserError("best must be there if, and only if, train.patience is set")
        if metadata.best and metadata.select != self.algorithm.select:
            raise UserError(f"select must be {metadata.select} as before, got {self.algorithm.select}")
        kept = {"model", "metrics", "average", "best"}
        check_tensors({name: x for name, x in tensors.items() if name.split(".")[0] in kept}, expected, "checkpoint")
        steps = len(self.batches)
        if not (metadata.epoch <= self.algorithm.epochs and 0 <= metadata.step - metadata.epoch * steps <= steps):
            raise UserError(f"step {metadata.step} is not in epoch {metadata.epoch + 1} of {steps} steps")

    def _restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        self.model.load_state_dict(select_prefix(tensors, "model"))
        join_state(self.algorithm.optimizer, select_prefix(tensors, "optimizer"), metadata["optimizer"])
        if self.average is not None:
            self.average.restore(select_prefix(tensors, "average"))
        if self.early_stopping is not None:
            self.early_stopping.epoch, self.early_stopping.value = metadata["best"]
            self.early_stopping.weights = select_prefix(tensors, "best")
        self.metrics.restore(tensors["metrics"], metadata["images"])
        self.epoch, self.step = metadata["epoch"], metadata["step"]
        self.stopwatch.reset(metadata["seconds"])
        self.previous_seconds = metadata["previous_seconds"]
        self._monitor, self._monitor_start = NonFiniteMonitor(self.batches.device), self.step
        if self.graphed_steps is not None:
            # the optimizer has new tensors, and a graph reads and writes the old ones
            self.graphed_steps.reset()


def _check_batch_norm(model: nn.Module, batches: Batches, accumulate: int) -> None:
    """Raises if batch normalization would see one image at a time, which it normalizes to zero."""
    if not any(isinstance(module, BatchNorm) for module in model.modules()):
        return
    size = min(batches.batch_size, batches.num_images)
    reason = "because batch normalization learns nothing from one image"
    if size < 2:
        raise UserError(f"a batch must have two or more images, {reason}, got {size}")
    if smallest_part(size, accumulate) < 2:
        raise UserError(
            f"accumulate must be at most {size // 2} for batches of {size} images, {reason}, got {accumulate}"
        )


def _check_labels(model: nn.Module, batches: Batches) -> None:
    """Raises if a label is not a class of the model. A model without ``num_classes`` takes any label from 0."""
    labels = batches.selected_labels
    last = getattr(model, "num_classes", int(labels.max()) + 1) - 1
    outside = labels[(labels < 0) | (labels > last)]
    if len(outside):
        raise UserError(f"labels must be 0 to {last}, got {int(outside[0])}")
