"""Fixtures of the fault tests, and their figures at the end of the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.runs import FaultyRuns
from tests.helpers import write_noise_images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.processes import WarmServer

_FIGURES = "figures"


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Records a row of figures: its name, and counts by keyword."""

    def record(name: str, **counts: object) -> None:
        values = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
        record_property(_FIGURES, f"{name}: {values}")

    return record


@pytest.fixture(scope="session")
def runs(warm: WarmServer, tmp_path_factory: pytest.TempPathFactory) -> FaultyRuns:
    """Trains runs with faults, and once without."""
    return FaultyRuns(warm, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def image_folder(working_folder: Path) -> Path:
    """A working folder whose folder ``images`` has images of three classes."""
    write_noise_images("images", ("a", "b", "c"), {"train": 12, "test": 6})
    return working_folder


@pytest.fixture
def without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the reports of trainings and sweeps, which would take half of their time."""
    for module in ("fcnet.train", "fcnet.sweep.__main__", "fcnet.sweep.trials"):
        monkeypatch.setattr(f"{module}.ensure_report", lambda *_: None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == _FIGURES
    ]
    if rows:
        terminalreporter.section("faults")
        for row in rows:
            terminalreporter.write_line(row)
