"""Tests of fcnet.runtime.hardware."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import pytest
import torch

from fcnet.runtime import hardware
from fcnet.runtime.hardware import num_processors, num_threads, processor_name, synchronize

if TYPE_CHECKING:
    from pathlib import Path

LINES = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC  7B13\nmodel name\t: another\n"


def test_the_name_of_the_processor_comes_from_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(LINES)
    monkeypatch.setattr(hardware, "_CPUINFO", file)
    assert processor_name() == "AMD EPYC 7B13"


@pytest.mark.parametrize("content", [None, "processor\t: 0\n"])
def test_other_systems_give_the_architecture(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(hardware, "_CPUINFO", file)
    assert processor_name() == (platform.processor() or platform.machine())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_only_processors_that_this_process_may_use_are_counted() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert num_processors() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert num_processors() == len(before)


@pytest.mark.parametrize(
    ("value", "threads"),
    [("1", 1), ("3", 3), ("8", 4), ("2,1", 2), (" 2 ", 2), ("", 4), ("0", 4), ("many", 4), ("-1", 4)],
)
def test_the_environment_can_lower_the_number_of_threads(
    value: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "num_processors", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert num_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert num_threads() == 4


def test_a_device_is_waited_for_and_a_cpu_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for name in ("cpu", "meta", "cuda:1", "mps"):
        synchronize(torch.device(name))
    assert waited == [torch.device("cuda:1"), torch.device("mps")]


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        (["sm_75", "sm_80"], (7, 5), True),
        (["sm_75", "sm_80"], (8, 9), True),
        (["sm_75", "sm_80"], (7, 0), False),
        (["sm_75", "sm_80"], (9, 0), False),
        (["sm_75", "compute_80"], (9, 0), True),
        (["compute_80"], (7, 5), False),
        (["sm_90a", "sm_120"], (9, 0), True),
        (["sm_90a", "sm_120"], (10, 0), False),
        (["sm_100"], (9, 0), False),
        (["gfx942"], (9, 4), True),
        ([], (3, 0), True),
    ],
)
def test_a_gpu_without_kernels_in_torchs_build_is_found_before_a_kernel_fails(
    built: list[str], capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1, 1))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    reason = hardware.unavailable_reason(torch.device("cuda", 0))
    own = f"sm_{capability[0]}{capability[1]}"
    lacking = f"torch's build has no kernels for Tesla V100, {own}, but for {', '.join(built)}"
    assert reason == (None if runs else lacking)


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_gpu_has_the_name_of_its_maker(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.get_device_module(kind), "get_device_name", lambda device: f"GPU {device.index}")
    assert hardware.device_name(torch.device(kind, 3)) == "GPU 3"
    assert hardware.device_name(torch.device("mps")) == "mps"
