"""Tests of fcnet.experiment.run_identity."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fcnet.config.schema import Config
from fcnet.experiment.build import build
from fcnet.experiment.run_identity import check_identity, check_settings, identity_notes, run_identity, settings
from fcnet.experiment.run_schema import CheckpointEntries, check_object
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from fcnet.experiment.build import Experiment

pytestmark = pytest.mark.usefixtures("isolated_cache")
RUN = Path("run")


@pytest.fixture
def experiment() -> Experiment:
    data = {"source": "synthetic", "shape": (1, 4, 5), "train_size": 1000, "test_size": 30, "num_classes": 2}
    return build(Config.model_validate({"data": data, "model": {"hidden": (8,)}}), torch.device("cpu"))


def change_data(identity: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(identity)
    changed["data"] |= {"fingerprint": "0" * 64} | changes
    return changed


def refuse(saved: dict[str, Any], experiment: Experiment) -> str:
    with pytest.raises(UserError) as error:
        check_identity(saved, experiment, RUN)
    return str(error.value)


def test_an_experiment_continues_its_own_run(experiment: Experiment) -> None:
    identity = json.loads(json.dumps(run_identity(experiment)))
    check_object(CheckpointEntries, identity | {"threads": 1}, RUN)
    check_identity(identity, experiment, RUN)
    assert list(identity_notes(identity, RUN)) == []


def test_neither_the_source_nor_the_versions_decide(experiment: Experiment) -> None:
    identity = run_identity(experiment)
    saved = copy.deepcopy(identity) | {"fcnet": "0.0", "torch": "0.0", "ranks": 3}
    saved["data"]["source"] = {"kind": "images", "path": "/elsewhere", "pillow": "0.1"}
    check_identity(saved, experiment, RUN)
    assert [line.partition(";")[0] for line in identity_notes(saved, RUN)] == [
        "run was saved by 3 processes and continues with 1",
        f"run was saved by fcnet 0.0 and continues with fcnet {identity['fcnet']}",
        f"run was saved by torch 0.0 and continues with torch {identity['torch']}",
    ]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"classes": ["0", "1", "2"]}, "its classes are without 2"),
        ({"classes": ["0", "cat"]}, "its classes are without cat and with 1"),
        ({"classes": ["1", "0"]}, "its classes are in another order"),
        ({"shape": [3, 4, 5]}, "images had the shape 3×4×5, and have 1×4×5 now"),
        (
            {"images": [1001, 30]},
            "it had 1,001 training and 30 test images, and has 1,000 training and 30 test images now",
        ),
        ({}, "it has as many images, but other pixels or labels"),
    ],
)
def test_the_error_says_in_what_the_data_differs(
    changes: dict[str, Any], difference: str, experiment: Experiment
) -> None:
    saved = change_data(run_identity(experiment), **changes)
    assert refuse(saved, experiment) == f"run was trained on other data than this: {difference}"


def test_every_setting_that_decides_the_result_is_compared() -> None:
    config = Config()
    assert settings(config).keys() == settings(config).keys() - {"data.path", "train.save_seconds", "train.threads"}
    saved = settings(config) | {"seed": 5, "train.epochs": 7}
    with pytest.raises(UserError) as error:
        check_settings(saved, config, Path("run/config.toml"))
    assert error.value.args == (
        "seed (run/config.toml) must be 5 as when the run began, got 0",
        f"train.epochs (run/config.toml) must be 7 as when the run began, got {config.train.epochs}",
    )


def test_a_setting_that_the_run_did_not_know_counts_as_its_default() -> None:
    saved = settings(Config())
    del saved["train.select"]
    check_settings(saved, Config(), Path("run/config.toml"))
    with pytest.raises(UserError) as error:
        check_settings(saved, Config.model_validate({"train": {"select": "validation_loss"}}), Path("run/config.toml"))
    assert str(error.value) == (
        'train.select (run/config.toml) must be "validation_accuracy" as when the run began, got "validation_loss"'
    )


def test_a_setting_that_is_not_known_any_more_is_a_difference() -> None:
    with pytest.raises(UserError, match=r"^train.gone \(x\) must be 3 as when the run began, got None$"):
        check_settings(settings(Config()) | {"train.gone": 3}, Config(), Path("x"))


def test_the_place_of_the_data_may_change() -> None:
    one, two = (Config.model_validate({"data": {"source": "images", "path": path}}) for path in ("/one", "/two"))
    check_settings(settings(one), two, Path("run/config.toml"))
