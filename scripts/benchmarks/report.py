"""Measurements with their spread: interleaved timing, tables, JSON lines and plots."""

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
from fcnet.runtime.hardware import num_processors, processor_name, synchronize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

OURS, LIMIT = "fcnet", "limit"
_REST_SECONDS = 0.2


@dataclass(frozen=True)
class Measurement:
    """The measurements of one contender in one case.

    Attributes:
        case: the name of the case.
        contender: the name of the contender.
        values: one value per repeat, in order.
        unit: the unit of the values.
        extra: further figures, by name.
        note: how the contender differs from the others.
    """

    case: str
    contender: str
    values: tuple[float, ...]
    unit: str
    extra: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        """The range of the values."""
        return f"{min(self.values):.4g} to {max(self.values):.4g}"

    def ratio_to(self, other: Measurement) -> float:
        """Returns the median ratio to the values of another contender in the same repeats."""
        return statistics.median(a / b for a, b in zip(self.values, other.values, strict=True))


def seconds(run: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Times a function and returns the seconds per call, from an idle device to an idle device."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        run()
    synchronize(device)
    return (time.perf_counter() - started) / calls


def time_interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int, *, fill_seconds: float, device: torch.device
) -> dict[str, tuple[float, ...]]:
    """Times several functions in turn, after a warm-up, and returns the seconds per call of each repeat.

    A short rest precedes each measurement: worker threads of the previous function keep spinning for a while.

    Args:
        runs: the functions, by name.
        repeats: the number of repeats.
        fill_seconds: a repeat makes as many calls as fit into this time, at least one.
        device: the device of the work.
    """
    calls = {}
    for name, run in runs.items():
        for _ in range(2 if device.type == "cuda" else 1):  # on a GPU the first call may compile
            took = seconds(run, device)
        calls[name] = max(1, round(fill_seconds / took))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            time.sleep(_REST_SECONDS)
            times[name].append(seconds(run, device, calls[name]))
    return {name: tuple(values) for name, values in times.items()}


def find_contender(measurements: Sequence[Measurement], contender: str) -> Measurement | None:
    """Returns the measurement of a contender, or None."""
    return next((each for each in measurements if each.contender == contender), None)


def by_case(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Groups measurements by case, in order."""
    cases: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        cases.setdefault(measurement.case, []).append(measurement)
    return cases


def format_mean_std(values: Iterable[float], spec: str) -> str:
    """Formats the mean and the standard deviation of several values; of a single value, the value alone."""
    known = list(values)
    deviation = f" ± {statistics.stdev(known):{spec}}" if len(known) > 1 else ""
    return f"{statistics.mean(known):{spec}}{deviation}"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def print_measurements(measurements: Sequence[Measurement]) -> None:
    """Prints a table for each case: median, range, and the ratios to the limit and to fcnet."""
    for case, group in by_case(measurements).items():
        names = list(dict.fromkeys(name for each in group for name in each.extra))
        bases = [
            (f"× {name}", base) for name in (LIMIT, OURS) if len(group) > 1 and (base := find_contender(group, name))
        ]
        rows = [
            [
                each.contender,
                f"{each.median:.4g}",
                each.spread,
                *(f"{each.ratio_to(base):.2f}" for _, base in bases),
                *(_format(each.extra.get(name, "")) for name in names),
            ]
            for each in group
        ]
        print(f"{case}\n")
        print_table(["", group[0].unit, "range", *(head for head, _ in bases), *names], rows)
        for each in group:
            if each.note:
                print(f"{each.contender}: {each.note}\n", flush=True)


def _format(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def machine_info(device: torch.device) -> dict[str, Any]:
    """Returns the hardware and the versions that a measurement depends on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": processor_name(),
        "processors": num_processors(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def append_lines(measurements: Sequence[Measurement], path: Path, about: Mapping[str, Any]) -> None:
    """Appends a JSON line for each measurement, with the entries of ``about``."""
    with path.open("a") as file:
        for each in measurements:
            line: dict[str, Any] = {"case": each.case, "contender": each.contender, "unit": each.unit}
            line |= {"median": each.median, "least": min(each.values), "most": max(each.values)}
            line |= {"values": each.values, "note": each.note, **each.extra}
            file.write(json.dumps(line | dict(about)) + "\n")


def plot(measurements: Sequence[Measurement], path: Path) -> None:
    """Plots each case in a panel: medians as dots, ranges as whiskers, the limit as a vertical line."""
    cases = by_case(measurements)
    heights = [0.8 + 0.28 * len(group) for group in cases.values()]
    with use_theme(LIGHT):
        figure = new_figure(7.0, sum(heights))
        panels = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (case, group) in zip(panels, cases.items(), strict=True):
            _draw_panel(axes, group)
            axes.set_title(case, loc="left")
        path.write_bytes(figure_bytes(figure)[path.suffix.removeprefix(".")])


def _draw_panel(axes: Axes, group: Sequence[Measurement]) -> None:
    colors = {OURS: LIGHT.colors[1], LIMIT: LIGHT.colors[0]}
    for row, each in enumerate(group):
        spread = [[each.median - min(each.values)], [max(each.values) - each.median]]
        color = colors.get(each.contender, LIGHT.muted)
        axes.errorbar([each.median], [row], xerr=spread, fmt="o", color=color, capsize=3)
        axes.annotate(f"{each.median:.3g}", (each.median, row), (0, 4), textcoords="offset points", ha="center")
    if (limit := find_contender(group, LIMIT)) is not None:
        axes.axvline(limit.median, color=LIGHT.colors[0], linewidth=0.8)
    axes.set_yticks(range(len(group)), [each.contender for each in group])
    axes.set(xlabel=group[0].unit, ylim=(len(group) - 0.5, -0.8))
    if min(min(each.values) for each in group) > 0.0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.4)))
    axes.grid(axis="y", linewidth=0.4, alpha=0.5, linestyle="-")
    axes.margins(x=0.1)
