"""Helpers that several test files share: commands, runs, images and models."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fcnet
from fcnet import cli
from fcnet.data.sources import image_folder, images, synthetic
from fcnet.data.store.store import open_store
from fcnet.data.transforms.whitening import Whitening
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.experiment.runner import Stopped, run_experiment
from fcnet.models.batch_norm import BatchNorm
from fcnet.models.mlp import MLP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from fcnet.data.store.store import Store
    from fcnet.experiment.build import Experiment
    from fcnet.experiment.run_folder import Run
    from fcnet.training.records import EpochRecord

# The folder that holds the package: the checkout, or site-packages.
PACKAGE_ROOT = Path(fcnet.__file__).parents[1]
WAIT_SECONDS = 120.0

RUN_FILES = {
    *("config.toml", "commands.jsonl", "metrics.jsonl", "diagnostics.jsonl", "summary.json"),
    *("model.safetensors", "model.json"),
    *("predictions.safetensors", "predictions.json", "mistakes.csv", "report.html", "checksums.json"),
}
TIMINGS = {"seconds", "images_per_second", "train_seconds"}


# --- commands ---------------------------------------------------------------------------------------------------


class CommandResult(NamedTuple):
    """A command's exit code and its two outputs."""

    code: object
    out: str
    err: str


def set_flags(*changes: str) -> list[str]:
    """Returns ``--set CHANGE`` for each change."""
    return [word for change in changes for word in ("--set", change)]


