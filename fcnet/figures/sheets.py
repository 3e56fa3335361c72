"""Figures of a user's own data and training: image grids and learning-rate curves.

Call each function inside `fcnet.figures.style.use_theme`. Letters: R rows of images; C channels, H rows and W columns
of an image.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from matplotlib import rcParams
from matplotlib.patches import Rectangle

from fcnet.figures.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from torch import Tensor

_INCHES = 1.1
_FILLED = 0.92  # the share of a cell's side that an image takes
_LINE = 0.13  # the height of a line of a caption, in cells


def image_grid(
    columns: Sequence[Tensor],
    *,
    title: str,
    row_names: Sequence[str],
    column_names: Sequence[str],
    captions: Sequence[Sequence[str]] = (),
) -> Figure:
    """Draws a grid of small images with row and column names.

    Args:
        columns: the images of each column, float (R, C, H, W) from 0 to 1. Three channels are red, green and blue;
            any other number of channels is shown as its grey mean.
        title: the figure's title.
        row_names: R names.
        column_names: one name for each column.
        captions: the text below each image, of one or more lines: R texts for each column; empty for none.

    Example:
        >>> import torch
        >>> from fcnet.figures.style import LIGHT, png_bytes, use_theme
        >>> with use_theme(LIGHT):
        ...     png = png_bytes(image_grid([torch.rand(2, 3, 8, 8)], title="noise", row_names="ab", column_names="1"))
        >>> png[1:4]
        b'PNG'
    """
    num_rows, num_columns = len(row_names), len(columns)
    num_lines = max((text.count("\n") + 1 for texts in captions for text in texts), default=0)
    height = 1.0 + _LINE * num_lines
    figure = new_figure(_INCHES * num_columns, _INCHES * height * num_rows + 0.5)
    font: dict[str, Any] = {"fontsize": "small", "parse_math": False}
    figure.suptitle(title, **font)
    axes = figure.subplots()  # one for all images: matplotlib takes 20 ms for the axes of each
    for column, row in itertools.product(range(num_columns), range(num_rows)):
        image = columns[column][row]
        side, width = (_FILLED * size / max(image.shape[1:]) for size in image.shape[1:])
        left, top = column + (1.0 - width) / 2, row * height + (1.0 - side) / 2
        pixels = (image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)).clamp(0.0, 1.0).numpy()
        extent = (left, left + width, top + side, top)
        axes.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest", extent=extent)
        frame = Rectangle((left, top), width, side, fill=False, linewidth=0.8, edgecolor=rcParams["grid.color"])
        axes.add_patch(frame)
        if captions:
            axes.text(column + 0.5, row * height + 0.98, captions[column][row], ha="center", va="top", fontsize=6.5,
                      parse_math=False)  # fmt: skip
    axes.set_xticks([column + 0.5 for column in range(num_columns)], column_names, **font)
    middles = [row * height + 0.5 for row in range(num_rows)]
    axes.set_yticks(middles, row_names, rotation="vertical", va="center", **font)
    axes.tick_params(length=0.0, labeltop=True, labelbottom=False)
    axes.set(xlim=(0, num_columns), ylim=(num_rows * height, 0), frame_on=False)
    return figure


def lr_curve(lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float) -> Figure:
    """Plots the loss against the learning rate in a learning-rate range test.

    Args:
        lrs: the learning rate of each step, increasing.
        losses: the batch loss of each step.
        smoothed: the running mean of the losses.
        suggestion: the learning rate to mark.

    Example:
        >>> from fcnet.figures.style import DARK, figure_bytes, use_theme
        >>> with use_theme(DARK):
        ...     files = figure_bytes(lr_curve([0.01, 0.1, 1.0], [2.0, 1.0, 3.0], [2.0, 1.4, 2.1], suggestion=0.01))
        >>> sorted(files)
        ['png', 'svg']
    """
    figure = new_figure(6.4, 3.8)
    figure.suptitle("Learning-rate range test", fontsize=12)
    axes = figure.subplots()
    axes.plot(lrs, losses, color=rcParams["grid.color"], linestyle="-", linewidth=0.8, label="loss of a batch")
    axes.plot(lrs, smoothed, label="running mean")
    axes.axvline(suggestion, color="C1", linestyle="--", label=f"suggested: {suggestion:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", ylim=(0.0, 1.5 * smoothed[0]))
    axes.legend()
    return figure
