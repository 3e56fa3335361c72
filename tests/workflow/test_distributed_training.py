"""Two processes that train together are one process, but for rounding.

`torchrun` starts this file: as a program it does, as one of several ranks, the jobs that the tests
look at; alone it does the same jobs as one process.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

import fcnet
from fcnet import cli
from fcnet.config.toml import dump_config, load_config
from fcnet.data.batches import Batches
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import Stopped, run_experiment
from fcnet.runtime import distributed
from fcnet.runtime.errors import NonFiniteError
from fcnet.runtime.seeds import generator
from fcnet.training.algorithm import GradientDescent

CPU = torch.device("cpu")
# The batches are odd, and these shares leave 1,321 and 251 training images: one more than a multiple of the
# batch, so that the last batch of an epoch is a single image, in which one of the ranks has no part.
CONFIGS = {
    "normalised": """
[data]
validation = 0.08
augment = { shift = 1 }
[model]
hidden = [32, 32]
normalization = "batch"
residual = true
[optimizer]
name = "sgd"
lr = 0.05
nesterov = true
[train]
epochs = 3
batch_size = 165
label_smoothing = 0.1
""",
    "binary": """
[data]
classes = ["3", "8"]
whiten = 20
validation = 0.12
augment = { flip = true, shift = 1 }
[model]
kind = "logistic"
[optimizer]
lr = 0.01
[train]
epochs = 3
batch_size = 25
""",
    "averaged": """
[data]
validation = 0.08
augment = { shift = 1 }
[model]
hidden = [32, 32]
normalization = "batch"
[optimizer]
name = "muon"
lr = 0.01
schedule = "one_cycle"
clip_norm = 0.5
[train]
epochs = 3
batch_size = 165
ema_decay = 0.9
patience = 2
""",
    "line": """
[data]
validation = 0.08
[model]
hidden = [16]
activation = "gelu"
[optimizer]
name = "lbfgs"
weight_decay = 0.001
[train]
epochs = 12
batch_size = "all"
accumulate = 3
""",
    "long": """
[data]
validation = 0.08
augment = { shift = 1 }
[model]
hidden = [32]
normalization = "batch"
[optimizer]
name = "sgd"
lr = 0.02
schedule = "cosine"
[train]
epochs = 2
batch_size = 15
""",
}
SHORT = """
[model]
hidden = [16]
[optimizer]
name = "sgd"
lr = 0.05
[train]
epochs = 1
batch_size = 165
label_smoothing = 0.1
"""
ALL = (
    "augment = { flip = true, shift = 1, rotate = 20, scale = 0.2, color_jitter = 0.4, cutout = 2, mixup = 0.4, "
    "cutmix = 1 }"
)
CHANGES = {
    "turned": "augment = { rotate = 20, scale = 0.2 }",
    "recoloured": "augment = { color_jitter = 0.4, cutout = 2 }",
    "mixup": "augment = { mixup = 0.4 }",
    "cutmix": 'augment = { cutmix = 1 }\nclasses = ["3", "8"]',
    "weights": 'balance = "weights"',
    "sampling": 'balance = "sampling"',
    "all": f'{ALL}\nbalance = "weights"',
    "sampled": f'{ALL}\nbalance = "sampling"',
}
CONFIGS |= {name: f"[data]\nvalidation = 0.08\n{change}\n{SHORT}" for name, change in CHANGES.items()}
# Every optimizer with every schedule; every second one with an average of the weights.
WAYS = {
    f"{optimizer} {schedule}": (
        f'[data]\nvalidation = 0.08\naugment = {{ shift = 1 }}\n[model]\nhidden = [16]\nnormalization = "batch"\n'
        f'[optimizer]\nname = "{optimizer}"\nlr = 0.005\nwarmup_epochs = 0.5\n'
        f'schedule = "{schedule}"\nmilestones = [1]\n'
        f"[train]\nepochs = 2\nbatch_size = 165\nema_decay = {0.9 * (number % 2)}\n"
    )
    for number, (optimizer, schedule) in enumerate(
        itertools.product(("sgd", "adam", "adamw", "muon"), ("constant", "cosine", "linear", "one_cycle", "steps"))
    )
}
CONFIGS |= WAYS
LOSSES, ACCURACIES = ("train_loss", "validation_loss"), ("train_accuracy", "validation_accuracy")


def learn(folder: Path, name: str, *, until: int | None = None) -> None:
    """Begins a run and carries it to the end, or until so many steps are made."""
    config = load_config(folder / f"{name}.toml")
    experiment = build(config, CPU)
    run = Run(folder / (name if until is None else f"{name}-stopped"))
    if distributed.rank() == 0:
        Run.create(run.path, name, dump_config(config))
    distributed.barrier()
    training = experiment.training
    try:
        for _ in run_experiment(
            experiment, run, save_seconds=1e9, stop=lambda: until is not None and training.step >= until
        ):
            pass
    except Stopped:
        assert training.step == until


def write_batches(folder: Path, name: str) -> None:
    """Writes this rank's part of every batch of two epochs."""
    batches = build(load_config(folder / f"{name}.toml"), CPU).training.batches
    tensors = {}
    for epoch in range(2):
        for number, batch in enumerate(batches.epoch(0, epoch)):
            tensors[f"{epoch}.{number}.images"] = batch.images
            tensors[f"{epoch}.{number}.labels"] = batch.labels.clone()
            tensors[f"{epoch}.{number}.target"] = batch.target.clone()
    save_file(tensors, folder / f"{name}-batches-{distributed.rank()}.safetensors")


