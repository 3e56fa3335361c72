"""Tests of scripts/report_screenshots.py."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from fcnet import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.mark.usefixtures("isolated_cache")
def test_a_screenshot_shows_the_selected_sections_and_leaves_the_run_as_it_is(
    browser: Browser, tmp_path: Path, program: Callable[[str], Any]
) -> None:
    run = tmp_path / "run"
    train.main(["--config", "digits", "--out", str(run), "--set", "model.hidden=[8]", "--set", "train.epochs=2"])
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    screenshot = program("report_screenshots").screenshot
    summary, more, live = (
        Image.open(io.BytesIO(screenshot(browser, run, sections, 800)))
        for sections in (["summary"], ["summary", "curves", "test"], ["summary", "live"])
    )
    assert summary.width == more.width == 800
    assert min(more.height, live.height) > summary.height + 400
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
