"""Trainings on the device: whether times are true, bits repeat, graphs are captured, and where the time goes."""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor, nn

from fcnet.config.presets import list_presets
from fcnet.data import batches as batches_module
from fcnet.data.batches import Batches
from fcnet.runtime.hardware import synchronize
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training
from gpu_parts.settings import Result

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_parts.settings import Settings

_LIMIT_SECONDS = 240.0
_POLL_SECONDS = 0.02
_TIMINGS = ("seconds", "images_per_second")


def recorded_seconds(settings: Settings) -> Result:
    """Compares the seconds that a training records with the wall clock, from an idle device to an idle device."""
    epochs = 3 if settings.quick else 10
    training = settings.build("data.validation=0.0", f"train.epochs={epochs}").training
    synchronize(settings.device)
    since = time.perf_counter()
    records = [record for record in training.advance() if record is not None]
    synchronize(settings.device)
    wall = time.perf_counter() - since
    graphs = training.graphed_steps
    return Result(
        {
            "wall_seconds": wall,
            "recorded_seconds": training.train_seconds,
            "recorded_share": training.train_seconds / wall,
            "epoch_seconds": [record.seconds for record in records],
            "images_per_second": records[-1].images_per_second,
            "no_graphs_because": graphs.fallback_reason if graphs else "not a CUDA device",
        }
    )


def bit_identity(settings: Settings) -> Result:
    """Trains three times by the command, once with a kill and a resume, and compares weights and records.

    Raises:
        RuntimeError: two of them differ.
    """
    changes = settings.changes(
        f"train.epochs={6 if settings.quick else 20}", "train.save_seconds=0.1", "train.diagnostics_every=2"
    )
    names = ("one", "other", "killed")
    for name in names[:2]:
        _finish(_start_train(settings, name, changes))
    process = _start_train(settings, "killed", changes)
    records = settings.out / "killed" / "metrics.jsonl"
    while process.poll() is None and len(_lines(records)) < 2:
        time.sleep(_POLL_SECONDS)
    was_running = process.poll() is None
    process.kill()
    process.communicate()
    if was_running:
        _finish(_start_train(settings, "killed", ["--resume"]))
    one, *others = (_contents(settings.out / name) for name in names)
    differing = [name for name, other in zip(names[1:], others, strict=True) if other != one]
    if differing:
        raise RuntimeError(f"weights or records differ from the first run's: {', '.join(differing)}")
    return Result({"identical_runs": list(names), "killed_while_running": was_running})


def step_profile(settings: Settings) -> Result:
    """Profiles an epoch of steps, after two that warm up and capture."""
    training = settings.build("data.validation=0.0", "train.epochs=3").training
    events = training.advance()
    for _ in range(2):
        while next(events) is None:
            pass
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = settings.device.type == "cuda"
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    synchronize(settings.device)
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        since = time.perf_counter()
        while next(events) is None:
            pass
        synchronize(settings.device)
        wall = time.perf_counter() - since
    averages = profile.key_averages()
    table = averages.table(sort_by=f"self_{'cuda' if on_gpu else 'cpu'}_time_total", row_limit=30)
    busy = sum(each.self_device_time_total if on_gpu else each.self_cpu_time_total for each in averages) / 1e6
    steps = len(training.batches)
    return Result(
        {"steps": steps, "milliseconds_a_step": 1e3 * wall / steps, "busy_share": busy / wall},
        table,
    )


def precisions(settings: Settings) -> Result:
    """Times an epoch in each precision, after two that warm up and capture."""
    figures: dict[str, Any] = {}
    for precision in ("float32", "tf32", "bfloat16"):
        training = settings.build("data.validation=0.0", "train.epochs=5", f'train.precision="{precision}"').training
        records = [record for record in training.advance() if record is not None]
        figures[precision] = {
            "milliseconds_a_step": 1e3 * min(record.seconds for record in records[2:]) / len(training.batches),
            "train_loss": records[-1].train_loss,
        }
    return Result(figures)


def images_on_the_host(settings: Settings) -> Result:
    """Compares an epoch of images on the device with one of images that stay on the host, read ahead or not.

    Raises:
        RuntimeError: reading ahead changes the losses.
    """
    seconds, losses = {}, {}
    for name, on_host, ahead in (("on the device", False, False), ("read ahead", True, True), ("in turn", True, False)):
        with contextlib.ExitStack() as stack:
            if on_host:
                patch = mock.patch.object(batches_module, "_move_if_fits", lambda images, device: images)
                stack.enter_context(patch)
            if on_host and not ahead:
                stack.enter_context(mock.patch.object(Batches, "_reads_ahead", new=False))
            training = settings.build("data.validation=0.0", "train.epochs=3").training
            records = [record for record in training.advance() if record is not None]
        seconds[name] = min(record.seconds for record in records[1:])
        losses[name] = [record.train_loss for record in records]
    if losses["read ahead"] != losses["in turn"]:
        raise RuntimeError(f"losses differ: {losses}")
    return Result({"epoch_seconds": seconds, "losses": losses})


