"""Two processes that train one run: one does, and the other names it."""

from __future__ import annotations

import itertools
import random
import shutil
import socket
import time
from typing import TYPE_CHECKING

import torch

from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from tests.faults.rounds import repeated
from tests.faults.runs import CONFIG
from tests.helpers import RUN_FILES, advance_run, list_run_files, run_result, set_flags

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.processes import WarmServer

CHANGES = ["train.epochs=6"]
NEW, RESUME, RESUME_ONLY = "new", "resume or new", "resume"
_STARTED = [(RESUME_ONLY, RESUME_ONLY), (RESUME, RESUME_ONLY), (NEW, RESUME_ONLY), (RESUME_ONLY, NEW)]
_FRESH = [(NEW, NEW), (NEW, RESUME), (RESUME, NEW), (RESUME, RESUME)]


@repeated(short=2, long=200)
def test_one_of_two_processes_trains_a_run_and_the_other_names_it(
    count: int, warm: WarmServer, isolated_cache: None, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """They start at the same moment or some milliseconds apart, on a new run and on one that was stopped."""
    file = tmp_path / "config.toml"
    file.write_text(CONFIG)
    config = load_config(file, CHANGES)
    stopped, whole = (Run.create(tmp_path / each, each, dump_config(config)) for each in ("stopped", "whole"))
    cpu = torch.device("cpu")
    advance_run(build(config, cpu), stopped, until=5)
    advance_run(build(config, cpu), whole)
    expected, host = run_result(whole.path), socket.gethostname()
    given = ["--config", str(file), *set_flags(*CHANGES)]
    flags = {NEW: given, RESUME: [*given, "--resume"], RESUME_ONLY: ["--resume"]}
    modes = list(itertools.chain(*zip(_STARTED, _FRESH, strict=True)))
    failures = []
    for number in range(count):
        draws, mode = random.Random(number), modes[number % len(modes)]
        folder = tmp_path / str(number)
        run = folder / "run"
        if mode in _STARTED:
            shutil.copytree(stopped.path, run)
        processes = []
        for place, kind in enumerate(mode):
            arguments = [*flags[kind], "--out", str(run), "--device", "cpu"]
            processes.append(warm.command("train", *arguments, folder=folder / f"outputs-{place}"))
            time.sleep(draws.choice((0.0, 0.0, 0.01, 0.1)))
        ends = [process.wait() for process in processes]
        winner = 0 if ends[0].code == 0 else 1
        loser = 1 - winner
        named = f"{run} is in training: process {processes[winner].pid} on {host} holds the lock; "
        refused = [f"{named}wait until it ends, or stop it\n"]
        if mode[loser] == NEW:  # the other process may just have begun, or not yet
            refused.append(f"--out: {run} already exists and is not empty (use --resume to continue a run)\n")
        found = [
            *([] if [ends[winner].code, ends[winner].err] == [0, ""] else [f"one: {ends[winner]}"]),
            *([] if ends[loser].code == 2 and ends[loser].err in refused else [f"the other: {ends[loser]}"]),
        ]
        if not found:
            found = sorted(list_run_files(run) ^ RUN_FILES)
            result = run_result(run)
            found += [key for key in expected if result[key] != expected[key]]
        failures += [f"round {number}, {mode}: {found}"] if found else []
        shutil.rmtree(folder)
    figures("two processes on one run", pairs=count, wrong=len(failures))
    assert failures == []
