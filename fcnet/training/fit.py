"""`fit` and `iter_fit`: training from Python in one call."""

from __future__ import annotations

import contextlib
import numbers
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from fcnet.data.batches import Batches
from fcnet.data.conversion import hold_out, to_batches
from fcnet.losses import check_loss
from fcnet.models.input_checks import check_fit, input_kind
from fcnet.optim.optimizers import parameter_groups
from fcnet.runtime import distributed
from fcnet.runtime.formatting import format_percent
from fcnet.training.algorithm import GradientDescent
from fcnet.training.fit_checks import check_algorithm, check_settings
from fcnet.training.history import History
from fcnet.training.loop import Training

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from fcnet.data.conversion import AnyBatches
    from fcnet.training.records import EpochRecord

_EPOCHS, _LR, _WEIGHT_DECAY = 10, 1e-3, 0.01


def fit(
    model: nn.Module,
    data: Any,  # noqa: ANN401 - see `fcnet.data.conversion.to_batches`
    algorithm: GradientDescent | None = None,
    *,
    validation: Any = None,  # noqa: ANN401
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> History:
    """Trains a model on a dataset by a learning algorithm.

    Learning takes these three: a dataset, a model with parameters to choose, and an algorithm that searches for the
    parameters of least empirical risk. The model ends in evaluation mode, ready to predict.

    Args:
        model: computes logits (B,) for two classes, or (B, C), from inputs (B, …). Its parameters change in place.
        data: the training set: a pair (x, y) of tensors, NumPy arrays or anything that NumPy takes; a map-style
            `torch.utils.data.Dataset`; a `DataLoader`, iterated as it is; or `fcnet.data.batches.Batches`. x is (N, …)
            and y holds class indices (N,). uint8 values are pixels and are divided by 255.
        algorithm: the learning algorithm. None is AdamW for 10 epochs with learning rate 1e-3.
        validation: data to evaluate on after each epoch, of any of these kinds; or a share of the training set to hold
            out, such as 0.1.
        epochs: passes over the training set, without an ``algorithm``.
        lr: the learning rate of AdamW, without an ``algorithm``.
        batch_size: examples per step, 128 by default. `Batches` and loaders have their own.
        seed: the seed of order, dropout and the held-out share. torch's global generator is not used.
        progress: whether to show a progress bar, in a terminal or a notebook.

    Returns:
        The records of all epochs. To act between epochs, or to keep the records of an interrupted training, use
        `iter_fit`.

    Raises:
        UserError: an argument is not what it must be, or model and data do not fit. Labels of a loader, and of a
            dataset without ``targets``, are checked as their batches come, all else before training begins.
        NonFiniteError: the loss, the gradient or a parameter is NaN or inf.

    Example:
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> y = x[:, 0] > x[:, 1]
        >>> import fcnet
        >>> model = fcnet.MLP(2, (16,), 2)
        >>> history = fcnet.fit(model, (x, y), epochs=20, lr=0.01, validation=0.1)
        >>> len(history), history[-1].train_loss < history[0].train_loss
        (20, True)
    """
    return History(
        iter_fit(
            model,
            data,
            algorithm,
            validation=validation,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
    )


def iter_fit(
    model: nn.Module,
    data: Any,  # noqa: ANN401 - see `fcnet.data.conversion.to_batches`
    algorithm: GradientDescent | None = None,
    *,
    validation: Any = None,  # noqa: ANN401
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[EpochRecord]:
    """Trains as `fit` does, while the caller iterates over the records.

    Arguments and errors are those of `fit`. Wrong arguments raise at the call. The model is in evaluation mode while
    the caller holds a record; leaving the loop ends the training.

    Yields:
        One `EpochRecord` after each epoch.

    Example:
        >>> x, y = torch.eye(4), [0, 1, 0, 1]
        >>> import fcnet
        >>> for record in fcnet.iter_fit(fcnet.LogisticRegression(4), (x, y), epochs=100):
        ...     if record.train_loss < 0.1:
        ...         break
    """
    check_settings(epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    kind = input_kind(model)
    check_algorithm(algorithm, model, epochs=epochs, lr=lr)
    batches = to_batches(data, device=kind.device, dtype=kind.dtype, batch_size=batch_size)
    num_classes = check_fit(model, batches, "data")
    held_out: AnyBatches | None = None
    if isinstance(validation, numbers.Real):
        share: Any = validation
        batches, held_out = hold_out(batches, share, operator.index(seed))
    elif validation is not None:
        size = None if isinstance(validation, Batches | DataLoader) else batch_size
        held_out = to_batches(validation, device=kind.device, dtype=kind.dtype, batch_size=size, name="validation")
        check_fit(model, held_out, "validation")
    if algorithm is None:
        optimizer = torch.optim.AdamW(parameter_groups(model, _WEIGHT_DECAY), lr=float(lr or _LR))
        algorithm = GradientDescent(optimizer, epochs=operator.index(epochs or _EPOCHS))
    check_loss(algorithm.loss, num_classes, kind.device)
    training = Training(model, batches, algorithm, validation=held_out, seed=operator.index(seed))
    return _records(training, progress=progress and distributed.rank() == 0)


def _records(training: Training[Any], *, progress: bool) -> Iterator[EpochRecord]:
    """Trains to the end and yields the records, with the model in evaluation mode."""
    with _ProgressBar(training) if progress else contextlib.nullcontext() as bar:
        for record in training.advance():
            if bar is not None:
                bar.update(record)
            if record is not None:
                training.model.eval()
                yield record


class _ProgressBar(contextlib.ExitStack):
    """A bar of tqdm's over all steps of a training, with the figures of the current epoch.

    Args:
        training: the training, at its beginning.
    """

    def __init__(self, training: Training[Any]) -> None:
        from tqdm.auto import tqdm  # warns in a notebook without widgets, so only who wants a bar imports it

        super().__init__()
        self._training, self._validation = training, ""
        self._bar = self.enter_context(tqdm(total=training.num_steps, unit="step"))

    def __enter__(self) -> _ProgressBar:
        """Returns the bar, which the end of the block closes."""
        return self

    def update(self, record: EpochRecord | None) -> None:
        """Moves the bar to the training's step; the record is that of an epoch that has just ended, or None."""
        training = self._training
        is_redrawn = self._bar.update(training.step - self._bar.n)
        if record is not None:
            if record.validation_accuracy is not None:
                self._validation = f", validation {format_percent(record.validation_accuracy, 1)}"
            self._show(record.epoch, record.train_loss, record.train_accuracy)
        elif is_redrawn and distributed.world_size() == 1:  # reading the figures waits for the device
            self._show(training.epoch + 1, *training.metrics.compute())

    def _show(self, epoch: int, loss: float, accuracy: float) -> None:
        figures = f"loss {loss:.4f}, accuracy {format_percent(accuracy, 1)}{self._validation}"
        self._bar.set_postfix_str(f"epoch {epoch}/{self._training.algorithm.epochs}, {figures}")
