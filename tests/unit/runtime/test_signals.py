"""Tests of fcnet.runtime.signals, in processes of their own."""

from __future__ import annotations

import signal
import time

import pytest

from tests.helpers import WAIT_SECONDS, run_python, start_python

SIGNALS = [signal.SIGINT, signal.SIGTERM]
SWALLOWED = """\
import signal, time
from fcnet.runtime import signals
signals.raise_signals()
class Swallowing:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
import sys
sys.unraisablehook = lambda details: print(type(details.exc_value).__name__)
each = Swallowing()
del each
signal.raise_signal(signal.SIGTERM)  # a launcher passes it on at once
print("repeated", flush=True)
time.sleep(2.2)
signal.raise_signal(signal.SIGTERM)
print("not reached")
"""
AT_EXIT = """\
import atexit, signal, sys
from fcnet import cli
from fcnet.runtime import signals
signals.exit_on_signals()
def stop():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
%s
cli.run_command(lambda arguments: 3)
"""
BLOCKED = """\
import contextlib, torch.distributed as dist
from datetime import timedelta
from fcnet.runtime import signals
signals.raise_signals()
with signals.exit_if_blocked(), %s:
    print("waiting", flush=True)
    dist.TCPStore("127.0.0.1", 0, 2, True, timeout=timedelta(seconds=%d))  # for a client that never comes
"""


def test_a_second_signal_ends_a_process_that_swallowed_the_first() -> None:
    done = run_python("-c", SWALLOWED)
    assert (done.returncode, done.stdout, done.stderr) == (143, "Interrupted\nrepeated\n", "stopped by SIGTERM\n")


@pytest.mark.parametrize(
    "registration",
    [
        "atexit.register(stop)",  # runs while the process ends: its exit code stands
        "sys.modules['late'] = type('Late', (), {'__del__': lambda self: stop()})()",  # after all of these
    ],
)
def test_a_signal_after_the_end_of_a_command_keeps_its_exit_code(registration: str) -> None:
    done = run_python("-c", AT_EXIT % registration)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_process_that_waits_outside_python(number: signal.Signals) -> None:
    process = start_python("-c", BLOCKED % ("contextlib.nullcontext()", 60))
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(1.0)  # until it waits
    since = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out, err) == (128 + number, "", f"stopped by {number.name}\n")
    assert time.monotonic() - since < 10.0


def test_a_deferred_signal_waits_for_a_call_outside_python() -> None:
    process = start_python("-c", BLOCKED % ("signals.defer_signals()", 4))
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(1.0)  # until it waits
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "DistStoreError" in err


def test_a_block_that_hangs_ends_after_its_time() -> None:
    program = (
        "import time; from fcnet.runtime import signals\n"
        "with signals.exit_after(30.0, 'too early'): pass\n"
        "with signals.exit_after(0.2, 'no answer'): time.sleep(60)"
    )
    done = run_python("-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "no answer\n")
