"""Tests of fcnet.report.settings_section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fcnet.config.schema import Config, Data, Model, Train
from fcnet.config.toml import flatten_config
from fcnet.report.run_data import RunData
from fcnet.report.settings_section import Setting, list_settings


def make_run(config: Config, *sources: dict[str, str]) -> RunData:
    commands: list[dict[str, Any]] = [{"sources": each} for each in sources]
    return RunData("run", Path("run"), config, [], {}, commands=commands)


def test_settings_that_differ_come_first_then_those_that_are_changed_then_the_defaults() -> None:
    one = make_run(Config(seed=3, model=Model(dropout=0.25)))
    other = make_run(Config(seed=3, model=Model(dropout=0.25), data=Data(validation=0.2), train=Train(epochs=99)))
    settings = list_settings([one, other])
    keys = [setting.key for setting in settings]
    assert keys[:4] == ["data.validation", "train.epochs", "seed", "model.dropout"]
    assert sorted(keys) == sorted(key for key, _ in flatten_config(Config().model_dump()))
    assert [setting.differs for setting in settings[:5]] == [True, True, False, False, False]
    assert [setting.changed for setting in settings[:5]] == [True] * 4 + [False]
    assert settings[0].values == ("0.1", "0.2")
    assert settings[2] == Setting("seed", ("3", "3"), ("", ""), differs=False, changed=True)
    assert not any(setting.differs for setting in list_settings([one]))


def test_a_setting_has_the_source_of_the_last_command_that_gave_it() -> None:
    run = make_run(
        Config(seed=3, train=Train(epochs=99)),
        {"seed": "preset digits", "train.epochs": "preset digits", "data.whiten": "--set"},
        {"train.epochs": "--set"},
    )
    sources = {setting.key: setting.sources[0] for setting in list_settings([run])}
    assert sources["seed"] == "preset digits"
    assert sources["train.epochs"] == "--set"
    assert sources["data.whiten"] == "--set"  # given, although it equals the default
    assert sources["model.dropout"] == "default"


def test_a_run_that_does_not_say_its_sources_names_the_defaults_alone() -> None:
    sources = {setting.key: setting.sources for setting in list_settings([make_run(Config(seed=3))])}
    assert sources["seed"] == ("",)
    assert sources["model.dropout"] == ("default",)
