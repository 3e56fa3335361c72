"""What damage does to images and to a network's accuracy: a panel for each kind.

To be called inside `fcnet.figures.style.use_theme`. S strengths; images of C channels, H rows and W columns.
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
    """One kind of damage.

    Attributes:
        title: its name.
        images: uint8 (1 + S, C, H, W), one image undamaged, then at each strength.
        accuracies: 1 + S fractions.
        intervals: of each.
    """

    title: str
    images: Tensor
    accuracies: Sequence[float]
    intervals: Sequence[tuple[float, float]]


def plot_corruptions(panels: Sequence[Panel], chance: float) -> Figure:
    """The accuracy over the strength, with one image as it looks there.

    Args:
        panels: one a kind.
        chance: the accuracy of guessing, a line in each panel.
    """
    rows = -(-len(panels) // _COLUMNS)
    figure = new_figure(8.4, 0.4 + 2.6 * rows)
    grid = figure.subplots(2 * rows, _COLUMNS, height_ratios=(1, 3) * rows, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for place, panel in enumerate(panels):
        row, column = divmod(place, _COLUMNS)
        strip, axes = grid[2 * row, column], grid[2 * row + 1, column]
        strip.set_title(panel.title)
        _strip(strip, panel.images)
        axes.set_axis_on()
        _curve(axes, panel, chance)
        axes.set_xlabel("strength" if place + _COLUMNS >= len(panels) else "")
        axes.set_ylabel("accuracy" if column == 0 else "")
        axes.tick_params(labelleft=column == 0)
    grid[1, 0].annotate("guessing", (0.0, chance), (0, 2), textcoords="offset points", fontsize="small")
    return figure


def _strip(axes: Axes, images: Tensor) -> None:
    """The images in a row, each over its strength."""
    side = max(images.shape[2:])
    half = [0.46 * size / side for size in (images.shape[3], images.shape[2])]
    for place, image in enumerate(images):
        shown = image.permute(1, 2, 0) if len(image) == 3 else image.float().mean(0)
        extent = (place - half[0], place + half[0], -half[1], half[1])
        axes.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest")
    axes.set(xlim=(-0.5, len(images) - 0.5), ylim=(-0.5, 0.5), aspect="equal")


def _curve(axes: Axes, panel: Panel, chance: float) -> None:
    """The accuracy over the strength, with its interval, from nothing to all."""
    severities = range(len(panel.accuracies))
    low, high = zip(*panel.intervals, strict=True)
    axes.fill_between(severities, low, high, color=rcParams["grid.color"], alpha=0.3, linewidth=0)
    axes.axhline(chance, color=rcParams["grid.color"], linewidth=0.8, linestyle=":")
    axes.plot(severities, panel.accuracies, marker="o", markersize=4, clip_on=False, zorder=3)
    axes.set(xlim=(-0.5, len(severities) - 0.5), ylim=(0.0, 1.0), xticks=list(severities), yticks=[0.0, 0.5, 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
