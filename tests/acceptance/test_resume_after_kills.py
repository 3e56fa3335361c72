"""Runs killed many times with SIGKILL end as the uninterrupted run, to the bit."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from fcnet import cli
from tests.helpers import RUN_FILES, WAIT_SECONDS, list_run_files, run_result, set_flags, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes import WarmProcess, WarmServer

pytestmark = pytest.mark.slow

# 2 optimizers · 5 runs · 5 kills; 21 steps an epoch, with a checkpoint after each.
NUM_RUNS, KILLS_PER_RUN = 5, 5
EPOCHS = 12
CONFIG = f"""
seed = 1
[data]
source = "digits"
augment = {{ shift = 1 }}
[model]
hidden = [48, 48]
normalization = "batch"
dropout = 0.2
residual = true
[optimizer]
schedule = "cosine"
warmup_epochs = 1.0
[train]
epochs = {EPOCHS}
batch_size = 64
"""
OPTIMIZERS = ("sgd", "adamw")
POLL_SECONDS = 0.0005  # short, to hit the moments between two writes


@dataclass
class KilledRun:
    """A run to kill.

    Attributes:
        warm: starts the processes.
        folder: holds the configuration, the cache and the run.
        optimizer: the run's optimizer.
        random: chooses when to kill.
        moments: counts the kills by the moment they hit.
    """

    warm: WarmServer
    folder: Path
    optimizer: str
    random: random.Random
    moments: Counter[str] = field(default_factory=Counter)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def start(self, *flags: str) -> WarmProcess:
        config = self.folder / "digits.toml"
        config.write_text(CONFIG)
        changes = [f"optimizer.name={self.optimizer}", "train.save_seconds=0"]
        arguments = ["--config", config, *set_flags(*changes), "--out", self.run, *flags]
        return self.warm.command("train", *arguments, FCNET_CACHE=str(self.folder / "cache"))

    def finish(self) -> None:
        ended = self.start("--resume").wait(10 * WAIT_SECONDS)
        assert ended.code == 0, ended.err

    def kill_once(self) -> bool:
        """Starts or resumes the run and kills it at some moment; returns False if it ended before."""
        before = self.checkpoints()
        process = self.start("--resume")
        wait = self.random.choice(
            [self.wait_any_time, self.wait_for_training, self.wait_for_training, self.wait_for_the_end]
        )
        wait(process, before)
        process.kill()
        ended = process.wait()
        if ended.code == 0:
            return False
        assert ended.code == -signal.SIGKILL, ended.err
        self.moments[self.moment(before)] += 1
        return True

    def wait_any_time(self, process: WarmProcess, before: set[str]) -> None:
        _sleep(process, self.random.uniform(0.0, 1.5))

    def wait_for_training(self, process: WarmProcess, before: set[str]) -> None:
        """Waits until some time after this process begins its first checkpoint."""
        if wait_until(lambda: self.checkpoints() - before or self.unfinished(), process, poll_seconds=POLL_SECONDS):
            _sleep(process, self.random.choice([0.0, self.random.uniform(0.0, 0.05), self.random.uniform(0.0, 1.5)]))

    def wait_for_the_end(self, process: WarmProcess, before: set[str]) -> None:
        """Waits for the last step, after which the process writes the model and the summary and removes checkpoints."""
        sign = self.random.choice(["metrics", "model.safetensors", "model.json", "summary.json"])
        last = f'"epoch": {EPOCHS},'

        def written() -> bool:
            if sign == "metrics":
                with contextlib.suppress(FileNotFoundError):
                    return last in (self.run / "metrics.jsonl").read_text()
                return False
            return (self.run / sign).exists()

        if wait_until(written, process, poll_seconds=POLL_SECONDS):
            _sleep(process, self.random.choice([0.0, self.random.uniform(0.0, 0.02)]))

    def checkpoints(self) -> set[str]:
        return {name for name in _names(self.run / "checkpoints") if re.fullmatch(r"step-.*\.json", name)}

    def unfinished(self) -> set[str]:
        return {name for name in _names(self.run) if name.endswith(".tmp")}

    def moment(self, before: set[str]) -> str:
        """Returns the moment of a kill, judging by the files it left."""
        if (self.run / "summary.json").exists():
            return "after the summary"
        if (self.run / "model.json").exists():
            return "after the model"
        if (self.run / "model.safetensors").exists() or any(".model." in name for name in self.unfinished()):
            return "while the model was written"
        if not (self.run / "config.toml").exists():
            return "after the store" if list(self.folder.glob("cache/digits-*")) else "before the store"
        if not self.checkpoints():
            return "before the first save"
        if any("step-" in name for name in self.unfinished()):
            return "while saving"
        if self.checkpoints() == before:
            return "before resuming"
        return "between saves"


def _names(folder: Path) -> list[str]:
    """Returns the names of all files and folders below a folder; one that is removed meanwhile has none."""
    return [name for _, folders, files in os.walk(folder) for name in (*folders, *files)]


def _sleep(process: WarmProcess, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        process.wait(seconds)


def finished_result(run: Path) -> dict[str, Any]:
    assert list_run_files(run) == RUN_FILES
    return run_result(run)


def kill_and_finish(first: KilledRun, expected: dict[str, Any]) -> list[KilledRun]:
    """Kills a run several times and finishes it; if it ends too soon, another run takes the remaining kills."""
    runs = [first]
    while True:
        run = runs[-1]
        run.folder.mkdir(parents=True)
        while (kills_left := sum(run.moments.total() for run in runs) < KILLS_PER_RUN) and run.kill_once():
            pass
        run.finish()
        assert finished_result(run.run) == expected, run.folder.name
        if not kills_left:
            return runs
        runs.append(
            dataclasses.replace(run, folder=run.folder.with_name(f"{run.folder.name}-again"), moments=Counter())
        )


def test_killed_runs_end_as_the_uninterrupted_run_to_the_bit(
    warm: WarmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("FCNET_TEST_SEED") or random.SystemRandom().randrange(10_000))
    with capsys.disabled():
        cli.print_status(f"\nFCNET_TEST_SEED={seed}")
    firsts, results = [], []
    for optimizer in OPTIMIZERS:
        whole = KilledRun(warm, tmp_path / optimizer, optimizer, random.Random(seed))
        whole.folder.mkdir()
        whole.finish()
        expected = finished_result(whole.run)
        for number in range(NUM_RUNS):
            folder = tmp_path / f"{optimizer}-{number}"
            firsts.append(KilledRun(warm, folder, optimizer, random.Random(f"{seed} {folder.name}")))
            results.append(expected)
    with ThreadPoolExecutor(2) as pool:
        runs = [run for group in pool.map(kill_and_finish, firsts, results) for run in group]
    moments = sum((run.moments for run in runs), Counter[str]())
    assert moments.total() == len(firsts) * KILLS_PER_RUN
    with capsys.disabled():
        counts = ", ".join(f"{count} {moment}" for moment, count in moments.most_common())
        cli.print_status(f"{moments.total()} kills in {len(runs)} runs: {counts}")