def run_command(main: Callable[[list[str]], int], *arguments: object, stdin: bytes = b"") -> CommandResult:
    """Runs a command in this process, as ``python -m fcnet.NAME ARGUMENT…`` does in its own."""
    # Real text files, unlike StringIO, refuse what UTF-8 cannot encode.
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    with (
        mock.patch.object(sys, "argv", ["fcnet", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as exit_info,
    ):
        cli.run_command(main)
    for file in (out, err):
        file.seek(0)
    return CommandResult(exit_info.value.code, out.read(), err.read())


def command_output(main: Callable[[list[str]], int], *arguments: object) -> str:
    """Runs a command that must succeed and print nothing on standard error; returns its standard output."""
    code, out, err = run_command(main, *arguments)
    assert (code, err) == (0, "")
    return out


def subprocess_environment(**variables: str) -> dict[str, str]:
    """Returns this process's environment, with the package on the path and one thread a process."""
    return os.environ | {"PYTHONPATH": str(PACKAGE_ROOT), "OMP_NUM_THREADS": "1"} | variables


def run_python(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python ARGUMENT…`` in a process of its own and waits for its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=2 * WAIT_SECONDS,
        check=False,
        cwd=cwd,
        env=subprocess_environment(**variables),
    )


def measure_peak(script: str, imports: str = "", cwd: Path | None = None) -> tuple[float, list[str]]:
    """Runs a script in a process of its own.

    Returns:
        By how many megabytes it raises the peak memory of a process that has made its imports, and its output.
    """
    measured = f"""
import resource
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
{imports}
before = peak()
{textwrap.dedent(script)}
print(peak() - before)
"""
    result = run_python("-c", measured, cwd=cwd)
    assert result.returncode == 0, result.stderr
    *lines, peak = result.stdout.splitlines()
    return float(peak), lines


def start_python(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """Starts ``python ARGUMENT…`` as a process of its own, with pipes for its outputs."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=subprocess_environment(**variables),
    )


class HasPoll(Protocol):
    """A process that tells how it ended, or None while it runs."""

    def poll(self) -> object: ...


def wait_until(condition: Callable[[], object], process: HasPoll, *, poll_seconds: float = 0.01) -> bool:
    """Waits until a condition holds; returns False if the process ended first."""
    deadline = time.monotonic() + 2 * WAIT_SECONDS
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the process made no progress"
        time.sleep(poll_seconds)
    return True


@contextlib.contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restores the signal handlers and the number of threads, both of which commands set."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for number, handler in handlers.items():
            signal.signal(number, handler)


# --- runs -------------------------------------------------------------------------------------------------------


def make_record(epoch: int, **changes: Any) -> dict[str, Any]:
    """Returns a line of ``metrics.jsonl``."""
    return {
        "epoch": epoch,
        "step": 9 * epoch,
        "lr": 0.1,
        "train_loss": 1.5,
        "train_accuracy": 0.5,
        "validation_loss": None,
        "validation_accuracy": None,
        "seconds": 0.25,
        "images_per_second": 360.0,
        **changes,
    }


def make_snapshot(epoch: int, **changes: Any) -> dict[str, Any]:
    """Returns a line of ``diagnostics.jsonl``."""
    layer = {"layer": 1, "units": 8, "dead": None, "histogram": {"low": 0.0, "high": 1.0, "counts": [3, 1]}}
    figures = {"images": 90, "dead_inputs": 0.5, "layers": [layer], "warnings": ["one"]}
    return {"epoch": epoch, "step": 9 * epoch, **figures, **changes}


def make_summary(**changes: Any) -> dict[str, Any]:
    """Returns the contents of ``summary.json``."""
    figures = {"test_accuracy": 0.5, "test_interval": [0.25, 0.75], "test_loss": 1.5, "train_seconds": 2.0}
    validation = {"validation_accuracy": 0.75, "validation_loss": 1.25, "validation_images": 10}
    counts = {"epochs": 1, "best_epoch": 1, "steps": 9, "parameters": 72, "train_images": 90, "test_images": 30}
    machine = {"device": "cpu", "processor": "x86", "threads": 1, "ranks": 1, "platform": "Linux"}
    software = {"fcnet": "0.1.0", "torch": "2.9.0", "python": "3.11.1", "seed": 0, "data": "made"}
    content = {"class_images": {"0": 45, "1": 45}, "warnings": []}
    return figures | validation | counts | machine | software | content | changes


def flip_bit(file: Path | str, place: float = 0.5) -> None:
    """Flips one bit of a file, at a fraction of its length."""
    content = bytearray(Path(file).read_bytes())
    content[int(len(content) * place)] ^= 1
    Path(file).write_bytes(content)


def advance_run(
    experiment: Experiment,
    run: Run,
    *,
    until: int | None = None,
    save_seconds: float = 1e9,
    on_event: Callable[[], None] = lambda: None,
) -> list[EpochRecord]:
    """Starts or resumes a run and returns the records of the epochs it finishes.

    Args:
        experiment: a new experiment, as another process would build it.
        run: the run's folder.
        until: the step to stop after; None trains to the end.
        save_seconds: the time between two checkpoints.
        on_event: called after each step.
    """
    training = experiment.training
    records = []
    try:
        for record in run_experiment(
            experiment, run, save_seconds=save_seconds, stop=lambda: until is not None and training.step >= until
        ):
            on_event()
            if record is not None:
                records.append(record)
    except Stopped:
        assert training.step == until
    return records


def without_timings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record without measured times, which differ from run to run."""
    return {key: value for key, value in record.items() if key not in TIMINGS}


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def read_records(run: Path | str) -> list[dict[str, Any]]:
    """Returns the lines of ``metrics.jsonl``."""
    return read_json_lines(Path(run) / "metrics.jsonl")


def read_learning_curve(run: Path | str) -> list[dict[str, Any]]:
    """Returns the lines of ``metrics.jsonl`` without measured times."""
    return [without_timings(record) for record in read_records(run)]


def list_run_files(run: Path | str) -> set[str]:
    """Returns the names in a finished run's folder, besides its last checkpoint, which some configurations keep."""
    return {entry.name for entry in Path(run).iterdir()} - {"checkpoints"}


def read_summary(run: Path | str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((Path(run) / "summary.json").read_text(encoding="utf-8"))
    return summary


def model_files(run: Path | str) -> list[bytes]:
    """Returns the bytes of ``model.safetensors`` and of ``model.json``."""
    return [(Path(run) / f"model.{ending}").read_bytes() for ending in ("safetensors", "json")]


def run_result(run: Path | str) -> dict[str, Any]:
    """Returns all that two identical runs must agree on: everything but measured times, which must be positive."""
    folder = Path(run)
    summary = read_summary(folder)
    for measured in (*read_records(folder), summary):
        assert all(measured[key] > 0.0 for key in TIMINGS & measured.keys())
    checksummed = [f"{name}.{ending}" for name in ("model", "predictions") for ending in ("safetensors", "json")]
    return {
        "files": {name: (folder / name).read_bytes() for name in ("config.toml", "mistakes.csv", *checksummed)},
        "records": read_learning_curve(folder),
        "snapshots": read_json_lines(folder / "diagnostics.jsonl"),
        "summary": without_timings(summary),
    }


def read_tree(folder: Path | str = ".") -> dict[str, bytes | None]:
    """Returns every path below a folder, with the content of each file."""
    return {
        str(entry.relative_to(folder)): entry.read_bytes() if entry.is_file() else None
        for entry in Path(folder).rglob("*")
    }


# --- images -----------------------------------------------------------------------------------------------------


def image_bytes(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:  # noqa: A002 - Pillow's name
    """Returns an image encoded as a file of a format."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(size: tuple[int, int], bit_depth: int, color_type: int, rows: bytes, *chunks: bytes) -> bytes:
    """Returns a PNG by its specification, for files that Pillow does not write.

    Args:
        size: width and height in pixels.
        bit_depth: bits a channel.
        color_type: 0 for grey, 2 for RGB, 3 for a palette, 4 and 6 with alpha.
        rows: the uncompressed rows, each after its filter byte.
        *chunks: more chunks before the pixels.
    """
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bit_depth, color_type, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *chunks, pixels, png_chunk(b"IEND", b"")])


def write_image(file: Path | str, pixels: npt.NDArray[np.uint8]) -> None:
    """Writes pixels (H, W) or (H, W, 3) as an image, and makes its folder."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_image_folder(
    folder: Path | str,
    classes: Sequence[str],
    counts: Mapping[str, int],
    pixels: Callable[[int, int], npt.NDArray[np.uint8]],
) -> None:
    """Writes a folder SPLIT/CLASS/NUMBER.png.

    Args:
        folder: where to write.
        classes: the class names.
        counts: the number of images a class, by split.
        pixels: makes the pixels of an image from its label and its number.
    """
    for (label, name), (split, count) in itertools.product(enumerate(classes), counts.items()):
        for number in range(count):
            write_image(Path(folder) / split / name / f"{number}.png", pixels(label, number))


def write_noise_images(folder: str, classes: Sequence[str], counts: Mapping[str, int]) -> None:
    """Writes noise of 5×4 grey pixels, slightly brighter from class to class, so that a model makes some errors."""
    draws = random.Random(folder)

    def pixels(label: int, number: int) -> npt.NDArray[np.uint8]:
        return np.array([draws.randrange(170) + 30 * label for _ in range(20)], dtype=np.uint8).reshape(4, 5)

    write_image_folder(folder, classes, counts, pixels)


def write_pets(folder: Path, classes: Sequence[str]) -> None:
    """Writes images of three classes to the folder ``pets``, and other images to ``pets.npz``."""
    draws = np.random.default_rng(0)
    counts = {"train": 12, "test": 12}
    write_image_folder(folder / "pets", classes, counts, lambda *_: draws.integers(256, size=(8, 8, 3), dtype=np.uint8))
    images, labels = draws.integers(256, size=(20, 4, 4), dtype=np.uint8), np.arange(20) % 3
    np.savez(folder / "pets.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)


# --- tensors and models -----------------------------------------------------------------------------------------


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_tensor(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns draws from a normal distribution of standard deviation ``scale``."""
    return (torch.randn(shape, generator=seeded(seed)) * scale).to(dtype)


def random_images(count: int, shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """Returns uint8 pixels (count, *shape)."""
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=seeded(seed))


def random_classifier(
    shape: tuple[int, int, int] = (3, 2, 4),
    num_classes: int = 3,
    *,
    hidden: Sequence[int] = (8, 8),
    whiten: int = 0,
    seed: int = 0,
    **arguments: Any,
) -> ImageClassifier:
    """Returns a classifier in evaluation mode in which no parameter and no statistic has its initial value.

    Args:
        shape: channels, height and width of an image.
        num_classes: the number of classes, named ``class 0``, ``class 1`` …
        hidden: widths of the hidden layers.
        whiten: number of principal components, 0 for none.
        seed: seed of all draws.
        **arguments: further arguments of `MLP`.
    """
    generator = seeded(seed)
    num_pixels = shape[0] * shape[1] * shape[2]
    model = MLP(whiten or num_pixels, hidden, num_classes, generator=generator, **arguments)
    for values in [*model.parameters(), *model.buffers()]:
        values.data.add_(torch.randn(values.shape, generator=generator) * 0.3)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.running_var.abs_().add_(0.1)
    whitening = None
    if whiten:
        whitening = Whitening(whiten, num_pixels)
        whitening.weight.copy_(torch.randn(whiten, num_pixels, generator=generator) / num_pixels**0.5)
        whitening.bias.copy_(torch.randn(whiten, generator=generator))
    mean, std = torch.rand(shape[0], generator=generator), torch.rand(shape[0], generator=generator) + 0.2
    classes = [f"class {label}" for label in range(num_classes)]
    return ImageClassifier(model, classes=classes, shape=shape, mean=mean, std=std, whitening=whitening).eval()


def assert_identical(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Asserts that two sets of named tensors agree in names, dtypes and every bit."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


# --- stores -----------------------------------------------------------------------------------------------------


class InterruptedBuildError(BaseException):
    """Interrupts a build as a signal does, without being an `Exception`."""


def make_store(cache: Path, size: int = 20) -> Store:
    """Builds a store of synthetic images: ``size`` for training and 10 for testing."""
    return open_store(synthetic((1, 4, 4), size, 10, num_classes=2), cache)


def leave_unfinished_store(cache: Path, folder: Path) -> None:
    """Makes a folder of four images, and leaves an unfinished store with two of them."""
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.pgm").write_bytes(b"P5 1 1 255 \x07")

    def progress(done: int, total: int) -> None:
        if done == 2:
            raise InterruptedBuildError

    with mock.patch.object(image_folder, "DECODE_BATCH_BYTES", 1), pytest.raises(InterruptedBuildError):
        open_store(images(folder), cache, progress)
