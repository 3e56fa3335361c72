"""NaN and inf at any step: training stops, nothing of them is saved, and the checkpoint before is good."""

from __future__ import annotations

import collections
import itertools
import math
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import run_experiment
from fcnet.runtime.errors import NonFiniteError
from tests.faults.rounds import repeated
from tests.helpers import run_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.experiment.build import Experiment

CONFIG = """
[data]
source = "synthetic"
shape = [1, 4, 4]
train_size = 40
test_size = 10
num_classes = 3
validation = 0.2
whiten = 6
[model]
hidden = [6]
normalization = "batch"
[train]
epochs = 2
batch_size = 8
threads = 1
save_seconds = 0
ema_decay = 0.9
"""
VALUES = (math.nan, math.inf, -math.inf)


def poison(tensor: torch.Tensor, value: float, draws: random.Random) -> None:
    with torch.no_grad():
        tensor.view(-1)[draws.randrange(tensor.numel())] = value


def in_parameters(experiment: Experiment, value: float, draws: random.Random) -> None:
    poison(draws.choice(list(experiment.training.model.parameters())), value, draws)


def in_statistics(experiment: Experiment, value: float, draws: random.Random) -> None:
    buffers = [tensor for name, tensor in experiment.training.model.named_buffers() if "running" in name]
    poison(draws.choice(buffers), value, draws)


def in_moments(experiment: Experiment, value: float, draws: random.Random) -> None:
    state = experiment.training.algorithm.optimizer.state
    parameter = draws.choice(list(state))
    poison(state[parameter][draws.choice(["exp_avg", "exp_avg_sq"])], value, draws)


def in_average(experiment: Experiment, value: float, draws: random.Random) -> None:
    average = experiment.training.average
    assert average is not None
    poison(draws.choice(list(average.weights.values())), value, draws)


def in_whitening(experiment: Experiment, value: float, draws: random.Random) -> None:
    whitening = experiment.classifier.whitening
    assert whitening is not None
    poison(draws.choice([whitening.weight, whitening.bias]), value, draws)


def in_gradients(experiment: Experiment, value: float, draws: random.Random) -> None:
    parameter = draws.choice(list(experiment.training.model.parameters()))
    parameter.register_hook(lambda gradient: torch.full_like(gradient, value))


def in_lr(experiment: Experiment, value: float, _: random.Random) -> None:
    experiment.training.algorithm.optimizer.param_groups[0]["initial_lr"] = value


PLACES = (in_parameters, in_statistics, in_moments, in_average, in_whitening, in_gradients, in_lr)


def make_experiment() -> Experiment:
    return build(load_config(Path("made.toml")), torch.device("cpu"))


def train_poisoned(run: Run, place: Callable[..., None], step: int, value: float, draws: random.Random) -> str:
    """Trains, and poisons the state after a step; returns the error, empty if there is none."""
    experiment = make_experiment()
    try:
        for event in run_experiment(experiment, run, save_seconds=0.0):
            if event is None and experiment.training.step == step:
                place(experiment, value, draws)
    except NonFiniteError as error:
        return str(error)
    return ""


@repeated(14, 2000)
def test_nan_stops_the_training_and_is_never_saved(
    count: int, working_folder: Path, figures: Callable[..., None]
) -> None:
    Path("made.toml").write_text(CONFIG)
    config = dump_config(load_config(Path("made.toml")))

    def finish(run: Run) -> dict[str, Any]:
        collections.deque(run_experiment(make_experiment(), run, save_seconds=0.0), maxlen=0)
        return run_result(run.path)

    right = finish(Run.create(Path("right"), "made", config))
    steps = right["summary"]["steps"]
    counts, failures = collections.Counter(stopped=0), list[str]()
    for seed, place in zip(range(count), itertools.cycle(PLACES), strict=False):
        draws = random.Random(seed)
        step, value = draws.randrange(1, steps), draws.choice(VALUES)
        run = Run.create(Path("run"), "made", config)
        error = train_poisoned(run, place, step, value, draws)
        what = f"round {seed}: {value} {place.__name__} after step {step} of {steps}"
        found = Run(run.path).checkpoints.latest()
        if not error.startswith("NaN or inf in step "):
            failures.append(f"{what}: {error!r}")
        elif found is None or not all(tensor.isfinite().all() for tensor in found[0].values()):
            failures.append(f"{what}: the checkpoint is not finite")
        elif found[1]["step"] > step or finish(Run(run.path)) != right:
            failures.append(f"{what}: resumed from step {found[1]['step']}, another result")
        else:
            counts["stopped"] += 1
        shutil.rmtree(run.path)
    figures("NaN and inf", rounds=count, **counts, wrong=len(failures))
    assert failures == []
