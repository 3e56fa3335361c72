"""scripts/first_gpu.py runs to its end on any machine, and says of each part what it found or why it found nothing."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run_script(program: Callable[[str], Any], out: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Runs the script; returns its exit code, the entry of each part in order, and the text."""
    code = program("first_gpu").main(["--out", str(out), *flags])
    entries = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return code, {entry["part"]: entry for entry in entries}, (out / "results.txt").read_text()


def test_without_a_gpu_each_part_but_the_facts_is_left_out_and_says_why(
    program: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, entries, text = run_script(program, tmp_path)
    assert code == 0
    assert list(entries) == list(program("first_gpu").PARTS)
    facts = entries.pop("facts")
    assert facts["status"] == "done"
    assert facts["seconds"] > 0.0
    assert facts["figures"]["torch"] == torch.__version__
    for name, entry in entries.items():
        assert entry["status"] == "left out"
        assert entry["reason"].startswith("no CUDA device; torch ")
        assert f"{name}: left out, no CUDA device; torch " in text


@pytest.mark.usefixtures("isolated_cache")
def test_a_part_that_fails_is_one_line_and_the_next_part_runs(program: Callable[[str], Any], tmp_path: Path) -> None:
    flags = ["--device", "cpu", "--quick", "--data", str(tmp_path / "nowhere")]
    code, entries, text = run_script(program, tmp_path, *flags, "--only", "recorded_seconds", "facts")
    assert code == 1
    assert [entry["status"] for entry in entries.values()] == ["failed", "done"]
    reason = entries["recorded_seconds"]["reason"]
    assert "nowhere" in reason
    assert f"recorded_seconds: failed, {reason}\n" in text


def test_a_part_that_hangs_is_ended(program: Callable[[str], Any], tmp_path: Path) -> None:
    script = program("first_gpu")
    parts = {"facts": script.PARTS["facts"]._replace(limit_seconds=0.01)}
    with mock.patch.object(script, "PARTS", parts):
        entry = script.run_part("facts", script.Settings(torch.device("cpu"), None, tmp_path))
    assert (entry["status"], entry["reason"]) == ("failed", "took more than 0 s")


def test_a_part_whose_process_dies_has_failed(program: Callable[[str], Any], tmp_path: Path) -> None:
    script = program("first_gpu")
    died = subprocess.CompletedProcess([], -11, stdout="", stderr="Segmentation fault\n")
    with mock.patch.object(script.subprocess, "run", return_value=died):
        entry = script.run_part("facts", script.Settings(torch.device("cpu"), None, tmp_path))
    assert entry["reason"] == "the process ended with -11: Segmentation fault"


@pytest.fixture
def measured(program: Callable[[str], Any], tmp_path: Path, isolated_cache: None) -> Callable[[str], dict[str, Any]]:
    """Runs a part in this process, on the CPU and with small networks."""
    script = program("first_gpu")

    def run(name: str) -> dict[str, Any]:
        entry: dict[str, Any] = script.measure(name, script.Settings(torch.device("cpu"), None, tmp_path, quick=True))
        assert entry["status"] == "done", entry
        json.dumps(entry)
        return entry

    return run


def test_recorded_seconds_are_within_the_wall_clocks(measured: Callable[[str], dict[str, Any]]) -> None:
    figures = measured("recorded_seconds")["figures"]
    assert 0.0 < figures["recorded_seconds"] <= figures["wall_seconds"]
    assert sum(figures["epoch_seconds"]) == pytest.approx(figures["recorded_seconds"])


def test_the_profile_is_a_table_of_an_epochs_operations(measured: Callable[[str], dict[str, Any]]) -> None:
    entry = measured("step_profile")
    assert entry["figures"]["steps"] == 5
    assert "aten::mm" in entry["text"]


def test_each_precision_has_the_time_of_a_step(measured: Callable[[str], dict[str, Any]]) -> None:
    figures = measured("precisions")["figures"]
    assert list(figures) == ["float32", "tf32", "bfloat16"]
    assert figures["tf32"]["train_loss"] == figures["float32"]["train_loss"]  # on a CPU
    assert all(each["milliseconds_a_step"] > 0.0 for each in figures.values())


def test_images_on_the_host_are_timed_with_and_without_reading_ahead(
    measured: Callable[[str], dict[str, Any]],
) -> None:
    figures = measured("images_on_the_host")["figures"]
    assert set(figures["epoch_seconds"]) == {"on the device", "read ahead", "in turn"}
    assert all(seconds > 0.0 for seconds in figures["epoch_seconds"].values())


def test_each_loss_has_its_bandwidth_and_its_errors(measured: Callable[[str], dict[str, Any]]) -> None:
    figures = measured("losses")["figures"]
    assert {row["loss"] for row in figures["bandwidth"]} >= {"fcnet", "torch"}
    assert all(row["gigabytes_per_second"] > 0.0 for row in figures["bandwidth"])
    assert max(figures["relative_errors"]["fcnet"].values()) < 1e-6
    assert figures["relative_errors"]["torch"]["loss, sure row + 4096"] > 0.1
    assert {name.partition(" ")[0] for name in figures["left_out"]} <= {"liger", "quack"}


@pytest.mark.parametrize(
    ("output", "code", "is_fine"),
    [("10 passed in 3s", 0, True), ("1 failed, 9 passed in 3s", 1, False), ("10 skipped in 1s", 0, False)],
)
def test_gpu_tests_that_fail_or_do_not_run_are_a_failure(
    program: Callable[[str], Any], tmp_path: Path, output: str, code: int, is_fine: bool
) -> None:
    script = program("first_gpu")
    done = subprocess.CompletedProcess([], code, stdout=f".....\n{output}\n", stderr="")
    with mock.patch.object(subprocess, "run", return_value=done):
        entry = script.measure("gpu_tests", script.Settings(torch.device("cpu"), None, tmp_path))
    assert entry["status"] == ("done" if is_fine else "failed")
    assert output in (entry["text"] if is_fine else entry["reason"])


@pytest.mark.slow
@pytest.mark.usefixtures("isolated_cache")
def test_the_whole_script_runs_on_a_cpu(program: Callable[[str], Any], tmp_path: Path) -> None:
    code, entries, _ = run_script(program, tmp_path, "--device", "cpu", "--quick")
    assert code == 0
    left_out = [name for name, entry in entries.items() if entry["status"] == "left out"]
    assert left_out == ["gpu_tests", "images_on_the_host", "refused_capture", "second_device"]
    assert entries["bit_identity"]["figures"]["identical_runs"] == ["one", "other", "killed"]
    assert entries["cifar10_gpu"]["figures"]["epochs"] == 3
