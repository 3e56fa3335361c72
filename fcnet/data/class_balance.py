"""Classes of different sizes made to count the same: by weights, or by how often images are drawn.

N images, C classes, of which class c has n_c images.
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """N / (C · n_c) for each class, with C the number of classes that have images.

    The weights' mean over the N images is 1, and every class weighs the same in all.

    Args:
        labels: int64 (N,), in [0, num_classes).
        num_classes: how many weights are wanted.

    Returns:
        float32 (num_classes,), on the labels' device; 0 for a class without images.

    Example:
        >>> class_weights(torch.tensor([0, 0, 0, 1]), 2)
        tensor([0.6667, 2.0000])
    """
    counts = labels.bincount(minlength=num_classes).double()
    present = (counts > 0).sum()
    return torch.where(counts > 0, len(labels) / (present * counts), 0.0).float()


def sample_balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """N rows drawn with replacement: each of a class that has images, all equally likely, then one of its images.

    Args:
        labels: int64 (N,), on the CPU.
        generator: on the CPU.

    Returns:
        int64 (N,), places among the labels.

    Example:
        >>> labels = torch.tensor([0] * 990 + [1] * 10)
        >>> rows = sample_balanced(labels, torch.Generator().manual_seed(0))
        >>> labels[rows].double().mean().item()
        0.504
    """
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    present = counts.nonzero().squeeze(1)
    drawn = present[torch.randint(len(present), (len(labels),), generator=generator)]
    place = torch.rand(len(labels), dtype=torch.float64, generator=generator) * counts[drawn]
    return by_class[starts[drawn] + place.long()]
