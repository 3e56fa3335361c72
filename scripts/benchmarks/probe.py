"""Times paths of softmax regressions on features to an equal objective, and measures the memory of fcnet's.

The objective C Σ_i ℓ_i + ½ ‖W‖² of every solution is computed in float64. Its excess is relative to the lowest
objective known: that of any method, or of a path in float64, whose certificate is printed. Each method gets the loosest
setting of its ladder with which its excess is at most 1e-6: for each C where it fits one after another, else for all.
Where no setting reaches it, the tightest one is timed, and the excess is printed. A method that takes longer than the
limit is timed on the first penalties that fit.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.peers import suppress_warnings
from benchmarks.probe_methods import METHODS, Data, Setting, Solution, cross_entropy
from benchmarks.report import OURS, Measurement, print_measurements, seconds
from fcnet.linear_model import fit_path
from fcnet.linear_model.path import DEFAULT_CS
from fcnet.probe.arguments import parse_penalties
from fcnet.runtime.hardware import num_processors

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from benchmarks.probe_methods import Method

TARGET = 1e-6
_CERTIFIED = 1e-2 * TARGET
_REFERENCE_TOLS = (1e-8, 1e-10)
_REFERENCE_ITERATIONS = 3000
_ROWS_AT_ONCE = 1 << 12
_GROWTH = 2
"""How many times more penalties a method that fits them together gets in the next trial."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``--probe``."""
    group = parser.add_argument_group("with --probe")
    group.add_argument("--features", type=Path, help="a folder of features, as fcnet embed writes; else synthetic ones")
    group.add_argument("--examples", type=int, help="rows (50,000 synthetic ones, or all of --features)")
    group.add_argument("--width", type=int, default=768, help="synthetic features of a row")
    group.add_argument("--classes", type=int, default=10, help="classes of synthetic labels")
    group.add_argument("--Cs", type=parse_penalties, default=DEFAULT_CS, help="LOW..HIGH:N or a list such as 0.01,1")
    group.add_argument("--limit", type=float, default=math.inf, help="seconds that a method may take for all penalties")


