"""Tests of fcnet.probe.work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from fcnet.experiment.runner import Stopped
from fcnet.linear_model import LogisticPath, fit_path
from fcnet.probe.arguments import Settings
from fcnet.probe.run import ProbeRun
from fcnet.probe.work import Work, path_from_tensors, path_to_tensors, pick

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
SETTINGS = Settings(Cs=(0.01, 1.0, 100.0), tol=1e-8, class_weight="balanced", standardize=False, max_iter=200)


def make_problem() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(80) % 3
    return torch.randn(80, 5, generator=draws) + torch.eye(3, 5)[y], y


def assert_equal(path: LogisticPath, other: LogisticPath) -> None:
    for name, part in path_to_tensors(path).items():
        assert torch.equal(part, path_to_tensors(other)[name]), name


def test_a_fit_is_that_of_fit_path_with_the_settings(tmp_path: Path) -> None:
    x, y = make_problem()
    found = Work(ProbeRun(tmp_path), SETTINGS, CPU, save_seconds=1e9).fit("a", x, y, SETTINGS.Cs)
    expected = fit_path(x, y, SETTINGS.Cs, class_weight="balanced", standardize=False, tol=1e-8, max_iter=200)
    assert_equal(found, expected)


def test_a_fit_that_is_stopped_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    x, y = make_problem()
    run = ProbeRun(tmp_path)
    run.state.mkdir()
    expected = Work(run, SETTINGS, CPU, save_seconds=1e9).fit("a", x, y, SETTINGS.Cs)
    for attempt in range(1000):
        work = Work(ProbeRun(tmp_path), SETTINGS, CPU, save_seconds=1e9, stop=lambda: True)
        try:
            found = work.fit("a", x, y, SETTINGS.Cs)
        except Stopped:
            continue
        assert attempt > 3
        assert_equal(found, expected)
        return
    pytest.fail("the fit never ends")


def test_a_stage_is_computed_once_and_its_seconds_are_remembered(tmp_path: Path) -> None:
    x, y = make_problem()
    run = ProbeRun(tmp_path)
    run.state.mkdir()
    first = Work(run, SETTINGS, CPU, save_seconds=0.0)
    result = first.stage("a", lambda: path_to_tensors(first.fit("a", x, y, SETTINGS.Cs)))
    assert first.seconds > 0.0
    assert sorted(file.name for file in run.state.iterdir()) == ["a.json", "a.safetensors"]
    second = Work(ProbeRun(tmp_path), SETTINGS, CPU, save_seconds=0.0)
    again = second.stage("a", lambda: pytest.fail("it is computed twice"))
    assert second.seconds == first.seconds
    assert_equal(path_from_tensors(again), path_from_tensors(result))


def test_progress_grows_from_0_to_1(tmp_path: Path) -> None:
    x, y = make_problem()
    shown: list[tuple[float, str]] = []
    work = Work(ProbeRun(tmp_path), SETTINGS, CPU, save_seconds=1e9, show=lambda *args: shown.append(args))
    work.fit("a", x, y, SETTINGS.Cs)
    fractions = [fraction for fraction, _ in shown]
    assert 0.0 <= fractions[0] < 0.5
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)
    assert shown[-1] == (1.0, "3 of 3 penalties done")


def test_one_of_several_penalties_can_be_picked() -> None:
    x, y = make_problem()
    path = fit_path(x, y, SETTINGS.Cs)
    one = pick(path, 1)
    assert (one.Cs.tolist(), one.coef.shape) == ([1.0], (1, 3, 5))
    assert torch.equal(one.coef[0], path.coef[1])
