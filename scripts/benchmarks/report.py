"""Figures with their spread: measured in turn, as a table, as JSON lines, as a plot."""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.ticker import LogFormatter

from fcnet.figures.style import LIGHT, figure_bytes, new_figure, use_theme
from fcnet.runtime.hardware import num_processors, processor_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

OURS, LIMIT = "fcnet", "limit"
_REST_SECONDS = 0.2


@dataclass(frozen=True)
class Measurement:
    """What one contender took in one case.

    Attributes:
        case: what was done.
        contender: who did it.
        values: a value a repeat, in the order of the repeats.
        unit: of the values.
        extra: what else is known of it, by name.
        note: how it differs from the others.
    """

    case: str
    contender: str
    values: tuple[float, ...]
    unit: str
    extra: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        """The least to the most."""
        return f"{min(self.values):.4g} to {max(self.values):.4g}"

    def ratio_to(self, other: Measurement) -> float:
        """The median of the ratios to another contender's values of the same repeats."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True))


def synchronize(device: torch.device) -> None:
    """Waits for all that the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Seconds a call, from an idle device to an idle device."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        run()
    synchronize(device)
    return (time.perf_counter() - started) / calls


def time_interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int, *, fill_seconds: float, device: torch.device
) -> dict[str, tuple[float, ...]]:
    """Seconds a call of each, in turn, after calls that do not count.

    Before each is a short rest: threads of who ran before spin on for a while, and would take a processor from it.

    Args:
        runs: what to time, by name.
        repeats: how often.
        fill_seconds: a repeat makes as many calls as fill this, one at least.
        device: what does the work; on a GPU the first call may compile, so a second one is the measure.
    """
    calls = {}
    for name, run in runs.items():
        for _ in range(2 if device.type == "cuda" else 1):
            took = seconds(run, device)
        calls[name] = max(1, round(fill_seconds / took))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            time.sleep(_REST_SECONDS)
            times[name].append(seconds(run, device, calls[name]))
    return {name: tuple(values) for name, values in times.items()}


def find_contender(figures: Sequence[Measurement], contender: str) -> Measurement | None:
    """A contender's figure."""
    return next((figure for figure in figures if figure.contender == contender), None)


def by_case(figures: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """The figures of each case, in order."""
    cases: dict[str, list[Measurement]] = {}
    for figure in figures:
        cases.setdefault(figure.case, []).append(figure)
    return cases


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def print_measurements(figures: Sequence[Measurement]) -> None:
    """A table for each case: the median, the spread, how many times the limit's and how many times ours."""
    for case, own in by_case(figures).items():
        names = list(dict.fromkeys(name for figure in own for name in figure.extra))
        bases = [(f"× {who}", base) for who in (LIMIT, OURS) if len(own) > 1 and (base := find_contender(own, who))]
        rows = [
            [
                figure.contender,
                f"{figure.median:.4g}",
                figure.spread,
                *(f"{figure.ratio_to(base):.2f}" for _, base in bases),
                *(_format(figure.extra.get(name, "")) for name in names),
            ]
            for figure in own
        ]
        print(f"{case}\n")
        print_table(["", own[0].unit, "least to most", *(head for head, _ in bases), *names], rows)
        for figure in own:
            if figure.note:
                print(f"{figure.contender}: {figure.note}\n", flush=True)


def _format(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def machine_info(device: torch.device) -> dict[str, Any]:
    """What a figure depends on beside the program."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": processor_name(),
        "processors": num_processors(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def append_lines(figures: Sequence[Measurement], path: Path, about: Mapping[str, Any]) -> None:
    """Appends a line of JSON for each figure, with what it depends on."""
    with path.open("a") as file:
        for figure in figures:
            line: dict[str, Any] = {"case": figure.case, "contender": figure.contender, "unit": figure.unit}
            line |= {"median": figure.median, "least": min(figure.values), "most": max(figure.values)}
            line |= {"values": figure.values, "note": figure.note, **figure.extra}
            file.write(json.dumps(line | dict(about)) + "\n")


def plot(figures: Sequence[Measurement], path: Path) -> None:
    """Draws a panel for each case: a dot a contender, its spread as a whisker, the limit as a line to all."""
    cases = by_case(figures)
    heights = [0.8 + 0.28 * len(own) for own in cases.values()]
    with use_theme(LIGHT):
        figure = new_figure(7.0, sum(heights))
        panels = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (case, own) in zip(panels, cases.items(), strict=True):
            _draw(axes, own)
            axes.set_title(case, loc="left")
        path.write_bytes(figure_bytes(figure)[path.suffix.removeprefix(".")])


def _draw(axes: Axes, own: Sequence[Measurement]) -> None:
    colours = {OURS: LIGHT.colors[1], LIMIT: LIGHT.colors[0]}
    for row, figure in enumerate(own):
        spread = [[figure.median - min(figure.values)], [max(figure.values) - figure.median]]
        colour = colours.get(figure.contender, LIGHT.muted)
        axes.errorbar([figure.median], [row], xerr=spread, fmt="o", color=colour, capsize=3)
        axes.annotate(f"{figure.median:.3g}", (figure.median, row), (0, 4), textcoords="offset points", ha="center")
    if (limit := find_contender(own, LIMIT)) is not None:
        axes.axvline(limit.median, color=LIGHT.colors[0], linewidth=0.8)
    axes.set_yticks(range(len(own)), [figure.contender for figure in own])
    axes.set(xlabel=own[0].unit, ylim=(len(own) - 0.5, -0.8))
    if min(min(figure.values) for figure in own) > 0.0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.4)))
    axes.grid(axis="y", linewidth=0.4, alpha=0.5, linestyle="-")
    axes.margins(x=0.1)