def synthetic_features(
    num_rows: int, num_features: int, num_classes: int, *, seed: int = 0
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Draws features whose variances fall as 1/j along random axes, and the labels of a linear teacher with noise.

    The first C rows have a label of each class.

    Returns:
        x, float32 (N, D), and y, int64 (N,).
    """
    draws = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, num_features + 1).rsqrt()
    axes = torch.linalg.qr(torch.randn(num_features, num_features, generator=draws)).Q
    z = torch.randn(num_rows, num_features, generator=draws)
    teacher = torch.randn(num_features, num_classes, generator=draws) * scale[:, None]
    scores = z @ teacher
    scores += scores.std() * torch.randn(scores.shape, generator=draws)
    y = scores.argmax(1)
    y[:num_classes] = torch.arange(num_classes)
    return ((z * scale) @ axes).numpy(), y.numpy()


def load_features(
    folder: Path, num_rows: int | None
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Reads the training features of a folder, or some of their rows, evenly spaced."""
    x, y = np.load(folder / "x_train.npy", mmap_mode="r"), np.load(folder / "y_train.npy")
    rows = np.linspace(0, len(x) - 1, min(num_rows or len(x), len(x))).astype(np.int64)
    return np.asarray(x[rows], np.float32), np.unique(y[rows], return_inverse=True)[1]


def standardize(x: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Tensor:
    """Returns (x − mean) / std in float32; constant columns become 0."""
    std = x.std(0, dtype=np.float64)
    x = (x - x.mean(0, dtype=np.float64)) / np.where(std == 0.0, 1.0, std)
    return torch.from_numpy(x.astype(np.float32))


class Problem:
    """The objectives of some penalties, and the lowest values known.

    Args:
        data: the features.
        penalties: C, ascending.
    """

    def __init__(self, data: Data, penalties: Sequence[float]) -> None:
        self.data, self.penalties = data, list(penalties)
        self.reference_gap, reference = self._find_reference()
        self.lowest = self.objectives(reference, 0)

    def objectives(self, solutions: Sequence[Solution], first: int) -> list[float]:
        """Computes C Σ_i ℓ_i + ½ ‖W‖² in float64, of the penalties from the index ``first`` on."""
        weights = [solution.coef.to(self.data.device, torch.float64) for solution in solutions]
        biases = [solution.intercept.to(self.data.device, torch.float64) for solution in solutions]
        losses = [0.0] * len(solutions)
        features, labels = self.data.on_device[torch.float32], self.data.labels
        for x, y in zip(features.split(_ROWS_AT_ONCE), labels.split(_ROWS_AT_ONCE), strict=True):
            x = x.double()
            for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                losses[index] += float(cross_entropy(torch.addmm(bias, x, weight.T), y, "sum"))
        penalties = self.penalties[first : first + len(solutions)]
        norms = (float(weight.square().sum()) for weight in weights)
        return [c * loss + 0.5 * norm for c, loss, norm in zip(penalties, losses, norms, strict=True)]

    def judge(self, solutions: Sequence[Solution], first: int) -> list[float]:
        """Returns the objectives of the penalties from the index ``first`` on, and notes those below the lowest."""
        found = self.objectives(solutions, first)
        for index, value in enumerate(found, first):
            self.lowest[index] = min(self.lowest[index], value)
        return found

    def excesses(self, objectives: Sequence[float], first: int = 0) -> list[float]:
        """Returns (objective − lowest) / lowest, of the penalties from the index ``first`` on."""
        return [value / self.lowest[index] - 1.0 for index, value in enumerate(objectives, first)]

    def _find_reference(self) -> tuple[float, list[Solution]]:
        """Returns the largest gap of a path in float64, relative to the objective, and the path."""
        path = None
        for tol in _REFERENCE_TOLS:
            path = fit_path(
                self.data.on_device[torch.float32],
                self.data.y,
                self.penalties,
                start=path,
                standardize=False,
                tol=tol,
                max_iter=_REFERENCE_ITERATIONS,
            )
            gap = float((path.gap / path.objective).max())
            if gap <= _CERTIFIED:
                break
        assert path is not None
        return gap, [Solution(*parts) for parts in zip(path.coef, path.intercept, strict=True)]


@dataclass(frozen=True)
class Trial:
    """What a method needs.

    Attributes:
        method: the method.
        settings: the settings with which it reaches the objective, for as many penalties as the limit allows.
        objectives: the objective of each penalty.
        took: the seconds that this took.
    """

    method: Method
    settings: list[Setting]
    objectives: list[float]
    took: float


def find_settings(method: Method, problem: Problem, limit: float) -> Trial:
    """Finds the loosest settings of a method that reach the objective, for the penalties that ``limit`` allows."""
    if method.fits_together:
        trial = None
        for count in _counts(len(problem.penalties)):
            least = trial.settings[0] if trial else method.ladder[0]
            found = _climb(method, problem, slice(0, count), least, None, limit)[0]
            if trial and found.took > limit:
                break
            trial = found
            if _GROWTH * trial.took > limit:
                break
        assert trial is not None
        return trial
    settings: list[Setting] = []
    objectives: list[float] = []
    took, start = 0.0, None
    for index in range(len(problem.penalties)):
        rung = max(method.ladder.index(settings[-1]) - 1, 0) if settings else 0
        found, start = _climb(method, problem, slice(index, index + 1), method.ladder[rung], start, limit)
        if settings and took + found.took > limit:
            break
        settings, objectives, took = settings + found.settings, objectives + found.objectives, took + found.took
    return Trial(method, settings, objectives, took)


def _counts(most: int) -> Iterator[int]:
    """Yields growing numbers of penalties, up to all."""
    count = 1
    while count < most:
        yield count
        count *= _GROWTH
    yield most


def _climb(
    method: Method, problem: Problem, part: slice, least: Setting, start: Solution | None, limit: float
) -> tuple[Trial, Solution]:
    """Tries the settings from ``least`` on until one reaches the objective, or takes longer than the limit.

    Returns:
        The last trial, and its last solution.
    """
    penalties = problem.penalties[part]
    for setting in method.ladder[method.ladder.index(least) :]:
        settings = [setting] * len(penalties)
        since = time.perf_counter()
        solutions = method.fit(problem.data, penalties, settings, start)
        took = time.perf_counter() - since
        objectives = problem.judge(solutions, part.start)
        if max(problem.excesses(objectives, part.start)) <= TARGET or took > limit:
            break
    return Trial(method, settings, objectives, took), solutions[-1]


def compare(data: Data, penalties: Sequence[float], repeats: int, limit: float) -> list[Measurement]:
    """Prints and returns the seconds of all methods to an equal objective."""
    print(
        f"the same standardised float32 features for all, {num_processors()} threads, objective within {TARGET:g} of "
        "the lowest known, relative\n",
        flush=True,
    )
    torch.set_num_threads(num_processors())
    with suppress_warnings(), threadpool_limits(num_processors()):
        problem = Problem(data, penalties)
        print(f"certified gap of the reference: {problem.reference_gap:.1e} of the objective\n", flush=True)
        trials = []
        for method in METHODS:
            _warm_up(method, data, penalties[0])
            trials.append(find_settings(method, problem, limit))
            print(f"{method.name}: {_describe(trials[-1], problem)}; {trials[-1].took:.3g} s", flush=True)
        times: dict[str, list[float]] = {trial.method.name: [] for trial in trials}
        for _ in range(repeats):
            for trial in trials:
                times[trial.method.name].append(seconds(partial(_run, trial, problem), data.device))
    print()
    size = f"{len(data.x):,} × {data.x.shape[1]:,} features, {data.num_classes:,} classes"
    count = f"{len(penalties)} penalties from {penalties[0]:g} to {penalties[-1]:g}"
    case = f"{size}, {count if len(penalties) > 1 else f'C = {penalties[0]:g}'}"
    measurements = [
        Measurement(
            case,
            trial.method.name,
            tuple(times[trial.method.name]),
            "s",
            {"penalties": len(trial.settings), "largest excess": f"{max(problem.excesses(trial.objectives)):.1e}"},
            _describe(trial, problem),
        )
        for trial in trials
    ]
    print_measurements(measurements)
    if data.device.type == "cpu":
        measurements.append(measure_memory(data, penalties, trials[0].settings[0], repeats))
    return measurements


def _warm_up(method: Method, data: Data, penalty: float) -> None:
    """Imports what a method needs and starts its threads, on a row of each class."""
    few = torch.from_numpy(np.unique(data.y.numpy(), return_index=True)[1])
    method.fit(replace(data, x=data.x[few], y=data.y[few]), [penalty], method.ladder[:1], None)


def _run(trial: Trial, problem: Problem) -> None:
    trial.method.fit(problem.data, problem.penalties[: len(trial.settings)], trial.settings, None)


def _describe(trial: Trial, problem: Problem) -> str:
    """Returns a sentence on the settings, on penalties that were left out, and on objectives that were not reached."""
    method, count, total = trial.method, len(trial.settings), len(problem.penalties)
    uses = ", ".join(f"{setting} ({trial.settings.count(setting)})" for setting in dict.fromkeys(trial.settings))
    text = f"{method.quantity} {trial.settings[0] if method.fits_together else uses}"
    if method.note:
        text += f"; {method.note}"
    if count < total:
        text += f"; {count} of {total} penalties, those from {problem.penalties[0]:g} to "
        text += f"{problem.penalties[count - 1]:g}, fit into the limit, so its ratios are lower bounds"
    excesses = problem.excesses(trial.objectives)
    away = [(excess, c) for excess, c in zip(excesses, problem.penalties, strict=False) if excess > TARGET]
    if away:
        excess, c = max(away)
        text += f"; {len(away)} of {count} objectives are not within {TARGET:g}, the farthest {excess:.1e} at C = {c:g}"
    return text


def measure_memory(data: Data, penalties: Sequence[float], setting: Setting, repeats: int) -> Measurement:
    """Prints and returns the peak memory of fcnet's path in a process of its own, above the features that it is given.

    The process runs the same path on a few rows before, so that libraries and their threads do not count.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", data.x.numpy())
        np.save(f"{folder}/y.npy", data.y.numpy())
        arguments = folder, tuple(penalties), setting.value
        peaks = tuple(_in_new_process(arguments) / 2**20 for _ in range(repeats))
    parameters = len(penalties) * data.num_nodes * (data.x.shape[1] + 1)
    sizes = {"features, MiB": data.x.nbytes / 2**20, "30 floats a parameter, MiB": 30 * 4 * parameters / 2**20}
    case = f"peak memory above {len(data.x):,} × {data.x.shape[1]:,} features, {data.num_classes:,} classes"
    result = Measurement(f"{case}, {len(penalties)} penalties", OURS, peaks, "MiB", sizes)
    print_measurements([result])
    return result


def fit_in_process(folder: str, penalties: tuple[float, ...], tol: float) -> int:
    """Fits the path of the features in a folder; returns the bytes by which the process grew at most."""
    torch.set_num_threads(num_processors())
    x, y = (torch.from_numpy(np.load(f"{folder}/{name}.npy")) for name in "xy")
    data = Data(x, y, int(y.max()) + 1, torch.device("cpu"))
    _warm_up(METHODS[0], data, penalties[0])
    before = peak_bytes()
    METHODS[0].fit(data, penalties, [Setting(torch.float32, tol)] * len(penalties), None)
    return peak_bytes() - before


def peak_bytes() -> int:
    """Returns the peak of the resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage begins with the peak of the process that started this one
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _in_new_process(arguments: tuple[str, tuple[float, ...], float]) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(fit_in_process, arguments)


def run(flags: argparse.Namespace) -> list[Measurement]:
    """Runs the benchmark of the flags."""
    if flags.features is not None:
        x, y = load_features(flags.features, flags.examples)
    else:
        x, y = synthetic_features(flags.examples or 50_000, flags.width, flags.classes)
    data = Data(standardize(x), torch.from_numpy(y), int(y.max()) + 1, torch.device(flags.device))
    return compare(data, flags.Cs, flags.repeats, flags.limit)
