"""Fixtures of the configuration tests: load a text, or read the errors of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fcnet.config.toml import load_config
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fcnet.config.schema import Config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def read_errors(file: Path) -> Callable[..., list[str]]:
    """Returns a function that loads a faulty configuration and returns the lines of its error."""

    def load(text: str, *overrides: str) -> list[str]:
        file.write_text(text)
        with pytest.raises(UserError) as error:
            load_config(file, overrides)
        return str(error.value).split("\n")

    return load


@pytest.fixture
def load_text(file: Path) -> Callable[..., Config]:
    def load(text: str, *overrides: str) -> Config:
        file.write_text(text)
        return load_config(file, overrides)

    return load
