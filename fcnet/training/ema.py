"""An exponential moving average (EMA) of the weights, often better than the weights of the last step."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.models.batch_norm import BatchNorm, update_bn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fcnet.data.batches import Batch
    from fcnet.data.loaders import TrainingBatches

_NUM_BN_IMAGES = 10_000


class WeightAverage:
    """Averages the weights, W̄ ← β_t W̄ + (1 − β_t) W after step t, with β_t = min(β, (1 + t) / (10 + t)).

    The smaller β_t of the first steps lets the average forget the random initial weights. The running statistics of
    batch norm belong to other weights than the average, so they are computed again from augmented training images.

    Args:
        model: the model whose parameters to average.
        decay: β.

    Attributes:
        weights: W̄, by the names of the parameters.

    Source:
        Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; for the statistics, Izmailov
        et al., "Averaging weights leads to wider optima and better generalization", 2018.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self._model = decay, model
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def weight(self, step: int) -> float:
        """Returns 1 − β_t, the weight of the parameters after step t, counted from 1."""
        return 1.0 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, weight: float | Tensor) -> None:
        """Moves the average towards the model's parameters by a weight, a number or a scalar on their device."""
        for name, parameter in self._model.named_parameters():
            self.weights[name].lerp_(parameter, weight)

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Copies saved averages into this one."""
        # in place, because a CUDA graph reads and writes these tensors
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])

    @torch.no_grad()
    def copy_to(self, batches: TrainingBatches, seed: int) -> None:
        """Copies the average into the model and recomputes the statistics of batch norm.

        Args:
            batches: the training set.
            seed: the seed of the order and the augmentation of the images.
        """
        for name, parameter in self._model.named_parameters():
            parameter.copy_(self.weights[name])
        if any(isinstance(module, BatchNorm) for module in self._model.modules()):
            update_bn(self._model, _first_batches(batches, seed))

    @contextlib.contextmanager
    def average_parameters(self, batches: TrainingBatches, seed: int) -> Iterator[None]:
        """Gives the model the average for the duration of the block, as `copy_to` does, then restores its weights."""
        weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self.copy_to(batches, seed)
        try:
            yield
        finally:
            self._model.load_state_dict(weights)


def _first_batches(batches: TrainingBatches, seed: int) -> Iterator[Batch]:
    """Yields batches of the first epoch until they hold `_NUM_BN_IMAGES` images."""
    num_images = 0
    for batch in batches.epoch(seed, 0, reuse_buffer=True):
        yield batch
        num_images += batch.size
        if num_images >= _NUM_BN_IMAGES:
            return
