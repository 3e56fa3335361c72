"""What the commands draw of a user's own data and training.

R rows of images, each of C channels, H rows and W columns.
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
    """A sheet of small images, with a name for each row and column.

    Args:
        columns: float (R, C, H, W) each, from 0 to 1; three channels are red, green and blue, of
            others the mean is shown in grey.
        title: above all.
        row_names: R of them.
        column_names: one for each column.

    Returns:
        A PNG file's bytes.

    Example:
        >>> import torch
        >>> png = image_grid([torch.rand(2, 3, 8, 8)], title="noise", row_names="ab", column_names="1")
        >>> png[1:4]
        b'PNG'
    """
    figure = Figure(figsize=(_INCHES * len(columns), _INCHES * len(row_names) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize="small", parse_math=False)
    grid = figure.subplots(len(row_names), len(columns), squeeze=False)
    for place, (images, column_name) in enumerate(zip(columns, column_names, strict=True)):
        grid[0, place].set_title(column_name, fontsize="small", parse_math=False)
        for axes, image in zip(grid[:, place], images, strict=True):
            shown = image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)
            axes.imshow(shown.clamp(0.0, 1.0).numpy(), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
    for axes, row_name in zip(grid[:, 0], row_names, strict=True):
        axes.set_ylabel(row_name, fontsize="small", parse_math=False)
    return _png(figure)


def lr_curve(lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float) -> bytes:
    """The loss over the learning rate, in a range test.

    Args:
        lrs: one a step, rising.
        losses: each step's.
        smoothed: their running mean.
        suggestion: the rate that is marked.

    Returns:
        A PNG file's bytes.

    Example:
        >>> lr_curve([0.01, 0.1, 1.0], [2.0, 1.0, 3.0], [2.0, 1.4, 2.1], suggestion=0.01)[1:4]
        b'PNG'
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(lrs, losses, color="0.8", linewidth=0.8, label="a batch's loss")
    axes.plot(lrs, smoothed, color="C0", label="its running mean")
    axes.axvline(suggestion, color="C3", linestyle="--", label=f"suggested: {suggestion:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0.0, 1.5 * smoothed[0]))
    axes.legend()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name may be in any script
        figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
