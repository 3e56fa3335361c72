"""Small runs that faults interrupt, and the uninterrupted runs whose results they must have."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from fcnet.experiment.run_folder import Run
from tests.helpers import RUN_FILES, list_run_files, run_result, set_flags
from tests.processes import call_command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes import Ended, WarmServer

# 90 training images in 12 steps an epoch, the last of two images.
CONFIG = """
seed = 3
[data]
source = "synthetic"
shape = [3, 6, 6]
train_size = 100
test_size = 30
num_classes = 4
[model]
hidden = [12, 12]
[optimizer]
lr = 0.01
milestones = [0.5, 2]
[train]
batch_size = 8
epochs = 3
threads = 1
"""
OPTIMIZERS = ("sgd", "adam", "adamw", "muon", "lbfgs")
SCHEDULES = ("constant", "cosine", "linear", "one_cycle", "steps")
AUGMENTATIONS = (
    "{}",
    "{flip=true,shift=1}",
    "{rotate=20,scale=0.2}",
    "{color_jitter=0.3,cutout=2}",
    "{mixup=0.4}",
    "{cutmix=1.0}",
    "{flip=true,shift=1,rotate=20,scale=0.2,color_jitter=0.3,cutout=2,mixup=0.4,cutmix=1.0}",
)
_CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.fsync"})


def full_batch(name: str, epochs: int) -> list[str]:
    """Returns the changes for training on all images at once, with a checkpoint after every step."""
    changes = [f"optimizer.name={name}", "train.batch_size=all", f"train.epochs={epochs}"]
    return [*changes, "train.save_seconds=0", "train.diagnostics_every=1"]


def draw_changes(seed: int) -> list[str]:
    """Draws changes to `CONFIG`."""
    draws = random.Random(seed)
    name = draws.choice(OPTIMIZERS)
    changes = [
        f"data.augment={draws.choice(AUGMENTATIONS)}",
        f"data.whiten={draws.choice((0, 0, 9))}",
        f"data.balance={draws.choice(('none', 'weights', 'sampling'))}",
        f"model.dropout={draws.choice((0.0, 0.2))}",
        f"model.normalization={draws.choice(('none', 'batch', 'layer'))}",
        f"train.ema_decay={draws.choice((0.0, 0.9))}",
        f"train.patience={draws.choice((0, 0, 2))}",
    ]
    if name == "lbfgs" or draws.random() < 0.2:
        return [*changes, *full_batch(name, 8)]
    return [
        *changes,
        f"optimizer.name={name}",
        f"optimizer.schedule={draws.choice(SCHEDULES)}",
        f"train.accumulate={draws.choice((1, 3))}",
        f"train.precision={draws.choice(('float32', 'float32', 'bfloat16'))}",
        f"train.diagnostics_every={draws.choice((1, 10))}",
        f"train.save_seconds={draws.choice((0, 0.02))}",
    ]


class Fault(NamedTuple):
    """A signal that a process gets, after some seconds or before one of its changes to files.

    Attributes:
        number: the signal.
        seconds: the time since the start of the command; None for no such signal.
        change: the number of the change, from 1; None for no such signal.
    """

    number: signal.Signals = signal.SIGKILL
    seconds: float | None = None
    change: int | None = None


NO_FAULT = Fault()


def train_with_fault(fault: Fault, *arguments: str) -> None:
    """Runs the command ``train``, which the fault meets. Its last line of output is the number of changes to files."""
    from fcnet.runtime.startup import start_command

    start_command()
    changes = 0

    def count_change(event: str, values: tuple[object, ...]) -> None:
        nonlocal changes
        if event == "open":
            path, _, flags = values
            is_written = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if not is_written or isinstance(path, int) or str(path).startswith("/dev/"):
                return
        elif event not in _CHANGES:
            return
        changes += 1
        if changes == fault.change:
            os.kill(os.getpid(), fault.number)

    sys.dont_write_bytecode = True
    fsync = os.fsync

    def audited_fsync(descriptor: int) -> None:
        sys.audit("os.fsync", descriptor)
        fsync(descriptor)

    os.fsync = audited_fsync  # type: ignore[assignment]
    sys.addaudithook(count_change)
    if fault.seconds is not None:
        timer = threading.Timer(fault.seconds, os.kill, (os.getpid(), fault.number))
        timer.daemon = True
        timer.start()
    try:
        call_command("train", *arguments)
    finally:
        sys.stdout.write(f"{changes}\n")


class Whole(NamedTuple):
    """An uninterrupted run: its result, how long it took, and how often it changed files."""

    result: dict[str, Any]
    seconds: float
    changes: int


class FaultyRuns:
    """Trains runs with and without faults, each in a folder of its own with a cache of its own.

    Args:
        warm: starts the processes.
        folder: takes everything.
    """

    def __init__(self, warm: WarmServer, folder: Path) -> None:
        self._warm, self._folder = warm, folder
        self._whole: dict[str, Whole] = {}

    def whole(self, changes: list[str]) -> Whole:
        """Returns the uninterrupted run of a configuration, which is trained once."""
        if str(changes) not in self._whole:
            folder = self._folder / f"whole-{len(self._whole)}"
            since = time.perf_counter()
            ended = self.train(folder, changes)
            seconds = time.perf_counter() - since
            assert (ended.code, ended.err) == (0, ""), (changes, ended)
            self._whole[str(changes)] = Whole(run_result(folder / "run"), seconds, int(ended.out.split()[-1]))
        return self._whole[str(changes)]

    def train(self, folder: Path, changes: list[str], fault: Fault = NO_FAULT) -> Ended:
        """Starts or resumes the run ``folder/run``; returns how the process ended."""
        folder.mkdir(exist_ok=True)
        file, run = folder / "config.toml", folder / "run"
        file.write_text(CONFIG)
        if Run(run).started:
            arguments = ["--resume", "--out", str(run)]
        else:
            arguments = ["--config", str(file), "--out", str(run), *set_flags(*changes)]
        cache = str(folder / "cache")
        process = self._warm.start(
            train_with_fault, fault, *arguments, "--device", "cpu", folder=folder / "outputs", FCNET_CACHE=cache
        )
        return process.wait()

    def resumed_differences(self, folder: Path, changes: list[str]) -> str:
        """Resumes a run to its end and removes it; returns in what it differs from the uninterrupted one."""
        ended = self.train(folder, changes)
        if (ended.code, ended.err) != (0, "") or "damaged" in ended.out:
            return f"exit code {ended.code}: {ended.out}{ended.err}"
        names = list_run_files(folder / "run") ^ RUN_FILES
        result, expected = run_result(folder / "run"), self.whole(changes).result
        found = [*sorted(names), *(key for key in expected if result[key] != expected[key])]
        found += [entry.name for entry in (folder / "cache").iterdir() if entry.name.endswith((".unfinished", ".tmp"))]
        if not found:
            shutil.rmtree(folder)
        return ", ".join(found)
