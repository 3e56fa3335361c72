"""What the commands share: flags, one-line errors, exit codes, signals, progress."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import signal
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed as dist
from tqdm import tqdm

from fcnet.runtime import distributed, memory
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fcnet.training.loop import Training
    from fcnet.training.records import EpochRecord

_BAR_INTERVAL = 0.25
"""Between two looks at a training's figures, for which a device is waited for."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are one line."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"python -m fcnet.{command}", description=description, allow_abbrev=False)
        self.add_argument("--version", action="version", version=f"fcnet {version('fcnet')}")

    def error(self, message: str) -> NoReturn:
        """Refuses the command line, in the words of `argparse`."""
        raise UserError(f"{message}; see {self.prog} --help")


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; not an Exception, so that nothing on the way mistakes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_command(main: Callable[[list[str]], int]) -> NoReturn:
    """Runs a command and leaves with its exit code.

    0 when all is well; 2 and one line a mistake on standard error for a user's mistake, be it in
    the flags, the configuration or the files, or where memory is short; 130 or 143 after SIGINT or
    SIGTERM. Anything else is a bug of ours and shows its traceback. What standard output's encoding
    lacks is written as an escape.

    Args:
        main: takes the arguments, returns the exit code.
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
        code = _print_error(message)
    except Interrupted as interrupted:
        _print_error(f"stopped by {signal.Signals(interrupted.number).name}")
        code = 128 + interrupted.number
    raise SystemExit(code)


@contextlib.contextmanager
def defer_signals() -> Iterator[Callable[[], int]]:
    """While open, SIGINT and SIGTERM only leave their number, so that a step is never cut in two.

    Yields:
        A function that gives the number of the signal that came, or 0.
    """
    received = 0

    def record_signal(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number

    before = {number: signal.signal(number, record_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def choose_device(name: str) -> torch.device:
    """The device that ``--device`` names; with ``auto`` the GPU where there is one.

    Each rank takes the GPU of its number on its machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            own = int(os.environ.get("LOCAL_RANK", "0"))
            device = torch.device("cuda", own if device.index is None else device.index)
    except RuntimeError:
        raise UserError(f"--device must be auto, cpu, cuda or another of torch's devices, got {name!r}") from None
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise UserError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the other processes where the launcher (`torchrun`) started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def print_status(line: str) -> None:
    """One line on standard output, from the first rank alone; nothing ends because nobody reads it any more."""
    if distributed.rank() == 0:
        _print_line(line)


def print_result(line: str) -> None:
    """One line of a command's answer on standard output; the command ends where nobody reads it any more."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def show_decoding() -> Iterator[Callable[[int, int], None]]:
    """Follows a store that is being made, if one is: a bar on a terminal, else one line once it is done.

    Yields:
        What is to be told how many of how many images are done. Of several ranks only the one that makes the
        store is told anything, so it is that one which says it.
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
        _print_line(
            f"decoded {done:,} images in {ended - began:.1f} s" + (f", {before:,} of them before" if before else "")
        )


def print_error(message: str) -> int:
    """One line a mistake on standard error, from the first rank alone; the exit code."""
    return _print_error(message) if distributed.rank() == 0 else 2


def show_progress(training: Training, events: Iterator[EpochRecord | None], *, lines: bool = True) -> None:
    """Follows a training: a bar on a terminal, and one line an epoch.

    Args:
        training: what is under way; its figures are read only when the bar is drawn.
        events: as `fcnet.experiment.runner.run_experiment` gives them.
        lines: whether each epoch is said.
    """
    shown = distributed.rank() == 0 and sys.stderr.isatty()
    form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # fits into 80 columns
    with tqdm(
        total=training.num_steps, initial=training.step, bar_format=form, disable=not shown, mininterval=_BAR_INTERVAL
    ) as bar:
        for record in events:
            if record is not None:
                if lines:
                    print_status(format_epoch(record, training.algorithm.epochs))
            elif bar.update(training.step - bar.n) and distributed.world_size() == 1:
                loss, accuracy = training.metrics.compute()
                if not math.isfinite(loss):
                    training.check_finite()
                speed = training.metrics.num_images / max(training.seconds, 1e-9)
                bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}, {speed:,.0f} images/s", refresh=False)


def format_epoch(record: EpochRecord, epochs: int) -> str:
    """One epoch in one line."""
    kept = ""
    if record.validation_accuracy is not None:
        kept = f" · validation loss {record.validation_loss:.4f} accuracy {record.validation_accuracy:.2%}"
    return (
        f"epoch {record.epoch:{len(str(epochs))}}/{epochs}"
        f" · training loss {record.train_loss:.4f} accuracy {record.train_accuracy:.2%}{kept}"
        f" · {record.images_per_second:,.0f} images/s"
    )


def format_accuracy(accuracy: float, interval: tuple[float, float]) -> str:
    """An accuracy with its interval, as people read it."""
    low, high = interval
    return f"{accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})"


def _print_line(line: str) -> None:
    try:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _silence_stdout() -> None:
    """Sends what is still to be said nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _user_error_message(error: Exception) -> str | None:
    """What the user can mend, a line each; None where the error is a bug of ours."""
    said = str(error)
    if isinstance(error, UserError):
        return said
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else None
    if memory.is_out_of_memory(error):
        return f"the network, the data and a batch must fit in memory, got: {' '.join(said.split())}"
    return None


def _print_error(message: str) -> int:
    sys.stderr.write(message.rstrip("\n") + "\n")
    return 2