class _SynchronizingReLU(nn.ReLU):
    """A ReLU that reads a value, so that no graph can be captured."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input) if input.sum().item() > -1e30 else input


def refused_capture(settings: Settings) -> Result:
    """Trains a network that no graph can capture, then one that can be, and compares the memory before and after.

    Raises:
        RuntimeError: the first was captured, or the second was not.
    """
    batches = settings.build("data.validation=0.0").training.batches
    _SynchronizingReLU.__module__ = "torch.nn"  # graphs are tried for torch's modules alone
    figures: dict[str, Any] = {}
    for name, activation in {"refused": _SynchronizingReLU(), "captured": nn.ReLU()}.items():
        layers = nn.Flatten(), nn.Linear(batches.images[0].numel(), 64), activation, nn.Linear(64, batches.num_classes)
        model = nn.Sequential(*layers).to(settings.device)
        algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.01, fused=True), epochs=3)
        before = torch.cuda.memory_allocated(settings.device)
        training = Training(model, batches, algorithm)
        losses = [record.train_loss for record in training.advance() if record is not None]
        assert training.graphed_steps is not None
        figures[name] = {"losses": losses, "reason": training.graphed_steps.fallback_reason}
        training.graphed_steps.reset()
        figures[name]["bytes_left"] = torch.cuda.memory_allocated(settings.device) - before
    if figures["refused"]["reason"] is None or figures["captured"]["reason"] is not None:
        raise RuntimeError(f"expected one refused capture, then one that works, got {json.dumps(figures)}")
    return Result(figures)


def second_device(settings: Settings) -> Result:
    """Trains on ``cuda:1`` by the command."""
    _finish(_start_train(settings, "second_device", settings.changes("train.epochs=3"), device="cuda:1"))
    lines = _lines(settings.out / "second_device" / "metrics.jsonl")
    summary = json.loads((settings.out / "second_device" / "summary.json").read_text())
    return Result({"device": summary["device"], "epochs": len(lines), "seconds": [line["seconds"] for line in lines]})


def cifar10_gpu(settings: Settings) -> Result:
    """Trains the preset ``cifar10_gpu`` by its command, up to a limit of time."""
    process = _start_train(settings, "cifar10_gpu", settings.changes())
    since = time.perf_counter()
    try:
        process.communicate(timeout=_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # the run saves, and may be resumed
    seconds = time.perf_counter() - since
    _, errors = process.communicate()
    lines = _lines(settings.out / "cifar10_gpu" / "metrics.jsonl")
    if not lines:
        raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else "no epoch was finished")
    figures: dict[str, Any] = {
        "data": "synthetic" if settings.data is None else str(settings.data),
        "epochs": len(lines),
        "command_seconds": seconds,
        "median_epoch_seconds": statistics.median(line["seconds"] for line in lines),
        "median_images_per_second": statistics.median(line["images_per_second"] for line in lines),
        "last_epoch": lines[-1],
    }
    with contextlib.suppress(FileNotFoundError):  # the limit came first
        summary = json.loads((settings.out / "cifar10_gpu" / "summary.json").read_text())
        figures |= {name: summary[name] for name in ("test_accuracy", "train_seconds", "warnings")}
    return Result(figures)


def _start_train(
    settings: Settings, name: str, changes: list[str], *, device: str | None = None
) -> subprocess.Popen[str]:
    """Starts ``fcnet train`` on the preset ``cifar10_gpu``, or resumes a run of it."""
    command = [sys.executable, "-m", "fcnet.train", "--device", device or str(settings.device)]
    if changes == ["--resume"]:
        command += ["--resume", str(settings.out / name)]
    else:
        command += ["--config", str(list_presets()["cifar10_gpu"]), "--out", str(settings.out / name)]
        command += [word for change in changes for word in ("--set", change)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str]) -> None:
    """Waits for a command.

    Raises:
        RuntimeError: it failed; the message is the last line of its errors.
    """
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else f"exit {process.returncode}")


def _lines(file: Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON lines; none if there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _contents(run: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """Returns the weights of a run, and its records without measured times."""
    records = [
        {key: value for key, value in line.items() if key not in _TIMINGS} for line in _lines(run / "metrics.jsonl")
    ]
    return (run / "model.safetensors").read_bytes(), records
