"""Derived random seeds: one generator for each seed, purpose, and epoch or step."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Returns a seed that depends on ``seed`` and ``purpose`` alone.

    Args:
        seed: seed of the run.
        *purpose: what the random numbers are for, such as ``"order", 3`` for the order of images in epoch 3.

    Returns:
        An integer in [0, 2⁶³), from a hash: seeds of similar purposes are unrelated.

    Example:
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
        True
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 2)
        False
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a new generator on ``device``, seeded by `derive_seed`.

    Example:
        >>> import torch
        >>> draws = [torch.rand(3, generator=generator(0, "order", epoch)).tolist() for epoch in (1, 1, 2)]
        >>> draws[0] == draws[1], draws[0] == draws[2]
        (True, False)
    """
    import torch  # deriving a seed does not need it

    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))
