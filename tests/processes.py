"""Processes that start at once: each is forked by a server that has imported torch and the commands."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.helpers import WAIT_SECONDS, subprocess_environment

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
_IMPORTED_BEFORE = (
    *("fcnet.train", "fcnet.evaluate", "fcnet.predict", "fcnet.cache", "fcnet.report.__main__", "fcnet.sweep.__main__"),
    "fcnet.watch",
    *("fcnet.experiment.build", "torch._dynamo"),  # imported during the first step
    *("filelock", "jinja2", "safetensors.torch", "PIL.Image"),  # imported where they are used
    "tests.helpers",
)


class Ended(NamedTuple):
    """How a process ended: its exit code, negative for a signal, its two outputs and its peak memory in bytes."""

    code: int
    out: str
    err: str
    peak_bytes: int


class WarmProcess:
    """A process of its own, which leads a process group."""

    def __init__(self, connection: socket.socket, folder: Path) -> None:
        self._connection, self._folder = connection, folder
        self._reader = connection.makefile("rb")
        self.pid = int(self._reader.readline())
        self._ended: Ended | None = None

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def out(self) -> str:
        """What the process has written to its standard output so far."""
        return (self._folder / "out").read_text(encoding="utf-8", errors="replace")

    def poll(self) -> Ended | None:
        """Returns how the process ended, or None while it runs."""
        if self._ended is None and not self._ends_within(0.0):
            return None
        return self.wait()

    def wait(self, seconds: float = 2 * WAIT_SECONDS) -> Ended:
        """Waits for the end of the process.

        Raises:
            TimeoutError: it still runs.
        """
        if self._ended is None:
            if not self._ends_within(seconds):
                raise TimeoutError(f"the process still runs after {seconds} s")
            code, peak_bytes = map(int, self._reader.readline().split())
            err = (self._folder / "err").read_text(encoding="utf-8", errors="replace")
            self._ended = Ended(code, self.out, err, peak_bytes)
            self.close()
        return self._ended

    def close(self) -> None:
        """Ends the process if it still runs, as after a failed test."""
        if self._ended is None and not self._ends_within(0.0):
            self.kill()
        self._reader.close()
        self._connection.close()

    def _ends_within(self, seconds: float) -> bool:
        return bool(select.select([self._connection], [], [], seconds)[0])

    def kill(self) -> None:
        """Ends the process and its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class WarmServer:
    """Forks processes that call a function.

    The server has one thread and has run no operation of torch, so that a fork is safe.
    """

    def __init__(self) -> None:
        own, theirs = socket.socketpair()
        self._socket, self._outputs = own, tempfile.TemporaryDirectory()
        self._processes: list[WarmProcess] = []
        self._server = subprocess.Popen(
            [sys.executable, "-c", f"from tests.processes import serve; serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            env=subprocess_environment(
                PYTHONPATH=os.pathsep.join([*filter(None, sys.path), str(ROOT)]),
                TORCH_CPP_LOG_LEVEL="ERROR",  # as commands set it, before they import torch
            ),
        )
        theirs.close()

    def start(
        self,
        function: Callable[..., object],
        *arguments: object,
        folder: Path | None = None,
        cwd: Path | None = None,
        **environment: str,
    ) -> WarmProcess:
        """Starts a process that calls a function.

        Args:
            function: an importable function. What it returns is the exit code, None for 0.
            arguments: its arguments.
            folder: takes the outputs of the process, in the files ``out`` and ``err``; a new one if None.
            cwd: working folder of the process; that of this one if None.
            environment: variables to set beside those of this process.
        """
        folder = folder or Path(tempfile.mkdtemp(dir=self._outputs.name))
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("out", "err"):
            (folder / name).write_bytes(b"")  # may be read before the process has begun
        own, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._socket, [b"+"], [theirs.fileno()])
        task = (function, arguments, str(folder), str(cwd or Path.cwd()), {**os.environ, **environment})
        own.sendall(pickle.dumps(task))
        own.shutdown(socket.SHUT_WR)
        process = WarmProcess(own, folder)
        self._processes.append(process)
        return process

    def command(self, name: str, *arguments: object, **options: Any) -> WarmProcess:
        """Starts a command as ``python -m fcnet.NAME ARGUMENT…`` does; takes the options of `start`."""
        return self.start(call_command, name, *map(str, arguments), **options)

    def close(self) -> None:
        """Ends the server and the processes that still run."""
        for process in self._processes:
            process.close()
        self._socket.close()
        self._server.wait(WAIT_SECONDS)
        self._outputs.cleanup()


def call_command(name: str, *arguments: str) -> None:
    """Runs a command in this process, which it ends."""
    from fcnet import cli
    from fcnet.runtime.startup import start_command

    module = import_module(f"fcnet.{name}")
    if hasattr(module, "__path__"):
        module = import_module(f"fcnet.{name}.__main__")
    sys.argv = [f"fcnet.{name}", *arguments]
    start_command()
    cli.run_command(module.main)


def _redirect(number: int, kind: str) -> None:
    """Replaces an output of this process, as a shell does before Python starts."""
    name = {1: "stdout", 2: "stderr"}[number]
    if kind == "closed":
        os.close(number)
        setattr(sys, name, None)
        return
    if kind == "broken pipe":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)
        os.close(writer)
    elif kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)
    setattr(sys, name, os.fdopen(number, "w", closefd=False))


def call_redirected(out: str, err: str, *command: str) -> None:
    """Runs a command whose outputs are "kept", "closed", "full" or a "broken pipe"; a traceback is exit code 99."""
    _redirect(1, out)
    _redirect(2, err)
    try:
        call_command(*command)
    except SystemExit as ending:
        os._exit(ending.code if isinstance(ending.code, int) else 98)
    except BaseException:  # noqa: BLE001 - it cannot be printed
        os._exit(99)


def serve(number: int) -> None:
    """Forks a process for each connection, until no more come."""
    for name in _IMPORTED_BEFORE:
        import_module(name)
    gc.freeze()  # so that the collections of a process copy none of these pages
    requests = socket.socket(fileno=number)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, 1)
        if not message:
            return
        connection = socket.socket(fileno=descriptors[0])
        # A process in between waits for each, so that the server itself never waits.
        if os.fork() == 0:
            requests.close()
            _supervise(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _supervise(connection: socket.socket) -> None:
    """Forks the process, tells its number, and how it ended."""
    with connection.makefile("rb") as reader:
        task = reader.read()
    child = os.fork()
    if child == 0:
        os.setsid()
        with contextlib.suppress(OSError):
            connection.sendall(f"{os.getpid()}\n".encode())
        connection.close()
        _call(task)
    _, status, usage = os.wait4(child, 0)
    with contextlib.suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss * 1024}\n".encode())
    os._exit(0)


def _call(task: bytes) -> None:
    code = 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    function, arguments, folder, cwd, environment = pickle.loads(task)  # noqa: S301 - from the test itself
    os.environ.clear()
    os.environ.update(environment)
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    try:
        os.chdir(cwd)
        code = int(function(*arguments) or 0)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:  # noqa: BLE001 - printed, as Python itself does
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
