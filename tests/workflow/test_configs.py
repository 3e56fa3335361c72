"""The configurations that come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fcnet import train
from fcnet.config import Config
from fcnet.config_file import dump_config, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.toml"))


def test_these_configurations_are_there() -> None:
    assert {file.stem for file in CONFIGS} >= {"digits", "cifar10_logistic", "cifar10_softmax", "cifar10_mlp", "images"}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_configuration_loads_and_is_not_all_defaults(file: Path) -> None:
    config = load_config(file)
    assert config.data != Config().data
    assert config.model != Config().model


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_configuration_opens_with_what_it_is_for(file: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_configuration_written_and_read_is_itself(file: Path, tmp_path: Path) -> None:
    config = load_config(file)
    written = tmp_path / "written.toml"
    written.write_text(dump_config(config), encoding="utf-8")
    assert load_config(written) == config


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_soon_reaches_90_percent_without_a_remark_and_writes_only_where_it_is_told(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    (digits,) = (file for file in CONFIGS if file.stem == "digits")
    threads = torch.get_num_threads()
    try:
        changes = ["--set", "train.epochs=8", "--set", f"seed={seed}"]
        code = train.main(["--config", str(digits), *changes, "--out", str(tmp_path / "run")])
    finally:
        torch.set_num_threads(threads)
    assert code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] >= 0.9
    assert summary["remarks"] == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"here", "cache", "run"}
    assert list((tmp_path / "here").iterdir()) == []
