"""What the units that are dropped out in a step are drawn from."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from fcnet.models.mlp import Dropout
from fcnet.runtime import distributed
from fcnet.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


class DropoutRng:
    """A generator that all of a model's dropout layers draw from, seeded anew for each step.

    Args:
        model: whose layers get the generator.
        device: of the network.
        seed: the run's.

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
        """Whether anything is dropped out."""
        return bool(self._layers)

    def reseed(self, step: int) -> None:
        """Has the units of a step dropped from now on, from the first layer on."""
        if self._layers:
            self._generator.manual_seed(self.seed(step))

    def seed(self, step: int) -> int:
        """Of a step's generator, on this rank."""
        return derive_seed(self._seed, "dropout", step, distributed.rank())

    def generators(self, num_steps: int) -> list[torch.Generator]:
        """One for each of some steps, for `use_generator`; none where nothing is dropped out."""
        return [torch.Generator(self._device) for _ in range(num_steps)] if self._layers else []

    @contextlib.contextmanager
    def use_generator(self, generator: torch.Generator | None) -> Iterator[None]:
        """While open the layers draw from another generator; from their own where it is None."""
        for layer in self._layers:
            layer.generator = generator or self._generator
        try:
            yield
        finally:
            for layer in self._layers:
                layer.generator = self._generator
