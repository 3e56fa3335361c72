"""The figure of corruption robustness: one panel for each kind of corruption.

Call `plot_corruptions` inside `fcnet.figures.style.use_theme`. Letters: S severities; C channels, H rows and W columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from matplotlib import rcParams
from matplotlib.ticker import PercentFormatter

from fcnet.figures.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_COLUMNS = 3


class Panel(NamedTuple):
    """One kind of corruption.

    Attributes:
        title: its name.
        images: uint8 (1 + S, C, H, W), one image without corruption and at each severity.
        accuracies: 1 + S fractions.
        intervals: the ends of each accuracy's interval.
    """

    title: str
    images: Tensor
    accuracies: Sequence[float]
    intervals: Sequence[tuple[float, float]]


def plot_corruptions(panels: Sequence[Panel], chance: float) -> Figure:
    """Plots accuracy against severity, with an example image above each severity.

    Args:
        panels: one for each kind of corruption.
        chance: the accuracy of random guessing, drawn as a line in each panel.
    """
    rows = -(-len(panels) // _COLUMNS)
    figure = new_figure(8.4, 0.7 + 2.6 * rows)
    figure.suptitle("Accuracy on corrupted test images", fontsize=12)
    grid = figure.subplots(2 * rows, _COLUMNS, height_ratios=(1, 3) * rows, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, panel in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        strip, axes = grid[2 * row, column], grid[2 * row + 1, column]
        strip.set_title(panel.title)
        _show_images(strip, panel.images)
        axes.set_axis_on()
        _plot_accuracy(axes, panel, chance)
        axes.set_xlabel("severity" if number + _COLUMNS >= len(panels) else "")
        axes.set_ylabel("accuracy" if column == 0 else "")
        axes.tick_params(labelleft=column == 0)
    grid[1, 0].annotate("chance", (0.0, chance), (0, 2), textcoords="offset points", fontsize="small")
    return figure


def _show_images(axes: Axes, images: Tensor) -> None:
    """Draws the images in a row, each centred at its severity."""
    height, width = images.shape[2:]
    half_width, half_height = (0.46 * size / max(height, width) for size in (width, height))
    for severity, image in enumerate(images):
        pixels = image.permute(1, 2, 0) if len(image) == 3 else image.float().mean(0)
        extent = (severity - half_width, severity + half_width, -half_height, half_height)
        axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest")
    axes.set(xlim=(-0.5, len(images) - 0.5), ylim=(-0.5, 0.5), aspect="equal")


def _plot_accuracy(axes: Axes, panel: Panel, chance: float) -> None:
    severities = range(len(panel.accuracies))
    low, high = zip(*panel.intervals, strict=True)
    axes.fill_between(severities, low, high, color=rcParams["grid.color"], alpha=0.3, linewidth=0)
    axes.axhline(chance, color=rcParams["grid.color"], linewidth=0.8, linestyle=":")
    axes.plot(severities, panel.accuracies, marker="o", markersize=4, clip_on=False, zorder=3)
    axes.set(xlim=(-0.5, len(severities) - 0.5), ylim=(0.0, 1.0), xticks=list(severities), yticks=[0.0, 0.5, 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
