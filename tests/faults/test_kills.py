"""A run that is killed, at any moment and before any change to its files, resumes to the result of a whole run."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

from fcnet.experiment.run_folder import Run
from tests.faults.rounds import repeated
from tests.faults.runs import OPTIMIZERS, Fault, draw_changes, full_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.runs import FaultyRuns


def lost_checkpoints(run: Run, saved: int | None) -> str:
    """Says what a killed run has lost of what was saved before; empty if nothing."""
    if run.started and not run.finished and saved is not None and (run.checkpoints.saved_step or -1) < saved:
        return f"the checkpoint of step {saved} is lost, found that of {run.checkpoints.saved_step}"
    return ""


@repeated(short=4, long=1000)
def test_a_run_killed_at_random_resumes_to_the_same_result(
    count: int, runs: FaultyRuns, tmp_path: Path, figures: Callable[..., None]
) -> None:
    failures, kills = [], 0
    for number in range(count):
        draws = random.Random(number)
        changes, folder = draw_changes(number % min(24, count // 2)), tmp_path / str(number)
        seconds, saved, found = [], None, ""
        for _ in range(draws.choice((1, 1, 1, 1, 2, 3))):
            seconds.append(draws.uniform(0.0, runs.whole(changes).seconds))
            ended = runs.train(folder, changes, Fault(seconds=seconds[-1]))
            kills += ended.code == -signal.SIGKILL
            run = Run(folder / "run")
            found = found or lost_checkpoints(run, saved)
            saved = run.checkpoints.saved_step
        found = found or runs.resumed_differences(folder, changes)
        failures += [f"round {number}, killed after {seconds} s: {found}; {changes}"] if found else []
    figures("killed at random, resumed", rounds=count, kills=kills, different=len(failures))
    assert failures == []
    assert kills >= count // 2


@repeated(short=2, long=10_000)
def test_a_run_killed_before_any_change_to_a_file_resumes_to_the_same_result(
    count: int, runs: FaultyRuns, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """The long form takes every change of every optimizer."""
    failures, kills = [], 0
    draws = random.Random(0)
    for name in OPTIMIZERS if count > 100 else draws.sample(OPTIMIZERS, 2):
        changes, saved = full_batch(name, 2), None
        points = range(1, runs.whole(changes).changes + 1)
        for point in sorted(draws.sample(points, min(count, len(points)))):
            folder = tmp_path / f"{name}-{point}"
            ended = runs.train(folder, changes, Fault(change=point))
            kills += 1
            run = Run(folder / "run")
            found = "" if ended.code == -signal.SIGKILL else f"exit code {ended.code}: {ended.err}"
            found = found or lost_checkpoints(run, saved)
            saved = run.checkpoints.saved_step
            found = found or runs.resumed_differences(folder, changes)
            failures += [f"change {point}: {found}; {changes}"] if found else []
    figures("killed before a change to a file, resumed", kills=kills, different=len(failures))
    assert failures == []
