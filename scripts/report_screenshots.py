"""Takes the README's screenshots of reports: selected sections of a run's report, rendered by Chromium.

    python scripts/report_screenshots.py RUN FILE.png [--sections summary curves test] [--width 1280]

Sections go by the ids in the page's navigation, such as ``curves``. Needs Chromium on the path (`apt install chromium`)
and Playwright (`pip install -e '.[test]'`). Writes a new report and makes no network request.
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
HIDE_OTHER_SECTIONS = """ids => {
    const has = (section, id) => section.closest(`#${id}`) || section.querySelector(`#${id}`)
    for (const section of document.querySelectorAll("main section"))
        section.hidden = !ids.some(id => has(section, id))
    document.querySelector("nav").hidden = true
}"""


def screenshot(browser: Browser, run: Path, sections: Sequence[str], width: int) -> bytes:
    """Takes a screenshot of some sections of a run's report.

    Args:
        browser: renders the page.
        run: the folder of a finished run; it does not change.
        sections: section ids, such as ``curves``.
        width: the width of the page in pixels.

    Returns:
        The content of a PNG file.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        write_report([run], file)
        page = browser.new_page(viewport={"width": width, "height": 600})
        page.goto(file.as_uri())
        page.evaluate(HIDE_OTHER_SECTIONS, list(sections))
        png: bytes = page.locator("body").screenshot()
        page.close()
    return png


def main() -> None:
    """Parses the flags and writes the screenshot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--sections", nargs="+", default=["summary", "curves", "test"])
    parser.add_argument("--width", type=int, default=1280)
    flags = parser.parse_args()
    path = shutil.which("chromium")
    if path is None:
        sys.exit("chromium is not on the path (apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        flags.file.write_bytes(screenshot(browser, flags.run, flags.sections, flags.width))
        browser.close()


if __name__ == "__main__":
    main()
