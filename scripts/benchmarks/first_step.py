"""Runs ``python -m fcnet.train`` with the given arguments and exits after its first training step.

The script imports nothing of fcnet itself, so that the command's own imports are timed: an import hook replaces
`train_step` when the command imports it.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from importlib.abc import Loader, MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

EXIT_CODE = 77
"""The exit code after the first step; any other code means that it was not reached."""


class ExitAfterFirstStep(MetaPathFinder, Loader):
    """Loads `fcnet.training.loop` with a step that exits the process."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Returns the spec of `fcnet.training.loop` with this loader around its own."""
        if name != "fcnet.training.loop":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Creates the module with its own loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:  # noqa: ANN401 - sets an attribute
        """Executes the module, then replaces its step."""
        self.loader.exec_module(module)
        step = module.train_step

        def only_step(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - the arguments of a step
            step(*arguments, **options)
            os._exit(EXIT_CODE)

        module.train_step = only_step


if __name__ == "__main__":
    sys.meta_path.insert(0, ExitAfterFirstStep())
    runpy.run_module("fcnet.train", run_name="__main__", alter_sys=True)
