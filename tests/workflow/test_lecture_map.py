"""docs/lecture.md maps the lecture to the package: every name in it exists, and every test in it runs."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from pathlib import Path

import pytest

from fcnet.figures.lecture import lecture_figures

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| Claim"))
]
EXCLUDED_MARKS = {"skip", "skipif", "xfail", "slow", "gpu", "data"}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def resolve(name: str) -> object:
    """Returns the object of a dotted name: the longest module in it, then attributes."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            target: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[length:], target)
    raise AssertionError(f"{name} names no module")


@functools.cache
def marked_tests(file: str) -> dict[str, set[str]]:
    """Returns the names of a file's tests, each with its marks."""
    path = ROOT / "tests" / file
    assert path.is_file(), f"tests/{file}: no such file"
    marks = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            nodes = [part for decorator in node.decorator_list for part in ast.walk(decorator)]
            marks[node.name] = {part.attr for part in nodes if isinstance(part, ast.Attribute)}
    return marks


def test_every_row_has_a_claim_a_name_and_a_test() -> None:
    assert len(ROWS) > 60
    for row in ROWS:
        assert len(row) == 4, row
        claim, names, tests, _ = row
        assert claim
        assert quoted(names), row
        assert quoted(tests), row


@pytest.mark.parametrize("name", sorted({name for _, names, _, _ in ROWS for name in quoted(names)}))
def test_every_name_exists(name: str) -> None:
    if name.endswith(".py"):
        assert (ROOT / name).is_file()
    elif name.startswith("python -m "):
        importlib.import_module(name.split()[2])
    else:
        resolve(name)


@pytest.mark.parametrize("test", sorted({test for _, _, tests, _ in ROWS for test in quoted(tests)}))
def test_every_test_exists_and_runs_by_default(test: str) -> None:
    file, _, function = test.partition("::")
    marks = marked_tests(file)
    assert function in marks, f"no {function} in tests/{file}"
    assert not marks[function] & EXCLUDED_MARKS


def test_the_map_shows_every_figure_of_the_lecture() -> None:
    shown = {figure for *_, figures in ROWS for figure in quoted(figures)}
    assert shown == set(lecture_figures())
