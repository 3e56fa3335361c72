"""Tests of fcnet.runtime.startup."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import WAIT_SECONDS, run_python, start_python, subprocess_environment, wait_until


def is_importing_torch(pid: int) -> bool:
    return "libc10" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.0, 0.4, 1.1])
def test_a_signal_during_the_import_of_torch_ends_a_command_with_one_line(number: signal.Signals, delay: float) -> None:
    process = start_python("-m", "fcnet.train", "--list")
    assert wait_until(lambda: is_importing_torch(process.pid), process, poll_seconds=0.001)
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out, err) == (128 + number, "", f"stopped by {number.name}\n")


def test_importing_the_package_in_another_program_sets_no_handlers(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text("import fcnet")  # with "-m" in place of the program
    (tmp_path / "other" / "main.py").write_text(
        "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    done = run_python("-m", "other.main", "-m", "fcnet.train", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_deleted_working_folder_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    process = subprocess.run(
        ["bash", "-c", f"rmdir {gone}; exec {sys.executable} -m fcnet.train --list"],
        cwd=gone,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
        env=subprocess_environment(),
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == "the working folder no longer exists: change to another one\n"


@pytest.mark.parametrize(("given", "expected"), [({}, "ERROR"), ({"TORCH_CPP_LOG_LEVEL": "INFO"}, "INFO")])
def test_warnings_of_torchs_own_code_are_silent_unless_asked_for(given: dict[str, Any], expected: str) -> None:
    program = "import os; from fcnet.runtime.startup import start_command; start_command()"
    done = run_python("-c", f"{program}; print(os.environ['TORCH_CPP_LOG_LEVEL'])", **given)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", "")
