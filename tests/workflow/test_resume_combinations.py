"""Every way to learn, killed at twenty steps, ends as if it had never been stopped."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import Stopped, run_experiment

if TYPE_CHECKING:
    from pathlib import Path

    from fcnet.config.schema import Config

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
KILLS = 20
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
AVERAGES = ("train.ema_decay=0.0", "train.ema_decay=0.9")
ALL_AT_ONCE = ["optimizer.name=lbfgs", "train.batch_size=all", "train.epochs=24"]
COURSES = [
    [f"optimizer.name={name}", f"optimizer.schedule={schedule}", f"data.augment={augment}", average]
    for name, schedule, augment, average in itertools.product(OPTIMIZERS, SCHEDULES, AUGMENTATIONS, AVERAGES)
] + [
    [*ALL_AT_ONCE, f"data.augment={augment}", average]
    for augment, average in itertools.product(AUGMENTATIONS, AVERAGES)
]

SOME = random.Random(0).sample(COURSES, 24)


def trained(config: Config, run: Run, *, until: int | None = None) -> None:
    """Begins or goes on with a run in a new process's stead, to the end or a step."""
    experiment = build(config, torch.device("cpu"))
    events = run_experiment(
        experiment, run, save_seconds=1e9, stop=lambda: until is not None and experiment.training.step >= until
    )
    try:
        for _ in events:
            pass
    except Stopped:
        assert experiment.training.step == until


def timeless(run: Run) -> tuple[bytes, list[dict[str, Any]]]:
    """The network, and what the epochs were like but for the time they took."""
    clocks = {"seconds", "images_per_second"}
    records = [{key: value for key, value in record.items() if key not in clocks} for record in run.records()]
    return (run.path / "model.safetensors").read_bytes(), records


def assert_a_kill_changes_nothing(course: list[str], folder: Path) -> None:
    folder.mkdir()
    file = folder / "config.toml"
    file.write_text(CONFIG)
    config = load_config(file, course)
    whole, killed = (Run.create(folder / name, name, dump_config(config)) for name in ("whole", "killed"))
    trained(config, whole)
    last = whole.summary()["steps"]
    for step in sorted(random.Random(str(course)).sample(range(1, last + 1), KILLS)):
        trained(config, killed, until=step)
    trained(config, killed)
    assert timeless(killed) == timeless(whole), course


@pytest.mark.parametrize("course", SOME, ids=" ".join)
def test_a_kill_changes_nothing(course: list[str], tmp_path: Path) -> None:
    assert_a_kill_changes_nothing(course, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OPTIMIZERS, "lbfgs"])
def test_a_kill_changes_nothing_whatever_is_chosen(name: str, tmp_path: Path) -> None:
    courses = [course for course in COURSES if course[0] == f"optimizer.name={name}"]
    assert len(courses) == (len(SCHEDULES) if name in OPTIMIZERS else 1) * len(AUGMENTATIONS) * len(AVERAGES)
    for number, course in enumerate(courses):
        assert_a_kill_changes_nothing(course, tmp_path / str(number))
