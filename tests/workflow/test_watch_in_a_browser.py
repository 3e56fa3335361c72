"""The page of a run in training in a browser: it loads itself again, keeps the place, and waits for its reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.run_folder import Run
from fcnet.report import progress
from fcnet.report.progress import progress_page, read_progress
from tests.helpers import make_record, make_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser
CONFIG = """
[data]
source = "synthetic"
shape = [1, 4, 4]
train_size = 40
test_size = 10
num_classes = 3
[train]
epochs = 9
"""


class Watched:
    """A run whose page is written again with each number of epochs, and is open in browsers."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        (folder / "made.toml").write_text(CONFIG)
        self.browser, self.file, self.problems = browser, folder / "watch.html", list[str]()
        self.run = Run.create(folder / "run", "run", dump_config(load_config(folder / "made.toml")))
        self.contexts: list[BrowserContext] = []

    def write(self, epochs: int, ended: str = "") -> None:
        self.run.write_records([make_record(epoch) for epoch in range(1, epochs + 1)])
        self.run.write_snapshots([make_snapshot(epoch) for epoch in range(epochs)])
        with self.run.lock():
            self.file.write_text(progress_page(read_progress(self.run.path), ended=ended), encoding="utf-8")

    def open(self, *, script: bool = True, width: int = 1280, dark: bool = False) -> Page:
        context = self.browser.new_context(
            java_script_enabled=script,
            viewport={"width": width, "height": 500},
            color_scheme="dark" if dark else "light",
        )
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on(
            "request",
            lambda it: None if it.url.startswith(("data:", self.file.as_uri())) else self.problems.append(it.url),
        )
        page.goto(self.file.as_uri())
        return page


@pytest.fixture
def watched(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(progress, "RELOAD_SECONDS", 1)
    watched = Watched(browser, tmp_path)
    yield watched
    for context in watched.contexts:
        context.close()
    assert watched.problems == []


def wait_for_epoch(page: Page, epoch: int) -> None:
    page.locator(".key-figures dd", has_text=f"{epoch} of 9").wait_for(timeout=10_000)


@pytest.mark.parametrize("script", [True, False])
def test_the_page_shows_new_epochs_by_itself(script: bool, watched: Watched) -> None:
    watched.write(2)
    page = watched.open(script=script)
    wait_for_epoch(page, 2)
    for epoch in (3, 5):
        watched.write(epoch)
        wait_for_epoch(page, epoch)
    watched.write(6, ended="Watching has ended.")
    wait_for_epoch(page, 6)
    watched.write(7)
    page.wait_for_timeout(2500)
    assert page.locator(".key-figures dd", has_text="6 of 9").is_visible()  # the page that ended stays


def test_the_reader_keeps_the_place(watched: Watched) -> None:
    watched.write(2)
    page = watched.open()
    page.evaluate("scrollTo(0, 300)")
    assert page.evaluate("scrollY") == 300
    watched.write(3)
    wait_for_epoch(page, 3)
    assert page.evaluate("scrollY") == 300


def test_the_page_waits_while_it_is_read_or_paused(watched: Watched) -> None:
    watched.write(2)
    page = watched.open()
    note = page.locator("[data-watch] span")
    page.locator("summary").first.click()
    watched.write(3)
    page.wait_for_timeout(2500)
    assert page.locator("table").first.is_visible()
    assert note.inner_text() == "The page waits while you read a chart or a table."
    page.locator("summary").first.click()
    wait_for_epoch(page, 3)
    page.locator("svg[data-x]").first.focus()
    page.keyboard.press("ArrowRight")
    watched.write(4)
    page.wait_for_timeout(2500)
    assert page.locator(".chart output").first.inner_text().startswith("epoch 2: ")
    page.keyboard.press("Tab")
    page.evaluate("document.activeElement.blur()")
    wait_for_epoch(page, 4)
    page.get_by_label("Pause").check()
    watched.write(5)
    page.wait_for_timeout(2500)
    assert note.inner_text() == "The page stays as it is."
    page.get_by_label("Pause").uncheck()
    wait_for_epoch(page, 5)


def test_a_page_that_nobody_writes_again_says_so(watched: Watched) -> None:
    watched.write(2)
    page = watched.open()
    old = watched.file.read_text(encoding="utf-8").replace('data-written="1', 'data-written="0')
    watched.file.write_text(old, encoding="utf-8")
    page.locator("[data-watch] span", has_text="fcnet watch may have ended").wait_for(timeout=10_000)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_every_screen(
    width: int, dark: bool, watched: Watched, overflowing_elements: Callable[[Page], list[str]]
) -> None:
    watched.write(3)
    page = watched.open(width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert overflowing_elements(page) == []
