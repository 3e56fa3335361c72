from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from fcnet.experiment.checkpoints import Checkpoints

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, {"x": torch.tensor([float(step)])}, {"step": step})


def list_stems(checkpoints: Checkpoints) -> set[str]:
    return {file.stem for file in checkpoints.folder.iterdir()}


def test_keep_last_removes_all_but_the_newest(checkpoints: Checkpoints) -> None:
    save(checkpoints, 3, 12)
    checkpoints.keep_last()
    assert list_stems(checkpoints) == {"step-0000000012"}
    found = checkpoints.latest()
    assert found is not None
    assert found[1]["step"] == 12


def test_keep_last_keeps_the_newest_complete_one(checkpoints: Checkpoints) -> None:
    save(checkpoints, 3, 12)
    (checkpoints.folder / "step-0000000012.safetensors").unlink()
    checkpoints.keep_last()
    assert list_stems(checkpoints) == {"step-0000000003"}


def test_the_initial_model_and_other_files_are_left_alone(checkpoints: Checkpoints) -> None:
    others = {f"{checkpoints.initial.name}.json", f"{checkpoints.initial.name}.safetensors", "notes.txt"}
    for name in others:
        (checkpoints.folder / name).touch()
    save(checkpoints, 1, 2, 3)
    checkpoints.keep_last()
    assert {file.name for file in checkpoints.folder.iterdir()} >= others
    assert checkpoints.saved_step == 3


def test_without_a_folder_there_are_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none")
    checkpoints.keep_last()
    assert (checkpoints.saved_step, checkpoints.latest(), list(checkpoints.metadata())) == (None, None, [])
