"""A configuration with mistakes is refused with one line an error; any other builds and makes a step."""

from __future__ import annotations

import copy
import random
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
import torch

from fcnet.config.presets import list_presets
from fcnet.config.toml import load_config
from fcnet.experiment.build import build
from fcnet.runtime.errors import UserError
from fcnet.runtime.memory import is_out_of_memory
from tests.faults.rounds import repeated
from tests.helpers import preserve_process_state, write_pets
from tests.workflow.test_config_fuzzing import (
    CLASSES,
    KEYS,
    LARGE,
    NUMBERS,
    OTHERS,
    RULES,
    TEXTS,
    UNFIT_SETTINGS,
    WORDS,
    is_too_large,
    pop_key,
    set_key,
    small_preset,
    to_toml,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VALUES = [*NUMBERS, *WORDS, *OTHERS]
MAGNITUDES = [-1, 0, 2, 10, 1000, 10**6, 10**12, 0.1, 1e-3, 1e-12, 1e300]
# Valid configurations that train on several kinds of data.
DATA: list[dict[str, Any]] = [
    {"source": "digits"},
    {"source": "images", "path": "pets"},
    {"source": "images", "path": "pets", "size": [5, 6], "classes": ["airplane", "bird"]},
    {"source": "arrays", "path": "pets.npz"},
    {"source": "synthetic", "shape": [3, 6, 5], "train_size": 40, "test_size": 20, "num_classes": 3},
]
CHOICES: dict[str, list[object]] = {
    "data.validation": [0.0, 0.1, 0.5],
    "data.balance": ["none", "weights", "sampling"],
    "data.whiten": [0, 3],
    "data.augment": [{}, {"flip": True, "shift": 1}, {"rotate": 10.0, "mixup": 0.2}, {"cutout": 2, "cutmix": 1.0}],
    "model.kind": ["mlp", "logistic"],
    "model.hidden": [[], [6], [5, 5], [7, 3, 4]],
    "model.activation": ["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"],
    "model.normalization": ["none", "batch", "layer"],
    "model.dropout": [0.0, 0.5],
    "optimizer.name": ["sgd", "adam", "adamw", "muon"],
    "optimizer.schedule": ["constant", "cosine", "linear", "one_cycle"],
    "optimizer.clip_norm": [0.0, 1.0],
    "train.batch_size": [1, 7, 64, "all"],
    "train.accumulate": [1, 3, LARGE],
    "train.label_smoothing": [0.0, 0.1],
    "train.precision": ["float32", "tf32", "bfloat16"],
    "train.ema_decay": [0.0, 0.9],
    "train.epochs": [1, 3, LARGE],
}


def draw_valid(draws: random.Random) -> dict[str, Any]:
    """Draws a preset reduced to small data, or a configuration of valid choices."""
    if draws.random() < 0.5:
        return copy.deepcopy(small_preset(draws.choice(sorted(list_presets()))))
    tree: dict[str, Any] = {"seed": draws.randrange(2**63), "data": dict(draws.choice(DATA))}
    for key, values in CHOICES.items():
        if draws.random() < 0.5:
            set_key(tree, key, copy.deepcopy(draws.choice(values)))
    return tree


def mutate(draws: random.Random) -> tuple[str, list[str]]:  # noqa: C901 - one case a kind of mistake
    """Draws the text of a configuration with up to three mistakes, and changes for ``--set``."""
    tree, changes = draw_valid(draws), list[str]()
    for _ in range(draws.randrange(4)):
        key, value = draws.choice(KEYS), copy.deepcopy(draws.choice(VALUES))
        match draws.randrange(7):
            case 0:
                pop_key(tree, key)
            case 1 if not is_too_large(key, value):
                set_key(tree, key, value)
            case 2:
                place = draws.randrange(len(key))
                set_key(tree, key[:place] + draws.choice(["", "x", "é", " "]) + key[place + 1 :], value)
            case 3:
                old = pop_key(tree, key)
                if isinstance(old, int | float):
                    old *= draws.choice(MAGNITUDES)
                if old is not None and not is_too_large(key, old):
                    set_key(tree, key, old)
            case 4:
                set_key(tree, *copy.deepcopy(draws.choice(UNFIT_SETTINGS)))
            case 5 if not is_too_large(key, value):
                changes.append(f"{key}={to_toml(value)}")
            case 6:
                changes.append(draws.choice(TEXTS))
    text = tomli_w.dumps(tree)
    return mutate_text(draws, text) if draws.random() < 0.3 else text, changes


def mutate_text(draws: random.Random, text: str) -> str:
    """Deletes, doubles, reverses or inserts some characters."""
    for _ in range(draws.randint(1, 3)):
        place = draws.randrange(len(text) + 1)
        other = place + draws.randint(1, 3)
        text = draws.choice(
            [
                text[:place] + text[other:],
                text[:other] + text[place:],
                text[:place] + text[place:other][::-1] + text[other:],
                text[:place] + draws.choice("\"'[]{}=.#,\n\r\0-é\u2028") + text[place:],
            ]
        )
    return text


@pytest.fixture(scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A working folder with images and arrays, and a cache of its own."""
    folder = tmp_path_factory.mktemp("mutated")
    write_pets(folder, CLASSES)
    with pytest.MonkeyPatch.context() as patch, preserve_process_state():
        patch.chdir(folder)
        patch.setenv("FCNET_CACHE", str(folder / "cache"))
        yield


def describe_failure(text: str, changes: list[str]) -> tuple[str, str]:
    """Returns what became of a configuration, ``refused``, ``trained`` or ``failed``, and the failure."""
    Path("x.toml").write_bytes(text.encode(errors="surrogatepass"))
    try:
        config = load_config(Path("x.toml"), changes)
        experiment = build(config, torch.device("cpu"))
        next(experiment.training.advance())
    except UserError as error:
        lines = str(error).split("\n")
        # An error of numbers, of a learning rate of 1e300 for example, names the step and what to try.
        clear = all(any(rule in line for rule in (*RULES, "NaN or inf")) for line in lines)
        return ("refused", "") if clear and lines == str(error).splitlines() else ("failed", repr(str(error)))
    except Exception as error:  # noqa: BLE001 - all of them are collected
        if is_out_of_memory(error):
            return "refused", ""
        return "failed", traceback.format_exc()
    return "trained", ""


@pytest.mark.usefixtures("_folder")
@repeated(150, 20_000)
def test_a_mutated_configuration_makes_a_step_or_is_refused(count: int, figures: Callable[..., None]) -> None:
    outcomes = {"refused": 0, "trained": 0, "failed": 0}
    failures = []
    for seed in range(count):
        text, changes = mutate(random.Random(seed))
        outcome, failure = describe_failure(text, changes)
        outcomes[outcome] += 1
        if failure:
            failures.append(f"seed {seed}, --set {changes}:\n{text}\n{failure}")
    figures("mutated configurations", configurations=count, **outcomes)
    assert not failures, "\n\n".join(failures[:20])
