"""Shared parts of all commands: exit codes, one-line errors, signals and progress."""

from __future__ import annotations

import contextlib
import io
import math
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import torch
from tqdm import tqdm

from fcnet.config.selection import CRITERIA, DEFAULT_SELECTION
from fcnet.runtime import distributed, memory, output, signals
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count, format_percent
from fcnet.runtime.hardware import GPU_TYPES, has_float64, unavailable_reason
from fcnet.runtime.terminal import MIN_BAR_CELLS, first_fitting, fitting_postfix, meter_format, terminal_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fcnet.config.selection import Selection
    from fcnet.training.loop import Training
    from fcnet.training.records import EpochRecord

_BAR_INTERVAL = 0.25
"""Seconds between updates of the progress bar. Each one reads the metrics and therefore waits for the device."""

_SLOW_SECONDS = 1.0
_FRACTION_STEPS, _FRACTION_CELLS = 1000, 24
_FRACTION_METER = "{desc} |{bar}| {percentage:.0f}% [{elapsed}<{remaining}]"


def run_command(main: Callable[[list[str]], int]) -> NoReturn:
    """Runs a command and exits with its exit code.

    The exit code is 0 for success, 2 for a mistake of the user or a lack of memory or of space, 130 after SIGINT and
    143 after SIGTERM. A mistake prints one line for each error on standard error. Any other exception is a bug and
    shows its traceback. Characters that standard output cannot encode are printed as escapes.

    Args:
        main: function of the arguments that returns the exit code.
    """
    with output.protect_streams():
        try:
            signals.raise_signals()
            code = _run(main)
            signals.finish(code)
        except signals.Interrupted as interrupted:
            code = 128 + interrupted.number
            signals.finish(code)
            output.write_error(signals.describe(interrupted.number))
    raise SystemExit(code)


def _run(main: Callable[[list[str]], int]) -> int:
    """Runs a command, prints its error and returns its exit code."""
    try:
        code = main(sys.argv[1:])
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
    except (UserError, OSError, MemoryError, RuntimeError, ImportError, SystemError) as error:
        lines = _error_lines(error)
        if not lines:
            raise
        return output.write_error(*lines)
    try:
        sys.stdout.flush()  # the text of --help
    except OSError as error:
        return output.lose_output(error) or code
    return code


def choose_device(name: str, *, needs_float64: bool = False) -> torch.device:
    """Returns the device for ``--device``; ``auto`` is the CUDA or ROCm GPU if there is one, else the CPU.

    Each rank takes the GPU with its own number on its machine. A GPU becomes torch's current device, so that streams
    and graphs belong to it.

    Args:
        name: what follows ``--device``.
        needs_float64: whether the command computes in float64.

    Raises:
        UserError: torch does not know the device, or cannot use it on this machine; or the device lacks float64.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type in GPU_TYPES:
            local_rank = distributed.launch_variable("LOCAL_RANK", default=0)
            device = torch.device(device.type, local_rank if device.index is None else device.index)
    except RuntimeError:
        rule = "must be auto, cpu, cuda or another device of torch"
        raise UserError(f"--device {rule}, got {name!r}{_suggest_device(name)}") from None
    if reason := unavailable_reason(device):
        remedy = "" if name == "cpu" else "; --device cpu uses the processor"
        raise UserError(f"device {name} is not available: {reason}{remedy}")
    if needs_float64 and not has_float64(device):
        raise UserError(f"--device must compute in float64 here, as cpu and cuda do, got {name}")
    if device.type in GPU_TYPES:
        torch.get_device_module(device).set_device(device)
    return device


def _suggest_device(name: str) -> str:
    """Returns what to write in place of a name such as GPU or 0."""
    if name.lower() in {"auto", "cpu", "cuda"}:
        return f"; write --device {name.lower()}"
    gpu = re.fullmatch(r"(?:gpu|cuda)?:?(\d*)", name.lower())
    if not name or gpu is None:
        return ""
    return f"; write --device cuda{f':{gpu[1]}' if gpu[1] else ''}"


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the process group while the block runs, if a launcher such as ``torchrun`` started several processes.

    SIGINT and SIGTERM end a rank within seconds also while it waits for other ranks.

    Raises:
        UserError: the processes cannot exchange sums on such a device; or see `fcnet.runtime.distributed`.
    """
    if distributed.launched_ranks() == 1:
        yield
        return
    if device.type not in {"cpu", "cuda"}:
        raise UserError(f"--device must be cpu or cuda for several processes, got {device.type}")
    with signals.exit_if_blocked(), distributed.process_group(device):
        yield


