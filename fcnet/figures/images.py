"""The lecture's figures of images, weights and activations.

Call each function inside `fcnet.figures.style.use_theme`. Images have one channel, H rows and W columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from matplotlib import rcParams
from torch import Tensor

from fcnet.figures.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_SIGNED_CMAP = "cividis"
"""From dark blue through grey to light yellow, with increasing luminance, so that signs stay visible in greyscale."""


def samples(images: Tensor, classes: Sequence[str]) -> Figure:
    """Shows K images of each of C classes, float (C, K, H, W) from 0 to 1, one column for each class."""
    figure = new_figure(6.4, 3.7)
    axes = figure.subplots()
    _show_gray(axes, _mosaic(images.transpose(0, 1)))
    width = images.shape[-1] + 1
    axes.set_xticks([width * column + (width - 2) / 2 for column in range(len(classes))], classes)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.set_xlabel("class")
    return figure


def weights(images: Tensor, classes: Sequence[str]) -> Figure:
    """Shows each class's row of W as an image, float (C, H, W), all on one symmetric scale."""
    figure = new_figure(6.4, 3.2)
    grid = figure.subplots(2, -(-len(classes) // 2), squeeze=False)
    reach = float(images.abs().max())
    for axes, image, name in zip(grid.flat, images, classes, strict=True):
        shown = axes.imshow(image.numpy(), cmap=_SIGNED_CMAP, vmin=-reach, vmax=reach, interpolation="nearest")
        axes.set(xticks=[], yticks=[], title=f"class {name}")
    bar = figure.colorbar(shown, ax=grid, shrink=0.85, label="weight")
    bar.set_ticks([-reach, 0.0, reach], labels=[f"−{reach:.2f}", "0", f"+{reach:.2f}"])
    return figure


def forward_pass(image: Tensor, layers: Sequence[Tensor], classes: Sequence[str], label: int) -> Figure:
    """Shows an image, the activations of each hidden layer, and the class probabilities.

    Args:
        image: float (H, W), from 0 to 1.
        layers: a[1], …, a[L], non-negative float (n[l],) each. The last holds the probabilities; the others are shown
            as images of H rows, from black for 0 to white for the maximum.
        classes: the n[L] class names.
        label: the true class.
    """
    figure = new_figure(6.4, 3.0)
    *hidden, probabilities = layers
    height, width = image.shape
    grids = [image, *(values.view(height, -1) for values in hidden)]
    panels = figure.subplots(1, len(grids) + 1, width_ratios=[*(grid.shape[1] for grid in grids), 1.4 * width])
    for layer, (axes, grid) in enumerate(zip(panels[:-1], grids, strict=True)):
        white = float(grid.max()) if layer else 1.0
        _show_gray(axes, grid, white)
        axes.set_title(f"$a^{{[{layer}]}}$" if layer else "$a^{[0]} = x$")
        axes.set_xlabel(
            f"{grid.numel()} units\n0 to {white:.1f}" if layer else f"{grid.numel()} pixels\nblack 0, white 1"
        )
    _bars(panels[-1], probabilities, classes, label)
    panels[-1].set_box_aspect(height / (1.4 * width))
    panels[-1].set_title(f"$a^{{[{len(layers)}]}} = \\hat{{p}}$")
    return figure


def interpolation(
    images: Tensor, positions: Tensor, scores: Tensor, probabilities: Tensor, names: tuple[str, str]
) -> Figure:
    """Plots score and probability along the line x(t) = (1 − t) x₀ + t x₁, with images of the line below.

    Args:
        images: float (K, H, W), at evenly spaced t from the first position to the last.
        positions: t, (N,), increasing.
        scores: h, (N,).
        probabilities: the probability of the second class, (N,).
        names: the classes of x₀ and x₁.
    """
    figure = new_figure(6.4, 4.6)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[1.2, 1.5, 0.9])
    first, last = float(positions[0]), float(positions[-1])
    for axes, values in ((top, scores), (middle, probabilities)):
        axes.plot(positions.numpy(), values.numpy(), color=rcParams["text.color"])
        for end in (0.0, 1.0):
            axes.axvline(end, color=rcParams["grid.color"], linewidth=0.8)
    top.axhline(0.0, color=rcParams["grid.color"], linewidth=0.8)
    reach = 1.2 * float(scores.abs().max())
    top.set(ylabel="score $h$", ylim=(-reach, reach))
    middle.axhline(0.5, color=rcParams["grid.color"], linewidth=0.8)
    middle.set(ylabel=f"probability of {names[1]}", ylim=(-0.05, 1.05), yticks=[0.0, 0.5, 1.0])
    for end, name in enumerate(names):
        top.text(end, 1.02, f"$x_{end}$, class {name}", ha="center", va="bottom", transform=top.get_xaxis_transform())
    width = (last - first) / (len(images) - 1)
    for number, image in enumerate(images):
        centre = first + width * number
        inset = bottom.inset_axes((centre - 0.46 * width, 0.0, 0.92 * width, 1.0), transform=bottom.transData)
        _show_gray(inset, image)
    bottom.set(xlabel="$t$", yticks=[], xlim=(first - 0.5 * width, last + 0.5 * width), xticks=[-1.0, 0.0, 1.0, 2.0])
    bottom.spines[:].set_visible(False)
    return figure


def _show_gray(axes: Axes, image: Tensor, white: float = 1.0) -> AxesImage:
    shown = axes.imshow(image.numpy(), cmap="gray", vmin=0.0, vmax=white, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return shown


def _mosaic(images: Tensor) -> Tensor:
    """Joins images (R, C, H, W) to one image, separated by one transparent pixel (NaN)."""
    spaced = torch.nn.functional.pad(images, (0, 1, 0, 1), value=torch.nan)
    return torch.cat([torch.cat(list(row), dim=1) for row in spaced])[:-1, :-1]


def _bars(axes: Axes, probabilities: Tensor, classes: Sequence[str], label: int) -> None:
    """Draws a bar for each class; the bar of the true class is hatched and labelled."""
    ink = rcParams["text.color"]
    bars = axes.barh(range(len(classes)), probabilities.numpy(), facecolor=ink, edgecolor=ink)
    bars[label].set(facecolor=rcParams["axes.facecolor"], hatch="////")
    axes.set(xlim=(0.0, 1.0), xlabel="probability", yticks=range(len(classes)), yticklabels=classes)
    axes.set_xticks([0.0, 0.5, 1.0])
    axes.invert_yaxis()
    end = float(probabilities[label])
    inside = end > 0.7  # a long bar leaves no room to its right
    paper = {"boxstyle": "square,pad=0.1", "facecolor": rcParams["axes.facecolor"], "edgecolor": "none"}
    axes.text(
        end + (-0.04 if inside else 0.04),
        label,
        "true class",
        ha="right" if inside else "left",
        va="center",
        bbox=paper,
    )
