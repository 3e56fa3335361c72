"""What all tests share: hypothesis profiles, and where real images may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def image_archive() -> Path:
    """The JPEG copy of CIFAR-10; skips where it is absent."""
    named = os.environ.get("FCNET_TEST_DATA")
    path = Path(named) if named else ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
    if not path.is_file():
        pytest.skip("no image archive: set FCNET_TEST_DATA")
    return path
