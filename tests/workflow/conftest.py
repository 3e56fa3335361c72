"""Fixtures of the workflow tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import write_noise_images

# 24 training images of each of three classes, 3 of them held out: 8 steps an epoch.
PETS = """\
seed = 2
[data]
source = "images"
path = "pets"
validation = 0.125
augment = { flip = true }
[model]
hidden = [8]
[optimizer]
lr = 0.01
[train]
epochs = 3
batch_size = 8
"""
PET_CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def pets(working_folder: Path) -> None:
    """The folder ``pets`` of images of ants, bees and cats, and ``pets.toml``, which trains on them."""
    write_noise_images("pets", PET_CLASSES, {"train": 24, "test": 10})
    Path("pets.toml").write_text(PETS)
