"""Figures of a user's own data and training: image grids and learning-rate curves, as PNG files.

Letters: R rows of images; C channels, H rows and W columns of an image.
"""

from __future__ import annotations

import io
import itertools
import warnings
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_INCHES = 1.1
_FILLED = 0.92  # the share of a cell's side that an image takes


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
    num_rows, num_columns = len(row_names), len(columns)
    figure = Figure(figsize=(_INCHES * num_columns, _INCHES * num_rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize="small", parse_math=False)
    axes = figure.subplots()  # one for all images: matplotlib takes 20 ms for the axes of each
    for column, row in itertools.product(range(num_columns), range(num_rows)):
        image = columns[column][row]
        height, width = (_FILLED * size / max(image.shape[1:]) for size in image.shape[1:])
        left, top = column + (1.0 - width) / 2, row + (1.0 - height) / 2
        pixels = (image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)).clamp(0.0, 1.0).numpy()
        extent = (left, left + width, top + height, top)
        axes.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest", extent=extent)
        axes.add_patch(Rectangle((left, top), width, height, fill=False, linewidth=0.8))
    font: dict[str, Any] = {"fontsize": "small", "parse_math": False}
    axes.set_xticks([column + 0.5 for column in range(num_columns)], column_names, **font)
    axes.set_yticks([row + 0.5 for row in range(num_rows)], row_names, rotation="vertical", va="center", **font)
    axes.tick_params(length=0.0, labeltop=True, labelbottom=False)
    axes.set(xlim=(0, num_columns), ylim=(num_rows, 0), frame_on=False)
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
