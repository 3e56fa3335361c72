"""Tests of fcnet.runtime.memory.

Run as a program, this file trains one network and prints how many bytes the process grew by.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fcnet import MLP
from fcnet.data.batches import Batches
from fcnet.experiment.build_training import MOMENTS
from fcnet.optim.optimizers import Muon, parameter_groups
from fcnet.runtime import memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.memory import MemoryEstimate, estimate_memory
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training

CPU = torch.device("cpu")
# Pixels, hidden widths, classes, images in a batch, and other settings of the model.
TRAININGS: list[tuple[int, list[int], int, int, dict[str, Any]]] = [
    (64, [2000, 2000], 10, 64, {}),
    (3072, [], 10, 8192, {}),
    (64, [256, 256], 10, 16384, {"normalization": "batch"}),
    (64, [512, 128], 10, 16384, {"activation": "gelu", "normalization": "layer", "dropout": 0.1}),
    (64, [2000, 2000], 10, 64, {"optimizer": "muon"}),
    (64, [1500, 1500, 1500, 1500], 10, 64, {"optimizer": "muon"}),
]


def train_model(num_pixels: int, hidden: list[int], num_classes: int, images: int, settings: dict[str, Any]) -> None:
    kind = settings.pop("optimizer", "adamw")
    model = MLP(num_pixels, hidden, num_classes, **settings)
    pixels = torch.zeros(images, 1, 1, num_pixels, dtype=torch.uint8)
    batches = Batches(pixels, torch.zeros(images, dtype=torch.int64), batch_size=images)
    groups = parameter_groups(model, 0.01)
    optimizer = Muon(groups) if kind == "muon" else torch.optim.AdamW(groups, fused=True)
    for _ in Training(model, batches, GradientDescent(optimizer, epochs=3)).advance():
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="a process's size is read from /proc")
@pytest.mark.parametrize("training", TRAININGS, ids=str)
def test_the_estimate_is_within_a_factor_of_two_of_the_measured_growth(training: tuple[Any, ...]) -> None:
    done = subprocess.run([sys.executable, __file__, repr(training)], capture_output=True, text=True, check=True)
    num_pixels, hidden, num_classes, images, settings = training
    expected = estimate_memory(
        [num_pixels, *hidden, num_classes],
        num_images=images,
        activation=settings.get("activation", "relu"),
        normalization=settings.get("normalization", "none"),
        dropout="dropout" in settings,
        moments=MOMENTS[settings.get("optimizer", "adamw")],
    )
    assert 0.5 < expected.step_bytes / int(done.stdout) < 2.0


@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 3)])
def test_the_number_of_parameters_is_exact(hidden: tuple[int, ...], normalization: Any) -> None:
    estimate = estimate_memory([20, *hidden, 4], num_images=1, normalization=normalization)
    model = MLP(20, hidden, 4, normalization=normalization)
    assert estimate.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert estimate.parameter_bytes == 16 * estimate.num_parameters
    assert estimate_memory([20, *hidden, 4], num_images=1, normalization=normalization, moments=0).parameter_bytes == (
        8 * estimate.num_parameters
    )


def test_the_advised_batch_size_fits_and_twice_as_much_does_not() -> None:
    estimate = MemoryEstimate(num_parameters=100, parameter_bytes=1600, bytes_per_image=64, num_images=1000)
    for free in (2000, 5000, 20_000, 30_000):
        message = estimate.out_of_memory_message(free, batch_size=1000)
        lower = int(message.removesuffix(", or raise train.accumulate").rpartition(" ")[2])
        assert message.startswith(
            "out of memory: a step needs about 0.0 GiB and 0.0 GiB are free; lower train.batch_size from "
        )
        assert 1600 + 64 * lower <= 0.9 * free < 1600 + 64 * 2 * lower


def test_the_advised_batch_size_is_at_most_half_of_the_one_that_failed() -> None:
    estimate = MemoryEstimate(num_parameters=100, parameter_bytes=1600, bytes_per_image=64, num_images=1000)
    assert estimate.out_of_memory_message(10**9, batch_size=1000).endswith(
        "from 1000 to 256, or raise train.accumulate"
    )
    assert estimate.out_of_memory_message(10**9, batch_size=2000, ranks=2).endswith(
        "from 2000 to 512, or raise train.accumulate"
    )


def test_only_parameters_that_do_not_fit_are_an_error() -> None:
    estimate = MemoryEstimate(num_parameters=100, parameter_bytes=1600, bytes_per_image=64, num_images=1000)
    estimate.check_parameters(1600)
    with pytest.raises(
        UserError, match=r"^out of memory: 1e\+02 parameters need 0.0 GiB and 0.0 GiB are free; lower model\.hidden$"
    ):
        estimate.check_parameters(1599)


def test_free_memory_is_limited_by_the_machine_and_by_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes(CPU) is None
    (tmp_path / "meminfo").write_text(
        "MemTotal:  9000 kB\nMemAvailable:   4000 kB\nSwapFree: 96 kB\nHugePages_Free: 0\n"
    )
    assert memory.free_bytes(CPU) == 4096 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.free_bytes(CPU) == 4096 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert memory.free_bytes(CPU) == 2000
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 300\nactive_file 7\n")
    assert memory.free_bytes(CPU) == 2300
    (tmp_path / "memory.max").write_text("10\n")
    assert memory.free_bytes(CPU) == 0
    assert memory.free_bytes(torch.device("meta")) is None


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_unused_blocks_of_the_allocator_are_free(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.get_device_module(kind)
    for name, value in {"mem_get_info": (500, 9000), "memory_reserved": 4000, "memory_allocated": 1000}.items():
        monkeypatch.setattr(module, name, lambda _, value=value: value)
    assert memory.free_bytes(torch.device(kind, 0)) == 3500


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (SystemError("error return without exception set"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("x"), False),
    ],
    ids=repr,
)
def test_only_a_lack_of_memory_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert memory.is_out_of_memory(error) == expected


def _bytes(key: str) -> int:
    """Returns the process's size now (VmRSS) or at its peak (VmHWM), which getrusage would not reset at exec."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_model(4, [3], 3, 4, {})  # loads everything that is loaded once
    before = _bytes("VmRSS")
    train_model(*ast.literal_eval(sys.argv[1]))
    sys.stdout.write(str(_bytes("VmHWM") - before))


@pytest.mark.parametrize("doing", list(memory._ADVICE))
def test_a_lack_of_memory_is_named_for_the_innermost_phase(doing: str) -> None:
    with pytest.raises(MemoryError) as error, memory.phase("making a training step"), memory.phase(doing):
        raise MemoryError
    assert memory.describe_out_of_memory(error.value) == f"out of memory while {doing}; {memory._ADVICE[doing]}"


def test_a_lack_of_memory_outside_of_all_phases_has_general_advice() -> None:
    error = MemoryError()
    error.add_note("while something else")
    expected = "out of memory; free memory for this command, or choose another device"
    assert memory.describe_out_of_memory(error) == expected
