"""Shared parts of all commands: flags, exit codes, one-line errors, signals and progress."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import signal
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed as dist
from tqdm import tqdm

from fcnet.runtime import distributed, memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count, format_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fcnet.training.loop import Training
    from fcnet.training.records import EpochRecord

_BAR_INTERVAL = 0.25
"""Seconds between updates of the progress bar. Each one reads the metrics and therefore waits for the device."""


_HelpFormatter = partial(argparse.HelpFormatter, max_help_position=28)  # one line for each flag, on a wide terminal


class Parser(argparse.ArgumentParser):
    """An argument parser with the flags that commands share; its errors are one line.

    Args:
        command: name of the command, as in ``python -m fcnet.NAME``.
        description: one sentence for ``--help``.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=f"python -m fcnet.{command}",
            description=description,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self.add_argument(
            "--version", action="version", version=f"fcnet {version('fcnet')}", help="show the version and exit"
        )

    def add_run(self, *, several: bool = False) -> None:
        """Adds the argument RUN: ``run``, a path, or ``runs``, a list of one or more."""
        if several:
            self.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder; several are compared")
        else:
            self.add_argument("run", type=Path, metavar="RUN", help="run folder")

    def add_config(self, name: str = "--config", *, use: str = "") -> None:
        """Adds an argument for a configuration, which `fcnet.config.presets.find_config` takes.

        Args:
            name: a flag such as ``--config``, or ``config`` for a positional argument.
            use: what the command does with the configuration, if that is not plain.
        """
        description = "TOML file or name of a preset"
        self.add_argument(name, metavar="CONFIG", help=f"{use}: {description}" if use else description)

    def add_set(self) -> None:
        """Adds ``--set``: ``set``, a list of overrides."""
        self.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting; may be repeated"
        )

    def add_out(self, description: str, metavar: str = "DIR") -> None:
        """Adds ``--out``: ``out``, a path or None. The description states the default."""
        self.add_argument("--out", type=Path, metavar=metavar, help=description)

    def add_device(self) -> None:
        """Adds ``--device``, which `choose_device` takes."""
        self.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError` with the message of `argparse`."""
        raise UserError(f"{message}; see {self.prog} --help")


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. It is no Exception, so that no handler of errors swallows it.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_command(main: Callable[[list[str]], int]) -> NoReturn:
    """Runs a command and exits with its exit code.

    The exit code is 0 for success, 2 for a mistake of the user or a lack of memory, 130 after SIGINT and 143 after
    SIGTERM. A mistake prints one line for each error on standard error. Any other exception is a bug and shows its
    traceback. Characters that standard output cannot encode are printed as escapes.

    Args:
        main: function of the arguments that returns the exit code.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_interrupted)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        code = 0
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        message = _user_error_message(error)
        if message is None:
            raise
        code = _write_error(message)
    except Interrupted as interrupted:
        _write_error(f"stopped by {signal.Signals(interrupted.number).name}")
        code = 128 + interrupted.number
    raise SystemExit(code)


@contextlib.contextmanager
def defer_signals() -> Iterator[Callable[[], int]]:
    """Records SIGINT and SIGTERM while the block runs instead of raising, so that no step is interrupted.

    Yields:
        A function that returns the number of the last signal, or 0.
    """
    received = 0

    def record_signal(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number

    previous = {number: signal.signal(number, record_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def choose_device(name: str) -> torch.device:
    """Returns the device for ``--device``; ``auto`` is the GPU if there is one, else the CPU.

    Each rank takes the GPU with its own number on its machine.

    Raises:
        UserError: torch does not know the device, or cannot use it on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            local_rank = int(os.environ.get("LOCAL_RANK", "0"))
            device = torch.device("cuda", local_rank if device.index is None else device.index)
    except RuntimeError:
        raise UserError(f"--device must be auto, cpu, cuda or another device of torch, got {name!r}") from None
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise UserError(f"device {name} is not available: {str(error).splitlines()[0]}") from None
    return device


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the process group while the block runs, if a launcher such as ``torchrun`` started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def print_status(line: str) -> None:
    """Prints a line from the first rank. The command continues after the reader of standard output has gone."""
    if distributed.rank() == 0:
        _print_line(line)


def print_result(line: str) -> None:
    """Prints a line of the command's result. The command ends if the reader of standard output has gone."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_error(message: str) -> int:
    """Prints one or more lines on standard error from the first rank; returns the exit code 2."""
    return _write_error(message) if distributed.rank() == 0 else 2


@contextlib.contextmanager
def show_decoding() -> Iterator[Callable[[int, int], None]]:
    """Shows the progress of decoding images: a bar on a terminal, otherwise one line at the end.

    Nothing is shown if the images are in the cache.

    Yields:
        A function to call with the number of decoded images and the number of all images. Only the rank that decodes
        calls it.
    """
    calls: list[tuple[int, float]] = []
    progress_bars: list[tqdm[NoReturn]] = []
    terminal = sys.stderr.isatty()
    with contextlib.ExitStack() as stack:

        def progress(done: int, total: int) -> None:
            if not progress_bars:
                bar = tqdm(desc="decoding", unit=" images", total=total, initial=done, disable=not terminal)
                progress_bars.append(stack.enter_context(bar))
            calls.append((done, time.perf_counter()))
            progress_bars[0].update(done - progress_bars[0].n)

        yield progress
    if calls and not terminal:
        (before, began), (done, ended) = calls[0], calls[-1]
        earlier = f", {before:,} of them in an earlier run" if before else ""
        _print_line(f"decoded {format_count(done, 'image')} in {ended - began:.1f} s{earlier}")


def show_progress(training: Training, events: Iterator[EpochRecord | None], *, lines: bool = True) -> None:
    """Consumes the events of a training run and shows them: a bar on a terminal, and a line for each epoch.

    Args:
        training: the training run; its metrics are read only to redraw the bar.
        events: events of `fcnet.experiment.runner.run_experiment`: a record after each epoch, None after other steps.
        lines: print a line for each epoch.
    """
    shown = distributed.rank() == 0 and sys.stderr.isatty()
    bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # fits into 80 columns
    with tqdm(
        total=training.num_steps,
        initial=training.step,
        bar_format=bar_format,
        disable=not shown,
        mininterval=_BAR_INTERVAL,
    ) as bar:
        for record in events:
            if record is not None:
                if lines:
                    print_status(format_epoch(record, training.algorithm.epochs))
            # `update` is true only when it redraws the bar. One rank's metrics do not cover the batch of several.
            elif bar.update(training.step - bar.n) and distributed.world_size() == 1:
                loss, accuracy = training.metrics.compute()
                if not math.isfinite(loss):
                    training.check_finite()
                speed = training.metrics.num_images / max(training.seconds, 1e-9)
                postfix = f"loss {loss:.3f}, accuracy {format_percent(accuracy, 1)}, {speed:,.0f} images/s"
                bar.set_postfix_str(postfix, refresh=False)


def format_epoch(record: EpochRecord, epochs: int) -> str:
    """Returns the line for one epoch of a training run of ``epochs`` epochs."""
    validation = ""
    if record.validation_accuracy is not None:
        accuracy = format_percent(record.validation_accuracy)
        validation = f" · validation loss {record.validation_loss:.4f} accuracy {accuracy}"
    return (
        f"epoch {record.epoch:{len(str(epochs))}}/{epochs}"
        f" · training loss {record.train_loss:.4f} accuracy {format_percent(record.train_accuracy)}{validation}"
        f" · {record.images_per_second:,.0f} images/s"
    )


def format_accuracy(accuracy: float, interval: tuple[float, float]) -> str:
    """Returns an accuracy and its 95% interval as text."""
    low, high = map(format_percent, interval)
    return f"{format_percent(accuracy)} (95% interval {low} to {high})"


def _print_line(line: str) -> None:
    try:
        tqdm.write(line, file=sys.stdout)  # moves a progress bar out of the way
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _silence_stdout() -> None:
    """Redirects standard output to the null device, so that flushing it at exit does not fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _user_error_message(error: Exception) -> str | None:
    """Returns the message for an error that the user can fix, or None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else None
    if memory.is_out_of_memory(error):
        return f"out of memory: {' '.join(str(error).split()) or 'the network, the data or a batch is too large'}"
    return None


def _write_error(message: str) -> int:
    sys.stderr.write(message.rstrip("\n") + "\n")
    return 2
