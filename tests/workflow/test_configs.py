"""The presets: the configurations that ship with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import fcnet
from fcnet import train
from fcnet.config.presets import list_presets, preset_summary
from fcnet.config.schema import Config
from fcnet.config.toml import dump_config, load_config
from tests.helpers import read_summary, set_flags

PRESETS = sorted(list_presets().values())


def test_these_presets_exist() -> None:
    assert set(list_presets()) >= {"digits", "cifar10_logistic", "cifar10_softmax", "cifar10_mlp", "images"}


def test_presets_lie_in_an_installed_package_and_beside_a_checkouts_package() -> None:
    package = Path(fcnet.__file__).parent
    checkout = (package.parent / "pyproject.toml").is_file()
    folder = (package.parent if checkout else package) / "configs"
    assert set(PRESETS) == set(folder.rglob("*.toml"))


def test_list_prints_every_preset_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(listed) == sorted(file.stem for file in PRESETS)
    for name, purpose in listed.items():
        opening = list_presets()[name].read_text(encoding="utf-8").replace("\n# ", " ")
        assert opening.startswith(f"# {purpose} ")
        assert purpose.startswith("Trains ")
        assert purpose.endswith(".")


@pytest.mark.parametrize(
    ("comment", "purpose"),
    [
        ("# Trains a\n# network.\nseed = 0", "Trains a network."),
        ("# Reads a/b/…. Then trains.\n# More.", "Reads a/b/…."),
        ("# At 1e-3. Now on 0.5 of it\n\n# Not this.", "At 1e-3."),
        ("seed = 0 # Not this.", ""),
    ],
)
def test_the_purpose_is_the_first_sentence_of_the_opening_comment(comment: str, purpose: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(comment, encoding="utf-8")
    assert preset_summary(tmp_path / "x.toml") == purpose


def test_a_file_takes_precedence_over_a_preset_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", "digits", "--print-config"]) == 0
    assert capsys.readouterr().out.strip() == dump_config(load_config(list_presets()["digits"])).strip()
    Path("digits").write_text("seed = 7")
    assert train.main(["--config", "digits", "--print-config"]) == 0
    assert capsys.readouterr().out.startswith("seed = 7\n")


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_a_preset_loads_and_differs_from_the_defaults(file: Path) -> None:
    config = load_config(file)
    assert config.data != Config().data
    assert config.model != Config().model


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_a_preset_opens_with_a_comment(file: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_a_preset_survives_writing_and_reading(file: Path, tmp_path: Path) -> None:
    config = load_config(file)
    written = tmp_path / "written.toml"
    written.write_text(dump_config(config), encoding="utf-8")
    assert load_config(written) == config


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_soon_reaches_90_percent_without_a_warning_and_writes_only_its_run_folder(
    seed: int, tmp_path: Path, working_folder: Path
) -> None:
    flags = set_flags("train.epochs=8", f"seed={seed}")
    assert train.main(["--config", "digits", *flags, "--out", str(tmp_path / "run")]) == 0
    summary = read_summary(tmp_path / "run")
    assert summary["test_accuracy"] >= 0.9
    assert summary["warnings"] == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"here", "cache", "run"}
    assert list(working_folder.iterdir()) == []
