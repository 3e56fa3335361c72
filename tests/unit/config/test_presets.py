"""Tests of fcnet.config.presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fcnet.config.presets import find_config, list_presets, preset_summary
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


def test_presets_are_listed_by_name_in_order() -> None:
    presets = list_presets()
    assert list(presets) == sorted(presets)
    assert {"cifar10_mlp", "digits", "images"} <= presets.keys()
    assert all(file.name == f"{name}.toml" and file.is_file() for name, file in presets.items())


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("# One sentence.\nseed = 0\n", "One sentence."),
        ("# A sentence over\n# two lines. And another.\nseed = 0\n", "A sentence over two lines."),
        ("# 8.5 % of i.e. little. More.\n", "8.5 % of i.e. little."),
        ("# No full stop\n\n# Not part of it.\n", "No full stop"),
        ("seed = 0\n# Not at the top.\n", ""),
        ("", ""),
    ],
)
def test_the_summary_is_the_first_sentence_of_the_opening_comment(text: str, summary: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    assert preset_summary(tmp_path / "config.toml") == summary


def test_every_preset_has_a_summary_of_one_line() -> None:
    for name, file in list_presets().items():
        assert 20 < len(preset_summary(file)) < 120, name


def test_an_existing_file_comes_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("digits") == list_presets()["digits"]
    (tmp_path / "digits").touch()
    assert find_config("digits").samefile(tmp_path / "digits")


def test_a_folder_does_not_hide_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    assert find_config("images") == list_presets()["images"]


def test_an_unknown_name_lists_the_presets_and_suggests_the_nearest() -> None:
    names = ", ".join(list_presets())
    with pytest.raises(UserError) as error:
        find_config("digit.toml")
    assert str(error.value) == f"--config must be a file or one of {names}, got digit.toml; the nearest is digits"
    with pytest.raises(UserError) as error:
        find_config("zzz", "CONFIG")
    assert str(error.value) == f"CONFIG must be a file or one of {names}, got zzz"
