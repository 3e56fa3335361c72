"""What a run restores is what it saved, bit for bit, and what follows is what would have followed without the stop."""

from __future__ import annotations

import itertools
import random
import shutil
import types
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import run_experiment
from tests.faults.rounds import repeated
from tests.faults.runs import CONFIG
from tests.helpers import advance_run, run_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fcnet.training.loop import Training

pytestmark = pytest.mark.usefixtures("isolated_cache")
CPU = torch.device("cpu")
# 92 training images in 10 steps an epoch, the last of two images; 50 steps in all.
LENGTH = ["train.batch_size=10", "train.epochs=5", "train.diagnostics_every=2", "data.validation=0.1"]
FULL_BATCH = ["train.batch_size=all", "train.epochs=50", "train.diagnostics_every=20"]
SETTINGS = {
    "mixing": [
        *("optimizer.name=adamw", "data.augment={mixup=0.4,cutmix=1.0,shift=1}", "data.balance=sampling"),
        *("model.dropout=0.3", "model.normalization=batch", "train.ema_decay=0.9", "train.accumulate=2"),
    ],
    "muon": [
        *("optimizer.name=muon", "optimizer.schedule=cosine", "optimizer.warmup_epochs=0.5", "data.whiten=9"),
        *("model.dropout=0.3", "model.residual=true", "train.ema_decay=0.9", "train.patience=2"),
    ],
    "lbfgs": ["optimizer.name=lbfgs", *FULL_BATCH, "model.dropout=0.2", "train.ema_decay=0.5", "data.whiten=9"],
    "bfloat16": [
        *("optimizer.name=sgd", "optimizer.nesterov=true", "optimizer.schedule=one_cycle", "optimizer.clip_norm=0.5"),
        *("train.precision=bfloat16", "data.augment={mixup=0.4,rotate=20,color_jitter=0.3}", "model.dropout=0.2"),
    ],
    "weights": [
        *("optimizer.name=adam", "optimizer.schedule=steps", "data.balance=weights", "data.augment={cutmix=1.0}"),
        *("model.normalization=layer", "train.label_smoothing=0.1", "train.patience=1", "train.accumulate=3"),
    ],
    "all images": ["optimizer.name=adamw", *FULL_BATCH, "train.ema_decay=0.9", "train.patience=20"],
}
_NOT_SAVED = {
    "_monitor": "watches the losses since the last check, and is new after a restore",
    "_monitor_start": "where it began",
    "training": "the mode of a module, which each epoch sets",
    "al": "scratch space of L-BFGS within a step",
    "defaults": "settings for parameter groups that an optimizer gets later",
    "_numel_cache": "the number of parameters, which L-BFGS counts at its first step",
    "_need_device_dtype_check_for_fused": "whether an optimizer's first step is still to come",
}


def walk(value: object, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    """Yields each value that an object can reach, in a form that compares bit for bit, by the way there."""
    if isinstance(value, torch.Tensor):
        yield path, (value.dtype, value.shape, value.detach().numpy().tobytes())
    elif isinstance(value, torch.Generator):
        yield path, value.get_state().numpy().tobytes()
    elif isinstance(value, int | float | complex | str | bytes | torch.dtype | torch.device | type | None):
        yield path, value
    elif isinstance(value, list | tuple) or id(value) not in seen:
        seen.add(id(value))
        for key, child in children(value):
            if key not in _NOT_SAVED:
                yield from walk(child, f"{path}.{key}", seen)


def children(value: object) -> Iterator[tuple[object, object]]:
    """Yields what an object holds, by its name, key or number."""
    if isinstance(value, Mapping):
        # An optimizer's state has parameters as its keys.
        yield from ((i if isinstance(key, torch.Tensor) else key, x) for i, (key, x) in enumerate(value.items()))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from enumerate(value)
    elif isinstance(value, partial):
        yield from enumerate([value.func, value.args, value.keywords])
    elif isinstance(value, types.MethodType):
        yield "__self__", value.__self__
    elif isinstance(value, types.FunctionType):
        yield from enumerate(cell.cell_contents for cell in value.__closure__ or ())
    else:
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        names = itertools.chain(getattr(value, "__dict__", ()), slots)
        yield from ((name, getattr(value, name)) for name in names if hasattr(value, name))


def reachable_values(training: Training) -> dict[str, object]:
    """Returns all that a training consists of between two steps."""
    training.dropout_rng.reseed(training.step)  # as the next step does
    return dict(walk(training, "training", set()))


def differing_keys(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    return [key for key in {**ours, **theirs} if key not in ours or key not in theirs or ours[key] != theirs[key]]


def saved_values(state: tuple[dict[str, torch.Tensor], dict[str, Any]]) -> dict[str, object]:
    """Returns a state with one entry for each tensor and each figure."""
    tensors, metadata = state
    return {**dict(walk(tensors, "tensors", set())), **dict(walk(metadata, "metadata", set()))}


@pytest.mark.parametrize("name", SETTINGS)
@repeated(short=2, long=50)
def test_a_run_stopped_at_a_step_restores_what_it_saved_and_goes_on_identically(
    name: str, count: int, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """The short form stops at two steps in a row, the long form at every step."""
    file = tmp_path / "config.toml"
    file.write_text(CONFIG)
    config = load_config(file, [*LENGTH, *SETTINGS[name]])
    whole, stopped = (Run.create(tmp_path / each, each, dump_config(config)) for each in ("whole", "stopped"))
    advance_run(build(config, CPU), whole)
    expected = run_result(whole.path)
    last = expected["summary"]["steps"]
    assert last >= 20
    first = random.Random(name).randrange(1, last - 1)
    stops = sorted({first, first + 1} if count == 2 else range(1, min(count, last) + 1))
    not_restored, different, compared = {}, {}, 0
    for step in stops:
        saved, restored = build(config, CPU), build(config, CPU)
        advance_run(saved, stopped, until=step)
        copy = Run(tmp_path / str(step))
        shutil.copytree(stopped.path, copy.path)
        events = run_experiment(restored, copy, save_seconds=1e9)
        pairs = [
            (saved_values(saved.training.state()), saved_values(restored.training.state())),
            (reachable_values(saved.training), reachable_values(restored.training)),
        ]
        compared += sum(len(ours) for ours, _ in pairs)
        if keys := [key for ours, theirs in pairs for key in differing_keys(ours, theirs)]:
            not_restored[step] = keys
        list(events)
        result = run_result(copy.path)
        if keys := [key for key in expected if result[key] != expected[key]]:
            different[step] = keys
        shutil.rmtree(copy.path)
    advance_run(build(config, CPU), stopped)
    counts = {"values": compared, "not_restored": len(not_restored), "different_results": len(different)}
    figures(f"stopped at each step ({name})", stops=len(stops), **counts)
    assert not_restored == {}
    assert different == {}
    assert run_result(stopped.path) == expected
