"""Tests of fcnet.config.schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from fcnet.config.schema import Augment, Config, Data, Model, Optimizer, Train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    ReadErrors = Callable[..., list[str]]
    LoadText = Callable[..., Config]

# Error of each faulty configuration; {file} stands for its file.
MISTAKES = {
    # a value of another type: true is no number, 1.0 is not whole, 1 is not true
    "seed = true": "seed ({file}:1) must be an integer, got true",
    "seed = 1.0": "seed ({file}:1) must be an integer, got 1.0; write 1",
    "seed = '1'": 'seed ({file}:1) must be an integer, got "1"; write 1',
    "[data]\nwhiten = false": "data.whiten ({file}:2) must be an integer, got false",
    "[optimizer]\nlr = true": "optimizer.lr ({file}:2) must be a number, got true",
    "[optimizer]\nlr = '0.1'": 'optimizer.lr ({file}:2) must be a number, got "0.1"; write 0.1',
    "[data.augment]\nrotate = 181": "data.augment.rotate ({file}:2) must be at most 180.0, got 181",
    "[data.augment]\nscale = -0.1": "data.augment.scale ({file}:2) must be at least 0.0, got -0.1",
    "[data.augment]\ncolor_jitter = 1.1": "data.augment.color_jitter ({file}:2) must be at most 1.0, got 1.1",
    "[data.augment]\ncutout = 2.0": "data.augment.cutout ({file}:2) must be an integer, got 2.0; write 2",
    "[data.augment]\nmixup = -1.0": "data.augment.mixup ({file}:2) must be at least 0.0, got -1.0",
    "[data.augment]\ncutmix = 1001": "data.augment.cutmix ({file}:2) must be at most 1000.0, got 1001",
    "[data]\nbalance = true": 'data.balance ({file}:2) must be one of "none", "weights", "sampling", got true',
    "[data.augment]\nflip = 1": "data.augment.flip ({file}:2) must be true or false, got 1; write true",
    "[data]\npath = 3": 'data.path ({file}:2) must be a string, got 3; write "3"',
    "[data]\nclasses = 'cat'": 'data.classes ({file}:2) must be a list, got "cat"; write ["cat"]',
    "[data]\nclasses = ['cat', 1]": 'data.classes.1 ({file}:2) must be a string, got 1; write "1"',
    "[model]\nhidden = 64": "model.hidden ({file}:2) must be a list, got 64; write [64]",
    "[model]\nhidden = [64, true]": "model.hidden.1 ({file}:2) must be an integer, got true",
    "model = 3": "model ({file}:1) must be a section, got 3",
    "[[model]]\nkind = 'mlp'": 'model ({file}:1) must be a section, got [{{kind = "mlp"}}]',
    # a value out of its range
    "seed = -1": "seed ({file}:1) must be at least 0, got -1",
    "seed = 9223372036854775808": "seed ({file}:1) must be less than 9223372036854775808, got 9223372036854775808",
    "[optimizer]\nlr = 0.0": "optimizer.lr ({file}:2) must be greater than 0.0, got 0.0",
    "[optimizer]\nlr = nan": "optimizer.lr ({file}:2) must be finite, got nan",
    "[optimizer]\nlr = inf": "optimizer.lr ({file}:2) must be finite, got inf",
    "[optimizer]\nlr = -1e999": "optimizer.lr ({file}:2) must be finite, got -inf",
    "[data]\nvalidation = 1.0": "data.validation ({file}:2) must be less than 1.0, got 1.0",
    "[data]\nwhiten = -1": "data.whiten ({file}:2) must be at least 0, got -1",
    "[model]\nhidden = [\n  64,\n  0,\n]": "model.hidden.1 ({file}:2) must be at least 1, got 0",
    "[data]\nshape = [3, 32]": "data.shape ({file}:2) must have at least 3 values, got [3, 32]",
    "[data]\nshape = [3, 32, 32, 1]": "data.shape ({file}:2) must have at most 3 values, got [3, 32, 32, 1]",
    "[optimizer]\nname = 'lion'": (
        'optimizer.name ({file}:2) must be one of "sgd", "adam", "adamw", "muon", "lbfgs", got "lion"'
    ),
    "[train]\nbatch_size = 'whole'": (
        'train.batch_size ({file}:2) must be an integer of at least 1, or "all", got "whole"'
    ),
    "[train]\nbatch_size = 1.5": 'train.batch_size ({file}:2) must be an integer of at least 1, or "all", got 1.5',
    "[optimizer]\nmilestones = [3, -1.0]": "optimizer.milestones.1 ({file}:2) must be greater than 0.0, got -1.0",
    # values that do not go together
    "[data]\nsource = 'images'": 'data.path ({file}:1) must be set for the source images, got ""',
    "[data]\nclasses = ['a']": 'data.classes ({file}:2) must be empty or name two or more different classes, got ["a"]',
    "[data]\nclasses = ['|', '|']": (
        'data.classes ({file}:2) must be empty or name two or more different classes, got ["|", "|"]'
    ),
    "[model]\nresidual = true": (
        "model.hidden ({file}:1) must have two adjacent layers of equal width if residual is true, got [128]"
    ),
    "[model]\nnormalization = 'layer'\nhidden = [9, 1]": (
        "model.hidden ({file}:3) must have two or more units in each layer if normalization is layer: "
        "one unit is normalized to zero, got [9, 1]"
    ),
    "[optimizer]\nname = 'sgd'\nnesterov = true\nmomentum = 0.0": (
        "optimizer.momentum ({file}:4) must be greater than 0 if nesterov is true, got 0.0"
    ),
    "[optimizer]\nschedule = 'steps'": (
        "optimizer.milestones ({file}:1) must have one or more values for the schedule steps, got []"
    ),
    "[optimizer]\nmilestones = [3, 2.5]": "optimizer.milestones ({file}:2) must increase, got [3.0, 2.5]",
    "[optimizer]\nname = 'lbfgs'\nclip_norm = 1\n[train]\nbatch_size = 'all'": (
        "optimizer.clip_norm ({file}:3) must be 0 for lbfgs, because its line search needs the gradient, got 1.0"
    ),
    "[optimizer]\nname = 'lbfgs'\n[train]\nbatch_size = 128": (
        'train.batch_size ({file}:4) must be "all" for lbfgs, because its line search needs a fixed loss, got 128'
    ),
    "[data]\nvalidation = 0.0\n[train]\npatience = 3": (
        "data.validation ({file}:2) must be greater than 0 if train.patience is set, got 0.0"
    ),
    "[data]\nvalidation = 0.0\n[train]\nselect = 'validation_loss'": (
        "data.validation ({file}:2) must be greater than 0 if train.select is validation_loss, got 0.0"
    ),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_an_error_has_the_key_the_place_the_rule_and_the_value(text: str, read_errors: ReadErrors, file: Path) -> None:
    assert read_errors(text) == [MISTAKES[text].format(file=file)]


def test_an_integer_is_accepted_as_a_number(load_text: LoadText) -> None:
    config = load_text("[optimizer]\nlr = 1\n[data]\nvalidation = 0")
    assert (config.optimizer.lr, config.data.validation) == (1.0, 0.0)
    assert isinstance(config.optimizer.lr, float)


def test_an_empty_file_gives_the_defaults(load_text: LoadText) -> None:
    assert load_text("") == Config()


def test_scores_that_are_no_log_odds_are_not_calibrated(read_errors: ReadErrors, file: Path) -> None:
    assert read_errors("[train]\nloss = 'hinge'\ncalibrate = true\n[data]\nvalidation = 0.0") == [
        f"train.calibrate ({file}:3) must be false for the loss hinge, whose scores are no log-odds, got true",
        f"data.validation ({file}:5) must be greater than 0 if train.calibrate is true, got 0.0",
    ]


def test_data_that_may_have_a_validation_split_of_its_own_needs_none_held_out(load_text: LoadText) -> None:
    config = load_text("[data]\nsource = 'images'\npath = 'x'\nvalidation = 0\n[train]\npatience = 3")
    assert (config.data.validation, config.train.patience) == (0.0, 3)


def test_a_key_without_an_effect_is_accepted(load_text: LoadText) -> None:
    config = load_text("[optimizer]\nname = 'adamw'\nmomentum = 0.5\n[model]\nkind = 'logistic'\nresidual = true")
    assert config.optimizer.momentum == 0.5


@pytest.mark.parametrize("section", [Config(), Data(), Augment(), Model(), Optimizer(), Train()])
def test_a_configuration_is_immutable(section: Any) -> None:
    for name, value in section:
        with pytest.raises(ValidationError, match="Instance is frozen"):
            setattr(section, name, value)


def test_snapshots_are_taken_every_few_epochs_unless_turned_off(load_text: LoadText) -> None:
    assert Train().diagnostics_every > 0
    assert load_text("[train]\ndiagnostics_every = 0").train.diagnostics_every == 0
