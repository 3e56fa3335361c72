"""The configurations that come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fcnet
from fcnet import train
from fcnet.config.presets import list_presets, preset_summary
from fcnet.config.schema import Config
from fcnet.config.toml import dump_config, load_config

CONFIGS = sorted(list_presets().values())


def test_these_configurations_are_there() -> None:
    assert set(list_presets()) >= {"digits", "cifar10_logistic", "cifar10_softmax", "cifar10_mlp", "images"}


def test_configurations_lie_in_an_installed_package_and_beside_a_checkout() -> None:
    package = Path(fcnet.__file__).parent
    checkout = (package.parent / "pyproject.toml").is_file()
    folder = (package.parent if checkout else package) / "configs"
    assert set(CONFIGS) == set(folder.rglob("*.toml"))


def test_all_are_listed_with_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(listed) == sorted(file.stem for file in CONFIGS)
    for name, said in listed.items():
        opening = list_presets()[name].read_text(encoding="utf-8").replace("\n# ", " ")
        assert opening.startswith(f"# {said} ")
        assert said.startswith("Trains ")
        assert said.endswith(".")


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("# Trains a\n# network.\nseed = 0", "Trains a network."),
        ("# Reads a/b/…. Then trains.\n# More.", "Reads a/b/…."),
        ("# At 1e-3. Now on 0.5 of it\n\n# Not this.", "At 1e-3."),
        ("seed = 0 # Not this.", ""),
    ],
)
def test_a_purpose_is_the_first_sentence_of_the_opening_comment(comment: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(comment, encoding="utf-8")
    assert preset_summary(tmp_path / "x.toml") == said


def test_a_name_is_a_file_of_that_path_before_it_is_a_shipped_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", "digits", "--print-config"]) == 0
    assert capsys.readouterr().out.strip() == dump_config(load_config(list_presets()["digits"])).strip()
    Path("digits").write_text("seed = 7")
    assert train.main(["--config", "digits", "--print-config"]) == 0
    assert capsys.readouterr().out.startswith("seed = 7\n")


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
    threads = torch.get_num_threads()
    try:
        changes = ["--set", "train.epochs=8", "--set", f"seed={seed}"]
        code = train.main(["--config", "digits", *changes, "--out", str(tmp_path / "run")])
    finally:
        torch.set_num_threads(threads)
    assert code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] >= 0.9
    assert summary["warnings"] == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"here", "cache", "run"}
    assert list((tmp_path / "here").iterdir()) == []
