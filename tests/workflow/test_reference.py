"""The API reference covers the whole package."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import fcnet

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_every_module_appears_once_in_the_reference() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    modules = [module.name for module in pkgutil.walk_packages(fcnet.__path__, "fcnet.")]
    assert sorted(re.findall(r"^\.\. automodule:: (\S+)$", pages, re.MULTILINE)) == sorted(["fcnet", *modules])
