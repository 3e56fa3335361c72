"""How often a fault test repeats its rounds."""

from __future__ import annotations

import pytest


def repeated(short: int, long: int) -> pytest.MarkDecorator:
    """Gives a test its ``count``: a short one, and a long one behind the marker ``long``."""
    return pytest.mark.parametrize("count", [short, pytest.param(long, marks=pytest.mark.long)])
