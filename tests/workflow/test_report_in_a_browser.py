"""A report in a browser: no request, no error, hover values, small screens, dark mode, print."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from fcnet import train
from fcnet.config.presets import list_presets
from fcnet.report import __main__ as report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The reports of one run and of two."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCNET_CACHE", str(folder / "cache"))
        threads = torch.get_num_threads()
        for name, hidden in (("first", "[16]"), ("second", "[8,8]")):
            flags = ["--set", f"model.hidden={hidden}", "--set", "train.epochs=3"]
            train.main(["--config", str(list_presets()["digits"]), "--out", str(folder / name), *flags])
        torch.set_num_threads(threads)
        report.main([str(folder / "first"), str(folder / "second"), "--out", str(folder / "both.html")])
    return folder / "first" / "report.html", folder / "both.html"


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages; at the end, checks that none made a request or logged an error."""
    problems: list[str] = []
    contexts = []

    def open_page(file: Path, *, width: int = 1280, dark: bool = False, script: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        url = file.as_uri()
        page.on(
            "request", lambda request: None if request.url.startswith(("data:", url)) else problems.append(request.url)
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def test_a_chart_shows_the_value_under_the_pointer(pages: tuple[Path, Path], opened: Callable[..., Page]) -> None:
    page = opened(pages[0])
    chart = page.locator("figure.chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg[data-x]").bounding_box()
    assert box is not None
    output = chart.locator("output")
    assert output.inner_text() == ""
    for fraction, epoch in ((0.13, 1), (0.54, 2), (0.95, 3)):
        page.mouse.move(box["x"] + fraction * box["width"], box["y"] + box["height"] / 2)
        assert output.inner_text().startswith(f"epoch {epoch}: training ")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 60)
    assert output.inner_text() == ""


def test_the_arrow_keys_show_the_same_values(pages: tuple[Path, Path], opened: Callable[..., Page]) -> None:
    page = opened(pages[0])
    chart = page.locator("figure.chart").first
    output = chart.locator("output")
    chart.locator("svg[data-x]").focus()
    seen = [output.inner_text()]
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Home", "End"):
        page.keyboard.press(key)
        seen.append(output.inner_text())
    assert [int(text.split(":")[0].removeprefix("epoch ")) for text in seen] == [1, 2, 3, 3, 2, 1, 3]
    page.keyboard.press("Tab")
    assert output.inner_text() == ""


def test_the_first_tab_skips_to_the_content(pages: tuple[Path, Path], opened: Callable[..., Page]) -> None:
    page = opened(pages[0])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("width", [360, 720, 1280])
def test_no_page_is_wider_than_the_screen(
    which: int,
    width: int,
    pages: tuple[Path, Path],
    opened: Callable[..., Page],
    overflowing_elements: Callable[[Page], list[str]],
) -> None:
    page = opened(pages[which], width=width)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert overflowing_elements(page) == []


def test_without_javascript_charts_tables_and_images_are_there(
    pages: tuple[Path, Path], opened: Callable[..., Page]
) -> None:
    page = opened(pages[0], script=False)
    assert page.locator("figure.chart svg[role=img]").count() >= 4
    assert page.locator("table.confusion td").count() == 1 + 100
    assert page.locator(".images img").count() > 12
    page.locator("figure.chart summary").first.click()
    assert page.locator("figure.chart table").first.is_visible()


def test_dark_mode_gives_a_dark_page_with_enough_contrast(
    pages: tuple[Path, Path], opened: Callable[..., Page]
) -> None:
    for dark in (False, True):
        page = opened(pages[0], dark=dark)
        colours = page.evaluate(
            "['color', 'background-color'].map((each) => getComputedStyle(document.body).getPropertyValue(each))"
        )
        ink, paper = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
        assert abs(ink - paper) > 500
        assert (paper < ink) == dark


def test_a_printed_page_is_white_and_has_no_navigation(pages: tuple[Path, Path], opened: Callable[..., Page]) -> None:
    page = opened(pages[0], dark=True)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.locator("figure.chart svg").first.is_visible()


def test_the_content_security_policy_blocks_injected_requests_and_scripts(
    pages: tuple[Path, Path], browser: Browser, tmp_path: Path
) -> None:
    injected = '<img src="https://example.invalid/x.png"><script>document.title = "ran"</script>'
    file = tmp_path / "page.html"
    file.write_text(pages[0].read_text(encoding="utf-8").replace("</main>", f"{injected}</main>"), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.goto(file.as_uri())
    assert len([line for line in messages if "Content Security Policy" in line]) == 2
    assert page.title() != "ran"
    context.close()
