"""The notebooks of the documentation run from the first cell to the last, and print what they promise."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import WAIT_SECONDS, subprocess_environment

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
PRINTED = {
    "lecture": [
        r"torch\.Size\(\[1437, 1, 8, 8\]\) torch\.uint8",
        r"loss 0\.\d{4}, likelihood per example 0\.\d{4}",
        r"softmax regression: test accuracy 9\d\.\d% \(95% interval 9\d\.\d% to 9\d\.\d%\)",
        r"one hidden layer: test accuracy 9\d\.\d%",
        r"fcnet 2\.06\d+e-09",
        r"torch 0\.0",
    ],
    "own_images": [
        r"digit 0, digit 1, .*, digit 9",
        r"test accuracy 9\d\.\d+%",
        r"[1-9]\d* mistakes",
        r"digit 3 \d\d\.\d%",
        r".* \[0, 0, 0\] 1437",
        r"test accuracy 9\d\.\d%",
    ],
    "inside_a_layer": [
        r"prediction \d label 0",
        r"layer 1: 32 units, dead \d+%, gradient norm 0\.\d{4}",
        r"layer 1: 32 units, dead [56]\d%, .*",
        r"layer 1: \d\d% of the units are dead; .*",
    ],
}


def printed(notebook: Any) -> str:
    """Returns what the cells print, in order."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.fixture
def kernel_environment(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets a kernel import this package, and find its commands, in a folder of its own."""
    monkeypatch.setattr(
        os, "environ", subprocess_environment(MPLBACKEND="agg", IPYTHONDIR=str(working_folder / ".ipython"))
    )
    return working_folder


def test_every_notebook_is_tested_and_committed_without_outputs() -> None:
    files = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert [file.stem for file in files] == sorted(PRINTED)
    for file in files:
        for cell in nbformat.read(file, as_version=4).cells:
            assert not cell.get("outputs"), f"{file.name} holds outputs"
            assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", PRINTED)
def test_a_notebook_runs_and_prints_what_it_promises(name: str, kernel_environment: Path) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(kernel_environment)}}
    NotebookClient(notebook, timeout=10 * WAIT_SECONDS, resources=resources).execute()
    assert re.search(".*\n(?:.*\n)*?.*".join(PRINTED[name]), printed(notebook)), printed(notebook)
