"""A run stopped at twenty steps ends as the uninterrupted one, with every optimizer, schedule and augmentation."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest
import torch

from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from tests.helpers import advance_run, model_files, read_learning_curve

if TYPE_CHECKING:
    from pathlib import Path

# 54 training images in 7 steps an epoch, the last of 6 images; 28 steps in all.
CONFIG = """
seed = 3
[data]
source = "synthetic"
shape = [3, 6, 6]
train_size = 60
test_size = 12
num_classes = 3
[model]
hidden = [6, 6]
normalization = "batch"
dropout = 0.2
[optimizer]
lr = 0.01
milestones = [0.5, 2]
[train]
epochs = 4
batch_size = 8
"""
pytestmark = pytest.mark.usefixtures("isolated_cache")
CPU = torch.device("cpu")
NUM_STOPS = 20
OPTIMIZERS = ("sgd", "adam", "adamw", "muon")
SCHEDULES = ("constant", "cosine", "linear", "one_cycle", "steps")
AUGMENTATIONS = (
    "{}",
    "{flip=true}",
    "{shift=1}",
    "{rotate=20}",
    "{scale=0.2}",
    "{color_jitter=0.3}",
    "{cutout=2}",
    "{mixup=0.4}",
    "{cutmix=1.0}",
    "{flip=true,shift=1,rotate=20,scale=0.2,color_jitter=0.3,cutout=2,mixup=0.4,cutmix=1.0}",
)
EMA_DECAYS = ("train.ema_decay=0.0", "train.ema_decay=0.9")
FULL_BATCH = ["optimizer.name=lbfgs", "train.batch_size=all", "train.epochs=24"]
SETTINGS = [
    [f"optimizer.name={name}", f"optimizer.schedule={schedule}", f"data.augment={augment}", ema_decay]
    for name, schedule, augment, ema_decay in itertools.product(OPTIMIZERS, SCHEDULES, AUGMENTATIONS, EMA_DECAYS)
] + [
    [*FULL_BATCH, f"data.augment={augment}", ema_decay]
    for augment, ema_decay in itertools.product(AUGMENTATIONS, EMA_DECAYS)
]

# Few enough for every run of the tests; the slow test takes them all.
SAMPLE = random.Random(0).sample(SETTINGS, 24)


def assert_stops_change_nothing(changes: list[str], folder: Path) -> None:
    folder.mkdir()
    file = folder / "config.toml"
    file.write_text(CONFIG)
    config = load_config(file, changes)
    uninterrupted, stopped = (Run.create(folder / name, name, dump_config(config)) for name in ("whole", "stopped"))
    advance_run(build(config, CPU), uninterrupted)
    last = uninterrupted.summary()["steps"]
    for step in sorted(random.Random(str(changes)).sample(range(1, last + 1), NUM_STOPS)):
        advance_run(build(config, CPU), stopped, until=step)
    advance_run(build(config, CPU), stopped)
    assert model_files(stopped.path)[0] == model_files(uninterrupted.path)[0], changes
    assert read_learning_curve(stopped.path) == read_learning_curve(uninterrupted.path), changes


@pytest.mark.parametrize("changes", SAMPLE, ids=" ".join)
def test_stops_change_nothing_with_a_sample_of_all_settings(changes: list[str], tmp_path: Path) -> None:
    assert_stops_change_nothing(changes, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OPTIMIZERS, "lbfgs"])
def test_stops_change_nothing_with_any_setting(name: str, tmp_path: Path) -> None:
    combinations = [changes for changes in SETTINGS if changes[0] == f"optimizer.name={name}"]
    assert len(combinations) == (len(SCHEDULES) if name in OPTIMIZERS else 1) * len(AUGMENTATIONS) * len(EMA_DECAYS)
    for number, changes in enumerate(combinations):
        assert_stops_change_nothing(changes, tmp_path / str(number))
