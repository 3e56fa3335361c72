"""Runs of two to four ranks, of which one is killed, stopped or slow at a random moment."""

from __future__ import annotations

import random
import re
import signal
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch.distributed as dist

from fcnet.experiment.run_folder import Run
from fcnet.runtime import distributed
from tests.faults.rounds import repeated
from tests.helpers import WAIT_SECONDS, run_result
from tests.processes import Ended, WarmProcess, WarmServer, call_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EPOCHS, ANSWER_SECONDS, JOIN_SECONDS, MINUTE = 20, 5.0, 20.0, 60.0
CONFIG = f"""
seed = 5
[data]
source = "synthetic"
shape = [1, 4, 4]
train_size = 120
test_size = 20
num_classes = 3
augment.flip = true
[model]
hidden = [8]
normalization = "batch"
dropout = 0.1
[optimizer]
lr = 0.01
[train]
epochs = {EPOCHS}
batch_size = 16
save_seconds = 0.05
"""
LOST = (
    rf"rank \d of \d stopped: another rank (ended|failed|did not answer for {ANSWER_SECONDS:.0f} s)"
    r"(; (the checkpoint of step \d+ is kept|nothing was saved|rank 0 has its checkpoints), resume with: .*)?"
    r"|rank \d of \d must meet the others at .*"
)


def train_as_rank(*arguments: str) -> None:
    """Trains as one rank, which waits for others only for seconds."""
    distributed.ANSWER_SECONDS, distributed.JOIN_SECONDS = ANSWER_SECONDS, JOIN_SECONDS
    call_command("train", *arguments)


def start_ranks(warm: WarmServer, ranks: int, *arguments: object, folder: Path) -> list[WarmProcess]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    launch: dict[str, Any] = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        warm.start(train_as_rank, *map(str, arguments), folder=folder / str(rank), RANK=str(rank), **launch)
        for rank in range(ranks)
    ]


def await_moment(draw: random.Random, run: Path, process: WarmProcess) -> str:
    """Waits for a random moment, of the start or after some epoch; returns its description."""
    if draw.random() < 0.25:
        seconds = draw.uniform(0.0, 1.5)
        time.sleep(seconds)
        return f"{seconds:.2f} s after the start"
    epoch, seconds = draw.randrange(1, EPOCHS - 2), draw.uniform(0.0, 0.1)
    records = run / "metrics.jsonl"
    while process.poll() is None and not (records.is_file() and records.read_bytes().count(b"\n") >= epoch):
        time.sleep(0.005)
    time.sleep(seconds)
    return f"{seconds:.2f} s after epoch {epoch}"


def lose(action: str, place: int, processes: list[WarmProcess]) -> list[Ended] | None:
    """Kills, stops or slows down a rank. Returns how the others ended, or None if one did not within a minute."""
    processes[place].send_signal(signal.SIGKILL if action == "killed" else signal.SIGSTOP)
    if action == "slow":
        time.sleep(0.6 * ANSWER_SECONDS)
        processes[place].send_signal(signal.SIGCONT)
    deadline = time.monotonic() + MINUTE
    others = [*processes[:place], *processes[place + 1 :]]
    try:
        return [each.wait(max(0.0, deadline - time.monotonic())) for each in others]
    except TimeoutError:
        return None
    finally:
        for each in processes:
            each.kill()
            each.wait(WAIT_SECONDS)


def is_finished(run: Path) -> bool:
    return (run / "config.toml").is_file() and Run(run).finished


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
@repeated(2, 100)
def test_a_lost_rank_ends_the_others_and_the_run_resumes(
    count: int, warm: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Callable[..., None]
) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "ranks.toml"
    config.write_text(CONFIG)

    def train(ranks: int, run: Path, *flags: object) -> list[str]:
        """Trains to the end; returns what the ranks wrote on standard error."""
        started = start_ranks(warm, ranks, *(flags or ("--config", config)), "--out", run, folder=tmp_path / "o")
        return [each.wait().err for each in started]

    whole: dict[int, dict[str, Any]] = {}
    counts, slowest, problems = Counter[str](), 0.0, []
    for number in range(count):
        draw, run = random.Random(number), tmp_path / f"run-{number}"
        ranks, action = 2 + number % 3, ("killed", "stopped", "slow", "killed")[number % 4]
        if ranks not in whole:
            assert train(ranks, tmp_path / f"whole-{ranks}") == [""] * ranks
            whole[ranks] = run_result(tmp_path / f"whole-{ranks}")
        processes = start_ranks(warm, ranks, "--config", config, "--out", run, folder=tmp_path / "o")
        place, moment = draw.randrange(ranks), await_moment(draw, run, processes[0])
        round_name = f"round {number}: rank {place} of {ranks} {action} {moment}"
        since = time.monotonic()
        endings = lose(action, place, processes)
        slowest = max(slowest, time.monotonic() - since)
        counts[action] += 1
        counts["ended in a minute"] += endings is not None
        problems += [
            f"{round_name}: exit code {each.code}, {each.err!r}"
            for each in endings or [Ended(0, "", "the others did not end", 0)]
            if each.err and not (each.code == 2 and action != "slow" and re.fullmatch(f"({LOST})\n", each.err))
        ]
        if not is_finished(run):
            errors = train(ranks, run, *(("--resume",) if (run / "config.toml").is_file() else ()))
            counts["resumed"] += not any(errors)
            problems += [f"{round_name}, resumed: {error!r}" for error in errors if error]
        counts["identical"] += is_finished(run) and run_result(run) == whole[ranks]
    figures("one of 2 to 4 ranks lost", rounds=count, **counts, seconds_at_most=round(slowest, 1))
    assert problems == []
    assert counts["identical"] == count
