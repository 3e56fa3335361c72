"""Runs killed with SIGKILL, again and again, end as the uninterrupted one to the bit."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fcnet
from fcnet import cli

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

# 2 optimizers · 5 runs · 5 kills. 21 steps an epoch, each saved.
RUNS, KILLS_A_RUN = 5, 5
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
FILES = {
    *("config.toml", "metrics.jsonl", "diagnostics.jsonl", "summary.json", "model.safetensors", "model.json"),
    *("predictions.safetensors", "predictions.json", "report.html"),
}
WAIT_SECONDS = 60.0


@dataclass
class Killed:
    """One run: where its folders are, and how often which moment was hit."""

    folder: Path
    optimizer: str
    random: random.Random
    moments: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def start(self, *flags: str) -> subprocess.Popen[str]:
        config = self.folder / "digits.toml"
        config.write_text(CONFIG)
        changes = [f"optimizer.name={self.optimizer}", "train.save_seconds=0"]
        settings = [part for change in changes for part in ("--set", change)]
        command = ["-m", "fcnet.train", "--config", str(config), *settings, "--out", str(self.run), *flags]
        here = {"PYTHONPATH": str(Path(fcnet.__file__).parents[1]), "FCNET_CACHE": str(self.folder / "cache")}
        return subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | here | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> None:
        process = self.start("--resume")
        said, _ = process.communicate(timeout=10 * WAIT_SECONDS)
        assert process.returncode == 0, said

    def kill_once(self) -> bool:
        """Starts the run, or goes on with it, and kills it somewhere; False if it ended before."""
        before = self.checkpoints()
        process = self.start("--resume")
        wait = self.random.choice([self.anywhere, self.in_training, self.in_training, self.near_the_end])
        wait(process, before)
        process.kill()
        said, _ = process.communicate()
        if process.returncode == 0:
            return False
        assert process.returncode == -9, said
        self.moments[self.moment(before)] += 1
        return True

    def anywhere(self, process: subprocess.Popen[str], before: set[str]) -> None:
        _sleep(process, self.random.uniform(0.0, 5.0))

    def in_training(self, process: subprocess.Popen[str], before: set[str]) -> None:
        """Some time after the first new checkpoint of this process, or while it is written."""
        if _poll(process, lambda: bool(self.checkpoints() - before or self.unfinished())):
            _sleep(process, self.random.choice([0.0, self.random.uniform(0.0, 0.05), self.random.uniform(0.0, 1.5)]))

    def near_the_end(self, process: subprocess.Popen[str], before: set[str]) -> None:
        """After the last step: while the network or the summary is written, or the checkpoints are removed."""
        sign = self.random.choice(["metrics", "model.safetensors", "model.json", "summary.json"])
        last = f'"epoch": {EPOCHS},'

        def written() -> bool:
            if sign == "metrics":
                with contextlib.suppress(FileNotFoundError):
                    return last in (self.run / "metrics.jsonl").read_text()
                return False
            return (self.run / sign).exists()

        if _poll(process, written):
            _sleep(process, self.random.choice([0.0, self.random.uniform(0.0, 0.02)]))

    def checkpoints(self) -> set[str]:
        return {name for name in _names(self.run / "checkpoints") if re.fullmatch(r"step-.*\.json", name)}

    def unfinished(self) -> set[str]:
        return {name for name in _names(self.run) if name.startswith(".")}

    def moment(self, before: set[str]) -> str:
        """Where the kill fell, by what there is."""
        if (self.run / "summary.json").exists():
            return "after the summary"
        if (self.run / "model.json").exists():
            return "after the network"
        if (self.run / "model.safetensors").exists() or any(".model." in name for name in self.unfinished()):
            return "while the network was written"
        if not (self.run / "config.toml").exists():
            return "after the store" if list(self.folder.glob("cache/digits-*")) else "before the store"
        if not self.checkpoints():
            return "before the first save"
        if any("step-" in name for name in self.unfinished()):
            return "while saving"
        if self.checkpoints() == before:
            return "before going on"
        return "between saves"


def _names(folder: Path) -> list[str]:
    """Of the files in a folder and below; a folder that goes meanwhile has none."""
    return [name for _, _, names in os.walk(folder) for name in names]


def _sleep(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _poll(process: subprocess.Popen[str], condition: Callable[[], bool]) -> bool:
    """Waits until something holds; False if the process ended first."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the run came no further"
        time.sleep(0.0005)
    return True


def result(run: Path) -> dict[str, Any]:
    """All of a finished run but what a clock measured."""
    assert {file.name for file in run.iterdir()} == FILES
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    for record in records:
        del record["seconds"], record["images_per_second"]
    del summary["train_seconds"], summary["roofline_images_per_second"]
    whole = {
        name: (run / name).read_bytes()
        for name in ("config.toml", "model.safetensors", "model.json", "predictions.safetensors")
    }
    return whole | {"records": records, "summary": summary}


def kill_and_finish(first: Killed, expected: dict[str, Any]) -> list[Killed]:
    """Kills a run so often and finishes it; where it ended too soon, another takes the kills that are left."""
    runs = [first]
    while True:
        run = runs[-1]
        run.folder.mkdir(parents=True)
        while (alive := sum(run.moments.total() for run in runs) < KILLS_A_RUN) and run.kill_once():
            pass
        run.finish()
        assert result(run.run) == expected, run.folder.name
        if not alive:
            return runs
        runs.append(Killed(run.folder.with_name(f"{run.folder.name}-again"), run.optimizer, run.random))


def test_killed_runs_end_as_the_uninterrupted_one_to_the_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("FCNET_TEST_SEED") or random.SystemRandom().randrange(10_000))
    with capsys.disabled():
        cli.print_status(f"\nFCNET_TEST_SEED={seed}")
    firsts, results = [], []
    for optimizer in OPTIMIZERS:
        whole = Killed(tmp_path / optimizer, optimizer, random.Random(seed))
        whole.folder.mkdir()
        whole.finish()
        expected = result(whole.run)
        for number in range(RUNS):
            folder = tmp_path / f"{optimizer}-{number}"
            firsts.append(Killed(folder, optimizer, random.Random(f"{seed} {folder.name}")))
            results.append(expected)
    with ThreadPoolExecutor(2) as pool:
        runs = [run for group in pool.map(kill_and_finish, firsts, results) for run in group]
    moments = sum((run.moments for run in runs), collections.Counter[str]())
    assert moments.total() == len(firsts) * KILLS_A_RUN
    with capsys.disabled():
        hits = ", ".join(f"{count} {moment}" for moment, count in moments.most_common())
        cli.print_status(f"{moments.total()} kills in {len(runs)} runs: {hits}")
