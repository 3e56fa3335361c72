"""SIGINT and SIGTERM, at any moment: one line, the right exit code, and a run that resumes to the same result."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fcnet.experiment.run_folder import Run
from tests.faults.rounds import repeated
from tests.faults.runs import CONFIG, Fault, draw_changes
from tests.helpers import WAIT_SECONDS, set_flags, start_python, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.faults.runs import FaultyRuns

_SAVED = re.compile(r"stopped and saved in epoch \d+ of \d+, step (\d+); resume with: python -m fcnet\.train .*")


def wrong_end(run: Run, number: signal.Signals, code: int, out: str, err: str) -> str:
    """Says what is wrong with the end of a command that got a signal; empty if it ended as it should."""
    ended = f"exit code {code}: {out}{err}"
    if code == 0:  # the signal came after the last step
        return "" if run.finished and not err else ended
    if code != 128 + number:
        return ended
    saved = [line[1] for line in map(_SAVED.fullmatch, out.splitlines()) if line]
    if saved:
        return "" if not err and int(saved[0]) == run.checkpoints.saved_step else ended
    return "" if err == f"stopped by {number.name}\n" else ended


@repeated(short=4, long=200)
def test_a_signal_ends_a_run_which_then_resumes_to_the_same_result(
    count: int, runs: FaultyRuns, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """Half of the signals come at random, half before a change to a file, such as in a save or at the end."""
    failures, stopped = [], 0
    for round_number in range(count):
        draws = random.Random(round_number)
        changes, folder = draw_changes(round_number % min(24, count // 2)), tmp_path / str(round_number)
        whole, number = runs.whole(changes), draws.choice((signal.SIGINT, signal.SIGTERM))
        at_random = round_number % 2 == 0
        fault = Fault(
            number,
            seconds=draws.uniform(0.0, whole.seconds) if at_random else None,
            change=None if at_random else draws.randint(1, whole.changes),
        )
        ended = runs.train(folder, changes, fault)
        stopped += ended.code != 0
        out = ended.out.rsplit("\n", 2)[0]  # without the number of changes
        found = wrong_end(Run(folder / "run"), number, ended.code, out, ended.err)
        found = found or runs.resumed_differences(folder, changes)
        failures += [f"round {round_number}, {fault}: {found}; {changes}"] if found else []
    figures("signals, resumed", signals=count, stopped=stopped, different=len(failures))
    assert failures == []
    assert stopped >= count // 4  # others come after the last step


@repeated(short=1, long=30)
def test_a_signal_while_a_command_starts_ends_it_with_one_line(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Callable[..., None]
) -> None:
    """These processes have imported nothing. The signal comes at a random moment after the package's first import."""
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    file, failures, longest = tmp_path / "config.toml", [], 4.0
    file.write_text(CONFIG)
    for round_number in range(count):
        draws = random.Random(round_number)
        number, seconds = draws.choice((signal.SIGINT, signal.SIGTERM)), draws.uniform(0.0, longest)
        run = Run(tmp_path / str(round_number))
        arguments = ["--config", str(file), "--out", str(run.path), "--device", "cpu"]
        changes = set_flags("train.epochs=3000", "train.diagnostics_every=0")
        process = start_python("-m", "fcnet.train", *arguments, *changes)
        assert wait_until(lambda: is_ready(process.pid), process, poll_seconds=0.001)  # noqa: B023 - called at once
        time.sleep(seconds)
        process.send_signal(number)
        out, err = process.communicate(timeout=2 * WAIT_SECONDS)
        found = "it ran on" if process.returncode == 0 else wrong_end(run, number, process.returncode, out, err)
        failures += [f"round {round_number}, {number.name} after {seconds} s: {found}"] if found else []
    figures("signals while a command starts", signals=count, wrong=len(failures))
    assert failures == []


def is_ready(pid: int) -> bool:
    """Returns whether a process has a handler of its own for SIGTERM, which it sets after that of SIGINT."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    caught = int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)
