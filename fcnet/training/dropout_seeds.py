"""The random generator of dropout, with a seed of its own for each step."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from fcnet.models.layers import Dropout
from fcnet.runtime import distributed
from fcnet.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


class DropoutRng:
    """One generator for all dropout layers of a model, seeded anew for each step.

    The masks of a step depend on the seed, the step and the rank alone, so a resumed training drops the same units.

    Args:
        model: the model with the dropout layers. They get the generator.
        device: the device of the model.
        seed: the seed of the run.

    Example:
        >>> from fcnet.models.mlp import MLP
        >>> model = MLP(2, (4,), 2, dropout=0.5)
        >>> dropout_rng = DropoutRng(model, torch.device("cpu"), seed=0)
        >>> dropout_rng.reseed(step=7)
        >>> once = model(torch.ones(3, 2))
        >>> dropout_rng.reseed(step=7)
        >>> torch.equal(model(torch.ones(3, 2)), once)
        True
    """

    def __init__(self, model: nn.Module, device: torch.device, seed: int) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, Dropout)]
        self._device, self._seed = device, seed
        self._generator = torch.Generator(device)
        for layer in self._layers:
            layer.generator = self._generator

    @property
    def is_active(self) -> bool:
        """Whether the model has dropout layers."""
        return bool(self._layers)

    def reseed(self, step: int) -> None:
        """Seeds the generator for a step. The next forward pass draws the masks of that step."""
        if self._layers:
            self._generator.manual_seed(self.seed(step))

    def seed(self, step: int) -> int:
        """Returns the seed of a step on this rank."""
        return derive_seed(self._seed, "dropout", step, distributed.rank())

    def generators(self, num_steps: int) -> list[torch.Generator]:
        """Creates one generator for each of several steps, or none for a model without dropout layers."""
        return [torch.Generator(self._device) for _ in range(num_steps)] if self._layers else []

    @contextlib.contextmanager
    def use_generator(self, generator: torch.Generator | None) -> Iterator[None]:
        """Lets the layers draw from another generator for the duration of the block. None keeps their own."""
        for layer in self._layers:
            layer.generator = generator or self._generator
        try:
            yield
        finally:
            for layer in self._layers:
                layer.generator = self._generator
