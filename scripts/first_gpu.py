"""The first ten minutes on a GPU: what to know, in the order in which it matters.

    python scripts/first_gpu.py [--out first_gpu] [--data PATH] [--device cuda] [--only PART…] [--quick]

Each part runs in a process of its own, with a limit of time, so that one that fails or hangs takes no other with it.
Its result is written as soon as it ends: a line of ``results.jsonl`` and a paragraph of ``results.txt`` in the folder
``--out``. A part that cannot run here is left out, and says why. ``--data`` is CIFAR-10 or a folder or archive of
images; without it the images are synthetic. ``--quick`` takes small networks, to try the script itself, also with
``--device cpu``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gpu_parts import losses, machine, training
from gpu_parts.settings import Result, Settings, no_gpu, no_second_gpu, not_cuda

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Part(NamedTuple):
    """A part of the script.

    Attributes:
        measure: returns the part's result, or raises.
        obstacle: returns why the part cannot run, or None.
        limit_seconds: the time after which the part is ended.
    """

    measure: Callable[[Settings], Result]
    obstacle: Callable[[Settings], str | None] = no_gpu
    limit_seconds: float = 300.0


PARTS = {
    "facts": Part(machine.facts, lambda settings: None, 60.0),
    "gpu_tests": Part(machine.gpu_tests, not_cuda, 900.0),
    "recorded_seconds": Part(training.recorded_seconds),
    "bit_identity": Part(training.bit_identity),
    "step_profile": Part(training.step_profile),
    "precisions": Part(training.precisions),
    "losses": Part(losses.losses),
    "images_on_the_host": Part(training.images_on_the_host, not_cuda),
    "refused_capture": Part(training.refused_capture, not_cuda),
    "second_device": Part(training.second_device, no_second_gpu),
    "cifar10_gpu": Part(training.cifar10_gpu, limit_seconds=600.0),
}
_RESULT = "result "


def run_part(name: str, settings: Settings) -> dict[str, Any]:
    """Runs a part in a process of its own.

    Returns:
        The part's name, its status (``"done"``, ``"failed"`` or ``"left out"``) and its seconds; then its figures and
        text, or the reason.
    """
    part = PARTS[name]
    if reason := part.obstacle(settings):
        return {"part": name, "status": "left out", "seconds": 0.0, "reason": reason}
    command = [sys.executable, __file__, "--run", name, *_flags(settings)]
    since = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=part.limit_seconds)
    except subprocess.TimeoutExpired:
        entry: dict[str, Any] = {"status": "failed", "reason": f"took more than {part.limit_seconds:.0f} s"}
    else:
        results = [line.removeprefix(_RESULT) for line in done.stdout.splitlines() if line.startswith(_RESULT)]
        last_words = (done.stderr.strip() or "no output").splitlines()[-1]
        ended = {"status": "failed", "reason": f"the process ended with {done.returncode}: {last_words}"}
        entry = json.loads(results[-1]) if results else ended
    return {"part": name, "seconds": time.perf_counter() - since, **entry}


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Runs a part in this process, and returns what it found or the error that ended it."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            result = PARTS[name].measure(settings)
    except Exception as error:  # noqa: BLE001 - whatever fails, the next part runs
        reason, _, text = str(error).partition("\n")
        return {"status": "failed", "reason": f"{type(error).__name__}: {reason}", "text": text}
    return {"status": "done", "figures": result.figures, "text": result.text}


def describe(entry: dict[str, Any]) -> str:
    """Returns a part's result as a paragraph. Figures of several values are in its text, if it has one."""
    head = f"{entry['part']}: {entry['status']}"
    head += f", {entry['reason']}" if "reason" in entry else f" in {entry['seconds']:.1f} s"
    text = entry.get("text", "").splitlines()
    figures = [
        f"  {name}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in entry.get("figures", {}).items()
        if not (text and isinstance(value, list | dict))
    ]
    return "\n".join([head, *figures, *text, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts, and returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("first_gpu"), help="folder for the results")
    parser.add_argument("--data", type=Path, help="CIFAR-10, or a folder or archive of images")
    parser.add_argument("--device", default="cuda", help="device to measure (default: cuda)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="take small networks")
    parser.add_argument("--run", choices=PARTS, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    settings = Settings(torch.device(flags.device), flags.data, flags.out, flags.quick)
    if flags.run:
        print(_RESULT + json.dumps(measure(flags.run, settings)))
        return 0
    flags.out.mkdir(parents=True, exist_ok=True)
    failed = False
    with (flags.out / "results.jsonl").open("w") as lines, (flags.out / "results.txt").open("w") as text:
        for name in flags.only:
            entry = run_part(name, settings)
            failed |= entry["status"] == "failed"
            for file, content in ((lines, json.dumps(entry)), (text, describe(entry)), (sys.stdout, describe(entry))):
                print(content, file=file, flush=True)
    return int(failed)


def _flags(settings: Settings) -> list[str]:
    flags = ["--device", str(settings.device), "--out", str(settings.out)]
    return [*flags, *(["--data", str(settings.data)] if settings.data else []), *(["--quick"] * settings.quick)]


if __name__ == "__main__":
    sys.exit(main())
