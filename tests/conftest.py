"""What all tests share: hypothesis profiles, and where real images may be."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from playwright.sync_api import Browser, Page

# Processes that test side by side share the processors: each with threads for all of them, they wait for one another.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_random_numbers() -> None:
    """The same random numbers in each test, whichever ran before it."""
    import torch

    torch.manual_seed(int(os.environ.get("FCNET_TEST_SEED", "0")))


@pytest.fixture(scope="session")
def program() -> Callable[[str], ModuleType]:
    """Loads one of the programs of ``scripts`` by its name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    sys.path.insert(0, str(ROOT / "scripts"))  # as Python has it for a program
    return load


@pytest.fixture
def own_cache_and_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, and afterwards as many threads as before."""
    import torch

    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def image_archive() -> Path:
    """The JPEG copy of CIFAR-10; skips where it is absent."""
    named = os.environ.get("FCNET_TEST_DATA")
    path = Path(named) if named else ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
    if not path.is_file():
        pytest.skip("no image archive: set FCNET_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window, that asks nobody for anything; skips where it or its driver is absent."""
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
def too_wide() -> Callable[[Page], list[str]]:
    """What of a page reaches beyond the screen and cannot be scrolled to in a part of its own."""
    script = """() => [...document.querySelectorAll("main *")]
        .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".scroll"))
        .map((each) => each.outerHTML)"""

    def found(page: Page) -> list[str]:
        elements: list[str] = page.evaluate(script)
        return elements

    return found
