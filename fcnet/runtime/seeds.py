"""All randomness is derived: one generator for each (seed, purpose, epoch or step)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A number that depends on the seed and the purpose alone.

    Args:
        seed: the run's seed.
        *purpose: what the numbers are for, such as ``"order", 3`` for the order of epoch 3.

    Returns:
        An integer in [0, 2⁶³), spread as by a hash: neighbouring purposes share nothing.

    Example:
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
        True
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 2)
        False
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on ``device`` for one purpose; see `derive_seed`.

    Example:
        >>> import torch
        >>> drawn = [torch.rand(3, generator=generator(0, "order", epoch)).tolist() for epoch in (1, 1, 2)]
        >>> drawn[0] == drawn[1], drawn[0] == drawn[2]
        (True, False)
    """
    import torch  # here, so that who only derives numbers does without

    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))
