"""Rules of fcnet.runtime.memory.

This file, run as a program, trains one network and says by how many bytes the process grew.
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
# Pixels, hidden widths, classes, images in a batch, and the network's other settings.
TRAININGS: list[tuple[int, list[int], int, int, dict[str, Any]]] = [
    (64, [2000, 2000], 10, 64, {}),
    (3072, [], 10, 8192, {}),
    (64, [256, 256], 10, 16384, {"normalization": "batch"}),
    (64, [512, 128], 10, 16384, {"activation": "gelu", "normalization": "layer", "dropout": 0.1}),
    (64, [2000, 2000], 10, 64, {"optimizer": "muon"}),
    (64, [1500, 1500, 1500, 1500], 10, 64, {"optimizer": "muon"}),
]


def trained(num_pixels: int, hidden: list[int], num_classes: int, images: int, settings: dict[str, Any]) -> None:
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
def test_the_need_is_what_a_training_takes_within_a_factor_of_two(training: tuple[Any, ...]) -> None:
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
def test_the_parameters_are_counted_one_by_one(hidden: tuple[int, ...], normalization: Any) -> None:
    counted = estimate_memory([20, *hidden, 4], num_images=1, normalization=normalization)
    model = MLP(20, hidden, 4, normalization=normalization)
    assert counted.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert counted.parameter_bytes == 16 * counted.num_parameters
    assert estimate_memory([20, *hidden, 4], num_images=1, normalization=normalization, moments=0).parameter_bytes == (
        8 * counted.num_parameters
    )


def test_the_advice_fits_and_twice_as_much_does_not() -> None:
    whole = MemoryEstimate(num_parameters=100, parameter_bytes=1600, bytes_per_image=64, num_images=1000)
    for free in (2000, 5000, 20_000, 30_000):
        said = whole.out_of_memory_message(free, batch_size=1000)
        lower = int(said.removesuffix(", or raise train.accumulate").rpartition(" ")[2])
        assert said.startswith("memory: a step needs about 0.0 GiB and 0.0 GiB are free; lower train.batch_size from ")
        assert 1600 + 64 * lower <= 0.9 * free < 1600 + 64 * 2 * lower


def test_the_advice_is_lower_than_what_did_not_fit_though_it_should_have() -> None:
    whole = MemoryEstimate(num_parameters=100, parameter_bytes=1600, bytes_per_image=64, num_images=1000)
    assert whole.out_of_memory_message(10**9, batch_size=1000).endswith("from 1000 to 256, or raise train.accumulate")
    assert whole.out_of_memory_message(10**9, batch_size=2000, ranks=2).endswith(
        "from 2000 to 512, or raise train.accumulate"
    )


def test_a_network_that_fits_by_its_parameters_is_not_refused() -> None:
    whole = MemoryEstimate(num_parameters=100, parameter_bytes=1600, bytes_per_image=64, num_images=1000)
    whole.check_parameters(1600)
    with pytest.raises(UserError, match=r"model\.hidden: its 1e\+02 parameters need 0.0 GiB and 0.0 GiB are free"):
        whole.check_parameters(1599)


def test_what_is_free_is_the_least_of_the_machines_and_the_groups(
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


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("x"), False),
    ],
    ids=repr,
)
def test_only_a_want_of_memory_is_one(error: Exception, short: bool) -> None:
    assert memory.is_out_of_memory(error) == short


def _bytes(key: str) -> int:
    """The process's size now (VmRSS) or at its height (VmHWM), which, unlike getrusage's, begins with the program."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    trained(4, [3], 3, 4, {})  # what is loaded once is there before
    before = _bytes("VmRSS")
    trained(*ast.literal_eval(sys.argv[1]))
    sys.stdout.write(str(_bytes("VmHWM") - before))
