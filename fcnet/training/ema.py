"""A running average of the weights, which is often better than where the last steps have left them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.models.batch_norm import BatchNorm, update_bn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fcnet.data.batches import Batch, Batches

_NUM_BN_IMAGES = 10_000


class WeightAverage:
    """W̄ ← β_t W̄ + (1 − β_t) W after step t, with β_t = min(β, (1 + t) / (10 + t)).

    So the first weights, which are random, are soon forgotten. Batch norm's running statistics belong
    to other weights; they are found anew, from training images as they are trained on.

    Args:
        model: whose parameters are averaged.
        decay: β.

    Attributes:
        weights: W̄, by the parameters' names.

    Source:
        Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the statistics:
        Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self._model = decay, model
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def weight(self, step: int) -> float:
        """1 − β_t, the weight of the weights after step ``step``, 1 for the first."""
        return 1.0 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, weight: float | Tensor) -> None:
        """Counts the weights as they are, at their weight; a tensor is a scalar on their device."""
        for name, parameter in self._model.named_parameters():
            self.weights[name].lerp_(parameter, weight)

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Goes on from other averages."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])

    @torch.no_grad()
    def copy_to(self, batches: Batches, seed: int) -> None:
        """Puts the averages into the model, and finds batch norm's statistics for them.

        Args:
            batches: the training set.
            seed: from which order and changes of the images are derived.
        """
        for name, parameter in self._model.named_parameters():
            parameter.copy_(self.weights[name])
        if any(isinstance(module, BatchNorm) for module in self._model.modules()):
            update_bn(self._model, _first_batches(batches, seed))

    @contextlib.contextmanager
    def average_parameters(self, batches: Batches, seed: int) -> Iterator[None]:
        """While open the model has the averages; see `copy_to`. Its mode is left as it was."""
        weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self.copy_to(batches, seed)
        try:
            yield
        finally:
            self._model.load_state_dict(weights)


def _first_batches(batches: Batches, seed: int) -> Iterator[Batch]:
    """The first batches of the first epoch, of `_NUM_BN_IMAGES` images or a few more."""
    seen = 0
    for batch in batches.epoch(seed, 0, reuse_buffer=True):
        yield batch
        seen += batch.size
        if seen >= _NUM_BN_IMAGES:
            return
