"""What README shows of reports, as scripts/report_screenshots.py draws it."""

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
def test_a_picture_holds_the_parts_that_are_asked_for(
    browser: Browser, tmp_path: Path, program: Callable[[str], Any]
) -> None:
    run = tmp_path / "run"
    train.main(["--config", "digits", "--out", str(run), "--set", "model.hidden=[8]", "--set", "train.epochs=2"])
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    draw = program("report_screenshots").screenshot
    few, more, live = (
        Image.open(io.BytesIO(draw(browser, run, sections, 800)))
        for sections in (["training"], ["training", "curves", "test"], ["training", "live"])
    )
    assert few.width == more.width == 800
    assert min(more.height, live.height) > few.height + 400
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
