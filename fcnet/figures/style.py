"""How the lecture's figures look: on light or dark paper, and told apart without colour."""

from __future__ import annotations

import contextlib
import io
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
"""Of the first, second, … line of a figure, each in a colour of another luminance."""

_DPI = 150


@dataclass(frozen=True)
class Theme:
    """Colours, each as ``#rrggbb``.

    Attributes:
        name: as in the files' names.
        background: the background.
        foreground: of letters and outlines.
        muted: of what stands back, axes and grids.
        colors: of lines, one for each of `LINE_STYLES`.
    """

    name: str
    background: str
    foreground: str
    muted: str
    colors: tuple[str, str, str, str]

    @property
    def rc_params(self) -> dict[str, Any]:
        """What of matplotlib's own settings is otherwise."""
        letters = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), self.foreground)
        frame = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), self.muted)
        return {
            **letters,
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
    """A block in which figures are made and saved in a theme, whatever the user's own settings and fonts are."""
    _prefer_bundled_fonts()
    with matplotlib.style.context(["default", theme.rc_params]):
        yield


def _prefer_bundled_fonts() -> None:
    """Has matplotlib take its own files where others have the same name, whatever it found, and in whatever order."""
    fonts = font_manager.fontManager
    own = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf"))
    if [Path(font.fname) for font in fonts.ttflist[: len(own)]] != own:
        found, fonts.ttflist = fonts.ttflist, []
        for file in own:
            fonts.addfont(file)  # forgets which files were chosen before
        fonts.ttflist += found


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, whose parts make room for each other."""
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def drawing_axes(figure: Figure, width: float, height: float) -> Axes:
    """Axes without a frame for a drawing, in which a unit is as long across as it is high."""
    axes = figure.subplots()
    axes.set(xlim=(0.0, width), ylim=(0.0, height), aspect="equal")
    axes.set_axis_off()
    return axes


def figure_bytes(figure: Figure) -> dict[str, bytes]:
    """The bytes of its files, by format, the same at every call: they hold no date and no drawn identifier.

    Example:
        >>> with use_theme(DARK):
        ...     files = figure_bytes(new_figure(2.0, 1.0))
        >>> files["svg"][:5], files["png"][1:4]
        (b'<?xml', b'PNG')
    """
    svg, png = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})  # `savefig` would draw everything twice
    figure.set_layout_engine("none")  # the parts stay where they have found room
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return {"svg": svg.getvalue(), "png": png.getvalue()}