def print_status(line: str) -> None:
    """Prints a line from the first rank. If standard output fails, one line says so and the command continues."""
    if distributed.rank() == 0:
        output.print_line(line)


def print_result(line: str) -> None:
    """Prints a line of the command's result. If standard output fails, the command ends.

    Raises:
        SystemExit: with exit code 2 and one line of error, or 0 if the reader has gone.
    """
    output.print_result(line)


def print_error(message: str) -> int:
    """Prints a line on standard error from the first rank; returns the exit code 2."""
    return output.write_error(message) if distributed.rank() == 0 else 2


@contextlib.contextmanager
def say_if_slow(doing: str) -> Iterator[None]:
    """Says on a terminal what is under way, if the block takes longer than a second.

    Args:
        doing: what the block does, such as ``writing the report``.
    """
    if distributed.rank() != 0 or not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(_SLOW_SECONDS, tqdm.write, [f"{doing} …"], {"file": sys.stderr})
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # the system refuses a thread
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def show_decoding() -> contextlib.AbstractContextManager[Callable[[int, int], None]]:
    """Shows the progress of decoding images, as `show_image_progress` does, and prints a line at the end elsewhere.

    Nothing is shown if the images are in the cache.

    Returns:
        A context manager whose block gets a function to call with the number of decoded images and the number of all
        images. Only the rank that decodes calls it.
    """
    return show_image_progress("decoding", "decoded")


@contextlib.contextmanager
def show_image_progress(doing: str, done_word: str = "") -> Iterator[Callable[[int, int], None]]:
    """Shows how many images are done: a bar on a terminal, otherwise one line at the end.

    Args:
        doing: what is done to each image, such as ``decoding``.
        done_word: its participle, which begins the line; empty for no line.

    Yields:
        A function to call with the number of images that are done and the number of all images.
    """
    calls: list[tuple[int, float]] = []
    progress_bars: list[tqdm[NoReturn]] = []
    terminal = sys.stderr.isatty()
    with contextlib.ExitStack() as stack:

        def progress(done: int, total: int) -> None:
            if not progress_bars:
                form = meter_format(terminal_columns(sys.stderr), total, doing)
                bar = _Bar(desc=doing, total=total, initial=done, bar_format=form, disable=not terminal, miniters=1)
                progress_bars.append(stack.enter_context(bar))
            calls.append((done, time.perf_counter()))
            progress_bars[0].update(done - progress_bars[0].n)

        yield progress
    if calls and done_word and not terminal:
        (before, began), (done, ended) = calls[0], calls[-1]
        earlier = f", {before:,} of them in an earlier run" if before else ""
        output.print_line(f"{done_word} {format_count(done, 'image')} in {ended - began:.1f} s{earlier}")


@contextlib.contextmanager
def show_fraction() -> Iterator[Callable[[float, str, str], None]]:
    """Shows a bar of work whose length is known about, with the time left; nothing where there is no terminal.

    Yields:
        A function to call with the fraction that is done, what is being done, and a phrase on its course.
    """
    columns = terminal_columns(sys.stderr)
    bars: list[tqdm[NoReturn]] = []
    with contextlib.ExitStack() as stack:

        def show(fraction: float, doing: str, phrase: str) -> None:
            done = round(_FRACTION_STEPS * fraction)
            forms = [f"{doing}: {phrase}", doing] if phrase else [doing]
            text = first_fitting(forms, None if columns is None else columns - MIN_BAR_CELLS - _FRACTION_CELLS)
            if not bars:
                shown = distributed.rank() == 0 and sys.stderr.isatty()
                # What an earlier command has done says nothing of the time that is left.
                bar = _Bar(
                    desc=text, total=_FRACTION_STEPS, initial=done, bar_format=_FRACTION_METER, disable=not shown
                )
                bar.miniters = 0  # redraws on its time alone
                bars.append(stack.enter_context(bar))
            bars[0].set_description_str(text, refresh=False)
            bars[0].update(done - bars[0].n)

        yield show


