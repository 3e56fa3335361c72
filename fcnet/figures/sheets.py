"""Figures of a user's own data and training: image grids and learning-rate curves, as PNG files.

Letters: R rows of images; C channels, H rows and W columns of an image.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_INCHES = 1.1


def image_grid(
    columns: Sequence[Tensor], *, title: str, row_names: Sequence[str], column_names: Sequence[str]
) -> bytes:
    """Draws a grid of small images with row and column names.

    Args:
        columns: the images of each column, float (R, C, H, W) from 0 to 1. Three channels are red, green and blue;
            any other number of channels is shown as its grey mean.
        title: the figure's title.
        row_names: R names.
        column_names: one name for each column.

    Returns:
        The content of a PNG file.

    Example:
        >>> import torch
        >>> png = image_grid([torch.rand(2, 3, 8, 8)], title="noise", row_names="ab", column_names="1")
        >>> png[1:4]
        b'PNG'
    """
    figure = Figure(figsize=(_INCHES * len(columns), _INCHES * len(row_names) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize="small", parse_math=False)
    grid = figure.subplots(len(row_names), len(columns), squeeze=False)
    for column, (images, column_name) in enumerate(zip(columns, column_names, strict=True)):
        grid[0, column].set_title(column_name, fontsize="small", parse_math=False)
        for axes, image in zip(grid[:, column], images, strict=True):
            pixels = image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)
            axes.imshow(pixels.clamp(0.0, 1.0).numpy(), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
    for axes, row_name in zip(grid[:, 0], row_names, strict=True):
        axes.set_ylabel(row_name, fontsize="small", parse_math=False)
    return _png(figure)


def lr_curve(lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float) -> bytes:
    """Plots the loss against the learning rate in a learning-rate range test.

    Args:
        lrs: the learning rate of each step, increasing.
        losses: the batch loss of each step.
        smoothed: the running mean of the losses.
        suggestion: the learning rate to mark.

    Returns:
        The content of a PNG file.

    Example:
        >>> lr_curve([0.01, 0.1, 1.0], [2.0, 1.0, 3.0], [2.0, 1.4, 2.1], suggestion=0.01)[1:4]
        b'PNG'
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(lrs, losses, color="0.8", linewidth=0.8, label="batch loss")
    axes.plot(lrs, smoothed, color="C0", label="running mean")
    axes.axvline(suggestion, color="C3", linestyle="--", label=f"suggested: {suggestion:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0.0, 1.5 * smoothed[0]))
    axes.legend()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # names may be in any script
        figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
