"""A sweep's page in a browser: no request, no error, values under the arrow keys, narrow screens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fcnet.sweep.page import sweep_page
from fcnet.sweep.ranking import RankedTrial, RunResult, to_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


def make_trial(number: int, *accuracies: float) -> RankedTrial:
    runs = tuple(RunResult(seed, accuracy, 2, 1.0) for seed, accuracy in enumerate(accuracies))
    learning_curves = {run.seed: [(1, run.value / 2), (2, run.value)] for run in runs}
    settings = {"optimizer.lr": 10.0**-number, "model.hidden": [1024, 512, 256]}
    return RankedTrial(number, settings, "finished", runs, learning_curves)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_makes_no_request_fits_the_screen_and_shows_each_trial_under_the_arrow_keys(
    browser: Browser, overflowing_elements: Callable[[Page], list[str]], tmp_path: Path, width: int
) -> None:
    trials = [make_trial(1, 0.5, 0.6), make_trial(2, 0.8, 0.9), make_trial(3, 0.7)]
    file = tmp_path / "sweep.html"
    file.write_text(sweep_page("mine", trials, to_dict(trials, {"--seeds": 2, "seed": 0}, (0.75, 0.05))), "utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900})
    requests, messages = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(file.as_uri())
    assert (requests, messages) == ([file.as_uri()], [])
    assert overflowing_elements(page) == []
    chart = page.locator("figure.chart", has_text="Validation accuracy by rank")
    chart.locator("svg[data-y]").focus()
    for text in ("trial 2: lr = 0.01", "trial 3: lr = 0.001", "trial 1: lr = 0.1"):
        assert (chart.locator("output").text_content() or "").startswith(text)
        page.keyboard.press("ArrowDown")
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg[data-y]").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 0.42 * box["height"])
    assert (chart.locator("output").text_content() or "").startswith("trial 3: lr = 0.001")
    assert "75.00% ± 5.00" in (page.locator(".key-figures").text_content() or "")
    page.close()