def stop_at_nan(folder: Path) -> None:
    """Writes what this rank is told of a NaN in the second batch, in the last rank's part of it."""
    lines = []
    for normalization in ("none", "batch"):
        images, labels = torch.randn(45, 6, generator=torch.Generator().manual_seed(0)), torch.arange(45) % 3
        model = fcnet.MLP(6, (4,), 3, normalization=normalization, generator=torch.Generator().manual_seed(0))
        order = torch.randperm(45, generator=generator(0, "order", 0))
        images[order[18]] = float("nan")
        algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=1)
        try:
            list(fcnet.fit(model, Batches(images, labels, batch_size=10), algorithm))
        except NonFiniteError as error:
            moved = sum(parameter.detach().double().sum() for parameter in model.parameters())
            lines.append(f"{error} {error.step} {error.layer} {float(moved):.4f}\n")
    (folder / f"stopped-{distributed.rank()}.txt").write_text("".join(lines))


def do_jobs(folder: Path) -> None:
    stop_at_nan(folder)
    for name in ("normalised", *CHANGES):
        write_batches(folder, name)
        learn(folder, name)
    for name in ("binary", "averaged", "line", *WAYS):
        learn(folder, name)
    learn(folder, "long", until=32)


def torchrun(*program: str, code: int = 0) -> tuple[str, str]:
    """Runs a program as two ranks; its standard output and its standard error."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(fcnet.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process made of the jobs, and what two made."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        for folder in (one, two):
            for name, text in CONFIGS.items():
                (folder / f"{name}.toml").write_text(text)
        do_jobs(one)
        learn(one, "long")
        torchrun(__file__, str(two))
        torchrun(
            "-m", "fcnet.train", "--resume", "--out", str(one / "long-stopped"), "--config", str(one / "long.toml")
        )
        resumed = build(load_config(two / "long.toml"), CPU)
        for _ in run_experiment(resumed, Run(two / "long-stopped"), save_seconds=1e9):
            pass
    torch.set_num_threads(threads)
    return one, two


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_course(ours: Path, theirs: Path) -> None:
    """One run is the other but for rounding: the figures of every epoch, and the test set's.

    Sums over a batch are added in another order, 1e-7 of each; some hundred steps make up to 1e-5 of that, and
    may carry an image or two over the border between classes.
    """
    for mine, other in zip(records(ours), records(theirs), strict=True):
        assert (mine["epoch"], mine["step"], mine["lr"]) == (other["epoch"], other["step"], other["lr"])
        assert [mine[key] for key in LOSSES] == pytest.approx([other[key] for key in LOSSES], rel=1e-4)
        assert [mine[key] for key in ACCURACIES] == pytest.approx([other[key] for key in ACCURACIES], abs=2 / 1321)
    mine, other = (json.loads((run / "summary.json").read_text()) for run in (ours, theirs))
    assert mine["test_accuracy"] == other["test_accuracy"]
    assert mine["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)


@pytest.mark.parametrize("name", ["normalised", *CHANGES])
def test_ranks_see_the_images_of_one_process_in_its_order(name: str, folders: tuple[Path, Path]) -> None:
    one, two = folders
    whole = load_file(one / f"{name}-batches-0.safetensors")
    parts: list[dict[str, Tensor]] = [load_file(two / f"{name}-batches-{rank}.safetensors") for rank in range(2)]
    assert parts[0].keys() == parts[1].keys() == whole.keys()
    for key, tensor in whole.items():
        assert torch.equal(torch.cat([part[key] for part in parts]), tensor), key
    if name != "cutmix":  # which has two classes' images alone
        assert {len(part["0.0.labels"]) for part in parts} == {82, 83}
        assert {len(part["0.8.labels"]) for part in parts} == {0, 1}


@pytest.mark.parametrize("name", ["normalised", "binary", "averaged", "line", *CHANGES, *WAYS])
def test_two_ranks_learn_what_one_learns(name: str, folders: tuple[Path, Path]) -> None:
    one, two = folders
    assert_same_course(two / name, one / name)
    ours, theirs = (load_file(folder / name / "model.safetensors") for folder in (two, one))
    assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    said = [load_file(folder / name / "predictions.safetensors") for folder in (two, one)]
    assert said[0]["labels"].equal(said[1]["labels"])
    assert_close(said[0]["true_probabilities"], said[1]["true_probabilities"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["normalised", "binary", "averaged", "line", "all"])
def test_two_ranks_are_looked_into_as_one_is(name: str, folders: tuple[Path, Path]) -> None:
    one, two = (
        [*map(json.loads, (folder / name / "diagnostics.jsonl").read_text().splitlines())] for folder in folders
    )
    assert [(look["epoch"], look["step"]) for look in one] == [(look["epoch"], look["step"]) for look in two]
    assert one[0] == two[0]  # before training they are the same to the bit
    assert one[-1]["step"] == records(folders[0] / name)[-1]["step"]
    for figure in ("activation_mean", "weight_norm", "effective_rank"):
        mine, other = ([layer[figure] for layer in looks[-1]["layers"]] for looks in (two, one))
        assert mine == pytest.approx(other, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("begun_by", [0, 1])
def test_a_run_goes_on_with_another_number_of_ranks(begun_by: int, folders: tuple[Path, Path]) -> None:
    assert_same_course(folders[begun_by] / "long-stopped", folders[0] / "long")


def test_ranks_stop_together_at_a_nan_that_one_of_them_sees(folders: tuple[Path, Path]) -> None:
    one, two = folders
    alone = (one / "stopped-0.txt").read_text()
    assert [line.split(";")[0] for line in alone.splitlines()] == ["NaN or inf in step 2 of 5, first in the images"] * 2
    assert [(two / f"stopped-{rank}.txt").read_text() for rank in range(2)] == [alone, alone]


def test_ranks_that_stop_say_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "long.toml"
    file.write_text(CONFIGS["long"])
    flags = ("--config", str(file), "--out", str(tmp_path / "run"), "--set", "optimizer.lr=1e30")
    _, said = torchrun("-m", "fcnet.train", *flags, code=1)
    (line,) = (line for line in said.splitlines() if "NaN" in line)
    assert line.startswith("NaN or inf in step 2 of ")
    assert "fcnet/training/loop.py" not in said  # torchrun's own traceback, and none of ours
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_only_the_first_rank_speaks_and_writes(folders: tuple[Path, Path]) -> None:
    one, two = folders
    assert {file.name for file in (two / "normalised").iterdir()} == {
        file.name for file in (one / "normalised").iterdir()
    }
    made = json.loads((two / "normalised" / "model.json").read_text())["environment"]
    assert made["ranks"] == 2


if __name__ == "__main__":
    with cli.process_group(CPU):
        do_jobs(Path(sys.argv[1]))
