"""Places that fail: outputs that are closed or full, and memory that is limited."""

from __future__ import annotations

import collections
import itertools
import random
import re
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fcnet import train
from tests.faults.rounds import repeated
from tests.helpers import command_output, run_result
from tests.processes import call_command, call_redirected

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import WarmServer

CONFIG = """
[data]
source = "images"
path = "images"
validation = 0.2
[model]
hidden = [6]
[train]
epochs = 2
batch_size = 8
threads = 1
"""
STREAMS = ("kept", "closed", "broken pipe", "full")
COMMANDS = {
    "train": ("--config", "made.toml", "--out", "new"),
    "evaluate": ("run",),
    "predict": ("run", "images/test/a"),
    "report.__main__": ("run",),
    "sweep.__main__": ("made.toml", "--grid", "optimizer.lr=[1e-3]", "--out", "sweep"),
}
LOST_RESULT = {"kept": 0, "closed": 2, "broken pipe": 0, "full": 2}
"""Exit codes of a command whose result goes to standard output, by what that is."""


@pytest.fixture
def here(image_folder: Path) -> Path:
    Path("made.toml").write_text(CONFIG)
    command_output(train.main, "--config", "made.toml", "--out", "run")
    return image_folder


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@repeated(6, 80)
def test_outputs_that_fail_lose_nothing_else(
    count: int, here: Path, tmp_path: Path, warm: WarmServer, figures: Callable[..., None]
) -> None:
    right, failures = run_result("run"), []
    cases = list(itertools.product(STREAMS, STREAMS, COMMANDS))
    for out, err, name in random.Random(1).sample(cases, count):
        code = warm.start(call_redirected, out, err, name, *COMMANDS[name], folder=tmp_path / "o").wait().code
        expected = LOST_RESULT[out] if name in ("evaluate", "predict") else 0
        what = f"{name}, standard output {out}, standard error {err}"
        if code != expected:
            failures.append(f"{what}: code {code}, not {expected}")
        elif name == "train" and run_result("new") != right:
            failures.append(f"{what}: another model")
        for folder in ("new", "sweep"):
            shutil.rmtree(folder, ignore_errors=True)
    figures("failing outputs", cases=count, failures=len(failures))
    assert failures == []


# --- memory ---------------------------------------------------------------------------------------------------------

LARGE = ("--set", "model.hidden=[1500,1500]", "--set", "train.batch_size=64", "--set", "train.epochs=1")
OUT_OF_MEMORY = re.compile(r"(out of memory[ :;]|the system refuses a new thread|.*: Cannot allocate memory).*\n")
NATIVE = re.compile(r"terminate called|std::bad_alloc|OpenBLAS|MKL|Fatal Python error|pthread|can't start new thread")
"""What libraries print that abort the process instead of raising an error."""


def call_limited(num_bytes: int, *command: str) -> None:
    """Runs a command that may add a number of bytes to the address space of the process."""
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + num_bytes, own + num_bytes))
    call_command(*command)


@repeated(8, 600)
def test_a_lack_of_memory_is_one_line(
    count: int, here: Path, tmp_path: Path, warm: WarmServer, figures: Callable[..., None]
) -> None:
    commands = {**COMMANDS, "train": (*COMMANDS["train"], *LARGE)}
    del commands["sweep.__main__"]
    counts, failures = collections.Counter(finished=0, out_of_memory=0, aborted_in_native_code=0), list[str]()
    for seed in range(count):
        draws = random.Random(seed)
        name = draws.choice(sorted(commands))
        limit = int(2 ** draws.uniform(12, 29))
        code, _, err, _ = warm.start(call_limited, limit, name, *commands[name], folder=tmp_path / "o").wait()
        if (code, err) == (0, ""):
            counts["finished"] += 1
        elif code == 2 and OUT_OF_MEMORY.fullmatch(err):
            counts["out_of_memory"] += 1
        elif code < 0 and (not err or NATIVE.search(err)):
            counts["aborted_in_native_code"] += 1
        else:
            failures.append(f"round {seed}, {name} with {limit:,} bytes: code {code}, {err!r}")
        shutil.rmtree("new", ignore_errors=True)
    figures("memory limits", limits=count, **counts, wrong=len(failures))
    assert failures == []