def show_progress(training: Training, events: Iterator[EpochRecord | None], *, lines: bool = True) -> None:
    """Consumes the events of a training run and shows them: a bar on a terminal, and a line for each epoch.

    Args:
        training: the training run; its metrics are read only to redraw the bar.
        events: events of `fcnet.experiment.runner.run_experiment`: a record after each epoch, None after other steps.
        lines: print a line for each epoch.
    """
    shown = distributed.rank() == 0 and sys.stderr.isatty()
    columns = terminal_columns(sys.stderr)
    with (
        contextlib.ExitStack() as stack,
        memory.phase("making a training step"),
        _Bar(
            total=training.num_steps,
            initial=training.step,
            bar_format=meter_format(columns, training.num_steps),
            disable=not shown,
            mininterval=_BAR_INTERVAL,
            miniters=1,
        ) as bar,
    ):
        for record in events:
            if record is not None:
                if training.step == training.num_steps:
                    stack.enter_context(say_if_slow("evaluating and saving the model"))
                if lines:
                    algorithm = training.algorithm
                    print_status(format_epoch(record, algorithm.epochs, terminal_columns(), algorithm.select))
            # `update` is true only when it redraws the bar. One rank's metrics do not cover the batch of several.
            elif bar.update(training.step - bar.n) and distributed.world_size() == 1:
                loss, accuracy = training.metrics.compute()
                if not math.isfinite(loss):
                    training.check_finite()
                speed = training.metrics.num_images / max(training.seconds, 1e-9)
                short = f"loss {loss:.3f}, {format_percent(accuracy, 1)}"
                long = f"loss {loss:.3f}, accuracy {format_percent(accuracy, 1)}, {speed:,.0f} images/s"
                bar.set_postfix_str(fitting_postfix(columns, training.num_steps, [long, short]), refresh=False)


def format_epoch(
    record: EpochRecord, epochs: int, columns: int | None = None, select: Selection = DEFAULT_SELECTION
) -> str:
    """Returns the line for one epoch of a training run.

    Args:
        record: figures of the epoch.
        epochs: number of epochs of the run.
        columns: width to fit into; None for the longest form.
        select: figure that ``validation_score`` is.
    """
    number = f"epoch {record.epoch:{len(str(epochs))}}/{epochs}"
    speed = f"{record.images_per_second:,.0f} images/s"
    loss, accuracy = f"{record.train_loss:.4f}", format_percent(record.train_accuracy)
    if record.validation_loss is None or record.validation_accuracy is None:
        full = [number, f"training loss {loss} accuracy {accuracy}", speed]
        short = [number, f"train {loss} ({accuracy})", speed]
        key_figures = f"{number} · train {loss}"
    else:
        validation_loss, validation = f"{record.validation_loss:.4f}", format_percent(record.validation_accuracy)
        full = [number, f"training loss {loss} accuracy {accuracy}"]
        full += [f"validation loss {validation_loss} accuracy {validation}", speed]
        short = [number, f"train {loss} ({accuracy})", f"val {validation_loss} ({validation})", speed]
        key_figures = f"{number} · train {loss} · val {validation}"
        if record.validation_score is not None:
            criterion = CRITERIA[select]
            score = f"{criterion.short_label} {criterion.format(record.validation_score)}"
            full[2] += f" {score}"
            short.insert(3, score)
            key_figures = f"{number} · train {loss} · {score}"
    return first_fitting([*(" · ".join(each) for each in (full, short, short[:-1])), key_figures], columns)


def format_accuracy(accuracy: float, interval: tuple[float, float]) -> str:
    """Returns an accuracy and its 95% interval as text."""
    low, high = map(format_percent, interval)
    return f"{format_percent(accuracy)} (95% interval {low} to {high})"


class _Bar(tqdm):  # type: ignore[misc]
    """A progress bar that prints nothing if a signal interrupts ``__init__``."""

    disable = True  # tqdm's ``__del__`` reads it, and ``__init__`` sets it late
    monitor_interval = (
        0  # no thread that wakes slow bars: ``miniters=1`` needs none, and a signal can interrupt its end
    )


def _error_lines(error: Exception) -> tuple[str, ...]:
    """Returns the lines for an error that the user can mend, or none for a bug."""
    if isinstance(error, UserError):
        return tuple(map(str, error.args))
    if memory.is_out_of_memory(error):
        return (memory.describe_out_of_memory(error),)
    if "can't start new thread" in str(error):
        when = memory.describe_phase(error)
        return (f"the system refuses a new thread{when}: too little memory, or too many processes",)
    if isinstance(error, OSError) and not isinstance(error, io.UnsupportedOperation):
        reason = error.strerror or str(error)
        return (f"{reason}{memory.describe_phase(error)}" if error.filename is None else f"{error.filename}: {reason}",)
    return ()
