"""Prints the figures of the fault tests at the end of the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.processes import WarmServer
from tests.faults.runs import FaultyRuns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FIGURES = "figures"


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Records a row of figures: its name, and counts by keyword."""

    def record(name: str, **counts: object) -> None:
        values = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
        record_property(_FIGURES, f"{name}: {values}")

    return record


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmServer]:
    """Starts commands in processes that have already imported torch."""
    server = WarmServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def runs(warm: WarmServer, tmp_path_factory: pytest.TempPathFactory) -> FaultyRuns:
    """Trains runs with faults, and once without."""
    return FaultyRuns(warm, tmp_path_factory.mktemp("runs"))


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
