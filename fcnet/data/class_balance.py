"""Equal influence of classes of different sizes, by weights or by sampling.

N images of C classes; class c has n_c images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fcnet.runtime.hardware import to_float64


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Computes N / (C · n_c) for each class, with C the number of classes that have images.

    The mean weight of the N images is 1, and every class has the same total weight.

    Args:
        labels: int64 (N,), in [0, num_classes).
        num_classes: the number of weights.

    Returns:
        float32 (num_classes,), on the device of the labels; 0 for a class without images.

    Example:
        >>> class_weights(torch.tensor([0, 0, 0, 1]), 2)
        tensor([0.6667, 2.0000])
    """
    counts = to_float64(labels.bincount(minlength=num_classes))
    present = (counts > 0).sum()
    return torch.where(counts > 0, len(labels) / (present * counts), 0.0).float().to(labels.device)


def sample_balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draws N rows with replacement: first a class, all with the same probability, then one of its images.

    Args:
        labels: int64 (N,), on the CPU.
        generator: a generator on the CPU.

    Returns:
        int64 (N,), indices into the labels.

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
    classes = present[torch.randint(len(present), (len(labels),), generator=generator)]
    offset = torch.rand(len(labels), dtype=torch.float64, generator=generator) * counts[classes]
    return by_class[starts[classes] + offset.long()]
