"""Figures with their spread: measured in turn, as a table, as JSON lines, as a plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fcnet.plots.style import LIGHT, blank, saved, themed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

OURS, LIMIT = "fcnet", "limit"


@dataclass(frozen=True)
class Figure:
    """What one contender took in one case.

    Attributes:
        case: what was done.
        who: who did it.
        values: a value a repeat, in the order of the repeats.
        unit: of the values.
        beside: what else is known of it, by name.
        note: how it differs from the others.
    """

    case: str
    who: str
    values: tuple[float, ...]
    unit: str
    beside: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        """The least to the most."""
        return f"{min(self.values):.4g} to {max(self.values):.4g}"

    def over(self, other: Figure) -> float:
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


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int, *, fill_seconds: float, device: torch.device
) -> dict[str, tuple[float, ...]]:
    """Seconds a call of each, in turn, after calls that do not count.

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
            times[name].append(seconds(run, device, calls[name]))
    return {name: tuple(values) for name, values in times.items()}


def found(figures: Sequence[Figure], who: str) -> Figure | None:
    """A contender's figure."""
    return next((figure for figure in figures if figure.who == who), None)


def by_case(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """The figures of each case, in order."""
    cases: dict[str, list[Figure]] = {}
    for figure in figures:
        cases.setdefault(figure.case, []).append(figure)
    return cases


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def print_figures(figures: Sequence[Figure]) -> None:
    """A table for each case: the median, the spread, how many times the limit's and how many times ours."""
    for case, own in by_case(figures).items():
        names = list(dict.fromkeys(name for figure in own for name in figure.beside))
        bases = [(head, base) for head, who in (("× limit", LIMIT), (f"× {OURS}", OURS)) if (base := found(own, who))]
        rows = [
            [
                figure.who,
                f"{figure.median:.4g}",
                figure.spread,
                *(f"{figure.over(base):.2f}" for _, base in bases),
                *(_said(figure.beside.get(name, "")) for name in names),
            ]
            for figure in own
        ]
        print(f"{case}\n")
        print_table(["", own[0].unit, "least to most", *(head for head, _ in bases), *names], rows)
        for figure in own:
            if figure.note:
                print(f"{figure.who}: {figure.note}\n", flush=True)


def _said(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure depends on beside the program."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def append_lines(figures: Sequence[Figure], path: Path, about: Mapping[str, Any]) -> None:
    """Appends a line of JSON for each figure, with what it depends on."""
    with path.open("a") as file:
        for figure in figures:
            line: dict[str, Any] = {"case": figure.case, "who": figure.who, "unit": figure.unit}
            line |= {"median": figure.median, "least": min(figure.values), "most": max(figure.values)}
            line |= {"values": figure.values, "note": figure.note, **figure.beside}
            file.write(json.dumps(line | dict(about)) + "\n")


def plot(figures: Sequence[Figure], path: Path) -> None:
    """Draws a panel for each case, a bar for each contender, the spread as a whisker, the limit as a line."""
    cases = by_case(figures)
    tall = [0.6 + 0.3 * len(own) for own in cases.values()]
    with themed(LIGHT):
        figure = blank(7.0, sum(tall) + 0.3 * len(tall))
        panels = figure.subplots(len(cases), 1, squeeze=False, height_ratios=tall)[:, 0]
        for axes, (case, own) in zip(panels, cases.items(), strict=True):
            shown = own[::-1]
            medians = [each.median for each in shown]
            whiskers = [
                [each.median - min(each.values) for each in shown],
                [max(each.values) - each.median for each in shown],
            ]
            colours = [LIGHT.colours[1] if each.who == OURS else LIGHT.colours[3] for each in shown]
            bars = axes.barh([each.who for each in shown], medians, xerr=whiskers, color=colours, ecolor=LIGHT.ink)
            axes.bar_label(bars, [f"{value:.3g}" for value in medians], padding=5, fontsize=9)
            if (limit := found(own, LIMIT)) is not None:
                axes.axvline(limit.median, color=LIGHT.colours[0], linewidth=1.0)
            axes.set(title=case, xlabel=own[0].unit, xscale="log")
            axes.margins(x=0.12)
        path.write_bytes(saved(figure)[path.suffix.removeprefix(".")])
