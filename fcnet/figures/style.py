"""The style of all figures: a light and a dark theme, with lines that differ without colour too."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
from cycler import cycler
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

LINE_STYLES = ("-", "--", "-.", ":")
"""The dash patterns of a figure's lines, in order. Each goes with a colour of a different luminance."""

_DPI = 150


@dataclass(frozen=True)
class Theme:
    """A colour scheme, each colour as ``#rrggbb``.

    Attributes:
        name: the theme's name in file names.
        background: the figure's background.
        foreground: text and outlines.
        muted: axes and grid lines.
        colors: the lines, one colour for each of `LINE_STYLES`.
    """

    name: str
    background: str
    foreground: str
    muted: str
    colors: tuple[str, str, str, str]

    @property
    def rc_params(self) -> dict[str, Any]:
        """The theme as matplotlib settings."""
        text = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), self.foreground)
        frame = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), self.muted)
        return {
            **text,
            **frame,
            "figure.facecolor": self.background,
            "axes.facecolor": self.background,
            "savefig.facecolor": self.background,
            "xtick.labelcolor": self.foreground,
            "ytick.labelcolor": self.foreground,
            "axes.prop_cycle": cycler(color=self.colors) + cycler(linestyle=LINE_STYLES),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.labelsize": 10,
            "axes.xmargin": 0,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "legend.handlelength": 3.2,
            "lines.linewidth": 1.8,
            "hatch.color": self.muted,
            "hatch.linewidth": 0.6,
            "svg.hashsalt": "fcnet",
        }


LIGHT = Theme("light", "#ffffff", "#1a1a1a", "#6f6f6f", ("#10305c", "#cf4f10", "#0c5f58", "#949494"))
DARK = Theme("dark", "#14181d", "#f0f0f0", "#9aa0a6", ("#f4f1de", "#f2a65a", "#459d91", "#70767d"))
THEMES = (LIGHT, DARK)


@contextlib.contextmanager
def use_theme(theme: Theme) -> Iterator[None]:
    """Applies a theme within a block, independent of the user's matplotlib settings and fonts."""
    _prefer_bundled_fonts()
    with matplotlib.style.context(["default", theme.rc_params]):
        yield


def _prefer_bundled_fonts() -> None:
    """Moves matplotlib's bundled fonts to the front of its list, so that system fonts of the same name do not win."""
    fonts = font_manager.fontManager
    own = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf"))
    if [Path(font.fname) for font in fonts.ttflist[: len(own)]] != own:
        found, fonts.ttflist = fonts.ttflist, []
        for file in own:
            fonts.addfont(file)  # also clears the cache of font look-ups
        fonts.ttflist += found


def new_figure(width: float, height: float) -> Figure:
    """Creates a figure, with sizes in inches and a layout that avoids overlaps."""
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def drawing_axes(figure: Figure, width: float, height: float) -> Axes:
    """Adds axes for a drawing: no frame, and equal units in x and y."""
    axes = figure.subplots()
    axes.set(xlim=(0.0, width), ylim=(0.0, height), aspect="equal")
    axes.set_axis_off()
    return axes


def figure_bytes(figure: Figure) -> dict[str, bytes]:
    """Returns the figure as SVG and PNG files, by suffix.

    Equal figures give equal bytes: the files contain no date and no random identifiers.

    Example:
        >>> with use_theme(DARK):
        ...     files = figure_bytes(new_figure(2.0, 1.0))
        >>> files["svg"][:5], files["png"][1:4]
        (b'<?xml', b'PNG')
    """
    png, svg = png_bytes(figure), io.BytesIO()
    figure.set_layout_engine("none")  # keep the layout of the PNG
    for axes in figure.axes:
        # The last digits of a layout differ between processes, and an SVG names its clip paths by all digits.
        left, bottom, width, height = (round(value, 9) for value in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))
    with _any_script():
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return {"svg": svg.getvalue(), "png": png}


def png_bytes(figure: Figure) -> bytes:
    """Returns the figure as a PNG file alone; equal figures give equal bytes."""
    png = io.BytesIO()
    with _any_script():
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})  # `savefig` draws everything twice
    return png.getvalue()


@contextlib.contextmanager
def _any_script() -> Iterator[None]:
    """Silences the warnings of names in a script that matplotlib's font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
