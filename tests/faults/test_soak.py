"""Long trainings and many trainings in one process take no more memory, files and threads in the end than early on."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import signal
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fcnet.experiment.run_folder import Run
from tests.faults.rounds import repeated
from tests.faults.runs import CONFIG
from tests.helpers import set_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.processes import WarmServer

_MAX_GROWTH = 0.02
# A record stays in memory, and each save makes a text of all of them.
_MAX_BYTES_PER_EPOCH = 4_000
TINY = ["data.train_size=20", "data.validation=0", "train.batch_size=all", "train.save_seconds=0.05"]


class Usage(NamedTuple):
    """What a process uses: memory in bytes, open files and threads."""

    memory: int
    files: int
    threads: int


def measure(pid: int) -> Usage:
    process = Path(f"/proc/{pid}")
    memory = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Usage(memory, len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())))


def select_quarter(values: Sequence[float], quarter: int) -> Sequence[float]:
    """Returns a quarter of the values, counted from 1."""
    part = len(values) // 4
    return values[(quarter - 1) * part : quarter * part]


def middle(values: Sequence[float], quarter: int) -> float:
    return statistics.median(select_quarter(values, quarter))


def is_flat(counts: Sequence[float]) -> bool:
    """Returns whether as few files or threads remain late as early; others come and go with each save."""
    return min(select_quarter(counts, 4)) <= min(select_quarter(counts, 2))


@repeated(short=5, long=3600)
def test_a_long_training_grows_by_its_records_alone(
    count: int, warm: WarmServer, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """The count is the seconds of training. Epochs have one step."""
    file, run = tmp_path / "config.toml", Run(tmp_path / "run")
    file.write_text(CONFIG)
    flags = set_flags(*TINY, "train.epochs=10000000", "train.diagnostics_every=100")
    arguments = ["--config", str(file), "--out", str(run.path), "--device", "cpu", *flags]
    process = warm.command("train", *arguments, folder=tmp_path / "outputs", FCNET_CACHE=str(tmp_path / "cache"))
    usages, entries, epochs = [], [], []
    try:
        while not run.checkpoints.saved_step:
            assert process.poll() is None, process.wait()
            time.sleep(0.01)
        deadline = time.monotonic() + count
        while time.monotonic() < deadline:
            usages.append(measure(process.pid))
            entries.append(sum(len(list(folder.iterdir())) for folder in (run.path, run.path / "checkpoints")))
            epochs.append(run.checkpoints.saved_step or 0)
            time.sleep(count / 1000)
        process.send_signal(signal.SIGTERM)
        ended = process.wait()
    finally:
        process.kill()
    early, late, early_epoch, late_epoch = (middle(x, i) for x in ([u.memory for u in usages], epochs) for i in (2, 4))
    allowed = early * (1 + _MAX_GROWTH) + _MAX_BYTES_PER_EPOCH * (late_epoch - early_epoch)
    growth = (late - early) / max(late_epoch - early_epoch, 1)
    figures(
        "a long training",
        seconds=count,
        epochs=epochs[-1],
        megabytes_early=round(early / 1e6, 1),
        megabytes_late=round(late / 1e6, 1),
        bytes_an_epoch=round(growth),
        open_files=usages[-1].files,
        threads=usages[-1].threads,
        files_in_the_folder=entries[-1],
    )
    assert (ended.code, ended.err) == (128 + signal.SIGTERM, "")
    assert epochs[-1] > count
    assert late <= allowed
    for counts in ([usage.files for usage in usages], [usage.threads for usage in usages], entries):
        assert is_flat(counts)


def train_again_and_again(seconds: float, file: str) -> None:
    """Trains a run of a few epochs again and again in this process; prints what it uses after each."""
    from fcnet import train

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.redirect_stdout(io.StringIO()):
            code = train.main(["--config", file, "--out", "run", "--device", "cpu", *set_flags(*TINY)])
        assert code == 0
        shutil.rmtree("run")
        gc.collect()  # a store in a reference cycle keeps its files open
        print(*measure(os.getpid()))  # noqa: T201 - read by the test


@repeated(short=5, long=600)
def test_many_trainings_in_one_process_grow_by_nothing(
    count: int, warm: WarmServer, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """The count is the seconds of all trainings."""
    file = tmp_path / "config.toml"
    file.write_text(CONFIG)
    cache, folder = str(tmp_path / "cache"), tmp_path / "outputs"
    process = warm.start(train_again_and_again, float(count), str(file), folder=folder, cwd=tmp_path, FCNET_CACHE=cache)
    ended = process.wait(count + 60.0)
    assert (ended.code, ended.err) == (0, "")
    usages = [Usage(*map(int, line.split())) for line in ended.out.splitlines()]
    early, late = (middle([usage.memory for usage in usages], i) for i in (2, 4))
    figures(
        "many trainings in one process",
        trainings=len(usages),
        megabytes_early=round(early / 1e6, 1),
        megabytes_late=round(late / 1e6, 1),
        open_files=usages[-1].files,
        threads=usages[-1].threads,
    )
    assert len(usages) >= 4
    assert late <= early * (1 + _MAX_GROWTH)
    for counts in ([usage.files for usage in usages], [usage.threads for usage in usages]):
        assert is_flat(counts)
