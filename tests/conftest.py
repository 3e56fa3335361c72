"""Fixtures that all tests share, and hypothesis profiles."""

from __future__ import annotations

import collections
import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from playwright.sync_api import Browser, Page

    from tests.processes import WarmServer

# Parallel test processes share the processors. With one thread per processor each, they would wait for one another.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# A shell lets its background jobs ignore SIGINT, and their processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("tests.helpers")  # an assertion that fails there shows its values, too

collect_ignore = ["without_fcntl"]  # importing it for its doctests would hide fcntl from every test

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, metavar="N", help="of each parametrized test, run N cases spread evenly")


@pytest.hookimpl(trylast=True)  # of the tests that markers have selected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if limit := config.getoption("cases"):
        tests = collections.defaultdict[str, list[pytest.Item]](list)
        for item in items:
            tests[item.nodeid.partition("[")[0]].append(item)
        chosen = {case for cases in tests.values() for case in cases[:: -(-len(cases) // limit)]}
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]


@pytest.hookimpl(tryfirst=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Fails a test file that cannot be imported.

    ``--doctest-ignore-import-errors`` is for modules of the package whose optional dependencies are missing, but skips
    test files too.
    """
    if report.skipped and report.nodeid.startswith("tests/") and "unable to import module" in str(report.longrepr):
        report.outcome = "failed"


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Seeds torch, so that a test draws the same numbers whichever test ran before it."""
    import torch

    torch.manual_seed(int(os.environ.get("FCNET_TEST_SEED", "0")))


@pytest.fixture(scope="session")
def program() -> Callable[[str], ModuleType]:
    """Imports a program of ``scripts`` by its name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module  # dataclasses look up their module there
        spec.loader.exec_module(module)
        return module

    sys.path.insert(0, str(ROOT / "scripts"))  # where Python itself starts to search for a program's imports
    return load


@pytest.fixture
def isolated_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives a test an empty cache, and restores signal handlers and the number of threads afterwards."""
    from tests.helpers import preserve_process_state

    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    with preserve_process_state():
        yield


@pytest.fixture
def working_folder(tmp_path: Path, isolated_cache: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an empty folder the working folder, beside an empty cache; subprocesses import this same package."""
    from tests.helpers import PACKAGE_ROOT

    monkeypatch.setenv("PYTHONPATH", str(PACKAGE_ROOT))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmServer]:
    """Starts commands in processes that have already imported torch."""
    from tests.processes import WarmServer

    server = WarmServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def image_archive() -> Path:
    """The JPEG copy of CIFAR-10; skips the test where it is missing."""
    named = os.environ.get("FCNET_TEST_DATA")
    path = Path(named) if named else ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
    if not path.is_file():
        pytest.skip("no image archive: set FCNET_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium without network traffic of its own; skips the test where it or its driver is missing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on the path")
    flags = ("no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=[*(f"--{flag}" for flag in flags), "--disable-sync"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def overflowing_elements() -> Callable[[Page], list[str]]:
    """Finds the elements of a page that extend beyond the screen and do not scroll."""
    script = """() => [...document.querySelectorAll("main *")]
        .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".scroll"))
        .map((each) => each.outerHTML)"""

    def find(page: Page) -> list[str]:
        elements: list[str] = page.evaluate(script)
        return elements

    return find
