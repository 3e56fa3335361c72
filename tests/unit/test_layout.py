"""The tests mirror the package: every module has its test file at the mirrored path."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "fcnet"
# The workflow tests run the commands, and need no unit tests beside them.
COMMANDS = {"cache", "evaluate", "predict", "train", "watch"}


def expected_test(module: Path) -> Path:
    """Returns the test file of a module: ``unit/ROOM/test_MODULE.py``, or ``workflow/test_COMMAND.py``."""
    folder = "workflow" if module.parent == PACKAGE and module.stem in COMMANDS else "unit"
    return TESTS / folder / module.relative_to(PACKAGE).with_name(f"test_{module.name}")


def test_every_module_has_its_test_file() -> None:
    if not PACKAGE.is_dir():
        pytest.skip("the package lies elsewhere")
    modules = [module for module in PACKAGE.rglob("*.py") if not module.stem.startswith("__")]
    assert len(modules) > 80
    tests = [expected_test(module) for module in modules]
    assert [str(test.relative_to(TESTS)) for test in sorted(tests) if not test.is_file()] == []


def test_every_folder_of_unit_tests_mirrors_a_room_of_the_package() -> None:
    if not PACKAGE.is_dir():
        pytest.skip("the package lies elsewhere")
    folders = {file.parent.relative_to(TESTS / "unit") for file in (TESTS / "unit").rglob("test_*.py")}
    assert [str(folder) for folder in sorted(folders) if not (PACKAGE / folder / "__init__.py").is_file()] == []
