"""Draws what README shows of the reports: the top of a run's page, as a browser lays it out.

    python scripts/report_screenshots.py RUN FILE.png [--sections training curves test] [--width 1280]

The parts are those that the page's own links name. Chromium must be on the path (`apt install chromium`) and Playwright
installed (`pip install -e '.[test]'`); the page is made anew, with no request to anywhere.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from fcnet.report.page import write_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playwright.sync_api import Browser

FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
HIDE_ALL_BUT = """names => {
    const isIn = (part, name) => part.closest(`#${name}`) || part.querySelector(`#${name}`)
    for (const part of document.querySelectorAll("main section"))
        part.hidden = !names.some(name => isIn(part, name))
    document.querySelector("nav").hidden = true
}"""


def screenshot(browser: Browser, run: Path, sections: Sequence[str], width: int) -> bytes:
    """Some parts of a run's report, as a PNG file.

    Args:
        browser: what lays it out.
        run: the finished run's folder; it is left as it is.
        sections: as the page's links name them.
        width: of the page, in pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        write_report([run], file)
        page = browser.new_page(viewport={"width": width, "height": 600})
        page.goto(file.as_uri())
        page.evaluate(HIDE_ALL_BUT, list(sections))
        drawn: bytes = page.locator("body").screenshot()
        page.close()
    return drawn


def main() -> None:
    """Parses the flags and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--sections", nargs="+", default=["training", "curves", "test"])
    parser.add_argument("--width", type=int, default=1280)
    flags = parser.parse_args()
    path = shutil.which("chromium")
    if path is None:
        sys.exit("chromium must be on the path, found none")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        flags.file.write_bytes(screenshot(browser, flags.run, flags.sections, flags.width))
        browser.close()


if __name__ == "__main__":
    main()
