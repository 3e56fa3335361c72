"""A disk that is full, read-only or broken: a command says so in one line, and what was saved stays good."""

from __future__ import annotations

import collections
import errno
import os
import random
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fcnet import evaluate, predict, train
from fcnet.experiment.run_folder import Run
from fcnet.report import __main__ as report
from fcnet.sweep import __main__ as sweep
from tests.faults.disk import FailingDisk
from tests.faults.rounds import repeated
from tests.helpers import CommandResult, run_command, run_result
from tests.processes import call_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import WarmServer

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES)
CONFIG = """
[data]
source = "images"
path = "images"
validation = 0.2
whiten = 8
[model]
hidden = [6]
[train]
epochs = 2
batch_size = 16
threads = 1
save_seconds = 0
"""
NEW = ("--config", "made.toml", "--out", "run")
RESUME = ("--resume", "--out", "run")
NOT_CACHED = "are not in the cache ("  # evaluating reads other stores if one fails
SWEEP = ("made.toml", "--grid", "optimizer.lr=[1e-3, 1e-2]", "--set", "train.epochs=1", "--out", "sweep")


def trains() -> CommandResult:
    """Begins the run, or resumes it if it has begun."""
    return run_command(train.main, *(RESUME if Run(Path("run")).started else NEW))


def sweeps() -> CommandResult:
    return run_command(sweep.main, *SWEEP)


def evaluates() -> CommandResult:
    return run_command(evaluate.main, "run")


def predicts() -> CommandResult:
    return run_command(predict.main, "run", "images/test/a", "--json", "--probabilities")


def reports() -> CommandResult:
    return run_command(report.main, "run")


def answer(result: CommandResult) -> Any:
    """Returns all that must not depend on failures before: what was printed, without times, and the files."""
    runs = {str(file.parent): run_result(file.parent) for file in Path().rglob("summary.json")}
    texts = {str(file): file.read_text() for file in Path().rglob("evaluation.json")}
    return (result.out if result.out.startswith("[") else None), runs, texts


@pytest.fixture
def here(image_folder: Path, without_reports: None) -> Path:
    Path("made.toml").write_text(CONFIG)
    return image_folder


@pytest.mark.parametrize(
    ("command", "count"),
    [
        pytest.param(command, count, marks=[pytest.mark.long] if count > 100 else [])
        for command, *counts in (
            (trains, 4, 700),
            (sweeps, 2, 300),
            (evaluates, 6, 300),
            (predicts, 6, 300),
            (reports, 6, 300),
        )
        for count in counts
    ],
)
def test_a_failing_call_is_one_line_and_the_next_try_succeeds(
    command: Callable[[], CommandResult], count: int, here: Path, tmp_path: Path, figures: Callable[..., None]
) -> None:
    on_a_run = command not in (trains, sweeps)
    if on_a_run:
        assert trains().code == 0
    start = tmp_path / "start"
    shutil.copytree(here, start)
    shutil.copytree(tmp_path / "cache", tmp_path / "start-cache") if on_a_run else None

    def restore() -> None:
        for folder, whole in ((here, start), (tmp_path / "cache", tmp_path / "start-cache")):
            for entry in folder.glob("*"):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if whole.exists():
                shutil.copytree(whole, folder, dirs_exist_ok=True)

    disk = FailingDisk(tmp_path)
    restore()
    with disk.failing():
        result = command()
    assert (result.code, result.err) == (0, "")
    right, num_calls = answer(result), len(disk.calls)
    points = [(call, number) for call in range(num_calls) for number in ERRORS]
    outcomes = collections.Counter[str](went_on=0, stopped=0)
    failures = []
    for call, number in random.Random(0).sample(points, min(count, len(points))):
        restore()
        outcome = fail_and_try_again(command, disk, call, number, right)
        outcomes[outcome] += 1
        if outcome not in ("went_on", "stopped"):
            made = disk.calls[call] if call < len(disk.calls) else "no call"
            failures.append(f"{errno.errorcode[number]} at call {call}, {made}: {outcome}")
    counts = {key: outcomes[key] for key in ("went_on", "stopped")}
    figures(f"disk errors, {command.__name__}", calls=num_calls, errors=outcomes.total(), **counts, wrong=len(failures))
    assert failures == []


def fail_and_try_again(
    command: Callable[[], CommandResult], disk: FailingDisk, call: int, number: int, right: object
) -> str:
    """Lets a call of a command fail, and then, if the command has stopped, runs it again; returns what happened."""
    try:
        with disk.failing(call, number):
            code, out, err = result = command()
    except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
        return repr(error)
    if went_on := (code, err) == (0, ""):
        pass
    elif code != 2 or err.count("\n") != 1 or not (os.strerror(number) in err or NOT_CACHED in err):
        return f"code {code}, {err!r}"
    else:
        result = command()
    if (result.code, result.err) != (0, ""):
        return f"{err!r}, and the next try ends with {result.code}, {result.err!r}"
    if answer(result) != right:
        return f"{err!r}, {out!r}: another answer"
    return "went_on" if went_on else "stopped"


_MIN_LIMIT = 1_000  # for the line on standard error, which is a file here


def limited(num_bytes: int, *arguments: str) -> None:
    """Runs a command that can write no file larger than a limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    call_command(*arguments)


@repeated(2, 400)
def test_a_file_that_may_not_grow_is_one_line_and_the_run_resumes(
    count: int, here: Path, tmp_path: Path, warm: WarmServer, figures: Callable[..., None]
) -> None:
    assert trains().code == 0
    right, sizes = run_result("run"), [file.stat().st_size for file in Path("run").rglob("*")]
    counts, failures = collections.Counter(finished=0, stopped=0), list[str]()
    for seed in range(count):
        shutil.rmtree("run")
        limit = _MIN_LIMIT + random.Random(seed).randrange(max(sizes) // 8)
        code, _, err, _ = warm.start(limited, limit, "train", *NEW, folder=tmp_path / "o").wait()
        if code == 2 and err.count("\n") == 1 and "File too large" in err:
            counts["stopped"] += 1
            assert trains().code == 0
        elif (code, err) == (0, ""):
            counts["finished"] += 1
        else:
            failures.append(f"{limit} bytes: code {code}, {err!r}")
            continue
        if run_result("run") != right:
            failures.append(f"{limit} bytes, {err!r}: another result")
    figures("files that may not grow", limits=count, **counts)
    assert failures == []
